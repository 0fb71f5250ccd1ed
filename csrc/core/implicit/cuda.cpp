#include "implicit/cuda.h"

#include <cuda_runtime_api.h>

#include "implicit/params.h"
#include "plan/implicit_plans.h"
#include "plan/implicit_table.h"
#include "implicit/transposed_params.h"
#include "plan/transposed_plans.h"
#include "plan/transposed_table.h"
#include "plan/window_plans.h"
#include "plan/window_table.h"

namespace convt_gemm {

// The functions that the generated translation units define, and their table in the order of the rows.
namespace implicit {
#define CONVT_IMPLICIT_SYMBOL(family, kind, layout, rows, columns, words, loaders) \
  implicit_gemm_##family##_##kind##_##layout##_##rows##x##columns##x##words##_loaders##loaders
#define CONVT_IMPLICIT_GEMM(family, kind, layout, rows, columns, words, row_blocks, loaders) \
  Status CONVT_IMPLICIT_SYMBOL(family, kind, layout, rows, columns, words, loaders)(const Params&, void* packed, cudaStream_t);
#include "implicit/instances.def"
#undef CONVT_IMPLICIT_GEMM

namespace {
#define CONVT_IMPLICIT_GEMM(family, kind, layout, rows, columns, words, row_blocks, loaders) \
  &CONVT_IMPLICIT_SYMBOL(family, kind, layout, rows, columns, words, loaders),
constexpr Status (*kRun[])(const Params&, void*, cudaStream_t) = {
#include "implicit/instances.def"
};
#undef CONVT_IMPLICIT_GEMM
static_assert(sizeof(kRun) / sizeof(kRun[0]) == kImplicitInstances, "one function for each row");
}  // namespace

#define CONVT_TRANSPOSED_SYMBOL(kind, positions, columns, words, axes) implicit_gemm_transposed_##kind##_##positions##x##columns##x##words##_##axes
#define CONVT_TRANSPOSED_GEMM(kind, positions, columns, words, axes) \
  Status CONVT_TRANSPOSED_SYMBOL(kind, positions, columns, words, axes)(const PlaneParams&, void* packed, cudaStream_t);
#include "implicit/transposed_instances.def"
#undef CONVT_TRANSPOSED_GEMM

namespace {
#define CONVT_TRANSPOSED_GEMM(kind, positions, columns, words, axes) &CONVT_TRANSPOSED_SYMBOL(kind, positions, columns, words, axes),
constexpr Status (*kRunTransposed[])(const PlaneParams&, void* packed, cudaStream_t) = {
#include "implicit/transposed_instances.def"
};
#undef CONVT_TRANSPOSED_GEMM
static_assert(sizeof(kRunTransposed) / sizeof(kRunTransposed[0]) == kTransposedInstances, "one function for each row");
}  // namespace

#define CONVT_WINDOW_SYMBOL(kind, rows, columns, words, form, taps, step, sets, set_step, lines) \
  implicit_gemm_windows_##kind##_##rows##x##columns##x##words##_##form##_##taps##_##step##_##sets##_##set_step##_##lines
#define CONVT_WINDOW_GEMM(kind, rows, columns, words, row_blocks, form, taps, step, sets, set_step, lines) \
  Status CONVT_WINDOW_SYMBOL(kind, rows, columns, words, form, taps, step, sets, set_step, lines)(const Params&, void* workspace, cudaStream_t);
#include "implicit/window_instances.def"
#undef CONVT_WINDOW_GEMM

namespace {
#define CONVT_WINDOW_GEMM(kind, rows, columns, words, row_blocks, form, taps, step, sets, set_step, lines) \
  &CONVT_WINDOW_SYMBOL(kind, rows, columns, words, form, taps, step, sets, set_step, lines),
constexpr Status (*kRunWindows[])(const Params&, void* workspace, cudaStream_t) = {
#include "implicit/window_instances.def"
};
#undef CONVT_WINDOW_GEMM
static_assert(sizeof(kRunWindows) / sizeof(kRunWindows[0]) == kWindowInstances, "one function for each row");
}  // namespace
}  // namespace implicit

Status implicit_gemm_cuda(const Problem& problem, const Plan& plan, const Tensors& tensors, const CudaContext& context) {
  const auto stream = static_cast<cudaStream_t>(context.stream);
  const auto set_tensors = [&](implicit::Params* params) {
    params->x = tensors.input;
    params->weight = tensors.weight;
    params->bias = problem.bias ? tensors.bias : nullptr;
    params->y = tensors.output;
  };
  if (is_transposed(plan.instance)) {
    TransposedGeometry geometry{};
    const Status status = transposed_geometry_of(problem, plan, &geometry);
    if (!status.ok()) return status;
    implicit::PlaneParams params{};
    params.g = geometry.g, params.w = geometry.w, params.planes = geometry.planes;
    set_tensors(&params);
    return implicit::kRunTransposed[plan.instance - int(kImplicitInstances)](params, context.workspace, stream);
  }
  implicit::Params params{};
  const bool windows = is_window(plan.instance);
  const Status status = windows ? window_geometry_of(problem, plan, &params.g) : implicit_geometry_of(problem, plan, &params.g);
  if (!status.ok()) return status;
  set_tensors(&params);
  if (windows) return implicit::kRunWindows[plan.instance - kFirstWindow](params, context.workspace, stream);
  return implicit::kRun[plan.instance](params, context.workspace, stream);
}

}  // namespace convt_gemm

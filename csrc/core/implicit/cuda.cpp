#include "implicit/cuda.h"

#include <cuda_runtime_api.h>

#include "implicit/params.h"
#include "plan/implicit_plans.h"
#include "plan/implicit_table.h"

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
}  // namespace implicit

Status implicit_gemm_cuda(const Problem& problem, const Plan& plan, const Tensors& tensors, const CudaContext& context) {
  implicit::Params params{};
  Status status = implicit_geometry_of(problem, plan, &params.g);
  if (!status.ok()) return status;
  params.x = tensors.input;
  params.weight = tensors.weight;
  params.bias = problem.bias ? tensors.bias : nullptr;
  params.y = tensors.output;
  return implicit::kRun[plan.instance](params, context.workspace, static_cast<cudaStream_t>(context.stream));
}

}  // namespace convt_gemm

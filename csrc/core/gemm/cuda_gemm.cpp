#include "gemm/cuda_gemm.h"

#include <cuda_runtime_api.h>

#include "plan/cutlass_table.h"

namespace convt_gemm {

// The functions that the generated translation units define, and their table in the order of the rows.
#define CONVT_CUTLASS_SYMBOL(kind, layout, m, n, k, align) \
  cutlass_gemm_##kind##_##layout##_##m##x##n##x##k##_align##align
#define CONVT_CUTLASS_GEMM(kind, layout, m, n, k, warp_m, warp_n, stages, align) \
  Status CONVT_CUTLASS_SYMBOL(kind, layout, m, n, k, align)(const BatchedGemm& gemm, cudaStream_t stream);
#include "gemm/cutlass_instances.def"
#undef CONVT_CUTLASS_GEMM

namespace {
#define CONVT_CUTLASS_GEMM(kind, layout, m, n, k, warp_m, warp_n, stages, align) \
  &CONVT_CUTLASS_SYMBOL(kind, layout, m, n, k, align),
constexpr Status (*kRun[])(const BatchedGemm&, cudaStream_t) = {
#include "gemm/cutlass_instances.def"
};
#undef CONVT_CUTLASS_GEMM
static_assert(sizeof(kRun) / sizeof(kRun[0]) == kCutlassInstances, "one function for each row");
}  // namespace

Status cutlass_gemm(const Plan& plan, const BatchedGemm& gemm, const CudaContext& context) {
  return kRun[plan.instance](gemm, static_cast<cudaStream_t>(context.stream));
}

Status cuda_gemm(const Plan& plan, const BatchedGemm& gemm, const CudaContext& context) {
  switch (plan.backend) {
    case GemmBackend::cublas:
      return cublas_gemm(plan, gemm, context);
    case GemmBackend::cutlass:
      return cutlass_gemm(plan, gemm, context);
    case GemmBackend::native:
      return native_gemm(plan, gemm, context);
    case GemmBackend::cpu:
      break;
  }
  return Status::invalid("expected a CUDA back end, but got " + plan.name());
}

}  // namespace convt_gemm

#pragma once
// The GEMM back ends of the CUDA library.
#include "convt_gemm/exec.h"
#include "convt_gemm/plan.h"
#include "gemm/batched_gemm.h"

namespace convt_gemm {

/// Enqueues the product on the plan's back end.
Status cuda_gemm(const Plan& plan, const BatchedGemm& gemm, const CudaContext& context);

Status cublas_gemm(const Plan& plan, const BatchedGemm& gemm, const CudaContext& context);

/// Float32 in channels_first, as ieee or tf32x3.
Status native_gemm(const Plan& plan, const BatchedGemm& gemm, const CudaContext& context);

/// Runs row `plan.instance` of cutlass_instances.def.
Status cutlass_gemm(const Plan& plan, const BatchedGemm& gemm, const CudaContext& context);

}  // namespace convt_gemm

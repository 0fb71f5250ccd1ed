#pragma once
#include "convt_gemm/exec.h"

namespace convt_gemm {

/// Enqueues a plan of the fused kernels. The plan must have passed check_cuda_plan().
Status implicit_gemm_cuda(const Problem& problem, const Plan& plan, const Tensors& tensors, const CudaContext& context);

}  // namespace convt_gemm

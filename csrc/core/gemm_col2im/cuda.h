#pragma once
#include "convt_gemm/exec.h"

namespace convt_gemm {

/// gemm_col2im on a GPU: for each piece, GEMM into the column buffer, then col2im into the output.
/// Problem, plan, tensors and context have been checked by forward().
Status gemm_col2im_cuda(const Problem& problem, const Plan& plan, const Tensors& tensors, const CudaContext& context);

}  // namespace convt_gemm

#pragma once
#include "convt_gemm/exec.h"
#include "gemm/cpu_gemm.h"

namespace convt_gemm {

/// gemm_col2im on the processor: tiles of the output are shared out over the threads; for each, the input tile is
/// packed, and block by block of output channels the product writes columns that stay in the cache and col2im writes
/// them to the output. Problem, plan, tensors and context have been checked by forward().
Status gemm_col2im_cpu(const Problem& problem, const Plan& plan, const Tensors& tensors, const CpuContext& context,
                       CpuIsa isa = cpu_isa());

}  // namespace convt_gemm

#pragma once
// The direct algorithm on the GPU: one kernel without a GEMM and without a workspace. It gathers every output from the
// input, for layers whose outputs take few multiply-adds each, or sums columns, for layers of few output channels.
#include "convt_gemm/exec.h"
#include "convt_gemm/problem.h"

namespace convt_gemm {

/// Enqueues one kernel on the context's stream. The plan must have passed check_direct_plan(), and the problem have outputs; input,
/// weight and output are aligned to 16 bytes.
Status direct_cuda(const Problem& problem, const Plan& plan, const Tensors& tensors, const CudaContext& context);

}  // namespace convt_gemm

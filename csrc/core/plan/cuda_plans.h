#pragma once
#include <vector>

#include "convt_gemm/plan.h"

namespace convt_gemm {

/// Adds every legal plan of gemm_col2im on CUDA, with its pieces, workspace and predicted time.
void append_cuda_plans(const Problem& problem, const DeviceTraits& traits, const PlanOptions& options,
                       std::vector<Plan>* plans);

/// Whether a CUDA plan of any algorithm can run the problem: made for this dtype, with a workspace that holds what it needs and
/// a kernel instance that takes the problem's layout, alignment and sizes.
Status check_cuda_plan(const Problem& problem, const Plan& plan);

}  // namespace convt_gemm

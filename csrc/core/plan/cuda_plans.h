#pragma once
#include <vector>

#include "convt_gemm/plan.h"

namespace convt_gemm {

/// Adds every legal CUDA plan, with its pieces, workspace and predicted time.
void append_cuda_plans(const Problem& problem, const DeviceTraits& traits, const PlanOptions& options,
                       std::vector<Plan>* plans);

/// Whether a plan can run the problem: made for CUDA and this dtype, with columns that fit its workspace and a GEMM instance
/// that takes the problem's layout and alignment.
Status check_cuda_plan(const Problem& problem, const Plan& plan);

}  // namespace convt_gemm

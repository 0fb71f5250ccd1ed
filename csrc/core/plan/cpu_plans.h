#pragma once
#include <vector>

#include "convt_gemm/plan.h"

namespace convt_gemm {

/// Adds the CPU plan, with its pieces, workspace and predicted time; none if float32 is wanted with TF32 products.
void append_cpu_plans(const Problem& problem, const DeviceTraits& traits, const PlanOptions& options,
                      std::vector<Plan>* plans);

}  // namespace convt_gemm

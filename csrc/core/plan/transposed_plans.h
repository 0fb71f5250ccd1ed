#pragma once
#include <vector>

#include "convt_gemm/plan.h"
#include "plan/transposed_geometry.h"

namespace convt_gemm {

/// Adds every legal plan of the transposed product, with its predicted time.
void append_transposed_plans(const Problem& problem, const DeviceTraits& traits, const PlanOptions& options, std::vector<Plan>* plans);

/// The geometry that a plan of the transposed product has for the problem, or a message if it was made for another one.
Status transposed_geometry_of(const Problem& problem, const Plan& plan, TransposedGeometry* geometry);

}  // namespace convt_gemm

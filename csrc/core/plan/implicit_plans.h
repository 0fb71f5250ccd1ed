#pragma once
#include <vector>

#include "convt_gemm/plan.h"
#include "plan/implicit_geometry.h"

namespace convt_gemm {

/// Adds every legal plan of the fused kernels, with workspace and predicted time.
void append_implicit_plans(const Problem& problem, const DeviceTraits& traits, const PlanOptions& options,
                           std::vector<Plan>* plans);

/// The geometry that a plan of the fused kernels has for the problem, or a message if it was made for another one.
Status implicit_geometry_of(const Problem& problem, const Plan& plan, ImplicitGeometry* geometry);

}  // namespace convt_gemm

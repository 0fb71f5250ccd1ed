#pragma once
#include <vector>

#include "convt_gemm/plan.h"
#include "plan/window_geometry.h"

namespace convt_gemm {

/// Adds every legal plan of the kernels of windows, with its predicted time.
void append_window_plans(const Problem& problem, const DeviceTraits& traits, const PlanOptions& options, std::vector<Plan>* plans);

/// The geometry that a plan of a kernel of windows has for the problem, or a message if it was made for another one.
Status window_geometry_of(const Problem& problem, const Plan& plan, ImplicitGeometry* geometry);

}  // namespace convt_gemm

#pragma once
// What the plans of all lists of fused kernels have in common.
#include <algorithm>
#include <string>

#include "convt_gemm/plan.h"
#include "plan/implicit_geometry.h"

namespace convt_gemm::fused_plans {

inline bool runs_on(Family family, int compute_capability) {
#ifdef CONVT_GEMM_NO_SM90A
  if (family == Family::sm90) return false;  // the build left these kernels out
#endif
  return family == Family::sm90 ? compute_capability == 90 : compute_capability >= 80;
}

/// Whether an instance's products are those asked for; only float32 has a choice.
template <class Instance>
bool forms_products(const Instance& instance, const Problem& problem, Precision precision) {
  return instance.dtype == problem.dtype && (problem.dtype != DType::float32 || instance.precision == precision);
}

/// A plan without workspace and prediction, of all outputs in one piece. `number` is Plan::instance.
template <class Instance>
Plan plan_of(const Instance& instance, int number, const Problem& problem, const DeviceTraits& traits) {
  Plan plan;
  plan.device = Device::cuda;
  plan.algorithm = Algorithm::implicit_gemm;
  plan.backend = GemmBackend::native;
  plan.precision = instance.precision;
  plan.dtype = problem.dtype;
  plan.instance = number;
  plan.compute_capability = traits.compute_capability;
  plan.multiprocessors = traits.multiprocessors;
  plan.piece = {std::max<std::int64_t>(problem.batch, 1), {problem.axes[0].output(), problem.axes[1].output(), problem.axes[2].output()}};
  return plan;
}

/// Of the device that a plan was made for.
inline DeviceTraits traits_of(const Plan& plan) {
  DeviceTraits traits;
  traits.device = Device::cuda;
  traits.compute_capability = plan.compute_capability;
  traits.multiprocessors = plan.multiprocessors;
  return traits;
}

/// Whether the plan's number is one of a list's, [first, after) of `all`, and it is for a problem's kind of tensors.
inline Status check_kind(const Problem& problem, const Plan& plan, int first, int after, int all) {
  if (plan.instance < first || plan.instance >= after) {
    return Status::invalid("expected plan.instance to be non-negative and below " + std::to_string(all) + ", but got " + std::to_string(plan.instance));
  }
  if (plan.device != Device::cuda || plan.dtype != problem.dtype) {
    return Status::invalid("expected a CUDA plan for " + std::string(name_of(problem.dtype)) + ", but got " + plan.name());
  }
  return {};
}

inline Status of_another_problem(const Problem& problem, const Plan& plan) {
  return Status::invalid("expected a plan that was made for " + to_string(problem) + ", but got " + plan.name() + " of another problem");
}

}  // namespace convt_gemm::fused_plans

// Which plan a call runs; compiled into both modules.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/headeronly/util/Exception.h>

#include "tuned_plans.h"

namespace convt_gemm::torch_bindings {

const TunedPlans& tuned_plans() {
  static const TunedPlans& table = []() -> const TunedPlans& {
    StableIValue result = 0;
    STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("convt_gemm::tuned_plans_address", "", &result, TORCH_ABI_VERSION));
    return *reinterpret_cast<const TunedPlans*>(std::uintptr_t(torch::stable::detail::to<std::int64_t>(result)));
  }();
  return table;
}

Status choose(const Problem& problem, const DeviceTraits& traits, const PlanOptions& options, Plan* plan, bool* tuned) {
  if (tuned != nullptr) *tuned = false;
  Plan wanted;
  if (options.algorithm == "auto" && options.workspace_limit >= 0 && !tuned_plans().empty() &&
      tuned_plans().find(problem, traits, options.precision, &wanted)) {
    // Enumerated anew, since pieces and workspace follow the call's limit. All that a name spells is compared; making each
    // candidate's name would cost as much as planning.
    for (const Plan& candidate : enumerate_plans(problem, traits, options)) {
      if (candidate.algorithm == wanted.algorithm && candidate.backend == wanted.backend &&
          candidate.precision == wanted.precision && candidate.instance == wanted.instance &&
          candidate.joined == wanted.joined && candidate.packed_weight == wanted.packed_weight && candidate.splits == wanted.splits) {
        *plan = candidate;
        if (tuned != nullptr) *tuned = true;
        return {};
      }
    }
  }
  return choose_plan(problem, traits, options, plan);
}

}  // namespace convt_gemm::torch_bindings

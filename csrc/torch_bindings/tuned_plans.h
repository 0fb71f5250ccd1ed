#pragma once
// The process' tuned plans: for exactly one problem on one kind of device, the plan that was measured fastest.
#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "convt_gemm/plan.h"

namespace convt_gemm::torch_bindings {

/// A table from a problem, a device and a precision to a plan. Every function may be called from any thread.
///
/// The key is every field of the problem, the device kind, its compute capability and multiprocessors (cuda) or threads
/// (cpu), and the wanted precision where the dtype has a choice. Sizes of caches and the workspace limit are not part of it.
class TunedPlans {
 public:
  /// One relaxed load: all that a process which tunes nothing ever pays.
  bool empty() const { return count_.load(std::memory_order_relaxed) == 0; }
  /// Another number after every change. Who keeps an answer of choose() asks before it and keeps the number with the answer.
  std::int64_t generation() const { return generation_.load(std::memory_order_acquire); }
  /// The remembered plan, as it was under some workspace limit; false if there is none.
  virtual bool find(const Problem& problem, const DeviceTraits& traits, Precision precision, Plan* plan) const = 0;

 protected:
  ~TunedPlans() = default;
  std::atomic<std::int64_t> count_{0};
  std::atomic<std::int64_t> generation_{0};
};

/// The table. It lives in convt_gemm._C; since the two modules share no symbol, each asks an operator for its address, once.
const TunedPlans& tuned_plans();

/// The plan that a call runs. Algorithm "auto" takes the tuned plan if there is one that is legal with these options, else
/// choose_plan()'s. `tuned`, if given, says which of both it was.
Status choose(const Problem& problem, const DeviceTraits& traits, const PlanOptions& options, Plan* plan, bool* tuned = nullptr);

// Operators of convt_gemm._C.

/// Remembers a plan for a problem, in place of an earlier one. Argument names as in the schema, `device_traits` as for
/// conv_transpose_plans; raises unless the plan is one of the problem's on that device under some workspace limit.
void remember_plan(std::vector<std::int64_t> input_size, std::vector<std::int64_t> weight_size, bool has_bias,
                   std::vector<std::int64_t> stride, std::vector<std::int64_t> padding, std::vector<std::int64_t> output_padding,
                   std::int64_t groups, std::vector<std::int64_t> dilation, std::string dtype, bool channels_last,
                   std::string device, std::string precision, std::vector<std::int64_t> device_traits, std::string plan);

/// JSON array of the table's entries in no particular order, each an object with remember_plan()'s arguments.
std::string tuned_plans_json();

/// Empties the table.
void forget_plans();

/// The table's address as a number, for tuned_plans().
std::int64_t tuned_plans_address();

}  // namespace convt_gemm::torch_bindings

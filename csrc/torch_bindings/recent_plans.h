#pragma once
// The plans of a thread's last few calls. Planning is a pure function but takes some microseconds, which a layer that is called
// with the same sizes again and again need not pay.
#include <array>
#include <cstddef>
#include <string>
#include <string_view>

#include "convt_gemm/plan.h"

namespace convt_gemm::torch_bindings {

class RecentPlans {
 public:
  /// The remembered plan, or nullptr. `device` is the index of the device that the traits are of, `generation` that of the table of
  /// tuned plans, which the choice may have come from.
  const Plan* find(const Problem& problem, const PlanOptions& options, int device, std::int64_t generation) const {
    for (const Entry& entry : entries_) {
      if (entry.device == device && entry.generation == generation && entry.precision == options.precision && entry.workspace_limit == options.workspace_limit &&
          same(entry.problem, problem) && entry.algorithm == options.algorithm) {
        return &entry.plan;
      }
    }
    return nullptr;
  }

  void remember(const Problem& problem, const PlanOptions& options, int device, std::int64_t generation, const Plan& plan) {
    entries_[next_] = {device, generation, problem, options.precision, std::string(options.algorithm), options.workspace_limit, plan};
    next_ = (next_ + 1) % entries_.size();
  }

 private:
  struct Entry {
    int device = -1;
    std::int64_t generation = 0;
    Problem problem;
    Precision precision = Precision::ieee;
    std::string algorithm;
    std::int64_t workspace_limit = 0;
    Plan plan;
  };

  static bool same(const Problem& a, const Problem& b) {
    return a.rank == b.rank && a.dtype == b.dtype && a.layout == b.layout && a.bias == b.bias && a.batch == b.batch &&
           a.in_channels == b.in_channels && a.out_channels == b.out_channels && a.groups == b.groups && a.axes == b.axes;
  }

  std::array<Entry, 8> entries_;  // about as many as a decoder has layers
  std::size_t next_ = 0;
};

}  // namespace convt_gemm::torch_bindings

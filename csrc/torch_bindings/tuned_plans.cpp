#include "tuned_plans.h"

#include <array>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>

#include "arguments.h"
#include "plans.h"

namespace convt_gemm::torch_bindings {
namespace {

struct Entry {
  Problem problem;
  DeviceTraits traits;
  Precision precision = Precision::ieee;
  Plan plan;
};

constexpr int kAxisFields = 6;
using Key = std::array<std::int64_t, 12 + kAxisFields * kMaxAxes>;

/// Precision is a choice for float32 only; whatever is asked of another dtype, its plans are the same.
Precision effective(Precision precision, DType dtype) { return dtype == DType::float32 ? precision : Precision::ieee; }

Key make_key(const Problem& problem, const DeviceTraits& traits, Precision precision) {
  const bool cpu = traits.device == Device::cpu;
  Key key{std::int64_t(traits.device),
          cpu ? traits.threads : traits.compute_capability,
          cpu ? 0 : traits.multiprocessors,
          std::int64_t(effective(precision, problem.dtype)),
          problem.rank,
          std::int64_t(problem.dtype),
          std::int64_t(problem.layout),
          problem.bias,
          problem.batch,
          problem.in_channels,
          problem.out_channels,
          problem.groups};
  std::size_t at = key.size() - kAxisFields * kMaxAxes;
  for (const Axis& axis : problem.axes) {
    for (std::int64_t value : {axis.input, axis.kernel, axis.stride, axis.padding, axis.output_padding, axis.dilation}) {
      key[at++] = value;
    }
  }
  return key;
}

struct Hash {
  std::size_t operator()(const Key& key) const {
    std::uint64_t hash = 0xcbf29ce484222325;  // FNV-1a over whole fields, then mixed: low bits choose the bucket
    for (std::int64_t field : key) hash = (hash ^ std::uint64_t(field)) * 0x100000001b3;
    return std::size_t(hash ^ (hash >> 32));
  }
};

class Table final : public TunedPlans {
 public:
  bool find(const Problem& problem, const DeviceTraits& traits, Precision precision, Plan* plan) const override {
    const Key key = make_key(problem, traits, precision);
    const std::shared_lock<std::shared_mutex> lock(mutex_);
    const auto found = entries_.find(key);
    if (found != entries_.end()) *plan = found->second.plan;
    return found != entries_.end();
  }

  void remember(Entry entry) {
    const Key key = make_key(entry.problem, entry.traits, entry.precision);
    const std::unique_lock<std::shared_mutex> lock(mutex_);
    entries_.insert_or_assign(key, std::move(entry));
    count_.store(std::int64_t(entries_.size()), std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
  }

  void forget() {
    const std::unique_lock<std::shared_mutex> lock(mutex_);
    entries_.clear();
    count_.store(0, std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
  }

  std::vector<Entry> entries() const {
    const std::shared_lock<std::shared_mutex> lock(mutex_);
    std::vector<Entry> all;
    all.reserve(entries_.size());
    for (const auto& [key, entry] : entries_) all.push_back(entry);
    return all;
  }

 private:
  mutable std::shared_mutex mutex_;
  std::unordered_map<Key, Entry, Hash> entries_;
};

/// Never destroyed: other threads may still compute while the process exits.
Table& table() {
  static Table& instance = *new Table;
  return instance;
}

template <typename Value>
std::string list(const Problem& problem, std::string text, Value value) {
  for (int i = 0; i < problem.rank; ++i) text += (text.empty() ? "" : ", ") + std::to_string(value(problem.axis(i)));
  return "[" + text + "]";
}

std::string to_json(const Entry& entry) {
  const Problem& problem = entry.problem;
  const DeviceTraits& traits = entry.traits;
  const auto flag = [](bool value) { return value ? "true" : "false"; };
  const std::string in_channels = std::to_string(problem.in_channels);
  const std::string device = traits.device == Device::cpu
                                 ? "\"cpu\", \"threads\": " + std::to_string(traits.threads)
                                 : "\"cuda\", \"compute_capability\": " + std::to_string(traits.compute_capability) +
                                       ", \"multiprocessors\": " + std::to_string(traits.multiprocessors);
  return "{\"device\": " + device + ", \"dtype\": \"" + name_of(problem.dtype) + "\", \"precision\": \"" +
         name_of(entry.precision) + "\", \"channels_last\": " + flag(problem.layout == Layout::channels_last) +
         ", \"input_size\": " +
         list(problem, std::to_string(problem.batch) + ", " + in_channels, [](const Axis& a) { return a.input; }) +
         ", \"weight_size\": " +
         list(problem, in_channels + ", " + std::to_string(problem.group_out_channels()), [](const Axis& a) { return a.kernel; }) +
         ", \"bias\": " + flag(problem.bias) + ", \"stride\": " + list(problem, "", [](const Axis& a) { return a.stride; }) +
         ", \"padding\": " + list(problem, "", [](const Axis& a) { return a.padding; }) +
         ", \"output_padding\": " + list(problem, "", [](const Axis& a) { return a.output_padding; }) +
         ", \"groups\": " + std::to_string(problem.groups) +
         ", \"dilation\": " + list(problem, "", [](const Axis& a) { return a.dilation; }) +
         ", \"plan\": \"" + entry.plan.name() + "\"}";
}

}  // namespace

void remember_plan(std::vector<std::int64_t> input_size, std::vector<std::int64_t> weight_size, bool has_bias,
                   std::vector<std::int64_t> stride, std::vector<std::int64_t> padding, std::vector<std::int64_t> output_padding,
                   std::int64_t groups, std::vector<std::int64_t> dilation, std::string dtype, bool channels_last,
                   std::string device, std::string precision, std::vector<std::int64_t> device_traits, std::string plan) {
  Entry entry;
  const Geometry geometry{stride, padding, output_padding, groups, dilation};
  entry.problem = make_problem(input_size, weight_size, geometry, has_bias, dtype, channels_last);
  entry.traits = make_traits(device, device_traits);
  // What the largest limit allows is every plan that some limit allows; still larger columns would not fit an int64.
  constexpr std::int64_t kAnyWorkspace = std::int64_t{1} << 62;
  PlanOptions options = make_options("auto", precision, kAnyWorkspace);
  entry.precision = effective(options.precision, entry.problem.dtype);
  std::string legal;
  bool found = false;
  for (const Plan& candidate : enumerate_plans(entry.problem, entry.traits, options)) {
    const std::string name = candidate.name();
    legal += (legal.empty() ? "'" : ", '") + name + "'";
    if (name != plan) continue;
    entry.plan = candidate;
    found = true;
  }
  CONVT_GEMM_CHECK(found, "expected plan to be ", legal.empty() ? "none at all" : "one of " + legal, " for ",
                   to_string(entry.problem), " on ", device, " in precision '", precision, "', but got '", plan, "'");
  table().remember(std::move(entry));
}

std::string tuned_plans_json() {
  std::string json = "[";
  for (const Entry& entry : table().entries()) json += (json.size() > 1 ? ", " : "") + to_json(entry);
  return json + "]";
}

void forget_plans() { table().forget(); }

std::int64_t tuned_plans_address() {
  const TunedPlans* address = &table();
  return std::int64_t(reinterpret_cast<std::uintptr_t>(address));
}

}  // namespace convt_gemm::torch_bindings

#include "plans.h"

#include <torch/csrc/stable/ops.h>
#include <unistd.h>

#include <cstdio>

#include "arguments.h"
#include "tuned_plans.h"

namespace convt_gemm::torch_bindings {
namespace {

DType parse_dtype(const std::string& name) {
  for (DType dtype : {DType::float32, DType::float64, DType::bfloat16, DType::float16}) {
    if (name == name_of(dtype)) return dtype;
  }
  fail("expected dtype to be 'float32', 'float64', 'bfloat16' or 'float16', but got '", name, "'");
}

std::string number(double value) {
  char text[40];
  std::snprintf(text, sizeof text, "%.17g", value);
  return text;
}

/// Names and descriptions hold no character but line breaks that JSON would have escaped.
std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (char c : text) result += c == '\n' ? std::string("\\n") : std::string(1, c);
  return result + "\"";
}

std::string to_json(const Problem& problem, const Plan& plan, bool tuned) {
  std::string piece = "[" + std::to_string(plan.piece.batch);
  for (int i = 0; i < problem.rank; ++i) piece += ", " + std::to_string(plan.piece.output[kMaxAxes - problem.rank + i]);
  return "{\"name\": " + quoted(plan.name()) + ", \"algorithm\": " + quoted(name_of(plan.algorithm)) +
         ", \"backend\": " + quoted(name_of(plan.backend)) + ", \"precision\": " + quoted(name_of(plan.precision)) +
         ", \"tile\": " + quoted(plan.tile()) + ", \"piece\": " + piece + "]" +
         ", \"workspace_bytes\": " + std::to_string(plan.workspace_bytes) + ", \"bytes\": " + number(plan.bytes) +
         ", \"flops\": " + number(plan.flops) + ", \"predicted_seconds\": " + number(plan.predicted_seconds) +
         ", \"description\": " + quoted(describe(problem, plan)) + ", \"tuned\": " + (tuned ? "true" : "false") + "}";
}

}  // namespace

DeviceTraits cpu_traits() {
  DeviceTraits traits;
  traits.device = Device::cpu;
  traits.threads = int(torch::stable::get_num_threads());
  static const long l2_bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);  // 0 or -1 where the system does not tell
  if (l2_bytes > 0) traits.core_cache_bytes = l2_bytes;
  return traits;
}

DeviceTraits make_traits(const std::string& device, const std::vector<std::int64_t>& values) {
  DeviceTraits traits;
  if (device == "cpu") {
    traits = cpu_traits();
    CONVT_GEMM_CHECK(values.empty() || values.size() == 2,
                    "expected device_traits of a cpu to be [] or [threads, core_cache_bytes], but got ", values.size(), " values");
    if (!values.empty()) {
      traits.threads = int(values[0]);
      traits.core_cache_bytes = values[1];
    }
    return traits;
  }
  CONVT_GEMM_CHECK(device == "cuda", "expected device to be 'cpu' or 'cuda', but got '", device, "'");
  CONVT_GEMM_CHECK(values.empty() || values.size() == 3,
                  "expected device_traits of a cuda device to be [] or [compute_capability, multiprocessors, l2_bytes], but got ",
                  values.size(), " values");
  traits.device = Device::cuda;
  if (!values.empty()) {
    traits.compute_capability = int(values[0]);
    traits.multiprocessors = int(values[1]);
    traits.l2_bytes = values[2];
  }
  return traits;
}

Problem make_problem(const std::vector<std::int64_t>& input_size, const std::vector<std::int64_t>& weight_size,
                     const Geometry& geometry, bool has_bias, const std::string& dtype, bool channels_last) {
  Problem problem = make_problem(input_size.data(), std::int64_t(input_size.size()), weight_size.data(),
                                 std::int64_t(weight_size.size()), geometry);
  problem.dtype = parse_dtype(dtype);
  problem.bias = has_bias;
  problem.layout = channels_last ? Layout::channels_last : Layout::channels_first;
  raise_unless_ok(validate(problem));
  return problem;
}

std::string conv_transpose_plans(std::vector<std::int64_t> input_size, std::vector<std::int64_t> weight_size, bool has_bias,
                                 std::vector<std::int64_t> stride, std::vector<std::int64_t> padding,
                                 std::vector<std::int64_t> output_padding, std::int64_t groups, std::vector<std::int64_t> dilation,
                                 std::string dtype, bool channels_last, std::string device, std::string algorithm,
                                 std::string precision, std::int64_t workspace_limit, std::vector<std::int64_t> device_traits) {
  const Problem problem =
      make_problem(input_size, weight_size, {stride, padding, output_padding, groups, dilation}, has_bias, dtype, channels_last);
  const DeviceTraits traits = make_traits(device, device_traits);
  const PlanOptions options = make_options(algorithm, precision, workspace_limit);
  Plan chosen;
  bool tuned = false;
  raise_unless_ok(choose(problem, traits, options, &chosen, &tuned));
  const std::string tuned_name = tuned ? chosen.name() : "";
  std::string json = "[";
  for (const Plan& plan : enumerate_plans(problem, traits, options)) {
    json += (json.size() > 1 ? ", " : "") + to_json(problem, plan, tuned && plan.name() == tuned_name);
  }
  return json + "]";
}

}  // namespace convt_gemm::torch_bindings

#pragma once
// The planner as an operator: what a problem could run and would run, without running it.
#include <cstdint>
#include <string>
#include <vector>

#include "arguments.h"
#include "convt_gemm/plan.h"

namespace convt_gemm::torch_bindings {

/// This process' CPU: torch's thread count and the size of one core's second-level cache.
DeviceTraits cpu_traits();

/// Traits of the machine to plan for: `values` is empty (this process' CPU, a default GPU), [threads, core_cache_bytes] or
/// [compute_capability, multiprocessors, l2_bytes]; raises on anything else.
DeviceTraits make_traits(const std::string& device, const std::vector<std::int64_t>& values);

/// A whole problem without tensors; raises.
Problem make_problem(const std::vector<std::int64_t>& input_size, const std::vector<std::int64_t>& weight_size,
                     const Geometry& geometry, bool has_bias, const std::string& dtype, bool channels_last);

/// JSON array of the legal plans, best first; "tuned" marks the one that a call would take because it is remembered, see
/// tuned_plans.h. Argument names as in the schema; raises on what the operator itself would refuse.
std::string conv_transpose_plans(std::vector<std::int64_t> input_size, std::vector<std::int64_t> weight_size, bool has_bias,
                                 std::vector<std::int64_t> stride, std::vector<std::int64_t> padding,
                                 std::vector<std::int64_t> output_padding, std::int64_t groups, std::vector<std::int64_t> dilation,
                                 std::string dtype, bool channels_last, std::string device, std::string algorithm,
                                 std::string precision, std::int64_t workspace_limit, std::vector<std::int64_t> device_traits);

}  // namespace convt_gemm::torch_bindings

#pragma once
// The planner as an operator: what a problem could run and would run, without running it.
#include <cstdint>
#include <string>
#include <vector>

#include "convt_gemm/plan.h"

namespace convt_gemm::torch_bindings {

/// This process' CPU: torch's thread count and the size of one core's second-level cache.
DeviceTraits cpu_traits();

/// JSON array of the legal plans, best first. Argument names as in the schema; raises on what the operator itself would refuse.
std::string conv_transpose_plans(std::vector<std::int64_t> input_size, std::vector<std::int64_t> weight_size, bool has_bias,
                                 std::vector<std::int64_t> stride, std::vector<std::int64_t> padding,
                                 std::vector<std::int64_t> output_padding, std::int64_t groups, std::vector<std::int64_t> dilation,
                                 std::string dtype, bool channels_last, std::string device, std::string algorithm,
                                 std::string precision, std::int64_t workspace_limit, std::vector<std::int64_t> device_traits);

}  // namespace convt_gemm::torch_bindings

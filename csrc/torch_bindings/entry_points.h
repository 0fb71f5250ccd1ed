#pragma once
// The operators' functions as their schemas have them, around what a device has to supply.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "arguments.h"

namespace convt_gemm::torch_bindings {

/// Computes on the input's device, which the dispatcher has found to be this one's.
using Forward = Tensor (*)(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, const Geometry& geometry,
                           const PlanOptions& options);

/// Operator conv_transpose.
template <Forward forward>
Tensor conv_transpose(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, std::vector<std::int64_t> stride,
                      std::vector<std::int64_t> padding, std::vector<std::int64_t> output_padding, std::int64_t groups,
                      std::vector<std::int64_t> dilation, std::string algorithm, std::string precision,
                      std::int64_t workspace_limit) {
  return forward(input, weight, bias, {stride, padding, output_padding, groups, dilation},
                 make_options(algorithm, precision, workspace_limit));
}

/// Operator conv_transpose_packed: the same with all that is no tensor in one string, see Settings. The dispatcher copies each argument several times, lists value
/// by value, and that is what most of a small call's host time would go to.
template <Forward forward>
Tensor conv_transpose_packed(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, std::string settings) {
  const Settings unpacked(settings);
  return forward(input, weight, bias, unpacked.geometry(), unpacked.options());
}

}  // namespace convt_gemm::torch_bindings

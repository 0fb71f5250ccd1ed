#pragma once
// From the operator's arguments to the core's Problem: the checks that need tensors. All else is validate()'s.
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/HeaderOnlyArrayRef.h>

#include <array>
#include <cstdint>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "convt_gemm/plan.h"

namespace convt_gemm::torch_bindings {

using torch::stable::Tensor;

using Values = torch::headeronly::IntHeaderOnlyArrayRef;  // owns nothing

/// The geometry arguments as the schema names them.
struct Geometry {
  Values stride, padding, output_padding;
  std::int64_t groups;
  Values dilation;
};

/// Raises RuntimeError, as torch does, with the parts as message. STD_TORCH_CHECK would put a source line before it.
template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw std::runtime_error(text.str());
}

#define CONVT_GEMM_CHECK(condition, ...)                       \
  do {                                                         \
    if (!(condition)) ::convt_gemm::torch_bindings::fail(__VA_ARGS__); \
  } while (false)

/// Raises with the status' message, unless it is ok.
void raise_unless_ok(const Status& status);

/// Problem of these sizes ([batch, in_channels, positions...] and [in_channels, out_channels/groups, kernel...]); raises.
Problem make_problem(const std::int64_t* input_size, std::int64_t input_dims, const std::int64_t* weight_size,
                     std::int64_t weight_dims, const Geometry& geometry);

/// Checks dtypes, devices and the bias' shape as well; raises. The layout is channels_last if the input is dense in that order.
Problem make_problem(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, const Geometry& geometry);

/// Raises on an unknown precision.
PlanOptions make_options(const std::string& algorithm, const std::string& precision, std::int64_t workspace_limit);

/// The arguments of conv_transpose_packed that are no tensors, out of its one string: as many numbers for each of stride, padding, output_padding and dilation
/// as there are axes, then groups, workspace_limit, precision and algorithm, with a space between any two. Raises on anything else.
class Settings {
 public:
  /// `text` has to outlive the settings.
  explicit Settings(const std::string& text);
  Settings(const Settings&) = delete;
  Settings& operator=(const Settings&) = delete;

  Geometry geometry() const;
  const PlanOptions& options() const { return options_; }

 private:
  std::array<std::int64_t, 4 * kMaxAxes + 2> numbers_{};
  std::size_t axes_ = 0;
  PlanOptions options_;
};

/// The tensor itself if it is dense in the layout and its storage aligned, else a copy that is.
Tensor dense(const Tensor& tensor, Layout layout);

/// Uninitialised output of the problem on the input's device, in the problem's layout.
Tensor empty_output(const Tensor& input, const Problem& problem);

/// Uninitialised bytes on the input's device.
Tensor empty_workspace(const Tensor& input, std::size_t bytes);

}  // namespace convt_gemm::torch_bindings

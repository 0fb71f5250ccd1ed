#pragma once
// One transposed convolution, described by plain integers. Shared by planner, CPU code and kernels.
//
//   y[n, co, o] = bias[co] + sum over ci, i, k with i*stride + k*dilation - padding == o of x[n, ci, i] * w[ci, co, k]
//
// per axis, with output = (input-1)*stride - 2*padding + dilation*(kernel-1) + output_padding + 1
// (torch.nn.ConvTranspose1d/2d/3d). The weight is stored [in_channels, out_channels/groups, kernel...].
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "convt_gemm/status.h"

namespace convt_gemm {

inline constexpr int kMaxAxes = 3;

enum class DType : std::int8_t { float32, float64, bfloat16, float16 };

/// Memory order of x and y: [batch, channels, positions...] or [batch, positions..., channels], dense in both cases.
enum class Layout : std::int8_t { channels_first, channels_last };

struct Axis {
  std::int64_t input = 1;
  std::int64_t kernel = 1;
  std::int64_t stride = 1;
  std::int64_t padding = 0;
  std::int64_t output_padding = 0;
  std::int64_t dilation = 1;

  constexpr std::int64_t output() const {
    return (input - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1;
  }
  friend constexpr bool operator==(const Axis& a, const Axis& b) {
    return a.input == b.input && a.kernel == b.kernel && a.stride == b.stride && a.padding == b.padding &&
           a.output_padding == b.output_padding && a.dilation == b.dilation;
  }
};

struct Problem {
  int rank = 1;  ///< 1, 2 or 3 spatial axes, as the caller counts them
  DType dtype = DType::float32;
  Layout layout = Layout::channels_first;
  bool bias = false;
  std::int64_t batch = 1;
  std::int64_t in_channels = 1;
  std::int64_t out_channels = 1;
  std::int64_t groups = 1;
  /// The last `rank` entries are the problem's axes, outermost first; the entries before them stay at Axis{} (size 1),
  /// so that every algorithm may treat every problem as three-dimensional.
  std::array<Axis, kMaxAxes> axes{};

  const Axis& axis(int i) const { return axes[kMaxAxes - rank + i]; }  ///< i in [0, rank), outermost first
  Axis& axis(int i) { return axes[kMaxAxes - rank + i]; }

  std::int64_t group_in_channels() const { return in_channels / groups; }
  std::int64_t group_out_channels() const { return out_channels / groups; }
  std::int64_t taps() const { return axes[0].kernel * axes[1].kernel * axes[2].kernel; }
  std::int64_t input_positions() const { return axes[0].input * axes[1].input * axes[2].input; }
  std::int64_t output_positions() const { return axes[0].output() * axes[1].output() * axes[2].output(); }
  std::int64_t input_elements() const { return batch * in_channels * input_positions(); }
  std::int64_t weight_elements() const { return in_channels * group_out_channels() * taps(); }
  std::int64_t output_elements() const { return batch * out_channels * output_positions(); }
};

/// Bytes of one element.
std::size_t size_of(DType dtype);
/// "float32", "float64", "bfloat16" or "float16".
const char* name_of(DType dtype);
const char* name_of(Layout layout);

/// Checks every field: positive sizes, groups that divide both channel counts, output_padding below max(stride, dilation),
/// a positive output size and element counts that fit int64. batch may be 0.
/// The message names the argument, what came and what was expected.
Status validate(const Problem& problem);

/// One line such as "1-D float32 N16 C32->64 I131072 K3 S2 P1 R0 D2 G1 -> O262145".
std::string to_string(const Problem& problem);

}  // namespace convt_gemm

#include "convt_gemm/reference.h"

#include <array>

namespace convt_gemm {

void reference_forward(const Problem& problem, const double* input, const double* weight, const double* bias,
                       double* output) {
  const auto& axes = problem.axes;
  const std::array<std::int64_t, kMaxAxes> in{axes[0].input, axes[1].input, axes[2].input};
  const std::array<std::int64_t, kMaxAxes> out{axes[0].output(), axes[1].output(), axes[2].output()};
  const auto index = [&](std::int64_t n, std::int64_t c, std::int64_t channels,
                         const std::array<std::int64_t, kMaxAxes>& at,
                         const std::array<std::int64_t, kMaxAxes>& extent) {
    const std::int64_t position = (at[0] * extent[1] + at[1]) * extent[2] + at[2];
    const std::int64_t positions = extent[0] * extent[1] * extent[2];
    return problem.layout == Layout::channels_first ? (n * channels + c) * positions + position
                                                    : (n * positions + position) * channels + c;
  };
  /// Calls body(at) for every index triple below `extent`.
  const auto for_each = [](const std::array<std::int64_t, kMaxAxes>& extent, auto body) {
    std::array<std::int64_t, kMaxAxes> at;
    for (at[0] = 0; at[0] < extent[0]; ++at[0]) {
      for (at[1] = 0; at[1] < extent[1]; ++at[1]) {
        for (at[2] = 0; at[2] < extent[2]; ++at[2]) body(at);
      }
    }
  };

  for (std::int64_t n = 0; n < problem.batch; ++n) {
    for (std::int64_t co = 0; co < problem.out_channels; ++co) {
      for_each(out, [&](const auto& o) {
        output[index(n, co, problem.out_channels, o, out)] = problem.bias ? bias[co] : 0.0;
      });
    }
  }
  const std::int64_t group_in = problem.group_in_channels(), group_out = problem.group_out_channels();
  for (std::int64_t n = 0; n < problem.batch; ++n) {
    for (std::int64_t ci = 0; ci < problem.in_channels; ++ci) {
      for_each(in, [&](const auto& i) {
        const double x = input[index(n, ci, problem.in_channels, i, in)];
        for (std::int64_t co = 0; co < group_out; ++co) {
          for_each({axes[0].kernel, axes[1].kernel, axes[2].kernel}, [&](const auto& k) {
            std::array<std::int64_t, kMaxAxes> o;
            for (int a = 0; a < kMaxAxes; ++a) {
              o[a] = i[a] * axes[a].stride + k[a] * axes[a].dilation - axes[a].padding;
              if (o[a] < 0 || o[a] >= out[a]) return;
            }
            const std::int64_t tap = (k[0] * axes[1].kernel + k[1]) * axes[2].kernel + k[2];
            const double w = weight[(ci * group_out + co) * problem.taps() + tap];
            output[index(n, ci / group_in * group_out + co, problem.out_channels, o, out)] += x * w;
          });
        }
      });
    }
  }
}

}  // namespace convt_gemm

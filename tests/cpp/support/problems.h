#pragma once
// The problems that tests walk through.
#include <cctype>
#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "convt_gemm/problem.h"

namespace convt_gemm::testing {

struct NamedProblem {
  std::string name;
  Problem problem;
};

inline void PrintTo(const NamedProblem& named, std::ostream* os) { *os << to_string(named.problem); }

/// GoogleTest takes letters, digits and underscores.
struct ProblemName {
  template <class Info>
  std::string operator()(const Info& info) const {
    std::string name = info.param.name;
    for (char& c : name) {
      if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
    }
    return name;
  }
};

inline Problem make_problem(std::int64_t batch, std::int64_t in_channels, std::int64_t out_channels,
                            const std::vector<Axis>& axes, std::int64_t groups = 1, bool bias = false) {
  Problem problem;
  problem.rank = int(axes.size());
  problem.batch = batch;
  problem.in_channels = in_channels;
  problem.out_channels = out_channels;
  problem.groups = groups;
  problem.bias = bias;
  for (int i = 0; i < problem.rank; ++i) problem.axis(i) = axes[std::size_t(i)];
  return problem;
}

/// Axis{input, kernel, stride, padding, output_padding, dilation}: every corner of the lowering, each problem small.
inline std::vector<NamedProblem> small_problems() {
  return {
      {"size_one", make_problem(1, 1, 1, {{1, 1}})},
      {"one_input", make_problem(2, 3, 5, {{1, 5, 3, 1, 1}})},
      {"primes", make_problem(3, 5, 7, {{17, 3, 2, 1, 1}}, 1, true)},
      {"kernel_is_stride", make_problem(2, 8, 8, {{16, 4, 4}})},
      {"kernel_twice_stride", make_problem(1, 16, 8, {{32, 16, 8, 4}}, 1, true)},
      {"kernel_twice_odd_stride", make_problem(1, 24, 12, {{25, 10, 5, 3, 1}})},
      {"stride_above_kernel", make_problem(2, 3, 4, {{9, 2, 5, 1, 2}}, 1, true)},
      {"kernel_one_stride_three", make_problem(2, 4, 4, {{7, 1, 3, 0, 2}}, 1, true)},
      {"reference_problem", make_problem(2, 4, 6, {{33, 3, 2, 1, 0, 2}})},
      {"gcd_two_not_dividing", make_problem(2, 3, 4, {{11, 5, 4, 3, 0, 6}}, 1, true)},
      {"gcd_two_stride_six_dilation_four", make_problem(1, 2, 3, {{13, 4, 6, 5, 3, 4}})},
      {"gcd_three_equal", make_problem(1, 2, 3, {{8, 4, 3, 2, 1, 3}})},
      {"coprime_stride_dilation", make_problem(2, 3, 2, {{12, 5, 3, 4, 2, 2}}, 1, true)},
      {"output_padding_above_stride", make_problem(1, 2, 2, {{6, 3, 5, 0, 6, 7}})},
      {"stride_one_dilated", make_problem(2, 8, 8, {{40, 5, 1, 0, 0, 3}})},
      {"four_taps_an_output", make_problem(2, 4, 4, {{31, 8, 2, 3}})},
      {"groups", make_problem(3, 6, 4, {{13, 4, 2, 1}}, 2, true)},
      {"groups_above_batch", make_problem(2, 12, 24, {{16, 4, 2, 1}}, 4)},
      {"depthwise", make_problem(2, 8, 8, {{21, 4, 2, 1}}, 8, true)},
      {"depthwise_multiplied", make_problem(3, 4, 12, {{10, 3, 2, 1, 1}}, 4)},
      {"batch_zero", make_problem(0, 4, 4, {{8, 3, 2, 1}})},
      {"batch_many", make_problem(70, 2, 2, {{5, 3, 2}})},
      {"cropped_by_one", make_problem(2, 8, 8, {{16, 1, 1, 1}}, 1, true)},
      {"cropped_inputs", make_problem(2, 8, 8, {{32, 4, 1, 6}})},
      {"cropped_strided", make_problem(2, 8, 16, {{20, 4, 2, 9}})},
      {"long_kernel", make_problem(1, 8, 8, {{4, 1024, 256}})},
      {"long_row_odd", make_problem(1, 4, 4, {{4097, 3, 2, 1, 1}})},
      {"long_row_even", make_problem(2, 8, 4, {{4096, 4, 2, 1}}, 1, true)},
      {"aligned_channels", make_problem(2, 64, 64, {{64, 4, 2, 1}}, 1, true)},
      {"aligned_partial_tiles", make_problem(3, 40, 24, {{136, 8, 4, 2}})},
      {"aligned_groups", make_problem(2, 32, 32, {{64, 4, 2, 1}}, 2)},
      {"deep", make_problem(1, 515, 8, {{20, 2, 2}})},
      {"many_out_channels", make_problem(1, 3, 261, {{19, 3, 1, 1}}, 1, true)},
      {"square", make_problem(2, 3, 4, {{7, 3, 2, 1, 1}, {5, 3, 2, 1, 1}}, 1, true)},
      {"square_aligned", make_problem(2, 8, 16, {{8, 4, 2, 1}, {8, 4, 2, 1}}, 1, true)},
      {"unlike_axes", make_problem(2, 8, 8, {{6, 3, 2, 1, 0, 2}, {9, 5, 3, 2, 0, 1}}, 4)},
      {"square_dilated_gap", make_problem(2, 3, 4, {{4, 3, 5, 1, 0, 2}, {6, 3, 5, 1, 0, 2}}, 1, true)},
      {"many_channels_odd_stride", make_problem(2, 2, 37, {{9, 4, 3, 1, 1}}, 1, true)},
      {"many_channels_dilated_gap", make_problem(2, 2, 70, {{4, 3, 5, 1, 0, 2}, {7, 3, 5, 1, 0, 2}}, 1, true)},
      {"one_axis_kernel", make_problem(1, 8, 4, {{3, 8, 4}, {12, 1, 1}})},
      {"pixel_shuffle", make_problem(1, 4, 6, {{5, 2, 2}, {7, 2, 2}}, 1, true)},
      {"inner_axis_cropped", make_problem(2, 4, 4, {{4, 3, 1, 1}, {8, 2, 1, 3}})},
      {"outer_axis_cropped", make_problem(2, 4, 4, {{8, 2, 1, 3}, {4, 3, 1, 1}})},
      {"one_position", make_problem(3, 20, 16, {{1, 4}, {1, 4}})},
      {"cube", make_problem(2, 4, 3, {{4, 3}, {5, 3}, {6, 3}}, 1, true)},
      {"cube_pixel_shuffle", make_problem(1, 16, 8, {{4, 2, 2}, {4, 2, 2}, {4, 2, 2}})},
      {"cube_flat_kernel", make_problem(2, 5, 6, {{3, 1, 1}, {4, 2, 2}, {4, 2, 2}}, 1, true)},
      {"cube_unlike_axes", make_problem(1, 4, 6, {{2, 3, 2, 1, 1}, {3, 5, 2, 2, 1}, {4, 7, 2, 3, 1}}, 2)},
      {"cube_wide_padding", make_problem(1, 4, 4, {{3, 4, 2, 3}, {5, 4, 2, 3}, {6, 4, 2, 3}})},
      {"cube_dilated", make_problem(2, 2, 3, {{3, 2, 2, 0, 1, 1}, {4, 3, 1, 1, 0, 2}, {3, 2, 3, 1, 2, 3}}, 1, true)},
  };
}

/// Extents whose indices need more than 32 bits, though the tensors are small.
inline std::vector<NamedProblem> wide_index_problems() {
  constexpr std::int64_t kWide = (std::int64_t{1} << 31) + 1;
  return {
      {"stride_50000", make_problem(2, 2, 3, {{3, 5, 50000, 7}}, 1, true)},
      {"padding_above_2_31", make_problem(2, 3, 4, {{5, 3, 1, kWide, 0, kWide}})},
      {"dilation_above_2_31", make_problem(1, 4, 3, {{3, 2, 1, 0, 0, 1}, {6, 2, 2, kWide / 2, 0, kWide}}, 1, true)},
      {"cube_stride_50000", make_problem(1, 2, 2, {{2, 3, 2, 1}, {2, 2, 1}, {2, 3, 50000, 1, 0, 3}})},
  };
}

}  // namespace convt_gemm::testing

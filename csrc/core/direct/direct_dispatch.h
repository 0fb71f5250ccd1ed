#pragma once
// Which kernel of direct_kernel.cuh runs a problem, and how its threads cover the output. Host code without CUDA, so
// that tests take the same way as the GPU.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>

#include "convt_gemm/problem.h"
#include "direct/channel_blocks_kernel.cuh"
#include "direct/direct_kernel.cuh"
#include "plan/arithmetic.h"
#include "plan/direct_columns.h"

namespace convt_gemm {
namespace direct {

inline constexpr int kLineBytes = 128;  ///< of the L2 cache
inline constexpr int kLanes = 128;      ///< vectors between a thread's own, at most (or the unit below)

/// Whether every index that the kernels form stays below 2^31. In double: the products may exceed any integer.
inline bool fits_int32(const Problem& problem) {
  constexpr double kMax = std::numeric_limits<std::int32_t>::max() - 65536.0;
  const bool last = problem.layout == Layout::channels_last;
  const double vector = last ? 1.0 : 16.0 / double(size_of(problem.dtype));
  double input = last ? problem.in_channels : 1, output = last ? problem.out_channels : 1;
  double threads = double(problem.batch) * problem.out_channels;
  for (int a = 0; a < kMaxAxes; ++a) {
    const convt_gemm::Axis& axis = problem.axes[a];
    const double steps = axis.stride, outputs = double(axis.output());
    // The tap before the first input and the steps beyond the last one are formed too, though not read.
    input *= double(axis.input) + axis.kernel + axis.padding;
    output *= outputs;
    if (8 * (outputs + axis.padding) + 64 * steps > kMax || double(axis.kernel) * axis.dilation + steps > kMax ||
        steps * steps > kMax) {
      return false;
    }
    if (a < 2 || last) {
      threads *= outputs + (a == 1 && outputs >= kRowGroup ? kRowGroup - 1 : 0);  // the last group of rows is filled up
    } else {
      // Two vectors or channels a thread if there are many; a line's worth may lie before a row, and its last stretch
      // be empty.
      const double vectors = std::min(outputs, outputs / vector + kLineBytes);
      threads *= vectors / 2 + std::min(vectors, kLanes + steps);
    }
  }
  return input <= kMax && output <= kMax && threads <= kMax && double(problem.weight_elements()) <= kMax;
}

template <class Int>
Axis<Int> axis_params(convt_gemm::Axis axis) {
  if (axis.kernel == 1) axis.dilation = 1;  // has no effect, but would cost
  return Axis<Int>(axis);
}

template <class Int>
Params<Int> common_params(const Problem& problem) {
  Params<Int> p;
  for (int a = 0; a < kMaxAxes; ++a) p.axis[a] = axis_params<Int>(problem.axes[a]);
  p.batch = Int(problem.batch);
  p.in_channels = Int(problem.in_channels);
  p.out_channels = Int(problem.out_channels);
  p.group_in_channels = Int(problem.group_in_channels());
  p.group_out_channels = Int(problem.group_out_channels());
  p.taps = Int(problem.taps());
  p.input_positions = problem.input_positions();
  p.output_positions = problem.output_positions();
  p.last_taps = Int(residues_of(problem.axes[2]).most_taps);
  p.reach = 0, p.row_shift = 0, p.align = 1, p.shift = 0;
  return p;
}

template <class Kernel, class Launch>
void launch_channels_first(const Problem& problem, Launch& launch) {
  using Int = typename Kernel::Int;
  constexpr std::int64_t V = Kernel::V, G = Kernel::G;
  const convt_gemm::Axis& last = problem.axes[2];
  const std::int64_t row = last.output(), line = kLineBytes / std::int64_t(sizeof(typename Kernel::T));
  Params<Int> p = common_params<Int>(problem);
  // A warp's stores cover whole lines where a row is long enough to be worth a few idle lanes.
  const std::int64_t align = row >= 8 * line ? line : V;
  const std::int64_t vectors = ceil_div(row + (row % align == 0 ? 0 : align - 1), V);
  // The vectors of a thread have the same residues if they are a multiple of the stride apart.
  const std::int64_t unit = last.stride / std::gcd(last.stride, V);
  const std::int64_t most_lanes = Kernel::Rank > 1 && problem.rank > 1 ? kLanes / 2 : kLanes;
  std::int64_t stretches = ceil_div(vectors, G * most_lanes);
  const std::int64_t lanes = std::min(round_up(ceil_div(vectors, G * stretches), unit), vectors);
  stretches = ceil_div(vectors, G * lanes);
  const std::int64_t outputs1 = problem.axes[1].output();
  p.row_shift = stretches > 1 && outputs1 >= kRowGroup ? 2 : 0;
  const std::int64_t row_groups = ceil_div(outputs1, std::int64_t{1} << p.row_shift);
  const std::int64_t group_blocks = ceil_div(problem.group_out_channels(), Kernel::C);
  p.align = Int(align);
  p.shift = Int(lanes * V / last.stride);
  p.reach = Int(round_up(p.last_taps, Kernel::kTaps) - 1);
  p.by_lanes = FastDiv<Int>(lanes);
  p.by_stretches = FastDiv<Int>(stretches);
  p.by_row_groups = FastDiv<Int>(row_groups);
  p.by_outputs0 = FastDiv<Int>(problem.axes[0].output());
  p.by_channel_blocks = FastDiv<Int>(problem.groups * group_blocks);
  p.by_group_blocks = FastDiv<Int>(group_blocks);
  const std::int64_t rows = problem.batch * problem.groups * group_blocks * problem.axes[0].output() * row_groups;
  launch(Kernel{}, p, (rows * stretches << p.row_shift) * lanes);
}

template <class Kernel, class Launch>
void launch_channels_last(const Problem& problem, Launch& launch) {
  using Int = typename Kernel::Int;
  const convt_gemm::Axis& last = problem.axes[2];
  Params<Int> p = common_params<Int>(problem);
  const std::int64_t vectors = problem.out_channels / Kernel::V, row = last.output();
  const std::int64_t slots =
      row <= last.stride ? row : ceil_div(row, last.stride * Kernel::G) * last.stride;
  p.by_channel_blocks = FastDiv<Int>(vectors);
  p.by_lanes = FastDiv<Int>(slots);
  p.by_row_groups = FastDiv<Int>(problem.axes[1].output());
  p.by_outputs0 = FastDiv<Int>(problem.axes[0].output());
  p.by_group_blocks = FastDiv<Int>(problem.group_out_channels());
  launch(Kernel{}, p, problem.batch * problem.axes[0].output() * problem.axes[1].output() * slots * vectors);
}

/// Whether a thread can have one vector: fits_int32 counts on two.
inline bool depthwise_rows_serve(const Problem& problem) {
  const std::int64_t vector = 16 / std::int64_t(size_of(problem.dtype)), rows = problem.batch * problem.out_channels;
  const std::int64_t lanes = ceil_div(problem.axes[2].output(), vector) + 1;
  return problem.group_out_channels() == 1 && double(rows) * double(lanes) <= std::numeric_limits<std::int32_t>::max() - 65536.0;
}

template <class Kernel, class Launch>
void launch_depthwise_rows(const Problem& problem, Launch& launch) {
  using Int = std::int32_t;
  constexpr std::int64_t V = Kernel::V;
  const convt_gemm::Axis& last = problem.axes[2];
  const std::int64_t row = last.output(), rows = problem.batch * problem.out_channels;
  const std::int64_t lanes = ceil_div(row + (row % V == 0 ? 0 : V - 1), V * Kernel::G);
  DepthwiseParams p;
  p.by_lanes = FastDiv<Int>(lanes);
  p.by_channels = FastDiv<Int>(problem.out_channels);
  p.rows = Int(rows);
  p.input = Int(last.input);
  p.output = Int(row);
  p.padding = Int(last.padding);
  p.step = Int(lanes * V);
  p.shift = Int(lanes * V / 2);
  launch(Kernel{}, p, rows * lanes);
}

template <class Kernel, class Launch>
void launch_channel_blocks(const Problem& problem, Launch& launch) {
  using Int = typename Kernel::Int;
  const std::int64_t lanes = channel_block_lanes(problem), group_blocks = ceil_div(problem.group_out_channels(), Kernel::C);
  const convt_gemm::Axis& middle = problem.axes[1];
  const std::int64_t residue_rows = ceil_div(middle.output(), middle.stride), rows = residue_rows * std::min(middle.stride, middle.output());
  const std::int64_t threads = round_up(problem.axes[0].output() * rows * lanes, kBlockThreads);
  ChannelBlockParams p{common_params<Int>(problem), FastDiv<Int>(threads), FastDiv<Int>(residue_rows)};
  p.shift = Int(lanes / problem.axes[2].stride);
  p.by_lanes = FastDiv<Int>(lanes);
  p.by_row_groups = FastDiv<Int>(rows);
  p.by_channel_blocks = FastDiv<Int>(problem.groups * group_blocks);
  p.by_group_blocks = FastDiv<Int>(group_blocks);
  launch(Kernel{}, p, problem.batch * problem.groups * group_blocks * threads);
}

/// The kernels of one stride and kernel size of the last axis.
template <class T, int S, int K, class Launch>
void with_axis(const Problem& problem, Launch& launch, std::int64_t enough_threads) {
  using Int = std::int32_t;
  constexpr int V = kVector<T>, kMany = V > 4 ? 2 : 4;
  const std::int64_t vectors = problem.output_elements() / V;
  const bool small = vectors / kMany < enough_threads;
  if (problem.group_in_channels() == 1) {
    if constexpr (K != 2) {  // as a depthwise layer too rare for one of its own
      if constexpr (V > 2) {
        if constexpr (S == 2 && K > 0) {
          if (problem.rank == 1 && depthwise_rows_serve(problem)) {
            // One vector a thread, or some more where all threads then run at once and one for each would not: four in float32, two of 16-bit types.
            constexpr std::int64_t kFewest = V == 4 ? 2 : 1, kMost = V == 4 ? 6 : 2;
            if (vectors >= kFewest * enough_threads && vectors < kMost * enough_threads) {
              return launch_depthwise_rows<DepthwiseRows<T, K, kMany>>(problem, launch);
            }
            return launch_depthwise_rows<DepthwiseRows<T, K, 1>>(problem, launch);
          }
        } else if (problem.rank == 1 && small) {
          return launch_channels_first<ChannelsFirst<T, Int, 1, S, K, true, 1, 1>>(problem, launch);
        }
        if (problem.rank == 1) {
          return launch_channels_first<ChannelsFirst<T, Int, 1, S, K, true, 1, kMany>>(problem, launch);
        }
      }
      if constexpr (K != 12) {
        return launch_channels_first<ChannelsFirst<T, Int, kMaxAxes, S, K, true, 1, kMany>>(problem, launch);
      }
    }
  }
  if constexpr (K == 12) {
    with_axis<T, S, 0>(problem, launch, enough_threads);
  } else {
    if constexpr (S == 0 && V > 2) {
      if (channel_blocks_serve(problem, enough_threads)) {
        return problem.rank == 1 ? launch_channel_blocks<ChannelBlocks<T, 1>>(problem, launch) : launch_channel_blocks<ChannelBlocks<T, kMaxAxes>>(problem, launch);
      }
    }
    if constexpr (K != 2 && V > 2) {
      // Rows of two channels that share a thread must have the same alignment.
      const bool pairs = problem.group_out_channels() > 1 && problem.output_positions() % V == 0;
      if (pairs && problem.group_in_channels() > 1 && !small) {
        return launch_channels_first<ChannelsFirst<T, Int, kMaxAxes, S, K, false, 2, kMany / 2>>(problem, launch);
      }
    }
    if constexpr (S == 0) {
      if (small) return launch_channels_first<ChannelsFirst<T, Int, kMaxAxes, S, K, false, 1, 1>>(problem, launch);
    }
    launch_channels_first<ChannelsFirst<T, Int, kMaxAxes, S, K, false, 1, kMany>>(problem, launch);
  }
}

/// Calls launch(kernel, params, threads) once. `T` is the problem's dtype.
template <class T, class Launch>
void for_direct_kernel(const Problem& problem, Launch launch, std::int64_t enough_threads = kEnoughThreads) {
  constexpr int V = kVector<T>, kMany = V > 4 ? 2 : 4;
  const std::int64_t group_out = problem.group_out_channels();
  if (problem.layout == Layout::channels_last) {
    if (!fits_int32(problem)) {
      return launch_channels_last<ChannelsLast<T, std::int64_t, Sharing::none, 1>>(problem, launch);
    }
    if (problem.group_in_channels() == 1 && group_out == 1 && problem.out_channels % V == 0) {
      return launch_channels_last<ChannelsLast<T, std::int32_t, Sharing::depthwise, kMany>>(problem, launch);
    }
    if (group_out % V == 0) {
      return launch_channels_last<ChannelsLast<T, std::int32_t, Sharing::group, kMany>>(problem, launch);
    }
    return launch_channels_last<ChannelsLast<T, std::int32_t, Sharing::none, kMany>>(problem, launch);
  }
  if (!fits_int32(problem)) {
    return launch_channels_first<ChannelsFirst<T, std::int64_t, kMaxAxes, 0, 0, false, 1, 1>>(problem, launch);
  }
  const convt_gemm::Axis& last = problem.axes[2];
  const std::int64_t stride = last.dilation == 1 || last.kernel == 1 ? last.stride : 0;
  if (stride == 1) return with_axis<T, 1, 0>(problem, launch, enough_threads);
  if (stride != 2) return with_axis<T, 0, 0>(problem, launch, enough_threads);
  if constexpr (V > 2) {  // float64 has too few users for kernels of its own
    switch (last.kernel) {
      case 2:
        return with_axis<T, 2, 2>(problem, launch, enough_threads);
      case 3:
        return with_axis<T, 2, 3>(problem, launch, enough_threads);
      case 4:
        return with_axis<T, 2, 4>(problem, launch, enough_threads);
      case 12:
        return with_axis<T, 2, 12>(problem, launch, enough_threads);
      default:
        break;
    }
  }
  with_axis<T, 2, 0>(problem, launch, enough_threads);
}

}  // namespace direct
}  // namespace convt_gemm

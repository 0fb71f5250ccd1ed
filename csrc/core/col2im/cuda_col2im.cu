#include "col2im/cuda_col2im.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <type_traits>

#include "plan/arithmetic.h"
#include "util/fast_div.h"
#include "util/kernel_order.cuh"
#include "util/residues.h"

namespace convt_gemm {
namespace {

constexpr int kThreads = 256;

/// Blocks that a multiprocessor must hold. Left alone, ptxas spills to reach more than these kernels profit from.
template <class Int, int Rank, bool kOwnIndices = false>
constexpr int min_blocks() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  constexpr int kRanked = 2;  // the same code takes a few registers more here
#else
  constexpr int kRanked = 3;
#endif
  return sizeof(Int) > 4 || kOwnIndices ? 2 : Rank > 1 ? kRanked : 4;
}

constexpr int kLineBytes = 128;    // of the L2 cache
constexpr int kMostBefore = kLineBytes / 2;  // outputs before its row that a group may begin at: less than a line of 2-byte ones
constexpr int kTransposeTile = 32;  // channels_last: outputs and channels of one block

/// One axis of the piece as the kernel reads it. Int is int32_t where every index of the piece fits.
template <class Int>
struct DeviceAxis {
  Int kernel, dilation;
  Int tap_step, input_step, inverse;
  Int most_taps;
  FastDiv<Int> by_stride, by_gcd, by_tap_step;
  Int first_q;  // output + padding of the box' first output
  Int input_begin, inputs;
  FastDiv<Int> by_outputs;  // extent of the output box
  std::int64_t output_begin;
  std::int64_t output_size;  // of the whole axis

  DeviceAxis() = default;
  DeviceAxis(const Axis& axis, Range output, Range input) {
    const Residues residues = residues_of(axis);
    kernel = Int(axis.kernel);
    dilation = Int(axis.dilation);
    tap_step = Int(residues.tap_step);
    input_step = Int(residues.input_step);
    inverse = Int(residues.inverse);
    most_taps = Int(residues.most_taps);
    by_stride = FastDiv<Int>(axis.stride);
    by_gcd = FastDiv<Int>(residues.gcd);
    by_tap_step = FastDiv<Int>(residues.tap_step);
    first_q = Int(output.begin + axis.padding);
    output_begin = output.begin;
    input_begin = Int(input.begin);
    inputs = Int(input.size());
    by_outputs = FastDiv<Int>(output.size());
    output_size = axis.output();
  }
};

/// The taps of one output on one axis: tap, then tap + tap_step, ... read input, then input - input_step, ...; `count` of them.
template <class Int>
struct Taps {
  Int tap, input, count;
};

/// Residues of the last axis that are looked up rather than computed.
constexpr int kTableResidues = 16;

template <class Int>
struct Col2imParams {
  DeviceAxis<Int> axis[kMaxAxes];
  Taps<Int> last_taps[kTableResidues];  // of each residue of the last axis, if the stride is at most kTableResidues
  FastDiv<Int> by_channels;
  Int columns_per_row;  // inputs of the box, all axes, or of all samples that are joined: distance between taps
  Int columns_per_channel;
  std::int64_t columns_per_sample;  // joined: the inputs of its box
  Int rows;  // batch * blocks of channels * outputs of the box on the outer two axes
  std::int64_t batch_begin;
};

/// Taps of q = m*stride + r, as inputs of the whole axis. residues.h gives the formula.
template <class Int>
__host__ __device__ __forceinline__ Taps<Int> taps_of(const DeviceAxis<Int>& axis, Int m, Int r) {
  if (axis.dilation == 1) return {r, m, axis.by_tap_step.quotient(axis.kernel - r + axis.tap_step - 1)};
  const Int residue = axis.by_gcd.quotient(r);
  if (residue * axis.by_gcd.divisor() != r) return {0, 0, 0};
  const Int product = residue * axis.inverse;
  const Int tap = product - axis.by_tap_step.quotient(product) * axis.tap_step;
  if (tap >= axis.kernel) return {0, 0, 0};
  return {tap, m - axis.by_stride.quotient(tap * axis.dilation - r),
          axis.by_tap_step.quotient(axis.kernel - tap + axis.tap_step - 1)};
}

/// Taps of output `o` of the box, as inputs of the box.
template <class Int>
__device__ __forceinline__ Taps<Int> taps_at(const DeviceAxis<Int>& axis, Int o) {
  if (axis.kernel == 1 && axis.by_stride.divisor() == 1) return {0, Int(o + axis.first_q - axis.input_begin), 1};
  const Int q = o + axis.first_q;
  const Int m = axis.by_stride.quotient(q);
  Taps<Int> taps = taps_of(axis, m, Int(q - m * axis.by_stride.divisor()));
  taps.input -= axis.input_begin;
  return taps;
}

template <class Int>
__device__ __forceinline__ bool inside(Int input, Int inputs) {
  using Unsigned = std::make_unsigned_t<Int>;
  return Unsigned(input) < Unsigned(inputs);
}

/// What the outputs of one row of the last axis share.
template <class Acc, class Int>
struct Row {
  const Acc* columns;  // of the row's sample and channel
  Taps<Int> taps0, taps1;
};

/// `V` outputs that follow one another on the last axis, from o2 on (which may lie up to kMostBefore before the row). Outputs
/// `Period` apart have the same taps and neighbouring inputs: Period is the stride if that divides V, else V (nothing is known).
template <class Int, int V, int Period>
struct Group {
  static constexpr int kSame = V / Period;
  Int input[Period], count[Period], offset[Period];  // of the first output of each kind; offset of its first column in a row
  Int lowest, highest;                               // inputs that the group reads

  __device__ __forceinline__ Group(const Col2imParams<Int>& p, Int o2) {
    const DeviceAxis<Int>& last = p.axis[2];
    const Int stride = Period < V ? Int(Period) : last.by_stride.divisor();
    const Int q = o2 + last.first_q + kMostBefore * stride;
    Int m = Period < V ? Int(q / Period) : last.by_stride.quotient(q);
    Int r = q - m * stride;
    m -= last.input_begin + kMostBefore;
    lowest = last.inputs, highest = 0;
#pragma unroll
    for (int c = 0; c < Period; ++c) {
      Taps<Int> taps;
      if (stride <= kTableResidues) {
        taps = p.last_taps[r];
        taps.input += m;
      } else {
        taps = taps_of(last, m, r);
      }
      input[c] = taps.input;
      count[c] = taps.count;
      offset[c] = taps.tap * p.columns_per_row + taps.input;
      if (taps.count > 0) {
        lowest = min(lowest, Int(taps.input - (taps.count - 1) * last.input_step));
        highest = max(highest, Int(taps.input + kSame - 1));
      }
      if (++r == stride) r = 0, ++m;
    }
  }
};

/// Calls add(columns of the taps on the outer axes) for each tap on the outer two axes that reads inside the box.
template <int Rank, class Acc, class Int, class Add>
__device__ __forceinline__ void for_each_outer_tap(const Col2imParams<Int>& p, const Row<Acc, Int>& row, Add add) {
  if constexpr (Rank == 1) {
    add(row.columns);
  } else {
    const DeviceAxis<Int>& a0 = p.axis[0];
    const DeviceAxis<Int>& a1 = p.axis[1];
    for (Int j0 = 0; j0 < row.taps0.count; ++j0) {
      const Int input0 = row.taps0.input - j0 * a0.input_step;
      if (!inside(input0, a0.inputs)) continue;
      for (Int j1 = 0; j1 < row.taps1.count; ++j1) {
        const Int input1 = row.taps1.input - j1 * a1.input_step;
        if (!inside(input1, a1.inputs)) continue;
        const Int tap = (row.taps0.tap + j0 * a0.tap_step) * a1.kernel + row.taps1.tap + j1 * a1.tap_step;
        add(row.columns + (tap * p.axis[2].kernel * p.columns_per_row + (input0 * a1.inputs + input1) * p.axis[2].inputs));
      }
    }
  }
}

/// Sums the columns of up to kGroups groups, whose inputs are `shift` apart and whose columns are `distance`. Unchecked, every load is inside the box; checked, there
/// are `groups` groups and inputs outside the box add nothing. All loads of a tap are in flight before the first is added.
template <bool kChecked, class Acc, class Int, int Rank, int V, int Period, int kGroups>
__device__ __forceinline__ void gather(const Col2imParams<Int>& p, const Row<Acc, Int>& row, const Group<Int, V, Period>& group,
                                       int groups, Int shift, Int distance, Acc (&sum)[kGroups][V]) {
  const DeviceAxis<Int>& last = p.axis[2];
  const Int tap_stride = last.tap_step * p.columns_per_row - last.input_step;
  for_each_outer_tap<Rank>(p, row, [&](const Acc* __restrict__ columns) {
#pragma unroll 1
    for (Int j = 0; j < last.most_taps; ++j) {
      Acc value[kGroups][V];
#pragma unroll
      for (int c = 0; c < Period; ++c) {
        const Acc* __restrict__ from = columns + (group.offset[c] + j * tap_stride);
        const bool there = j < group.count[c];
#pragma unroll
        for (int g = 0; g < kGroups; ++g) {
#pragma unroll
          for (int i = 0; i < V / Period; ++i) {
            bool load = there;
            if constexpr (kChecked) {
              load = load && g < groups && inside(Int(group.input[c] + i - j * last.input_step + g * shift), last.inputs);
            }
            value[g][c + i * Period] = load ? from[g * distance + i] : Acc(0);
          }
        }
      }
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
#pragma unroll
        for (int v = 0; v < V; ++v) sum[g][v] += value[g][v];
      }
    }
  });
}

template <class T, class Acc>
__device__ __forceinline__ T round_to(Acc value) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(value);
  } else if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(value);
  } else {
    return value;
  }
}

template <class T>
__device__ __forceinline__ auto widen(T value) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __bfloat162float(value);
  } else if constexpr (std::is_same_v<T, __half>) {
    return __half2float(value);
  } else {
    return value;
  }
}

/// Coordinates of a row of the piece, counted [batch, blocks of channels, outer two axes of the box].
template <class Int>
struct RowPlace {
  Int channel_row, o0, o1;  // channel_row = sample of the piece * blocks of channels + block
};

template <int Rank, class Int>
__device__ __forceinline__ RowPlace<Int> locate(const Col2imParams<Int>& p, Int row) {
  if constexpr (Rank == 1) return {row, 0, 0};
  const Int plane = p.axis[1].by_outputs.quotient(row);
  const Int channel_row = p.axis[0].by_outputs.quotient(plane);
  return {channel_row, Int(plane - channel_row * p.axis[0].by_outputs.divisor()),
          Int(row - plane * p.axis[1].by_outputs.divisor())};
}

template <class Acc, class Int>
__device__ __forceinline__ Row<Acc, Int> make_row(const Col2imParams<Int>& p, const Acc* columns, Int sample, Int channel, Int o0, Int o1) {
  return {columns + (sample * p.columns_per_sample + std::int64_t(channel) * p.columns_per_channel), taps_at(p.axis[0], o0), taps_at(p.axis[1], o1)};
}

/// How a grid covers the rows: a block takes blockDim.y rows and, of each, a stretch of blockDim.x threads' groups of V outputs. A thread has up to kGroups groups at a
/// time. They are of one row, blockDim.x groups apart, or, so that one set of indices serves them all, at one place of several channels. Those are the nearest channels
/// whose rows begin alike in memory, a power of two apart: a block of channels has every such one from its first on.
template <class Int>
struct RowCover {
  FastDiv<Int> by_stretches;       // in a row
  FastDiv<Int> by_channel_blocks;  // of a sample
  int groups_of_row;               // of a thread, at most kGroups; 1 if its groups are channels'
  int channels;                    // of a thread; 1 if its groups are a row's
  int channel_shift;               // log2 of how far a thread's channels are apart
  Int shift, step;                 // inputs and outputs between a thread's groups on the last axis; 0 if they are channels'
  Int distance;                    // columns between a thread's groups
  std::int64_t store_distance;     // outputs in memory between them
  /// Outputs (a power of two) at whose multiples in memory a row's first group begins. With V, a group is aligned; with more, a
  /// warp's stores cover whole lines of the L2 cache, which long rows are worth a few idle lanes.
  int align;
};

/// Whether each output of a group has indices of its own, which groups of several channels share.
template <int V, int Period>
inline constexpr bool kOwnIndices = Period == V && V > 1;

/// [batch, channels, positions] output. Groups of V outputs begin at multiples of 16 bytes in memory and are one store each,
/// unless they reach over an end of their row.
template <class T, class Acc, class Int, int Rank, int V, int Period, int kGroups>
__global__ void __launch_bounds__(kThreads, min_blocks<Int, Rank, kOwnIndices<V, Period>>())
col2im_channels_first(const Col2imParams<Int> p, const RowCover<Int> cover, const Acc* __restrict__ columns,
                      const T* __restrict__ bias, T* __restrict__ output) {
  // The blocks that the GEMM wrote last come first: their columns are still in the L2 cache.
  const Int block = Int(gridDim.x - 1 - blockIdx.x);
  const Int row_block = cover.by_stretches.quotient(block);
  const Int stretch = block - row_block * cover.by_stretches.divisor();
  const Int row_index = row_block * Int(blockDim.y) + Int(threadIdx.y);
  if (row_index >= p.rows) return;

  const RowPlace<Int> at = locate<Rank>(p, row_index);
  const Int sample = cover.by_channel_blocks.quotient(at.channel_row);
  const Int channel_block = at.channel_row - sample * cover.by_channel_blocks.divisor();
  Int channel = channel_block;
  if constexpr (kOwnIndices<V, Period>) {
    const Int turn = channel_block >> cover.channel_shift;
    channel = (turn * cover.channels << cover.channel_shift) + (channel_block - (turn << cover.channel_shift));
    if (channel >= p.by_channels.divisor()) return;
  }
  Row<Acc, Int> row = make_row(p, columns, sample, channel, at.o0, at.o1);
  const Int outputs = p.axis[2].by_outputs.divisor();
  std::int64_t place = (p.batch_begin + sample) * p.by_channels.divisor() + channel;
  place = (place * p.axis[0].output_size + p.axis[0].output_begin + at.o0) * p.axis[1].output_size;
  place = (place + p.axis[1].output_begin + at.o1) * p.axis[2].output_size + p.axis[2].output_begin;

  const Int o2 = (stretch * cover.groups_of_row * Int(blockDim.x) + Int(threadIdx.x)) * V - Int(place & (cover.align - 1));
  if (o2 <= -V && cover.groups_of_row == 1) return;
  if (o2 >= outputs) return;
  const Group<Int, V, Period> group(p, o2);
  const bool of_row = !kOwnIndices<V, Period> || cover.channels == 1;
  const bool whole = o2 >= 0 && o2 + (kGroups - 1) * cover.step + V <= outputs && group.lowest >= 0 && group.highest + (kGroups - 1) * cover.shift < p.axis[2].inputs;
  gpu::wait_for_kernel_before();
  int left = of_row ? 1 : min(Int(cover.channels), Int((p.by_channels.divisor() - 1 - channel) >> cover.channel_shift) + 1);
  const Int distance = kOwnIndices<V, Period> ? cover.distance : cover.shift;
  T* target = output + place;
#pragma unroll 1
  for (;;) {
    const int groups = of_row ? cover.groups_of_row : min(kGroups, left);
    Acc sum[kGroups][V] = {};
    // One way for the whole warp: the checked one is right for all.
    if (__all_sync(__activemask(), whole && groups == kGroups)) {
      gather<false, Acc, Int, Rank>(p, row, group, kGroups, cover.shift, distance, sum);
    } else {
      gather<true, Acc, Int, Rank>(p, row, group, groups, cover.shift, distance, sum);
    }
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      if (g >= groups) continue;
      const Acc add = bias != nullptr ? Acc(widen(bias[channel + (of_row ? 0 : g << cover.channel_shift)])) : Acc(0);
      const Int first = o2 + g * cover.step;
      T* const to = target + (kOwnIndices<V, Period> ? o2 + g * cover.store_distance : first);
      if (first >= 0 && first + V <= outputs) {
        struct alignas(sizeof(T) * V) Vector {
          T value[V];
        } vector;
#pragma unroll
        for (int v = 0; v < V; ++v) vector.value[v] = round_to<T>(sum[g][v] + add);
        *reinterpret_cast<Vector*>(to) = vector;
      } else {
#pragma unroll
        for (int v = 0; v < V; ++v) {
          if (first + v >= 0 && first + v < outputs) to[v] = round_to<T>(sum[g][v] + add);
        }
      }
    }
    left -= kGroups;
    if (of_row || left <= 0) return;
    channel += kGroups << cover.channel_shift;
    row.columns += std::int64_t(kGroups) * cover.distance;
    target += kGroups * cover.store_distance;
  }
}

/// [batch, positions, channels] output. A block gathers a tile of outputs x channels with neighbouring outputs in neighbouring
/// lanes, as the columns lie, and writes it through shared memory with neighbouring channels in neighbouring lanes.
template <class T, class Acc, class Int>
__global__ void __launch_bounds__(kThreads, min_blocks<Int, kMaxAxes>())
col2im_channels_last(const Col2imParams<Int> p, const Acc* __restrict__ columns, const T* __restrict__ bias,
                     T* __restrict__ output, std::int64_t position_tiles, std::int64_t channel_tiles) {
  __shared__ Acc tile[kTransposeTile][kTransposeTile + 1];
  constexpr int kTileRows = kThreads / kTransposeTile;
  const int lane = threadIdx.x % kTransposeTile, warp = threadIdx.x / kTransposeTile;
  const std::int64_t block = gridDim.x - 1 - std::int64_t(blockIdx.x);
  const std::int64_t sample = block / channel_tiles / position_tiles;
  const Int channels = p.by_channels.divisor();
  const Int outputs0 = p.axis[0].by_outputs.divisor(), outputs1 = p.axis[1].by_outputs.divisor();
  const Int box = outputs0 * outputs1 * p.axis[2].by_outputs.divisor();
  const Int channel_begin = Int(block % channel_tiles) * kTransposeTile;
  const Int position_begin = Int(block / channel_tiles % position_tiles) * kTransposeTile;

  gpu::wait_for_kernel_before();
  if (position_begin + lane < box) {
    const Int line = p.axis[2].by_outputs.quotient(position_begin + lane);
    const Int o2 = position_begin + lane - line * p.axis[2].by_outputs.divisor();
    const Int o0 = p.axis[1].by_outputs.quotient(line);
    Row<Acc, Int> row = make_row(p, columns, Int(0), Int(0), o0, Int(line - o0 * outputs1));
    const Group<Int, 1, 1> group(p, o2);
    for (int c = warp; c < kTransposeTile && channel_begin + c < channels; c += kTileRows) {
      row.columns = columns + (sample * channels + channel_begin + c) * std::int64_t(p.columns_per_channel);
      Acc sum[1][1] = {};
      gather<true, Acc, Int, kMaxAxes>(p, row, group, 1, Int(0), Int(0), sum);
      tile[c][lane] = sum[0][0] + (bias == nullptr ? Acc(0) : Acc(widen(bias[channel_begin + c])));
    }
  }
  __syncthreads();
  if (channel_begin + lane < channels) {
    for (int i = warp; i < kTransposeTile && position_begin + i < box; i += kTileRows) {
      const Int line = p.axis[2].by_outputs.quotient(position_begin + i);
      const Int o2 = position_begin + i - line * p.axis[2].by_outputs.divisor();
      const Int o0 = p.axis[1].by_outputs.quotient(line);
      std::int64_t place = (p.batch_begin + sample) * p.axis[0].output_size + p.axis[0].output_begin + o0;
      place = place * p.axis[1].output_size + p.axis[1].output_begin + line - o0 * outputs1;
      place = place * p.axis[2].output_size + p.axis[2].output_begin + o2;
      output[place * channels + channel_begin + lane] = round_to<T>(tile[lane][i]);
    }
  }
}

template <class Int>
Col2imParams<Int> make_params(const Problem& problem, const Col2imPiece& piece) {
  Col2imParams<Int> p;
  std::int64_t inputs = 1;
  for (int a = 0; a < kMaxAxes; ++a) {
    p.axis[a] = DeviceAxis<Int>(problem.axes[a], piece.output[a], piece.input[a]);
    inputs *= piece.input[a].size();
  }
  for (int r = 0; r < kTableResidues && r < problem.axes[2].stride; ++r) p.last_taps[r] = taps_of(p.axis[2], Int(0), Int(r));
  p.by_channels = FastDiv<Int>(problem.out_channels);
  const std::int64_t tap = piece.joined ? inputs * piece.batch.size() : inputs, channel = tap * problem.taps();
  p.columns_per_row = Int(tap);
  p.columns_per_channel = Int(channel);
  p.columns_per_sample = piece.joined ? inputs : channel * problem.out_channels;
  p.rows = Int(piece.batch.size() * problem.out_channels * piece.output[0].size() * piece.output[1].size());
  p.batch_begin = piece.batch.begin;
  return p;
}

/// Whether every index that the kernel forms stays below 2^31. In double: the products may exceed any integer.
bool fits_int32(const Problem& problem, const Col2imPiece& piece) {
  constexpr double kMax = std::numeric_limits<std::int32_t>::max() - 65536.0;  // room for the last block's overhang
  double outputs = double(piece.batch.size()) * problem.out_channels, columns = problem.taps() * (piece.joined ? double(piece.batch.size()) : 1.0);
  for (int a = 0; a < kMaxAxes; ++a) {
    const Axis& axis = problem.axes[a];
    const double steps = axis.stride;
    if (double(axis.output()) + axis.padding + kMostBefore * steps > kMax ||
        double(axis.kernel) * axis.dilation + axis.stride > kMax || steps * steps > kMax) {
      return false;
    }
    // The first tap before the box and the step beyond the last one are formed too, though not read.
    columns *= double(piece.input[a].size()) + axis.input + axis.kernel;
    outputs *= double(piece.output[a].size());
  }
  return outputs <= kMax && columns <= kMax;
}

template <class T, class Acc, class Int, int Rank, int V, int Period>
cudaError_t launch_channels_first(const Problem& problem, const Col2imPiece& piece, const Acc* columns, const T* bias, T* output,
                                  cudaStream_t stream, std::int64_t enough_threads) {
  // 64 bytes of sums a thread keep enough loads in flight.
  constexpr int kGroups = V == 1 ? 1 : std::max<int>(1, 64 / int(sizeof(Acc)) / V);
  const Axis& last = problem.axes[2];
  const std::int64_t row = piece.output[2].size();
  auto p = make_params<Int>(problem, piece);
  RowCover<Int> cover;
  cover.channel_shift = 0;
  while (problem.output_positions() << cover.channel_shift & (V - 1)) ++cover.channel_shift;
  std::int64_t alike = ceil_div(problem.out_channels, std::int64_t{1} << cover.channel_shift);
  constexpr std::int64_t kMostRounds = 4;
  const std::int64_t vectors = std::int64_t{p.rows} * ceil_div(row, V);
  std::int64_t channels = std::clamp<std::int64_t>(vectors / enough_threads, 1, std::min(alike, kGroups * kMostRounds));
  if (channels > kGroups) channels = channels / kGroups * kGroups;
  const bool of_channels = kOwnIndices<V, Period> && channels > 1 && (std::int64_t{p.columns_per_channel} << cover.channel_shift) < std::numeric_limits<std::int32_t>::max() / kGroups;
  if (!of_channels) cover.channel_shift = 0, alike = problem.out_channels, channels = 1;
  cover.channels = static_cast<int>(channels);

  cover.align = V > 1 && !of_channels && row >= 8 * kLineBytes / int(sizeof(T)) ? kLineBytes / int(sizeof(T)) : V;
  const bool aligned = last.output() % cover.align == 0 && piece.output[2].begin % cover.align == 0;
  const std::int64_t groups = ceil_div(row + (aligned ? 0 : cover.align - 1), V);
  // A thread's groups have the same residues if they are a multiple of the stride apart.
  const std::int64_t unit = of_channels ? 1 : last.stride / std::gcd(last.stride, std::int64_t{V});
  cover.groups_of_row = unit <= kThreads && !of_channels ? kGroups : 1;
  std::int64_t lanes = round_up(ceil_div(groups, cover.groups_of_row), unit <= kThreads ? unit : 1);
  lanes = std::min(lanes, unit <= kThreads ? kThreads / unit * unit : std::int64_t{kThreads});
  const std::int64_t stretches = ceil_div(groups, lanes * cover.groups_of_row);
  cover.by_stretches = FastDiv<Int>(stretches);
  if (of_channels) {
    cover.shift = cover.step = 0;
    cover.distance = p.columns_per_channel << cover.channel_shift;
    cover.store_distance = problem.output_positions() << cover.channel_shift;
  } else {
    cover.shift = Int(unit <= kThreads ? lanes * V / last.stride : 0);
    cover.step = Int(lanes * V);
    cover.distance = cover.shift;
    cover.store_distance = cover.step;
  }
  const std::int64_t channel_blocks = ceil_div(alike, cover.channels) << cover.channel_shift;
  cover.by_channel_blocks = FastDiv<Int>(channel_blocks);
  p.rows = Int(std::int64_t{p.rows} / problem.out_channels * channel_blocks);
  const dim3 threads(static_cast<unsigned>(lanes), static_cast<unsigned>(kThreads / lanes));
  const auto blocks = static_cast<unsigned>(ceil_div(p.rows, threads.y) * stretches);
  return launch_early({blocks, threads, 0, stream}, col2im_channels_first<T, Acc, Int, Rank, V, Period, kGroups>, p, cover, columns,
                      bias, output);
}

template <class T, class Acc, int Rank>
cudaError_t launch_for_stride(const Problem& problem, const Col2imPiece& piece, const Acc* columns, const T* bias, T* output,
                              cudaStream_t stream, std::int64_t enough_threads) {
  constexpr int kVector = 16 / int(sizeof(T));
  switch (problem.axes[2].stride) {
    case 1:
      return launch_channels_first<T, Acc, std::int32_t, Rank, kVector, 1>(problem, piece, columns, bias, output, stream, enough_threads);
    case 2:
      return launch_channels_first<T, Acc, std::int32_t, Rank, kVector, 2>(problem, piece, columns, bias, output, stream, enough_threads);
    default:
      return launch_channels_first<T, Acc, std::int32_t, Rank, kVector, kVector>(problem, piece, columns, bias, output, stream, enough_threads);
  }
}

template <class T, class Acc, class Int>
cudaError_t launch_channels_last(const Problem& problem, const Col2imPiece& piece, const Acc* columns, const T* bias, T* output,
                                 cudaStream_t stream) {
  const auto p = make_params<Int>(problem, piece);
  std::int64_t box = 1;
  for (const Range& range : piece.output) box *= range.size();
  const std::int64_t position_tiles = ceil_div(box, kTransposeTile);
  const std::int64_t channel_tiles = ceil_div(problem.out_channels, kTransposeTile);
  const auto blocks = static_cast<unsigned>(position_tiles * channel_tiles * piece.batch.size());
  return launch_early({blocks, kThreads, 0, stream}, col2im_channels_last<T, Acc, Int>, p, columns, bias, output, position_tiles,
                      channel_tiles);
}

template <class T, class Acc>
cudaError_t launch(const Problem& problem, const Col2imPiece& piece, const Acc* columns, const Tensors& tensors, cudaStream_t stream,
                   std::int64_t enough_threads) {
  const T* bias = problem.bias ? static_cast<const T*>(tensors.bias) : nullptr;
  T* output = static_cast<T*>(tensors.output);
  const bool narrow = fits_int32(problem, piece);
  if (problem.layout == Layout::channels_last) {
    return narrow ? launch_channels_last<T, Acc, std::int32_t>(problem, piece, columns, bias, output, stream)
                  : launch_channels_last<T, Acc, std::int64_t>(problem, piece, columns, bias, output, stream);
  }
  if (!narrow) {
    return launch_channels_first<T, Acc, std::int64_t, kMaxAxes, 1, 1>(problem, piece, columns, bias, output, stream, enough_threads);
  }
  return problem.rank == 1 ? launch_for_stride<T, Acc, 1>(problem, piece, columns, bias, output, stream, enough_threads)
                           : launch_for_stride<T, Acc, kMaxAxes>(problem, piece, columns, bias, output, stream, enough_threads);
}

}  // namespace

Status cuda_col2im(const Problem& problem, const Col2imPiece& piece, const void* columns, const Tensors& tensors,
                   const CudaContext& context, std::int64_t enough_threads) {
  const auto stream = static_cast<cudaStream_t>(context.stream);
  cudaError_t error = cudaErrorInvalidValue;
  switch (problem.dtype) {
    case DType::float32:
      error = launch<float, float>(problem, piece, static_cast<const float*>(columns), tensors, stream, enough_threads);
      break;
    case DType::float64:
      error = launch<double, double>(problem, piece, static_cast<const double*>(columns), tensors, stream, enough_threads);
      break;
    case DType::bfloat16:
      error = launch<__nv_bfloat16, float>(problem, piece, static_cast<const float*>(columns), tensors, stream, enough_threads);
      break;
    case DType::float16:
      error = launch<__half, float>(problem, piece, static_cast<const float*>(columns), tensors, stream, enough_threads);
      break;
  }
  if (error != cudaSuccess) return Status::failure(std::string("col2im launch: ") + cudaGetErrorString(error));
  return {};
}

}  // namespace convt_gemm

#pragma once
// The direct algorithm for few output channels and many input channels. plan/direct_columns.h says what a column and a
// tile are. A block goes through four steps with a barrier between any two:
//
//   start     every thread asks for its first inputs, or for all of them if they are few and then parks them in shared memory;
//             all of them put the group's weights into shared memory
//   multiply  each warp reads its share of the channels at its positions, once, and keeps their columns in registers
//   put       the columns go to shared memory, where the weights were, and the parked inputs
//   finish    the outputs are the sums of their columns over the warps that share the channels, then over the taps
//
// All sums have a fixed order. Columns of positions outside the row are never read, so nothing is loaded for them.
// Memory is reached through `Access`, and a thread's state between steps is a struct, so that tests run every step of
// every thread on the processor.
#include <cstdint>

#include "direct/direct_kernel.cuh"
#include "plan/direct_columns.h"

namespace convt_gemm {
namespace direct {

/// Indices of blocks and inside a row are 32 bits wide, offsets of rows 64. What every block reads comes first: each line of
/// parameters costs a block 0.1 us.
struct ColumnParams {
  FastDiv<std::int32_t> by_tiles, by_groups;  ///< blocks are [sample, group, i0, i1, tile]
  FastDiv<std::int32_t> by_slices;            ///< warps are [split, slice]
  std::int32_t own, reach, slices, splits, threads, split_channels, pitch;  ///< as in ColumnGeometry
  std::int32_t group_in_channels, group_out_channels;
  std::int32_t taps;
  std::int32_t columns;      ///< of a position: output channels of a group times taps
  std::int32_t unit;         ///< outputs between two of a thread
  std::int32_t unit_inputs;  ///< inputs between their taps
  bool one_axis;             ///< the outer axes have one input and one output each
  std::int64_t input_positions, output_positions;
  std::int64_t channel_bytes;  ///< from one input channel to the next
  Axis<std::int32_t> last;
  Axis<std::int32_t> outer[kMaxAxes - 1];
  FastDiv<std::int32_t> by_dilation[kMaxAxes - 1];
  FastDiv<std::int32_t> by_inputs1, by_inputs0;
};

/// `J_`: columns of a position that a thread keeps, of kColumnCounts. `kParked_`: as in ColumnGeometry.
template <class T_, int J_, bool kParked_>
struct Columns {
  using T = T_;
  using Int = std::int32_t;
  using Acc = Accumulator<T>;
  using P = ColumnParams;
  static constexpr int kAccumulatorWords = int(sizeof(Acc)) / 4;
  static constexpr int J = J_;
  static constexpr int kPositions = column_positions(J, sizeof(Acc));
  /// Channels whose inputs a thread asks for at once. While it multiplies them, it waits for as many others. Their registers
  /// are what the sums leave of 128 without spills.
  static constexpr int kAheadRegisters = J <= 16 ? 16 : J == 32 ? 8 : 12;
  static constexpr int kAhead = kAheadRegisters / (kPositions * kAccumulatorWords);
  static constexpr int kPrefetched = kAhead < 4 ? kAhead : 4;  // more requests would take longer than the wait for the kernel before
  static constexpr int kSlice = kPositions * kWarpLanes;
  static constexpr bool kParked = kParked_;
  static constexpr int kParkedChannels = parked_channels(J, sizeof(Acc));  ///< at most

  /// Blocks of 256 threads that a multiprocessor must hold.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  static constexpr int kMinBlocks = J > 16 || (kParked && sizeof(T) == 8) ? 1 : 2;  // the same code takes more registers here
#else
  static constexpr int kMinBlocks = sizeof(T) == 8 && (kParked || J == 32) ? 1 : J * kPositions * kAccumulatorWords <= 16 ? 3 : 2;
#endif

  /// Weights that are read from shared memory together.
  static constexpr int kQuad = 16 / int(sizeof(Acc));
  static constexpr int kQuads = J / kQuad;  ///< of a channel
  struct alignas(16) Quad {
    Acc weight[kQuad];
  };

  /// What a block works on.
  struct Block {
    std::int64_t input_row, output_channel;  ///< of the group's first channel
    Int group, tile_begin, tile_end;         ///< inputs [begin, end) of the row that its outputs read
    Int input[kMaxAxes - 1];                 ///< on the outer axes
    Int begin[kMaxAxes], end[kMaxAxes];      ///< its outputs
    bool whole;                              ///< all taps of its outputs read inputs of the tile
  };

  using Batch = T[kAhead][kPositions];

  /// A thread between two steps.
  struct Thread {
    const T* row = nullptr;         ///< of its first position and the next channel to ask for
    bool there[kPositions] = {};    ///< which of its positions are in the tile
    Int channels = 0;               ///< to be summed up
    Batch first = {};               ///< inputs of the first channels
    Taps<Int> taps = {};            ///< of its first output, if inputs are parked
    Acc sum[kPositions][J] = {};
  };

  static CONVT_HOST_DEVICE Block block_of(const P& p, Int index) {
    Block b = {};
    const Axis<Int>& last = p.last;
    Int rest = p.by_tiles.quotient(index);
    const Int own = (index - rest * p.by_tiles.divisor()) * p.own;
    if (!p.one_axis) {
      Int row = rest;
      rest = p.by_inputs1.quotient(row);
      b.input[1] = row - rest * p.by_inputs1.divisor();
      row = rest, rest = p.by_inputs0.quotient(row);
      b.input[0] = row - rest * p.by_inputs0.divisor();
    }
    const Int sample = p.by_groups.quotient(rest);
    b.group = rest - sample * p.by_groups.divisor();

    // rest = sample*groups + group, so that this is the group's first channel of the sample.
    b.output_channel = std::int64_t(rest) * p.group_out_channels;
    b.input_row = std::int64_t(rest) * p.group_in_channels * p.input_positions;
    const bool ends = own + p.own >= last.input;
    b.tile_begin = own > p.reach ? own - p.reach : Int(0);
    b.tile_end = ends ? last.input : own + p.own;
    // The last input also owns the outputs after it.
    outputs_of(last, own, own + p.own, ends, b.begin[2], b.end[2]);
    b.whole = own >= p.reach && !ends;
    if (p.one_axis) {
      b.end[0] = b.end[1] = 1;
      return b;
    }
    b.input_row += (std::int64_t(b.input[0]) * p.outer[1].input + b.input[1]) * last.input;
    for (int a = 0; a < kMaxAxes - 1; ++a) {
      const Int i = b.input[a];
      outputs_of(p.outer[a], i, i + 1, i + 1 == p.outer[a].input, b.begin[a], b.end[a]);
    }
    return b;
  }

  /// Outputs from the first tap of input `from` to that of input `to`, or to the end.
  static CONVT_HOST_DEVICE void outputs_of(const Axis<Int>& axis, Int from, Int to, bool ends, Int& begin, Int& end) {
    const Int stride = axis.by_stride.divisor();
    const Int first = from * stride - axis.padding, next = to * stride - axis.padding;
    begin = first > 0 ? first : Int(0);
    end = ends || next > axis.output ? axis.output : next;
  }

  /// Padding may have cropped all of its outputs.
  static CONVT_HOST_DEVICE bool has_outputs(const Block& b) {
    return b.begin[0] < b.end[0] && b.begin[1] < b.end[1] && b.begin[2] < b.end[2];
  }

  /// Asks for the inputs of the next kAhead channels.
  template <class Access>
  static CONVT_HOST_DEVICE void ask_all(const P& p, Thread& t, Batch& batch) {
    CONVT_UNROLL_ALL
    for (int c = 0; c < kAhead; ++c) ask_channel<Access>(p, t, batch[c]);
  }

  /// Likewise, but of `channels` if they are fewer.
  template <class Access>
  static CONVT_HOST_DEVICE void ask(const P& p, Int channels, Thread& t, Batch& batch) {
    if (channels >= kAhead) {
      ask_all<Access>(p, t, batch);
    } else {
      CONVT_UNROLL_ALL
      for (int c = 0; c < kAhead; ++c) {
        if (c < channels) ask_channel<Access>(p, t, batch[c]);
      }
    }
  }

  template <class Access>
  static CONVT_HOST_DEVICE void ask_channel(const P& p, Thread& t, T (&inputs)[kPositions]) {
    CONVT_UNROLL_ALL
    for (int i = 0; i < kPositions; ++i) {
      if (t.there[i]) inputs[i] = Access::load(t.row + i * kWarpLanes);
    }
    t.row = reinterpret_cast<const T*>(reinterpret_cast<const char*>(t.row) + p.channel_bytes);
  }

  /// The channels of `weights`; all kAhead of them, or the first `channels`.
  template <bool kAll>
  static CONVT_HOST_DEVICE void add(const Quad* weights, Int channels, const Batch& batch, Thread& t) {
    CONVT_UNROLL_ALL
    for (int c = 0; c < kAhead; ++c) {
      if (!kAll && c >= channels) continue;
      Acc value[kPositions];
      CONVT_UNROLL_ALL
      for (int i = 0; i < kPositions; ++i) value[i] = widen(batch[c][i]);
      add_channel(weights + c * kQuads, value, t);
    }
  }

  static CONVT_HOST_DEVICE void add_channel(const Quad* weights, const Acc (&value)[kPositions], Thread& t) {
    CONVT_UNROLL_ALL
    for (int quad = 0; quad < kQuads; ++quad) {
      const Quad factor = weights[quad];
      CONVT_UNROLL_ALL
      for (int j = 0; j < kQuad; ++j) {
        CONVT_UNROLL_ALL
        for (int i = 0; i < kPositions; ++i) {
          Acc& sum = t.sum[i][quad * kQuad + j];
          sum = multiply_add(value[i], factor.weight[j], sum);
        }
      }
    }
  }

  template <class Access>
  static CONVT_HOST_DEVICE void start(const P& p, const Block& b, const T* input, const T* weight, Quad* shared,
                                      Int thread, Thread& t) {
    const Int warp = thread / kWarpLanes, split = p.by_slices.quotient(warp), slice = warp - split * p.slices;
    const Int channel = split * p.split_channels, left = p.group_in_channels - channel;
    t.channels = left < p.split_channels ? left : p.split_channels;
    const Int position = b.tile_begin + slice * kSlice + thread % kWarpLanes;
    CONVT_UNROLL_ALL
    for (int i = 0; i < kPositions; ++i) t.there[i] = position + i * kWarpLanes < b.tile_end;
    t.row = input + b.input_row + channel * p.input_positions + position;
    const T* const group = weight + std::int64_t(b.group) * p.group_in_channels * p.columns;
    prefetch<Access>(p, group, thread, t);
    Access::begin();
    const bool aligned = p.columns % kQuad == 0;  // quads of weights in memory too
    if constexpr (kParked) {
      aligned ? park<Access, true>(p, b, group, shared, thread, t) : park<Access, false>(p, b, group, shared, thread, t);
    } else {
      ask<Access>(p, t.channels, t, t.first);
      aligned ? stage_weights<Access, true>(p, group, shared, thread) : stage_weights<Access, false>(p, group, shared, thread);
    }
  }

  /// Asks for the first weights and the inputs of the first kPrefetched channels.
  template <class Access>
  static CONVT_HOST_DEVICE void prefetch(const P& p, const T* weights, Int thread, const Thread& t) {
    constexpr Int kLine = 128 / Int(sizeof(T));
    if (thread * kLine < p.group_in_channels * p.columns) Access::prefetch(weights + thread * kLine);
    const T* row = t.row;
    CONVT_UNROLL_ALL
    for (int c = 0; c < kPrefetched; ++c, row += p.input_positions) {
      CONVT_UNROLL_ALL
      for (int i = 0; i < kPositions; ++i) {
        if (c < t.channels && t.there[i]) Access::prefetch(row + i * kWarpLanes);
      }
    }
  }

  /// Few channels: all of a thread's loads are in flight at once, a quad of weights among them, and indices are computed
  /// meanwhile. The inputs wait in shared memory, so that `multiply` is a loop of few instructions: fetching an unrolled
  /// one would take longer than running it.
  template <class Access, bool kAligned>
  static CONVT_HOST_DEVICE void park(const P& p, const Block& b, const T* weights, Quad* shared, Int thread, Thread& t) {
    T inputs[kParkedChannels][kPositions] = {};
    CONVT_UNROLL_ALL
    for (int c = 0; c < kParkedChannels; ++c) {
      if (c < t.channels) ask_channel<Access>(p, t, inputs[c]);
    }
    const bool any = thread < p.group_in_channels * kQuads;
    Quad quad = {};
    if (any) load_quad<Access, kAligned>(p, weights, thread, quad);
    const Taps<Int> taps = taps_at(p.last, b.begin[2] + thread);
    t.taps = {in_register(taps.tap), in_register(taps.input), in_register(taps.count)};
    if (any) shared[thread] = quad;
    Acc* to = reinterpret_cast<Acc*>(shared) + parked_at(p, thread);
    CONVT_UNROLL_ALL
    for (int c = 0; c < kParkedChannels; ++c) {
      if (c >= t.channels) break;
      CONVT_UNROLL_ALL
      for (int i = 0; i < kPositions; ++i, to += p.threads) *to = widen(inputs[c][i]);
    }
  }

  /// Where a thread's parked inputs begin, counted in accumulators; they are p.threads apart, [channel][position], behind the
  /// weights.
  static CONVT_HOST_DEVICE Int parked_at(const P& p, Int thread) { return p.group_in_channels * J + thread; }

  /// Quad `e` of a group's weights, [channel][column] with zeros from p.columns on.
  template <class Access, bool kAligned>
  static CONVT_HOST_DEVICE void load_quad(const P& p, const T* weights, Int e, Quad& quad) {
    const Int j = e % kQuads * kQuad;
    const T* const from = weights + (e / kQuads * p.columns + j);
    if constexpr (kAligned) {
      if (j < p.columns) Access::template load_run<kQuad * int(sizeof(T)), kQuad>(from, quad.weight);
    } else {
      CONVT_UNROLL_ALL
      for (int k = 0; k < kQuad; ++k) {
        if (j + k < p.columns) quad.weight[k] = widen(Access::load(from + k));
      }
    }
  }

  template <class Access, bool kAligned>
  static CONVT_HOST_DEVICE void stage_weights(const P& p, const T* weights, Quad* shared, Int thread) {
    constexpr int kTogether = kAligned ? 8 : 2;  // so that their latencies overlap
    const Int quads = p.group_in_channels * kQuads;
    CONVT_UNROLL(1)
    for (Int first = thread; first < quads; first += kTogether * p.threads) {
      Quad quad[kTogether] = {};
      CONVT_UNROLL_ALL
      for (int q = 0; q < kTogether; ++q) {
        if (first + q * p.threads < quads) load_quad<Access, kAligned>(p, weights, first + q * p.threads, quad[q]);
      }
      CONVT_UNROLL_ALL
      for (int q = 0; q < kTogether; ++q) {
        if (first + q * p.threads < quads) shared[first + q * p.threads] = quad[q];
      }
    }
  }

  static CONVT_HOST_DEVICE void multiply_parked(const P& p, const Quad* weights, const Acc* inputs, Thread& t) {
    CONVT_UNROLL(2)
    for (Int channel = 0; channel < t.channels; ++channel) {
      Acc value[kPositions];
      CONVT_UNROLL_ALL
      for (int i = 0; i < kPositions; ++i, inputs += p.threads) value[i] = *inputs;
      add_channel(weights, value, t);
      weights += kQuads;
    }
  }

  template <class Access>
  static CONVT_HOST_DEVICE void multiply(const P& p, const Quad* shared, Int thread, Thread& t) {
    const Quad* weights = shared + p.by_slices.quotient(thread / kWarpLanes) * p.split_channels * kQuads;
    if constexpr (kParked) {
      multiply_parked(p, weights, reinterpret_cast<const Acc*>(shared) + parked_at(p, thread), t);
    } else {
      multiply_streamed<Access>(p, weights, t);
    }
  }

  /// Many channels: a batch of inputs is under way while another is multiplied.
  template <class Access>
  static CONVT_HOST_DEVICE void multiply_streamed(const P& p, const Quad* weights, Thread& t) {
    Batch second = {};
    Int channels = t.channels;  // not yet added; the first kAhead of them have been asked for
    CONVT_UNROLL(1)
    for (; channels >= 3 * kAhead; channels -= 2 * kAhead) {
      ask_all<Access>(p, t, second);
      add<true>(weights, kAhead, t.first, t);
      ask_all<Access>(p, t, t.first);
      add<true>(weights + kAhead * kQuads, kAhead, second, t);
      weights += 2 * kAhead * kQuads;
    }
    CONVT_UNROLL(1)
    for (; channels > 0; channels -= kAhead) {
      ask<Access>(p, channels - kAhead, t, second);
      add<false>(weights, channels, t.first, t);
      CONVT_UNROLL_ALL
      for (int c = 0; c < kAhead; ++c) {
        CONVT_UNROLL_ALL
        for (int i = 0; i < kPositions; ++i) t.first[c][i] = second[c][i];
      }
      weights += kAhead * kQuads;
    }
  }

  static CONVT_HOST_DEVICE void put(const P& p, Acc* shared, Int thread, const Thread& t) {
    const Int warp = thread / kWarpLanes, split = p.by_slices.quotient(warp), slice = warp - split * p.slices;
    Acc* to = shared + split * J * p.pitch + slice * kSlice + thread % kWarpLanes;
    CONVT_UNROLL_ALL
    for (int j = 0; j < J; ++j) {
      CONVT_UNROLL_ALL
      for (int i = 0; i < kPositions; ++i) to[i * kWarpLanes] = t.sum[i][j];
      to += p.pitch;
    }
  }

  /// A thread's outputs of a row are p.unit apart, a multiple of the stride, so that their taps are the same.
  template <class Access>
  static CONVT_HOST_DEVICE void finish(const P& p, const Block& b, const Acc* shared, const T* bias, T* output, Int thread,
                                       const Thread& t) {
    const Axis<Int>& last = p.last;
    CONVT_UNROLL(1)
    for (Int ahead = thread; ahead < p.unit; ahead += p.threads) {
      const Int o = b.begin[2] + ahead;
      if (o >= b.end[2]) return;
      Taps<Int> taps = kParked && ahead == thread ? t.taps : taps_at(last, o);
      taps.input -= b.tile_begin;
      if (p.one_axis) {
        store_channels<Access>(p, b, taps, shared, bias, o, output + b.output_channel * last.output);
        continue;
      }
      CONVT_UNROLL(1)
      for (Int o0 = b.begin[0]; o0 < b.end[0]; ++o0) {
        const Int tap0 = outer_tap(p, b, 0, o0);
        CONVT_UNROLL(1)
        for (Int o1 = b.begin[1]; o1 < b.end[1]; ++o1) {
          const Int tap1 = outer_tap(p, b, 1, o1);
          const Int first = (tap0 * p.outer[1].kernel + tap1) * last.kernel + taps.tap;
          const Taps<Int> of_row = {first, taps.input, tap0 >= 0 && tap1 >= 0 ? taps.count : Int(0)};
          store_channels<Access>(p, b, of_row, shared, bias, o,
                                 output + ((b.output_channel * p.outer[0].output + o0) * p.outer[1].output + o1) * last.output);
        }
      }
    }
  }

  /// Outputs `o` and every p.unit after it of each channel's row. `taps`: of `o`, its input counted from the tile's.
  template <class Access>
  static CONVT_HOST_DEVICE void store_channels(const P& p, const Block& b, const Taps<Int>& taps, const Acc* columns,
                                               const T* bias, Int o, T* row) {
    CONVT_UNROLL(1)
    for (Int channel = 0; channel < p.group_out_channels; ++channel) {
      const Int at = b.group * p.group_out_channels + channel;
      const Acc add = bias != nullptr ? Acc(widen(Access::load(bias + at))) : Acc(0);
      if (b.whole) {
        store_row<Access, false>(p, b, taps, columns, add, o, row);
      } else {
        store_row<Access, true>(p, b, taps, columns, add, o, row);
      }
      columns += p.taps * p.pitch;
      row += p.output_positions;
    }
  }

  /// The tap on an outer axis, where an output has one at most, and none if the stride leaves it out.
  static CONVT_HOST_DEVICE Int outer_tap(const P& p, const Block& b, int a, Int o) {
    const Axis<Int>& axis = p.outer[a];
    const Int ahead = o + axis.padding - b.input[a] * axis.by_stride.divisor();
    const Int tap = p.by_dilation[a].quotient(ahead);
    return tap * axis.dilation == ahead && tap < axis.kernel ? tap : Int(-1);
  }

  /// kChecked: some taps may read positions outside the row.
  template <class Access, bool kChecked>
  static CONVT_HOST_DEVICE void store_row(const P& p, const Block& b, const Taps<Int>& taps, const Acc* columns, Acc add,
                                          Int o, T* row) {
    // Loads of shared memory whose latencies overlap: of several outputs, and of several splits where there are many.
    constexpr int kOutputs = kParked ? 8 : 4;
    [[maybe_unused]] constexpr int kSplits = kParked ? 1 : 4;  // unused on the processor
    const Int inputs = b.tile_end - b.tile_begin, splits = in_register(p.splits), to_split = in_register(J * p.pitch);
    const Int unit = in_register(p.unit), unit_inputs = in_register(p.unit_inputs);
    const Int input_step = in_register(p.last.input_step), to_tap = in_register(p.last.tap_step * p.pitch - input_step);
    Int input = taps.input;
    columns += taps.tap * p.pitch;
    CONVT_UNROLL(1)
    for (; o < b.end[2]; o += kOutputs * unit, input += kOutputs * unit_inputs) {
      Acc sum[kOutputs];
      Int at[kOutputs];  // inputs of the first tap, of no output after the last one, so that what is read is there
      CONVT_UNROLL_ALL
      for (int e = 0; e < kOutputs; ++e) {
        sum[e] = add;
        at[e] = input + (o + e * unit < b.end[2] ? e * unit_inputs : Int(0));
      }
      const Acc* tap = columns;
      Int back = 0;
      CONVT_UNROLL(1)
      for (Int j = 0; j < taps.count; ++j, tap += to_tap, back += input_step) {
        Acc part[kOutputs] = {};
        const Acc* from = tap;
        CONVT_UNROLL(kSplits)
        for (Int split = 0; split < splits; ++split, from += to_split) {
          CONVT_UNROLL_ALL
          for (int e = 0; e < kOutputs; ++e) {
            if (!kChecked || inside(at[e] - back, inputs)) part[e] += from[at[e]];
          }
        }
        CONVT_UNROLL_ALL
        for (int e = 0; e < kOutputs; ++e) sum[e] += part[e];
      }
      CONVT_UNROLL_ALL
      for (int e = 0; e < kOutputs; ++e) {
        if (o + e * unit < b.end[2]) Access::store(row + (o + e * unit), round_to<T>(sum[e]));
      }
    }
  }
};

}  // namespace direct
}  // namespace convt_gemm

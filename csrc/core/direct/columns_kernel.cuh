#pragma once
// The direct algorithm for few output channels and many input channels. plan/direct_columns.h says what a column and a
// tile are. A block goes through four steps with a barrier between any two:
//
//   start     every thread asks for its first inputs, then all of them put the group's weights into shared memory
//   multiply  each warp reads its share of the channels at its positions, once, and keeps their columns in registers
//   put       the columns go to shared memory, where the weights were
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

/// Indices of blocks and inside a row are 32 bits wide, offsets of rows 64.
struct ColumnParams {
  Axis<std::int32_t> axis[kMaxAxes];
  FastDiv<std::int32_t> by_dilation[kMaxAxes - 1];
  FastDiv<std::int32_t> by_tiles, by_inputs1, by_inputs0, by_groups;  ///< blocks are [sample, group, i0, i1, tile]
  FastDiv<std::int32_t> by_slices;                                    ///< warps are [split, slice]
  std::int32_t group_in_channels, group_out_channels;
  std::int32_t taps;
  std::int32_t columns;  ///< of a position: output channels of a group times taps
  std::int32_t slices, splits, split_channels, reach, own, pitch;  ///< as in ColumnGeometry
  std::int32_t unit;         ///< outputs between two of a thread
  std::int32_t unit_inputs;  ///< inputs between their taps
  std::int64_t input_positions, output_positions;
  std::int64_t channel_bytes;  ///< from one input channel to the next
};

/// `J_`: columns of a position that a thread keeps, of kColumnCounts.
template <class T_, int J_>
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
  static constexpr int kAheadRegisters = J <= 16 ? 16 : J == 32 && sizeof(T) != 4 ? 8 : 12;
  static constexpr int kAhead = kAheadRegisters / (kPositions * kAccumulatorWords);
  static constexpr int kSlice = kPositions * kWarpLanes;
  /// Blocks of 256 threads that a multiprocessor must hold.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  static constexpr int kMinBlocks = J == 32 && sizeof(T) != 4 ? 1 : 2;  // the same code takes a few registers more here
#else
  static constexpr int kMinBlocks = J * kPositions * kAccumulatorWords <= 16 ? 3 : 2;
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
  };

  using Batch = T[kAhead][kPositions];

  /// A thread between two steps.
  struct Thread {
    const T* row = nullptr;         ///< of its first position and the next channel to ask for
    bool there[kPositions] = {};    ///< which of its positions are in the tile
    Int channels = 0;               ///< to be summed up
    Batch first = {};               ///< inputs of the first channels
    Acc sum[kPositions][J] = {};
  };

  static CONVT_HOST_DEVICE Block block_of(const P& p, Int index) {
    Block b;
    const Axis<Int>& last = p.axis[2];
    Int rest = p.by_tiles.quotient(index);
    const Int own = (index - rest * p.by_tiles.divisor()) * p.own;
    Int row = rest;
    rest = p.by_inputs1.quotient(row);
    b.input[1] = row - rest * p.by_inputs1.divisor();
    row = rest, rest = p.by_inputs0.quotient(row);
    b.input[0] = row - rest * p.by_inputs0.divisor();
    const Int sample = p.by_groups.quotient(rest);
    b.group = rest - sample * p.by_groups.divisor();

    // rest = sample*groups + group, so that this is the group's first channel of the sample.
    b.output_channel = std::int64_t(rest) * p.group_out_channels;
    b.input_row = std::int64_t(rest) * p.group_in_channels * p.input_positions +
                  (std::int64_t(b.input[0]) * p.axis[1].input + b.input[1]) * last.input;
    const bool ends = own + p.own >= last.input;
    b.tile_begin = own > p.reach ? own - p.reach : Int(0);
    b.tile_end = ends ? last.input : own + p.own;
    // The last input also owns the outputs after it.
    outputs_of(last, own, own + p.own, ends, b.begin[2], b.end[2]);
    for (int a = 0; a < kMaxAxes - 1; ++a) {
      const Int i = b.input[a];
      outputs_of(p.axis[a], i, i + 1, i + 1 == p.axis[a].input, b.begin[a], b.end[a]);
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
      CONVT_UNROLL_ALL
      for (int quad = 0; quad < kQuads; ++quad) {
        const Quad factor = weights[c * kQuads + quad];
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
    ask<Access>(p, t.channels, t, t.first);

    const T* const group = weight + std::int64_t(b.group) * p.group_in_channels * p.columns;
    if (p.columns % kQuad == 0) {  // the quads are aligned in memory too
      stage_weights<Access, true>(p, group, shared, thread);
    } else {
      stage_weights<Access, false>(p, group, shared, thread);
    }
  }

  /// A group's weights, [channel][column] with zeros from p.columns on.
  template <class Access, bool kAligned>
  static CONVT_HOST_DEVICE void stage_weights(const P& p, const T* weights, Quad* shared, Int thread) {
    constexpr int kTogether = kAligned ? 8 : 2;  // so that their latencies overlap
    const Int quads = p.group_in_channels * kQuads, threads = p.slices * p.splits * kWarpLanes;
    CONVT_UNROLL(1)
    for (Int first = thread; first < quads; first += kTogether * threads) {
      Quad quad[kTogether] = {};
      CONVT_UNROLL_ALL
      for (int q = 0; q < kTogether; ++q) {
        const Int e = first + q * threads, j = e % kQuads * kQuad;
        const T* const from = weights + (e / kQuads * p.columns + j);
        if constexpr (kAligned) {
          if (e < quads && j < p.columns) Access::template load_run<kQuad * int(sizeof(T)), kQuad>(from, quad[q].weight);
        } else {
          CONVT_UNROLL_ALL
          for (int k = 0; k < kQuad; ++k) {
            if (e < quads && j + k < p.columns) quad[q].weight[k] = widen(Access::load(from + k));
          }
        }
      }
      CONVT_UNROLL_ALL
      for (int q = 0; q < kTogether; ++q) {
        if (first + q * threads < quads) shared[first + q * threads] = quad[q];
      }
    }
  }

  template <class Access>
  static CONVT_HOST_DEVICE void multiply(const P& p, const Quad* shared, Int thread, Thread& t) {
    const Quad* weights = shared + p.by_slices.quotient(thread / kWarpLanes) * p.split_channels * kQuads;
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
    Acc* to = shared + split * p.columns * p.pitch + slice * kSlice + thread % kWarpLanes;
    CONVT_UNROLL_ALL
    for (int j = 0; j < J; ++j) {
      if (j < p.columns) {
        CONVT_UNROLL_ALL
        for (int i = 0; i < kPositions; ++i) to[i * kWarpLanes] = t.sum[i][j];
      }
      to += p.pitch;
    }
  }

  /// A thread's outputs of a row are p.unit apart, a multiple of the stride, so that their taps are the same.
  template <class Access>
  static CONVT_HOST_DEVICE void finish(const P& p, const Block& b, const Acc* shared, const T* bias, T* output, Int thread) {
    const Axis<Int>& last = p.axis[2];
    CONVT_UNROLL(1)
    for (Int ahead = thread; ahead < p.unit; ahead += p.slices * p.splits * kWarpLanes) {
      const Int o = b.begin[2] + ahead;
      if (o >= b.end[2]) return;
      const Taps<Int> taps = taps_at(last, o);
      CONVT_UNROLL(1)
      for (Int o0 = b.begin[0]; o0 < b.end[0]; ++o0) {
        const Int tap0 = outer_tap(p, b, 0, o0);
        CONVT_UNROLL(1)
        for (Int o1 = b.begin[1]; o1 < b.end[1]; ++o1) {
          const Int tap1 = outer_tap(p, b, 1, o1);
          const Int first = (tap0 * p.axis[1].kernel + tap1) * last.kernel + taps.tap;
          const Taps<Int> of_row = {first, taps.input - b.tile_begin, tap0 >= 0 && tap1 >= 0 ? taps.count : Int(0)};
          const Acc* columns = shared;
          T* row = output + ((b.output_channel * p.axis[0].output + o0) * p.axis[1].output + o1) * last.output;
          CONVT_UNROLL(1)
          for (Int channel = 0; channel < p.group_out_channels; ++channel) {
            const Int at = b.group * p.group_out_channels + channel;
            const Acc add = bias != nullptr ? Acc(widen(Access::load(bias + at))) : Acc(0);
            store_row<Access>(p, b, of_row, columns, add, o, row);
            columns += p.taps * p.pitch;
            row += p.output_positions;
          }
        }
      }
    }
  }

  /// The tap on an outer axis, where an output has one at most, and none if the stride leaves it out.
  static CONVT_HOST_DEVICE Int outer_tap(const P& p, const Block& b, int a, Int o) {
    const Axis<Int>& axis = p.axis[a];
    const Int ahead = o + axis.padding - b.input[a] * axis.by_stride.divisor();
    const Int tap = p.by_dilation[a].quotient(ahead);
    return tap * axis.dilation == ahead && tap < axis.kernel ? tap : Int(-1);
  }

  /// Outputs `o` and every p.unit after it of one channel's row. `taps`: of `o`, its input counted from the tile's.
  template <class Access>
  static CONVT_HOST_DEVICE void store_row(const P& p, const Block& b, const Taps<Int>& taps, const Acc* columns, Acc add,
                                          Int o, T* row) {
    constexpr int kTaps = 2;  // at a time, for their latency
    const Axis<Int>& last = p.axis[2];
    const Int inputs = b.tile_end - b.tile_begin;
    const Acc* const first = columns + taps.tap * p.pitch;
    const Int to_tap = last.tap_step * p.pitch, to_split = p.columns * p.pitch;
    Int input = taps.input;
    CONVT_UNROLL(1)
    for (; o < b.end[2]; o += p.unit, input += p.unit_inputs) {
      Acc sum = add;
      CONVT_UNROLL(1)
      for (Int j = 0; j < taps.count; j += kTaps) {
        const Acc* from[kTaps];
        bool there[kTaps];
        Acc part[kTaps] = {};
        CONVT_UNROLL_ALL
        for (int k = 0; k < kTaps; ++k) {
          const Int i = input - (j + k) * last.input_step;
          there[k] = j + k < taps.count && inside(i, inputs);
          from[k] = first + ((j + k) * to_tap + i);
        }
        CONVT_UNROLL(4)
        for (Int split = 0; split < p.splits; ++split) {
          CONVT_UNROLL_ALL
          for (int k = 0; k < kTaps; ++k) {
            if (there[k]) part[k] += *from[k];
            from[k] += to_split;
          }
        }
        CONVT_UNROLL_ALL
        for (int k = 0; k < kTaps; ++k) sum += part[k];
      }
      Access::store(row + o, round_to<T>(sum));
    }
  }
};

}  // namespace direct
}  // namespace convt_gemm

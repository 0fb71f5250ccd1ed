#pragma once
// The work of one thread of the direct algorithm where several output channels read the same inputs and neither stride nor dilation is fixed: one sum for each of C channels at each of
// G outputs. Neighbouring lanes have neighbouring outputs, so that stores are whole sectors although each lane has taps of its own; a thread's outputs are a multiple of the
// stride apart, so that they share their taps. A block has the same channels everywhere, whose weights it first puts into shared memory, those of a tap side by side: of G inputs and
// two reads of weights a thread makes G*C products.
//
// Plain host and device code, as direct_kernel.cuh, which says what happens outside the tensor and how memory is reached. The caller puts a barrier between stage() and run().
#include "direct/direct_kernel.cuh"
#include "plan/direct_columns.h"

namespace convt_gemm {
namespace direct {

/// Threads are [sample, channel block, thread of it], the last [o0, residue of o1, o1 / stride, lane] and some to fill the last block up: rows that have the same taps, and so take
/// as long, are neighbours. A thread's outputs are Params::by_lanes apart, and their inputs Params::shift.
struct ChannelBlockParams : Params<std::int32_t> {
  FastDiv<std::int32_t> by_threads;       ///< of a sample and channel block
  FastDiv<std::int32_t> by_residue_rows;  ///< values of o1 of a residue, some of which may not exist; by_row_groups: of all residues
};

template <class T_, int Rank_>
struct ChannelBlocks {
  using T = T_;
  using Int = std::int32_t;
  using Acc = Accumulator<T>;
  using P = ChannelBlockParams;
  static constexpr int Rank = Rank_, C = kBlockChannels, G = kBlockOutputs;
  static constexpr bool kSumsOfSums = std::is_same_v<T, float> && Rank > 1;  ///< see ChannelsFirst
  static constexpr int kMostThreads = kBlockThreads, kMinBlocks = kSumsOfSums ? 2 : 3;

  struct alignas(16) Weights {
    Acc of_channel[C];
  };

  static std::int64_t shared_bytes(const P& p) { return std::int64_t{p.group_in_channels} * p.taps * std::int64_t(sizeof(Weights)); }

  /// The channels of thread `thread` of all.
  struct Channels {
    Int sample, group, first, count;

    CONVT_HOST_DEVICE Channels(const P& p, Int thread) {
      const Int which = p.by_threads.quotient(thread);
      sample = p.by_channel_blocks.quotient(which);
      const Int block = which - sample * p.by_channel_blocks.divisor();
      group = p.by_group_blocks.quotient(block);
      first = (block - group * p.by_group_blocks.divisor()) * C;
      const Int left = p.group_out_channels - first;
      count = left < C ? left : Int(C);
    }
  };

  /// Puts a thread's share of the weights of its block, [in channel, tap], where all threads find them. Channels that do not exist have the first one's.
  template <class Access>
  static CONVT_HOST_DEVICE void stage(const P& p, const T* weight, Int thread, Weights* shared) {
    Access::begin();
    const Channels channels(p, thread);
    if (channels.sample >= p.batch) return;
    const T* const first = weight + (std::int64_t(channels.group) * p.group_in_channels * p.group_out_channels + channels.first) * p.taps;
    static_assert(kBlockThreads % C == 0);
    const Int in_block = thread & (kBlockThreads - 1), c = in_block % C;
    const T* const of_channel = first + (c < channels.count ? c * p.taps : Int(0));
    for (Int i = in_block / C; i < p.group_in_channels * p.taps; i += kBlockThreads / C) {
      const Int ci = i / p.taps;
      shared[i].of_channel[c] = widen(Access::load(of_channel + (ci * p.group_out_channels * p.taps + (i - ci * p.taps))));
    }
  }

  template <class Access>
  static CONVT_HOST_DEVICE void run(const P& p, const T* input, const Weights* shared, const T* bias, T* output, Int thread) {
    const Channels channels(p, thread);
    if (channels.sample >= p.batch) return;
    const Axis<Int>& last = p.axis[2];
    const Int in_block = thread - p.by_threads.quotient(thread) * p.by_threads.divisor();
    Int row = p.by_lanes.quotient(in_block), o0 = 0, o1 = 0;
    const Int lane = in_block - row * p.by_lanes.divisor();
    if constexpr (Rank > 1) {
      o0 = p.by_row_groups.quotient(row);
      const Int of_all = row - o0 * p.by_row_groups.divisor(), residue = p.by_residue_rows.quotient(of_all);
      o1 = residue + (of_all - residue * p.by_residue_rows.divisor()) * p.axis[1].by_stride.divisor();
      row = o0 < p.axis[0].output && o1 < p.axis[1].output ? Int(0) : Int(1);
    }
    if (row > 0 || lane >= last.output) return;
    const Int out_channel = channels.group * p.group_out_channels + channels.first;
    const T* const x = input + (std::int64_t(channels.sample) * p.in_channels + channels.group * p.group_in_channels) * p.input_positions;
    const Taps<Int> taps = taps_at(last, lane);

    // In the order of ChannelsFirst, so that how an output is covered does not change its bits.
    Acc sum[G][C] = {};
    for_each_outer_tap<Rank>(p.axis, o0, o1, [&](Int input_row, Int outer_tap) {
      const Int place = Rank > 1 ? input_row * last.input : Int(0);
      const Weights* const weights = shared + (outer_tap * last.kernel + taps.tap);
      if constexpr (kSumsOfSums) {
        Acc part[G][C] = {};
        add_row<Access>(p, x, place, weights, taps, part);
        CONVT_UNROLL_ALL
        for (int g = 0; g < G; ++g) {
          CONVT_UNROLL_ALL
          for (int c = 0; c < C; ++c) sum[g][c] += part[g][c];
        }
      } else {
        add_row<Access>(p, x, place, weights, taps, sum);
      }
    });

    T* to = output + ((std::int64_t(channels.sample) * p.out_channels + out_channel) * p.output_positions + lane);
    if constexpr (Rank > 1) to += (std::int64_t(o0) * p.axis[1].output + o1) * last.output;
    CONVT_UNROLL_ALL
    for (int c = 0; c < C; ++c) {
      if (c >= channels.count) break;
      const Acc add = bias != nullptr ? Acc(widen(Access::load(bias + (out_channel + c)))) : Acc(0);
      CONVT_UNROLL_ALL
      for (int g = 0; g < G; ++g) {
        if (lane + g * p.by_lanes.divisor() < last.output) Access::store(to + g * p.by_lanes.divisor(), round_to<T>(sum[g][c] + add));
      }
      to += p.output_positions;
    }
  }

 private:
  /// The taps of the last axis, of the row at `place` of each input channel.
  template <class Access>
  static CONVT_HOST_DEVICE void add_row(const P& p, const T* x, Int place, const Weights* weights, const Taps<Int>& taps, Acc (&sum)[G][C]) {
    const Axis<Int>& last = p.axis[2];
    const T* from = x + (std::int64_t(place) + taps.input);
    CONVT_UNROLL(1)
    for (Int ci = 0; ci < p.group_in_channels; ++ci) {
      const T* at = from;
      const Weights* of_tap = weights;
      Int i = taps.input;
      CONVT_UNROLL(1)
      for (Int j = 0; j < taps.count; ++j) {
        Acc value[G];
        CONVT_UNROLL_ALL
        for (int g = 0; g < G; ++g) value[g] = inside(Int(i + g * p.shift), last.input) ? widen(Access::load(at + g * p.shift)) : Acc(0);
        const Weights factor = *of_tap;
        CONVT_UNROLL_ALL
        for (int g = 0; g < G; ++g) {
          CONVT_UNROLL_ALL
          for (int c = 0; c < C; ++c) sum[g][c] = multiply_add(value[g], factor.of_channel[c], sum[g][c]);
        }
        at -= last.input_step, i -= last.input_step, of_tap += last.tap_step;
      }
      from += p.input_positions;
      weights += p.taps;
    }
  }
};

template <class Kernel>
inline constexpr bool kStagesWeights = std::is_same_v<typename Kernel::P, ChannelBlockParams>;

}  // namespace direct
}  // namespace convt_gemm

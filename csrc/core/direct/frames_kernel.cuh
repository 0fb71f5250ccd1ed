#pragma once
// The direct algorithm for overlapping frames of few channels, as in the inverse STFT of a vocoder. plan/direct_columns.h says
// which problems.
//
// Outputs q = m*stride + r are the sums over the taps j of x[m - j] * w[r + j*stride]. A lane has 4 neighbouring m with all of
// their outputs: it reads a window of 8 inputs and a channel's weights for 16*stride products, and its outputs are neighbours.
// The warps of a block share the channels:
//
//   ask       all loads of a thread are in flight at once
//   park      inputs and weights of a warp's channels are in shared memory, with zeros outside the row
//   multiply  a loop over the channels. A warp waits for nothing but itself so far
//   put       a lane's sums go to shared memory
//   store     the outputs are the sums over the warps, in the order in which they lie in memory
//
// All sums have a fixed order. Inputs outside the row count as zeros and are multiplied like the others. Nearly all instructions run once, and fetching them
// takes longer than running them: so few of them, and loops.
#include <cstdint>

#include "direct/direct_kernel.cuh"
#include "plan/direct_columns.h"

namespace convt_gemm {
namespace direct {

/// Indices inside a row are 32 bits wide, offsets of rows 64. In the order in which a block needs them: each line of parameters costs
/// it 0.1 us.
struct FrameParams {
  FastDiv<std::int32_t> by_tiles, by_groups;  ///< blocks are [sample, group, tile]
  std::int32_t channels;                      ///< of a group
  std::int32_t input, output, padding;
  std::int32_t first;  ///< m of the first output
};

template <class T_, int S_>
struct Frames {
  using T = T_;
  using Int = std::int32_t;
  using Acc = Accumulator<T>;
  using P = FrameParams;
  static constexpr int S = S_, K = S * kFrameTaps;
  static constexpr int kQuad = kFrameQuad;
  static constexpr int kTile = kFrameTile;
  static constexpr int kPitch = kTile + kQuad;  ///< of a channel's inputs; nothing is put before those of the first lane
  static constexpr int kOutputs = kTile * S;
  static constexpr int kChannels = kMostFrameChannels / kFrameWarps;  ///< of a warp, at most
  static constexpr int kWeights = kChannels * K / kQuad;               ///< quads of them
  static constexpr int kLaneWeights = (kWeights + kWarpLanes - 1) / kWarpLanes;
  static_assert(kFrameTaps == kQuad, "a window is a quad and the one before it");

  /// Types that need no conversion go to shared memory by themselves.
  static constexpr bool kCopied = sizeof(T) == sizeof(Acc);

  struct alignas(16) Quad {
    Acc value[kQuad];
  };

  /// Shared memory of a block.
  struct Shared {
    Quad weights[kFrameWarps][kWeights];
    Quad inputs[kFrameWarps][kChannels][kPitch / kQuad];
    Quad outputs[kFrameWarps][kOutputs / kQuad];
  };

  struct Block {
    std::int64_t input_row, output_row;  ///< elements before those of the group
    Int group, position;                 ///< of the tile's first input, which may be outside the row
  };

  struct Thread {
    Int warp = 0, lane = 0;
    Int channels = 0;  ///< of the warp
    T input[kChannels][kQuad] = {};
    Quad weight[kLaneWeights] = {};
    Acc sum[kQuad][S] = {};
  };

  static CONVT_HOST_DEVICE Block block_of(const P& p, Int index) {
    Block b;
    const Int row = p.by_tiles.quotient(index), tile = index - row * p.by_tiles.divisor();
    b.group = row - p.by_groups.quotient(row) * p.by_groups.divisor();
    b.position = p.first + tile * kFrameOwn - kQuad;
    b.input_row = std::int64_t(row) * p.channels * p.input;
    b.output_row = std::int64_t(row) * p.output;
    return b;
  }

  template <class Access>
  static CONVT_HOST_DEVICE void ask(const P& p, const Block& b, const T* input, const T* weight, Shared& shared, Int thread, Thread& t) {
    t.warp = thread / kWarpLanes, t.lane = thread % kWarpLanes;
    const Int each = (p.channels + kFrameWarps - 1) / kFrameWarps, left = p.channels - t.warp * each;
    t.channels = left < each ? left : each;  // none are left for a warp, or less than that
    const Int first = left > 0 ? t.warp * each : Int(0);
    const Int position = b.position + t.lane;
    const T* from = input + (b.input_row + std::int64_t(first) * p.input + position);
    const T* const weights = weight + (std::int64_t(b.group) * p.channels + first) * K;
    if (t.lane < t.channels) {  // weights are the same for all blocks: asking for them takes longer than it saves
      const Int begin = b.position > 0 ? b.position : Int(0), end = b.position + kTile < p.input ? b.position + kTile : p.input;
      Access::prefetch_run(input + (b.input_row + std::int64_t(first + t.lane) * p.input + begin), end - begin);
    }
    Access::begin();
    if constexpr (kCopied) {
      Acc* to = &shared.inputs[t.warp][0][1].value[0] + t.lane;
      bool there[kQuad];
      CONVT_UNROLL_ALL
      for (int i = 0; i < kQuad; ++i) there[i] = inside(Int(position + i * kWarpLanes), p.input);
      CONVT_UNROLL(1)
      for (Int c = 0; c < t.channels; ++c, to += kPitch, from += p.input) {
        CONVT_UNROLL_ALL
        for (int i = 0; i < kQuad; ++i) Access::copy(to + i * kWarpLanes, from + i * kWarpLanes, there[i]);
      }
    } else if (b.position >= 0 && b.position + kTile <= p.input) {
      ask_channels<Access, false>(p, position, from, t);
    } else {
      ask_channels<Access, true>(p, position, from, t);
    }
    CONVT_UNROLL_ALL
    for (int i = 0; i < kLaneWeights; ++i) {
      const Int quad = t.lane + i * kWarpLanes;
      if (quad >= t.channels * (K / kQuad)) break;
      if constexpr (kCopied) {
        Access::template copy_run<kQuad>(shared.weights[t.warp][quad].value, weights + quad * kQuad);
      } else {
        Access::template load_run<kQuad * int(sizeof(T)), kQuad>(weights + quad * kQuad, t.weight[i].value);
      }
    }
  }

  /// The last channel's inputs stand in for those of channels that are not there: branches would cost more.
  template <class Access, bool kChecked>
  static CONVT_HOST_DEVICE void ask_channels(const P& p, Int position, const T* from, Thread& t) {
    CONVT_UNROLL_ALL
    for (int c = 0; c < kChannels; ++c) {
      CONVT_UNROLL_ALL
      for (int i = 0; i < kQuad; ++i) {
        const bool there = !kChecked || inside(Int(position + i * kWarpLanes), p.input);
        t.input[c][i] = there ? Access::load(from + i * kWarpLanes) : T{};
      }
      if (c + 1 < t.channels) from += p.input;
    }
  }

  template <class Access>
  static CONVT_HOST_DEVICE void park(Shared& shared, const Thread& t) {
    if constexpr (kCopied) {
      Access::wait_for_copies();
    } else {
      CONVT_UNROLL_ALL
      for (int i = 0; i < kLaneWeights; ++i) {
        const Int quad = t.lane + i * kWarpLanes;
        if (quad < kWeights) shared.weights[t.warp][quad] = t.weight[i];
      }
      Acc* const to = &shared.inputs[t.warp][0][1].value[0] + t.lane;
      CONVT_UNROLL_ALL
      for (int c = 0; c < kChannels; ++c) {
        CONVT_UNROLL_ALL
        for (int i = 0; i < kQuad; ++i) to[c * kPitch + i * kWarpLanes] = widen(t.input[c][i]);
      }
    }
  }

  static CONVT_HOST_DEVICE void multiply(const Shared& shared, Thread& t) {
    const Quad* weights = shared.weights[t.warp];
    const Quad* window = shared.inputs[t.warp][0] + t.lane;
    CONVT_UNROLL(2)
    for (Int c = 0; c < t.channels; ++c, weights += K / kQuad, window += kPitch / kQuad) {
      const Quad before = window[0], own = window[1];
      CONVT_UNROLL_ALL
      for (int k = 0; k < K; ++k) {
        const int r = k % S, j = k / S;
        const Acc weight = weights[k / kQuad].value[k % kQuad];
        CONVT_UNROLL_ALL
        for (int i = 0; i < kQuad; ++i) {
          t.sum[i][r] = multiply_add(i >= j ? own.value[(i - j) & (kQuad - 1)] : before.value[(i - j) & (kQuad - 1)], weight, t.sum[i][r]);
        }
      }
    }
  }

  static CONVT_HOST_DEVICE void put(Shared& shared, const Thread& t) {
    Quad* const to = shared.outputs[t.warp] + t.lane * S;
    CONVT_UNROLL_ALL
    for (int q = 0; q < S; ++q) {
      Quad quad;
      CONVT_UNROLL_ALL
      for (int e = 0; e < kQuad; ++e) quad.value[e] = t.sum[(q * kQuad + e) / S][(q * kQuad + e) % S];
      to[q] = quad;
    }
  }

  /// Those of the first lane belong to the tile before.
  template <class Access>
  static CONVT_HOST_DEVICE void store(const P& p, const Block& b, const Shared& shared, const T* bias, T* output, Int thread) {
    const Int first = b.position * S - p.padding;
    const Acc add = bias != nullptr ? Acc(widen(Access::load(bias + b.group))) : Acc(0);
    T* const row = output + (b.output_row + first);
    if (first + kQuad * S >= 0 && first + kOutputs <= p.output && ((b.output_row + first) & (kQuad - 1)) == 0) {
      constexpr int kPasses = (kOutputs / kQuad - S + kFrameThreads - 1) / kFrameThreads;
      CONVT_UNROLL_ALL
      for (int pass = 0; pass < kPasses; ++pass) {
        const Int at = S + thread + pass * kFrameThreads;
        if (at >= kOutputs / kQuad) break;
        Quad sum = shared.outputs[0][at];
        CONVT_UNROLL_ALL
        for (int warp = 1; warp < kFrameWarps; ++warp) {
          const Quad other = shared.outputs[warp][at];
          CONVT_UNROLL_ALL
          for (int e = 0; e < kQuad; ++e) sum.value[e] += other.value[e];
        }
        CONVT_UNROLL_ALL
        for (int e = 0; e < kQuad; ++e) sum.value[e] += add;
        Access::template store_run<kQuad>(row + at * kQuad, sum.value);
      }
    } else {
      CONVT_UNROLL(1)
      for (Int at = kQuad * S + thread; at < kOutputs; at += kFrameThreads) {
        if (!inside(Int(first + at), p.output)) continue;
        Acc sum = 0;
        CONVT_UNROLL_ALL
        for (int warp = 0; warp < kFrameWarps; ++warp) sum += shared.outputs[warp][at / kQuad].value[at % kQuad];
        Access::store(row + at, round_to<T>(sum + add));
      }
    }
  }
};

}  // namespace direct
}  // namespace convt_gemm

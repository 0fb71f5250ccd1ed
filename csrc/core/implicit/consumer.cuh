#pragma once
// What both families do with a stage of x: each lane reads the words of its rows, whatever the shift of the tap, so that all
// taps share one copy of x.
#include <cmath>

#include "implicit/operands.cuh"

namespace convt_gemm::implicit {

/// Operand words of one tap of a chunk for one block of 64 rows: [step][as gpu::warp_multiply wants them].
template <class C>
struct Fragment {
  std::uint32_t high[C::kSteps][4];
  std::uint32_t low[C::kSplit ? C::kSteps : 1][4];
};

/// A thread's rows: where each starts in a stage of x.
template <class C>
struct RowOffsets {
  int at[C::kRowBlocks][2];  ///< elements of channels_first, words of channels_last

  /// `warpgroup` is counted within the team.
  __device__ __forceinline__ RowOffsets(const ImplicitGeometry& g, int warpgroup, int thread) {
#pragma unroll
    for (int block = 0; block < C::kRowBlocks; ++block) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = warpgroup * C::kTile.warpgroup_rows() + row_of_thread(block, half, thread);
        const int position = (row >> g.log2_line) * g.span + (row & (g.line - 1));
        at[block][half] = C::kChannelsLast ? position * g.x_pitch : position;
      }
    }
  }
};

/// A value as a TF32 operand: the tensor cores ignore the low 13 bits, so adding half of their unit is the rounding (to nearest,
/// ties away from zero). One instruction less for each value than gpu::round_tf32.
__device__ __forceinline__ std::uint32_t tf32_operand(float value) {
  const std::uint32_t bits = __float_as_uint(value);
  return fabsf(value) < INFINITY ? bits + 0x1000u : bits;  // the sum would make a number of some NaN
}

/// The words of x for tap `j` of the chunk. (g + 8 comes from the second offset, depth t + 4 from four words further.)
template <class C>
__device__ __forceinline__ void read_fragment(const ImplicitGeometry& g, const unsigned char* x, const int (&rows)[2], int lead,
                                              int j, int lane, Fragment<C>* to) {
  const int shift = lead + (g.chunk_taps - 1 - j) * g.input_step;
#pragma unroll
  for (int step = 0; step < C::kSteps; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int word = step * 8 + i / 2 * 4 + lane % 4, row = rows[i % 2];
      if constexpr (C::kWordElements == 2) {
        if constexpr (C::kChannelsLast) {
          to->high[step][i] = reinterpret_cast<const std::uint32_t*>(x)[row + shift * g.x_pitch + word];
        } else {
          const auto* at = reinterpret_cast<const std::uint16_t*>(x) + 2 * word * g.x_pitch + row + shift;
          to->high[step][i] = std::uint32_t{at[0]} | std::uint32_t{at[g.x_pitch]} << 16;
        }
      } else {
        const auto* values = reinterpret_cast<const float*>(x);
        const float value = C::kChannelsLast ? values[row + shift * g.x_pitch + word] : values[word * g.x_pitch + row + shift];
        const std::uint32_t high = tf32_operand(value);
        to->high[step][i] = high;
        if constexpr (C::kSplit) to->low[step][i] = tf32_operand(value - __uint_as_float(high & 0xffffe000u));
      }
    }
  }
}

/// Taps of a chunk that exist: the last block of taps may be shorter.
__device__ __forceinline__ int taps_of(const ImplicitGeometry& g, const Chunk& chunk) {
  const int left = g.taps - chunk.tap_block * g.chunk_taps;
  return left < g.chunk_taps ? left : g.chunk_taps;
}

}  // namespace convt_gemm::implicit

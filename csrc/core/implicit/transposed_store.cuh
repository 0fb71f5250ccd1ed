#pragma once
// From the sums of the transposed product to outputs in memory. A thread has neighbouring positions of two columns; eight lanes have neighbouring
// columns, which mostly are neighbouring outputs.
#include "implicit/epilogue.cuh"
#include "implicit/transposed_operands.cuh"

namespace convt_gemm::implicit {

template <class C, class Activation = Identity>
class TransposedStore {
 public:
  using Element = typename C::Element;

  /// From the tile's position 8 `eighth` on. `column`: of the warpgroup in the tile; `thread`: within the warpgroup.
  __device__ __forceinline__ TransposedStore(const TransposedParams& p, const Tile& tile, int column, int thread, int eighth)
      : y_(static_cast<unsigned char*>(p.y)), rows_(p.g.sample_rows.divisor()) {
    const ImplicitGeometry& g = p.g;
    const unsigned sample_outputs = static_cast<unsigned>(g.out_channels) * static_cast<unsigned>(g.groups) * static_cast<unsigned>(g.output);
    const unsigned position_bytes = static_cast<unsigned>(g.stride) * kBytes;
    step_ = 8 * position_bytes, jump_ = sample_outputs * kBytes - static_cast<unsigned>(rows_) * position_bytes;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const WeightColumn part = weight_column(p, tile, column + row_of_thread(0, half, thread));
      const int channel = tile.group * g.out_channels + part.channel;
      const int first = static_cast<int>(g.first_position * g.stride) + part.residue * g.dilation - static_cast<int>(g.padding);
      // Positions whose outputs are in the row of y: 0 <= position * stride + first < g.output.
      least_[half] = first >= 0 ? 0 : (-first + g.stride - 1) / g.stride;
      const int after = first >= g.output ? 0 : static_cast<int>((g.output - first + g.stride - 1) / g.stride);
      after_[half] = !part.valid ? 0 : after < g.positions ? after : g.positions;
      at_[half] = (static_cast<unsigned>(channel) * static_cast<unsigned>(g.output) + static_cast<unsigned>(first)) * kBytes;
      bias_[half] = part.valid && p.bias != nullptr ? to_float(static_cast<const Element*>(p.bias)[channel]) : 0.0f;
    }
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      const Row row = row_of(g, tile.row * g.tile_rows + eighth * 8 + thread % 4 * 2 + odd);
      position_[odd] = row.position, samples_[odd] = static_cast<int>(g.batch) - row.sample;
      from_[odd] = static_cast<unsigned>(row.sample) * sample_outputs * kBytes + static_cast<unsigned>(row.position) * position_bytes;
    }
  }

  /// Stores the sums of the next eight positions: of two positions of the thread's first column, then of its second.
  __device__ __forceinline__ void operator()(const float (&sums)[4]) {
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      const int position = samples_[odd] > 0 ? position_[odd] : kNone;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const Element value = from_float<Element>(activation_(sums[2 * half + odd] + bias_[half]));
        if (position >= least_[half] && position < after_[half]) *reinterpret_cast<Element*>(y_ + (from_[odd] + at_[half])) = value;
      }
      // Into the next sample; samples have eight rows at least, unless there is just one.
      const bool next = position_[odd] + 8 >= rows_;
      position_[odd] += next ? 8 - rows_ : 8;
      from_[odd] += next ? step_ + jump_ : step_;
      samples_[odd] -= next ? 1 : 0;
    }
  }

 private:
  static constexpr unsigned kBytes = sizeof(Element);
  /// No row of y has outputs there.
  static constexpr int kNone = 0x7fffffff;

  // Places in y are counted in bytes: y has fewer than 2^32.
  unsigned char* y_;
  int rows_;              ///< of a sample
  unsigned step_, jump_;  ///< to the outputs of the position eight further; in addition to that where a sample ends, to the next one's
  // Of the thread's columns: positions that have outputs, and where the output of a sample's position 0 is, in the sample.
  int least_[2], after_[2];
  unsigned at_[2];
  float bias_[2];
  // Of the two positions that come next: their place in their sample, samples from theirs on, and where their outputs are, but for `at_`.
  int position_[2], samples_[2];
  unsigned from_[2];
  Activation activation_{};
};

/// Sums of a tile on their way between the blocks of a cluster, in what were the stages: four of each thread and eight positions.
template <class C>
class Exchange {
 public:
  static constexpr int kEighths = C::kPositions / 8;

  /// `thread`: among those that multiply.
  __device__ __forceinline__ Exchange(unsigned char* memory, int thread) : mine_(reinterpret_cast<uint4*>(memory + kBarrierBytes) + thread) {}

  __device__ __forceinline__ void put(const float (&sums)[C::kSums]) const {
#pragma unroll
    for (int eighth = 0; eighth < kEighths; ++eighth) {
      mine_[eighth * kThreads] = make_uint4(__float_as_uint(sums[4 * eighth]), __float_as_uint(sums[4 * eighth + 1]),
                                            __float_as_uint(sums[4 * eighth + 2]), __float_as_uint(sums[4 * eighth + 3]));
    }
  }

  /// All blocks' sums, added in the order of their parts of the depth.
  __device__ __forceinline__ void add_up(int eighth, int blocks, float (&sums)[4]) const {
#pragma unroll
    for (float& sum : sums) sum = 0;
    for (int rank = 0; rank < blocks; ++rank) {
      const uint4 part = gpu::load_remote(mine_ + eighth * kThreads, static_cast<unsigned>(rank));
      sums[0] += __uint_as_float(part.x), sums[1] += __uint_as_float(part.y), sums[2] += __uint_as_float(part.z), sums[3] += __uint_as_float(part.w);
    }
  }

 private:
  static constexpr int kThreads = kTransposedMultiplying;
  uint4* mine_;
};

}  // namespace convt_gemm::implicit

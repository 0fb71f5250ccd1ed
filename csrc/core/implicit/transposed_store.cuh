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
  __device__ __forceinline__ TransposedStore(const TransposedParams& p, const Tile& tile, int column, int thread, int eighth) : g_(p.g) {
    const std::int64_t sample_outputs = std::int64_t{g_.out_channels} * g_.groups * g_.output;
    step_ = 8 * g_.stride, jump_ = sample_outputs - std::int64_t{g_.sample_rows.divisor()} * g_.stride;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const WeightColumn part = weight_column(p, tile, column + row_of_thread(0, half, thread));
      const std::int64_t channel = std::int64_t{tile.group} * g_.out_channels + part.channel;
      const int first = static_cast<int>(g_.first_position * g_.stride + std::int64_t{part.residue} * g_.dilation - g_.padding);
      first_output_[half] = part.valid ? first : kNowhere;
      at_[half] = channel * g_.output + first;
      bias_[half] = part.valid && p.bias != nullptr ? to_float(static_cast<const Element*>(p.bias)[channel]) : 0.0f;
    }
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      const Row row = row_of(g_, tile.row * g_.tile_rows + eighth * 8 + thread % 4 * 2 + odd);
      position_[odd] = row.position, samples_[odd] = static_cast<int>(g_.batch) - row.sample;
      y_[odd] = static_cast<Element*>(p.y) + (row.sample * sample_outputs + std::int64_t{row.position} * g_.stride);
    }
  }

  /// Stores the sums of the next eight positions: of two positions of the thread's first column, then of its second.
  __device__ __forceinline__ void operator()(const float (&sums)[4]) {
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      const bool exists = position_[odd] < g_.positions && samples_[odd] > 0;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const unsigned output = static_cast<unsigned>(position_[odd] * g_.stride + first_output_[half]);
        if (exists && output < static_cast<unsigned>(g_.output)) {
          y_[odd][at_[half]] = from_float<Element>(activation_(sums[2 * half + odd] + bias_[half]));
        }
      }
      position_[odd] += 8, y_[odd] += step_;
      while (position_[odd] >= g_.sample_rows.divisor()) {  // into the next sample
        position_[odd] -= g_.sample_rows.divisor(), y_[odd] += jump_, --samples_[odd];
      }
    }
  }

 private:
  /// Before every row of y, however far a position is in its sample.
  static constexpr int kNowhere = -(1 << 30);

  const ImplicitGeometry& g_;
  int step_;
  std::int64_t jump_;  ///< elements of y from where one sample's positions end to where the next one's begin
  // Of the thread's columns: the output of a sample's first position, in its row and in its sample.
  int first_output_[2];
  std::int64_t at_[2];
  float bias_[2];
  // Of the two positions that come next: their place in their sample, samples from theirs on, and where outputs of position 0 would be in a row of y, as far on.
  int position_[2], samples_[2];
  Element* y_[2];
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

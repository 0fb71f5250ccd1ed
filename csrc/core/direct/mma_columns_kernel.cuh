#pragma once
// Columns by tensor cores, for 16-bit types and float32 as TF32. plan/direct_columns.h says what a column and a tile are, plan/mma_columns.h what a chunk and a stage. A block:
//
//   load      one lane of each loading warp has rows of x copied to a ring of stages by the copy engine (mma_columns_rows.cuh)
//   weights   the multiplying warps put the group's weights into shared memory meanwhile, in the order in which products read them
//   multiply  each warp adds the products of its split's chunks at its slice of the positions: weights are the products' rows, positions their columns
//   put       the columns go to shared memory, where the stages were
//   finish    as in columns_kernel.cuh, and the same code
//
// All sums have a fixed order. What a stage holds of positions outside the row is whatever lies there: it reaches those positions' columns only, which nothing reads.
// Of channels that there are not, zeros are multiplied.
#include <cstdint>
#include <type_traits>

#include "direct/columns_kernel.cuh"
#include "direct/mma_columns_params.h"
#include "direct/mma_columns_rows.cuh"
#include "implicit/gpu_ops.cuh"
#include "plan/mma_columns.h"

namespace convt_gemm {
namespace direct {

/// `kBlocks_`: of 16 columns.
template <class T_, int kBlocks_>
struct MmaColumns {
  using T = T_;
  static constexpr int kBlocks = kBlocks_;
  using Scalar = Columns<T, kBlocks * kMmaColumns, false>;  ///< the kernel that has finish() and the tiles
  static constexpr gpu::Words kWords = std::is_same_v<T, float> ? gpu::Words::tf32 : std::is_same_v<T, BFloat16> ? gpu::Words::bfloat16 : gpu::Words::float16;
  static constexpr int kSteps = int(sizeof(T)) / 2;  ///< products of a chunk, one after the other
  static_assert(kMmaChannels == 16, "eight words of depth, of two channels or one, for each step");
  static constexpr int kColumnGroups = kMmaSlice / 8;  ///< products of a warp for a chunk, of eight positions each
  static constexpr int kMultiplyingBarrier = 1;        ///< of the warps that multiply

  using Bits = std::conditional_t<kSteps == 1, std::uint16_t, std::uint32_t>;
  using Sums = float[kBlocks][kColumnGroups][4];

  /// A lane's part of the weights of a product, see gpu::warp_multiply: columns first_column and first_column + 8, words of depth row(0) and row(1). Word k is
  /// the channels k and k + 8 of a chunk, in TF32 one of them for each step. Their rows of x begin as late as each other.
  struct Lane {
    int first_column, word;
    __device__ __forceinline__ explicit Lane(int lane) : first_column(lane / 4), word(lane % 4) {}
    __device__ __forceinline__ int row(int half) const { return word + 4 * half; }
  };

  template <class Access>
  static __device__ __forceinline__ void run(const MmaColumnParams& params) {
    const ColumnParams& p = params.columns;
    const typename Scalar::Block block = Scalar::block_of(p, static_cast<std::int32_t>(blockIdx.x));
    if (!Scalar::has_outputs(block)) return;
    const MmaColumnRing ring(params, gpu::dynamic_shared());
    const int thread = static_cast<int>(threadIdx.x), warp = __shfl_sync(0xffffffffu, thread / kWarpLanes, 0), loader = warp - p.slices * p.splits;
    if (loader >= 0) {
      if (loader == 0 && gpu::elect()) ring.init_barriers(params.stages, p.slices * kWarpLanes);
      __syncthreads();
      if (gpu::elect()) {
        const MmaColumnRows<T> rows(params, block, ring, loader);
        rows.prefetch();
        gpu::wait_for_kernel_before();
        rows.load();
        if (loader == 0) gpu::let_next_kernel_start();  // no earlier: what is left is little, and the next one's blocks fit beside these
      }
      return;
    }
    __syncthreads();
    gpu::wait_for_kernel_before();
    stage_weights(params, block, ring.weights, warp, Lane(thread % kWarpLanes));
    gpu::named_barrier(kMultiplyingBarrier, p.threads);
    Sums sums = {};
    multiply(params, block, ring, warp, thread % kWarpLanes, sums);
    gpu::named_barrier(kMultiplyingBarrier, p.threads);  // nobody reads the stages any more
    auto* const columns = reinterpret_cast<float*>(ring.stages);
    put(p, columns, warp, Lane(thread % kWarpLanes), sums);
    gpu::named_barrier(kMultiplyingBarrier, p.threads);
    const typename Scalar::Thread parked = {};  // of which there is nothing
    Scalar::template finish<Access>(p, block, columns, static_cast<const T*>(params.bias), static_cast<T*>(params.output), thread, parked);
  }

  /// A lane's 16 bytes of each product's weights lie together, [chunk][block of columns][step][lane]. Zeros stand for channels and columns that there are not.
  static __device__ __forceinline__ void stage_weights(const MmaColumnParams& params, const typename Scalar::Block& block, uint4* weights, int warp, Lane lane) {
    constexpr int kTogether = 4;  // so that their latencies overlap
    const ColumnParams& p = params.columns;
    const int warps = p.slices * p.splits, products = params.chunks * kBlocks * kSteps;
    const auto* const group = static_cast<const Bits*>(params.weight) + std::int64_t{block.group} * p.group_in_channels * p.columns;
    uint4* const to = weights + (lane.first_column * 4 + lane.word);
#pragma unroll 1
    for (int first = warp; first < products; first += kTogether * warps) {
      std::uint32_t low[kTogether][4], high[kTogether][4];  // high: of 16-bit types
#pragma unroll
      for (int q = 0; q < kTogether; ++q) {
        const int product = first + q * warps;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int channel = product / (kBlocks * kSteps) * kMmaChannels + product % kSteps * 8 + lane.row(i / 2);
          const int column = product / kSteps % kBlocks * kMmaColumns + lane.first_column + 8 * (i % 2);
          const bool there = column < p.columns;
          const Bits* const from = group + (channel * p.columns + column);
          low[q][i] = gpu::load_or_zero(from, there && channel < p.group_in_channels);
          if constexpr (kSteps == 1) high[q][i] = gpu::load_or_zero(from + 8 * p.columns, there && channel + 8 < p.group_in_channels);
        }
      }
#pragma unroll
      for (int q = 0; q < kTogether; ++q) {
        if (first + q * warps >= products) break;
        const auto word = [&](int i) {
          if constexpr (kSteps == 1) {
            return low[q][i] | high[q][i] << 16;
          } else {
            return gpu::tf32_operand(__uint_as_float(low[q][i]));
          }
        };
        to[(first + q * warps) * kWarpLanes] = make_uint4(word(0), word(1), word(2), word(3));
      }
    }
  }

  static __device__ __forceinline__ void multiply(const MmaColumnParams& params, const typename Scalar::Block& block, const MmaColumnRing& ring, int warp, int thread, Sums& sums) {
    const ColumnParams& p = params.columns;
    const int split = p.by_slices.quotient(warp), slice = warp - split * p.slices;
    const Lane lane(thread);
    // Of all chunks: 16 rows are a multiple of 16 bytes.
    int offset[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int late = MmaColumnRows<T>::late(p, block, lane.row(half));
      offset[half] = lane.row(half) * params.row_pitch + int(sizeof(T)) * (late + slice * kMmaSlice + lane.first_column);
    }
    const int whole_chunks = p.group_in_channels / kMmaChannels;
    int stage = split, parity = 0, chunk = split;
    const auto advance = [&] {
      gpu::barrier_arrive(ring.empty(stage));  // each lane for what it has read; a warp's arrivals take no longer than one
      stage += p.splits, chunk += p.splits;
      if (stage >= params.stages) stage = split, parity ^= 1;
    };
#pragma unroll 1
    while (chunk < whole_chunks) {
      gpu::barrier_wait(ring.full(stage), parity);
      multiply_chunk<true>(ring.weights + chunk * kBlocks * kSteps * kWarpLanes + thread, ring.stage(stage), params.row_pitch, offset, lane, kMmaChannels, sums);
      advance();
    }
    if (chunk < params.chunks) {
      gpu::barrier_wait(ring.full(stage), parity);
      const int channels = p.group_in_channels - chunk * kMmaChannels;
      multiply_chunk<false>(ring.weights + chunk * kBlocks * kSteps * kWarpLanes + thread, ring.stage(stage), params.row_pitch, offset, lane, channels, sums);
    }
  }

  /// kAll: the chunk has all of its channels.
  template <bool kAll>
  static __device__ __forceinline__ void multiply_chunk(const uint4* weights, const unsigned char* x, int row_pitch, const int (&offset)[2], Lane lane, int channels, Sums& sums) {
    std::uint32_t operand[kBlocks * kSteps][4];
#pragma unroll
    for (int b = 0; b < kBlocks * kSteps; ++b) {
      const uint4 words = weights[b * kWarpLanes];
      operand[b][0] = words.x, operand[b][1] = words.y, operand[b][2] = words.z, operand[b][3] = words.w;
    }
    const auto at = [&](int half, int further, int n) -> std::uint32_t {
      if (!kAll && lane.row(half) + further >= channels) return 0;
      return *reinterpret_cast<const Bits*>(x + offset[half] + further * row_pitch + n * 8 * int(sizeof(T)));
    };
#pragma unroll
    for (int n = 0; n < kColumnGroups; ++n) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        std::uint32_t word[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          if constexpr (kSteps == 1) {
            word[half] = __byte_perm(at(half, 0, n), at(half, 8, n), 0x5410);
          } else {
            word[half] = gpu::tf32_operand(__uint_as_float(at(half, 8 * step, n)));
          }
        }
#pragma unroll
        for (int b = 0; b < kBlocks; ++b) gpu::warp_multiply<kWords>(sums[b][n], operand[b * kSteps + step], word[0], word[1]);
      }
    }
  }

  static __device__ __forceinline__ void put(const ColumnParams& p, float* columns, int warp, Lane lane, const Sums& sums) {
    const int split = p.by_slices.quotient(warp), slice = warp - split * p.slices;
    float* const to = columns + (split * Scalar::J + lane.first_column) * p.pitch + slice * kMmaSlice + 2 * lane.word;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int n = 0; n < kColumnGroups; ++n) to[(b * kMmaColumns + i / 2 * 8) * p.pitch + n * 8 + i % 2] = sums[b][n][i];
      }
    }
  }
};

}  // namespace direct
}  // namespace convt_gemm

#pragma once
// The library's own float32 column GEMM, for products whose depth is too small for a general kernel: there, time goes into
// filling pipelines and into the epilogue, not into arithmetic. So the blocks are persistent, loads of the next tile run during
// the stores of this one (cp.async), and accumulators go straight to memory, 16 bytes a thread.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "convt_gemm/status.h"
#include "gemm/batched_gemm.h"
#include "plan/arithmetic.h"

namespace convt_gemm {
namespace column_gemm {

constexpr int kThreads = 128;
constexpr int kTileRows = 64;
constexpr int kTilePositions = 128;
constexpr int kTileDepth = 16;
constexpr int kStages = 3;
// A pitch of 8 words modulo 32 spreads the operand reads of a tensor-core instruction over the banks.
constexpr int kRowPitch = kTileRows + 8;
constexpr int kPositionPitch = kTilePositions + 8;

struct Stage {
  float weight[kTileDepth][kRowPitch];
  float x[kTileDepth][kPositionPitch];
};

struct Params {
  BatchedGemm gemm;
  std::int64_t row_tiles, position_tiles, items;  // items = row tiles (fastest) * position tiles * batch
  int chunks;                                     // of kTileDepth in the depth
};

/// Copies kBytes to shared memory without waiting; zeros if not `valid`.
template <int kBytes>
__device__ __forceinline__ void copy_async(float* shared, const float* global, bool valid) {
  const auto to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  const int size = valid ? kBytes : 0;
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(size) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(global), "r"(size) : "memory");
  }
}

/// Fills `height` = kTileDepth rows of `kWidth` values from a matrix with contiguous rows; zeros beyond `depth` and `width`.
template <int kVector, int kWidth, int kPitch>
__device__ __forceinline__ void load_operand(float (&shared)[kTileDepth][kPitch], const float* matrix, std::int64_t stride,
                                             std::int64_t depth_left, std::int64_t width_left) {
  constexpr int kPerRow = kWidth / kVector;
#pragma unroll 4
  for (int i = threadIdx.x; i < kTileDepth * kPerRow; i += kThreads) {
    const int d = i / kPerRow, c = i % kPerRow * kVector;
    const bool valid = d < depth_left && c < width_left;
    copy_async<4 * kVector>(&shared[d][c], matrix + (valid ? d * stride + c : 0), valid);
  }
}

__device__ __forceinline__ std::uint32_t round_to_tf32(float value) {
  std::uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
}

__device__ __forceinline__ void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// An operand as tensor cores take it: `high` alone for TF32; for tf32x3 the value cut to TF32 and what the cut left. The
/// hardware ignores the low 13 bits, so the value itself serves as its own cut.
struct Split {
  std::uint32_t high, low;
};

template <bool kThreeProducts>
__device__ __forceinline__ Split split(float value) {
  if constexpr (kThreeProducts) {
    const std::uint32_t bits = __float_as_uint(value);
    return {bits, __float_as_uint(value - __uint_as_float(bits & 0xffffe000u))};
  } else {
    return {round_to_tf32(value), 0};
  }
}

/// Tensor cores: a warp computes 32 rows x 64 positions. A thread's four neighbours in memory come from two instructions: the
/// positions of a 16-wide group are dealt out so that its two pairs of accumulator columns follow one another.
template <bool kThreeProducts>
struct TensorCoreTile {
  float sum[2][8][4];  // [16 rows][8 positions][accumulators]

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (auto& rows : sum) {
#pragma unroll
      for (auto& c : rows) c[0] = c[1] = c[2] = c[3] = 0.0f;
    }
  }

  __device__ __forceinline__ void add(const Stage& stage) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const int row0 = warp % 2 * 32 + g, position0 = warp / 2 * 64 + 4 * (g / 2) + g % 2;
#pragma unroll
    for (int d = 0; d < kTileDepth; d += 8) {
      std::uint32_t high[2][4], low[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const Split s = split<kThreeProducts>(stage.weight[d + t + i / 2 * 4][row0 + 16 * m + i % 2 * 8]);
          high[m][i] = s.high, low[m][i] = s.low;
        }
      }
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const int position = position0 + n / 2 * 16 + n % 2 * 2;
        const Split s0 = split<kThreeProducts>(stage.x[d + t][position]);
        const Split s1 = split<kThreeProducts>(stage.x[d + t + 4][position]);
        const std::uint32_t x_high[2] = {s0.high, s1.high}, x_low[2] = {s0.low, s1.low};
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          if constexpr (kThreeProducts) {
            multiply_add(sum[m][n], low[m], x_high);
            multiply_add(sum[m][n], high[m], x_low);
          }
          multiply_add(sum[m][n], high[m], x_high);
        }
      }
    }
  }

  /// Calls write(row, position, four values) for each group of four neighbouring positions.
  template <class Write>
  __device__ __forceinline__ void for_each(Write write) const {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int n = 0; n < 8; n += 2) {
          write(warp % 2 * 32 + 16 * m + 8 * half + g, warp / 2 * 64 + n / 2 * 16 + 4 * t,
                make_float4(sum[m][n][2 * half], sum[m][n][2 * half + 1], sum[m][n + 1][2 * half], sum[m][n + 1][2 * half + 1]));
        }
      }
    }
  }
};

/// Ordinary multiply-add: a thread computes 8 rows x 8 positions, as two groups of four of each.
struct PlainTile {
  float sum[8][8];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (auto& row : sum) {
#pragma unroll
      for (float& value : row) value = 0.0f;
    }
  }

  static __device__ __forceinline__ int row(int i) { return i / 4 * 32 + int(threadIdx.x) / 16 * 4 + i % 4; }
  static __device__ __forceinline__ int position(int i) { return i / 4 * 64 + int(threadIdx.x) % 16 * 4 + i % 4; }

  __device__ __forceinline__ void add(const Stage& stage) {
#pragma unroll
    for (int d = 0; d < kTileDepth; ++d) {
      float weight[8], x[8];
#pragma unroll
      for (int i = 0; i < 8; i += 4) {
        *reinterpret_cast<float4*>(&weight[i]) = *reinterpret_cast<const float4*>(&stage.weight[d][row(i)]);
        *reinterpret_cast<float4*>(&x[i]) = *reinterpret_cast<const float4*>(&stage.x[d][position(i)]);
      }
#pragma unroll
      for (int r = 0; r < 8; ++r) {
#pragma unroll
        for (int p = 0; p < 8; ++p) sum[r][p] = fmaf(weight[r], x[p], sum[r][p]);
      }
    }
  }

  template <class Write>
  __device__ __forceinline__ void for_each(Write write) const {
#pragma unroll
    for (int r = 0; r < 8; ++r) {
#pragma unroll
      for (int p = 0; p < 8; p += 4) write(row(r), position(p), make_float4(sum[r][p], sum[r][p + 1], sum[r][p + 2], sum[r][p + 3]));
    }
  }
};

/// Where a block stands in its list of work: chunk `chunk` of item `item`.
struct Step {
  std::int64_t item;
  int chunk;

  __device__ __forceinline__ void advance(int chunks) {
    if (++chunk == chunks) chunk = 0, item += gridDim.x;
  }
};

struct ItemPlace {
  std::int64_t row, position, batch;

  __device__ __forceinline__ ItemPlace(const Params& p, std::int64_t item) {
    const std::int64_t tile = item / p.row_tiles;
    row = (item - tile * p.row_tiles) * kTileRows;
    batch = tile / p.position_tiles;
    position = (tile - batch * p.position_tiles) * kTilePositions;
  }
};

template <class Tile, bool kAligned>
__global__ void __launch_bounds__(kThreads, 4) column_gemm_kernel(const Params p) {
  __shared__ __align__(16) Stage stages[kStages];
  constexpr int kVector = kAligned ? 4 : 1;
  const BatchedGemm& g = p.gemm;

  const auto load = [&](Stage& stage, const Step& step) {
    if (step.item < p.items) {
      const ItemPlace at(p, step.item);
      const std::int64_t d = std::int64_t{step.chunk} * kTileDepth;
      const auto* weight = static_cast<const float*>(g.weight) + at.batch * g.weight_batch_stride + d * g.weight_stride + at.row;
      const auto* x = static_cast<const float*>(g.x) + at.batch * g.x_batch_stride + d * g.x_stride + at.position;
      load_operand<kVector, kTileRows>(stage.weight, weight, g.weight_stride, g.depth - d, g.rows - at.row);
      load_operand<kVector, kTilePositions>(stage.x, x, g.x_stride, g.depth - d, g.positions - at.position);
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  };

  Step ahead{blockIdx.x, 0};
  for (int s = 0; s < kStages - 1; ++s, ahead.advance(p.chunks)) load(stages[s], ahead);

  Tile tile;
  tile.clear();
  int stage = 0;
  for (Step step{blockIdx.x, 0}; step.item < p.items; step.advance(p.chunks)) {
    asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 2) : "memory");
    __syncthreads();  // the stage is there for all, and all have left the one that is filled next
    load(stages[(stage + kStages - 1) % kStages], ahead);
    ahead.advance(p.chunks);
    tile.add(stages[stage]);
    stage = (stage + 1) % kStages;
    if (step.chunk + 1 < p.chunks) continue;

    const ItemPlace at(p, step.item);
    auto* columns = static_cast<float*>(g.columns) + at.batch * g.columns_batch_stride + at.row * g.columns_stride + at.position;
    const std::int64_t rows = g.rows - at.row, positions = g.positions - at.position;
    tile.for_each([&](int row, int position, float4 value) {
      if (row >= rows || position >= positions) return;
      float* to = columns + row * g.columns_stride + position;
      if constexpr (kAligned) {
        *reinterpret_cast<float4*>(to) = value;
      } else {
        to[0] = value.x;
        if (position + 1 < positions) to[1] = value.y;
        if (position + 2 < positions) to[2] = value.z;
        if (position + 3 < positions) to[3] = value.w;
      }
    });
    tile.clear();
  }
}

template <class Tile, bool kAligned>
Status run(const BatchedGemm& gemm, int multiprocessors, cudaStream_t stream) {
  Params p;
  p.gemm = gemm;
  p.row_tiles = ceil_div(gemm.rows, kTileRows);
  p.position_tiles = ceil_div(gemm.positions, kTilePositions);
  p.items = p.row_tiles * p.position_tiles * gemm.batch;
  p.chunks = int(ceil_div(gemm.depth, kTileDepth));
  const auto blocks = static_cast<unsigned>(std::min<std::int64_t>(p.items, std::int64_t{multiprocessors} * 4));
  column_gemm_kernel<Tile, kAligned><<<blocks, kThreads, 0, stream>>>(p);
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) return Status::failure(std::string("column GEMM launch: ") + cudaGetErrorString(error));
  return {};
}

}  // namespace column_gemm
}  // namespace convt_gemm

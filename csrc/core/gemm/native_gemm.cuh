#pragma once
// The library's own float32 column GEMM, for products of small depth: there, time goes into filling pipelines and into
// the epilogue, not into arithmetic. So the blocks are persistent, loads of the next tile run during the arithmetic and
// the stores of this one (cp.async), and a warp stores pieces of rows of 256 bytes (128 where alignment forbids 16-byte
// stores). Each tile is computed by one block in a fixed order: results do not depend on the grid. PERFORMANCE.md has
// the measurements behind the constants.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "convt_gemm/status.h"
#include "gemm/batched_gemm.h"
#include "plan/arithmetic.h"
#include "plan/gemm_tile.h"

namespace convt_gemm {
namespace column_gemm {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kTileRows = kNativeTile.rows;
constexpr int kTilePositions = kNativeTile.positions;
constexpr int kTileDepth = kNativeTile.depth;
constexpr int kStages = 3;
// Pitches of 8 words modulo 32 spread the operand reads of a tensor-core instruction over the banks.
constexpr int kRowPitch = kTileRows + 8;
constexpr int kPositionPitch = kTilePositions + 8;

/// Counts tiles in each direction; rows run fastest, so that blocks at work at the same time share tiles of x in the L2
/// cache.
struct TileIndex {
  int row, position, batch;
};

/// A chunk of kTileDepth of both operands.
struct alignas(16) Stage {
  float weight[kTileDepth][kRowPitch];
  float x[kTileDepth][kPositionPitch];
  TileIndex tile;
};

struct Params {
  BatchedGemm gemm;
  int row_tiles, position_tiles;
  int chunks;           // of kTileDepth in the depth
  int tiles;            // of each block
  unsigned longer;      // blocks that have one tile more: the first
  TileIndex grid_step;  // what gridDim.x tiles are in each direction
};

/// How much of a tile that begins at `begin` lies within `extent`.
__device__ __forceinline__ int rest(std::int64_t extent, std::int64_t begin, int tile) {
  return extent - begin < tile ? static_cast<int>(extent - begin) : tile;
}

/// Copies kBytes to shared memory without waiting; zeros if not `valid`.
template <int kBytes>
__device__ __forceinline__ void copy_async(float* shared, const float* global, bool valid) {
  const auto to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  const int size = valid ? kBytes : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(global), "n"(kBytes), "r"(size)
               : "memory");
}

/// Fills kTileDepth rows of kWidth values from a matrix with contiguous rows; zeros beyond `depth` and `width`.
template <int kVector, int kWidth, int kPitch>
__device__ __forceinline__ void load_operand(float (&shared)[kTileDepth][kPitch], const float* matrix,
                                             std::int64_t stride, int depth, int width) {
  constexpr int kVectors = kWidth / kVector, kAtOnce = kThreads / kVectors;
  static_assert(kThreads % kVectors == 0 && kTileDepth % kAtOnce == 0,
                "every thread copies equally much, of one column");
  const int column = static_cast<int>(threadIdx.x) % kVectors * kVector,
            first = static_cast<int>(threadIdx.x) / kVectors;
  const float* from = matrix + first * stride + column;
#pragma unroll
  for (int d = first; d < first + kTileDepth; d += kAtOnce, from += kAtOnce * stride) {
    copy_async<4 * kVector>(&shared[d][column], from, column < width && d < depth);
  }
}

/// Stores past the compiler's habit of splitting a float4 that comes from separate registers.
__device__ __forceinline__ void store(float* to, float4 value) { __stwb(reinterpret_cast<float4*>(to), value); }

__device__ __forceinline__ void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// A value as a sum of two TF32 numbers. The hardware ignores the low 13 bits of an operand; adding half of their unit
/// first makes that a rounding, which leaves half the error that cutting would, and one without bias.
struct Split {
  std::uint32_t high, low;

  __device__ __forceinline__ explicit Split(float value) {
    high = __float_as_uint(value) + 0x1000u;
    low = __float_as_uint(value - __uint_as_float(high & 0xffffe000u));
  }
};

/// tf32x3 on tensor cores: a warp computes 32 rows x 64 positions. Positions are the rows of the 16x8x8 instruction. A
/// thread's part of either operand is consecutive in memory: the instruction's order of rows and positions is free, as
/// long as operands and sums agree in it.
struct TensorCoreTile {
  static constexpr int kBlocks = 3;  // per multiprocessor
  static constexpr int kWarpRows = 32, kWarpPositions = 64;
  static constexpr int kM = kWarpPositions / 16, kN = kWarpRows / 8;

  /// For the way from the instruction's layout to whole rows: four rows of each warp at a time.
  struct Scratch {
    float row[kWarps][4][kWarpPositions + 8];
  };

  float sum[kM][kN][4];

  static __device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x) % 32; }
  static __device__ __forceinline__ int warp() { return static_cast<int>(threadIdx.x) / 32; }
  static __device__ __forceinline__ int warp_row() { return warp() / 2 * kWarpRows; }
  static __device__ __forceinline__ int warp_position() { return warp() % 2 * kWarpPositions; }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (auto& m : sum) {
#pragma unroll
      for (auto& n : m) n[0] = n[1] = n[2] = n[3] = 0.0f;
    }
  }

  /// Tensor cores cut off what exceeds the accumulator's last place, always towards zero. Their sums therefore start
  /// anew with each chunk and are added up by ordinary additions, which keeps the error independent of the depth.
  template <int kVector>
  __device__ __forceinline__ void add(const Stage& stage) {
    const int g = lane() / 4, t = lane() % 4;
    constexpr int kSteps = kTileDepth / 8;
    std::uint32_t weight_high[kSteps][kN][2], weight_low[kSteps][kN][2];
#pragma unroll
    for (int i = 0; i < 2 * kSteps; ++i) {
      const float4 weight = *reinterpret_cast<const float4*>(&stage.weight[t + 4 * i][warp_row() + kN * g]);
      const float values[kN] = {weight.x, weight.y, weight.z, weight.w};
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        const Split split(values[n]);
        weight_high[i / 2][n][i % 2] = split.high, weight_low[i / 2][n][i % 2] = split.low;
      }
    }
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      float part[kN][4] = {};
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        std::uint32_t high[4], low[4];
#pragma unroll
        for (int i = 0; i < 4; i += 2) {
          const float2 x =
              *reinterpret_cast<const float2*>(&stage.x[8 * step + 2 * i + t][warp_position() + 16 * m + 2 * g]);
          const Split first(x.x), second(x.y);
          high[i] = first.high, low[i] = first.low, high[i + 1] = second.high, low[i + 1] = second.low;
        }
#pragma unroll
        for (int product = 0; product < 3; ++product) {
#pragma unroll
          for (int n = 0; n < kN; ++n) {
            multiply_add(part[n], product == 0 ? low : high, product == 1 ? weight_low[step][n] : weight_high[step][n]);
          }
        }
      }
#pragma unroll
      for (int n = 0; n < kN; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[m][n][i] += part[n][i];
      }
    }
  }

  /// Stores the tile: `rows` x `positions` of it.
  template <int kVector>
  __device__ __forceinline__ void write(Scratch& scratch, float* columns, std::int64_t stride, int rows,
                                        int positions) const {
    constexpr int kLanes = kVector == 4 ? kWarpPositions / kVector : 32, kTogether = 32 / kLanes, kRowsOfLane = 2 * kN;
    auto& staged = scratch.row[warp()];
    const int first = lane() / kLanes, row = warp_row() + kRowsOfLane * first;
    const int column = lane() % kLanes * kVector, position = warp_position() + column;
    columns += row * stride + position;
#pragma unroll
    for (int r = 0; r < kRowsOfLane; ++r, columns += stride) {
      const int n = r % kN, i = r / kN;
      __syncwarp();
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        *reinterpret_cast<float2*>(&staged[lane() % 4][16 * m + lane() / 4 * 2]) =
            make_float2(sum[m][n][i], sum[m][n][2 + i]);
      }
      __syncwarp();
#pragma unroll
      for (int s = 0; s < 4; s += kTogether) {
        float* to = columns + s * kRowsOfLane * stride;
        const float* from = &staged[first + s][column];
        const bool row_inside = row + s * kRowsOfLane + r < rows;
#pragma unroll
        for (int c = 0; c < kWarpPositions; c += kLanes * kVector) {
          if (!row_inside || position + c >= positions) continue;
          if constexpr (kVector == 4) {
            store(to + c, *reinterpret_cast<const float4*>(from + c));
          } else {
            to[c] = from[c];
          }
        }
      }
    }
  }
};

/// Ordinary multiply-add: a warp computes 16 rows x 128 positions. Where 16-byte stores are allowed, a thread has 8
/// rows x 8 positions; else 16 rows x 4 positions 32 apart, so that a warp still stores 32 neighbours.
struct PlainTile {
  static constexpr int kBlocks = 4;  // per multiprocessor
  struct Scratch {};

  float sum[64];

  template <int kVector>
  struct Layout {
    static constexpr int kLanes = kVector == 4 ? 16 : 32;  // that share rows
    static constexpr int kPositions = kTilePositions / kLanes, kRows = 64 / kPositions;
    static __device__ __forceinline__ int row() { return static_cast<int>(threadIdx.x) / kLanes * kRows; }
    static __device__ __forceinline__ int position() { return static_cast<int>(threadIdx.x) % kLanes * kVector; }
  };

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (float& value : sum) value = 0.0f;
  }

  template <int kVector>
  __device__ __forceinline__ void add(const Stage& stage) {
    using L = Layout<kVector>;
#pragma unroll
    for (int d = 0; d < kTileDepth; ++d) {
      float weight[L::kRows], x[L::kPositions];
#pragma unroll
      for (int r = 0; r < L::kRows; r += 4) {
        *reinterpret_cast<float4*>(&weight[r]) = *reinterpret_cast<const float4*>(&stage.weight[d][L::row() + r]);
      }
#pragma unroll
      for (int p = 0; p < L::kPositions; p += kVector) {
        const float* from = &stage.x[d][L::position() + L::kLanes * p];
        if constexpr (kVector == 4) {
          *reinterpret_cast<float4*>(&x[p]) = *reinterpret_cast<const float4*>(from);
        } else {
          x[p] = *from;
        }
      }
#pragma unroll
      for (int i = 0; i < 64; ++i) sum[i] = fmaf(weight[i / L::kPositions], x[i % L::kPositions], sum[i]);
    }
  }

  /// Stores the tile: `rows` x `positions` of it.
  template <int kVector>
  __device__ __forceinline__ void write(Scratch&, float* columns, std::int64_t stride, int rows, int positions) const {
    using L = Layout<kVector>;
    columns += L::row() * stride + L::position();
#pragma unroll
    for (int r = 0; r < L::kRows; ++r, columns += stride) {
#pragma unroll
      for (int p = 0; p < L::kPositions; p += kVector) {
        if (L::row() + r >= rows || L::position() + L::kLanes * p >= positions) continue;
        const float* value = &sum[r * L::kPositions + p];
        if constexpr (kVector == 4) {
          store(columns + L::kLanes * p, make_float4(value[0], value[1], value[2], value[3]));
        } else {
          columns[L::kLanes * p] = *value;
        }
      }
    }
  }
};

template <class Tile, int kVector>
__global__ void __launch_bounds__(kThreads, Tile::kBlocks) column_gemm_kernel(const __grid_constant__ Params p) {
  __shared__ __align__(16) Stage stages[kStages];
  __shared__ __align__(16) typename Tile::Scratch scratch;
  const BatchedGemm& g = p.gemm;

  TileIndex next;  // the tile and chunk to load
  next.position = static_cast<int>(blockIdx.x) / p.row_tiles;
  next.row = static_cast<int>(blockIdx.x) - next.position * p.row_tiles;
  next.batch = next.position / p.position_tiles;
  next.position -= next.batch * p.position_tiles;
  int next_chunk = 0;

  const auto load = [&](Stage& stage) {
    if (next.batch < g.batch) {
      const std::int64_t row = std::int64_t{next.row} * kTileRows,
                         position = std::int64_t{next.position} * kTilePositions;
      const std::int64_t d = std::int64_t{next_chunk} * kTileDepth;
      const auto* weight =
          static_cast<const float*>(g.weight) + next.batch * g.weight_batch_stride + d * g.weight_stride + row;
      const auto* x = static_cast<const float*>(g.x) + next.batch * g.x_batch_stride + d * g.x_stride + position;
      const int depth = rest(g.depth, d, kTileDepth);
      load_operand<kVector, kTileRows>(stage.weight, weight, g.weight_stride, depth, rest(g.rows, row, kTileRows));
      load_operand<kVector, kTilePositions>(stage.x, x, g.x_stride, depth, rest(g.positions, position, kTilePositions));
      if (threadIdx.x == 0) stage.tile = next;
      if (++next_chunk == p.chunks) {
        next_chunk = 0;
        next.row += p.grid_step.row, next.position += p.grid_step.position, next.batch += p.grid_step.batch;
        if (next.row >= p.row_tiles) next.row -= p.row_tiles, ++next.position;
        if (next.position >= p.position_tiles) next.position -= p.position_tiles, ++next.batch;
      }
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  };

#pragma unroll 1
  for (int s = 0; s < kStages - 1; ++s) load(stages[s]);
  int at = 0;  // the stage to compute
  for (int left = p.tiles + (blockIdx.x < p.longer ? 1 : 0); left > 0; --left) {
    Tile tile;
    tile.clear();
    for (int chunk = 0; chunk < p.chunks; ++chunk) {
      asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 2) : "memory");
      __syncthreads();  // the stage is there for all, and all have left the one that is filled next
      load(stages[at == 0 ? kStages - 1 : at - 1]);
      tile.template add<kVector>(stages[at]);
      at = at + 1 == kStages ? 0 : at + 1;
    }
    const TileIndex& index = stages[at == 0 ? kStages - 1 : at - 1].tile;
    const std::int64_t row = std::int64_t{index.row} * kTileRows,
                       position = std::int64_t{index.position} * kTilePositions;
    float* columns =
        static_cast<float*>(g.columns) + index.batch * g.columns_batch_stride + row * g.columns_stride + position;
    tile.template write<kVector>(scratch, columns, g.columns_stride, rest(g.rows, row, kTileRows),
                                 rest(g.positions, position, kTilePositions));
  }
}

template <class Tile, int kVector>
Status run(const BatchedGemm& gemm, int multiprocessors, cudaStream_t stream) {
  Params p;
  p.gemm = gemm;
  p.row_tiles = static_cast<int>(ceil_div(gemm.rows, kTileRows));
  p.position_tiles = static_cast<int>(ceil_div(gemm.positions, kTilePositions));
  p.chunks = static_cast<int>(ceil_div(gemm.depth, kTileDepth));
  const std::int64_t tiles = gemm.batch * p.row_tiles * p.position_tiles;
  const std::int64_t blocks = std::min<std::int64_t>(tiles, std::int64_t{multiprocessors} * Tile::kBlocks);
  p.tiles = static_cast<int>(tiles / blocks);
  p.longer = static_cast<unsigned>(tiles % blocks);
  p.grid_step.row = static_cast<int>(blocks % p.row_tiles);
  p.grid_step.position = static_cast<int>(blocks / p.row_tiles % p.position_tiles);
  p.grid_step.batch = static_cast<int>(blocks / p.row_tiles / p.position_tiles);
  column_gemm_kernel<Tile, kVector><<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(p);
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) return Status::failure(std::string("column GEMM: ") + cudaGetErrorString(error));
  return {};
}

}  // namespace column_gemm
}  // namespace convt_gemm

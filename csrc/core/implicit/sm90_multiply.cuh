#pragma once
// sm_90a: a warpgroup multiplies 64-row blocks of x, which come from registers, with weights that the tensor cores read from
// shared memory. x must come from registers since its taps are shifts by single positions, which no shared-memory
// operand can express; and TF32 operands must be K-major there, which x is not.
#include "implicit/consumer.cuh"

namespace convt_gemm::implicit {

template <class C>
struct Sm90Multiply {
  static constexpr unsigned kCoreBytes = 128;
  static constexpr unsigned kHalfBytes = C::kColumns / 8 * kCoreBytes;  // 4 words of depth, all columns
  static constexpr unsigned kPartBytes = 2 * kHalfBytes;                // 8 words
  static constexpr unsigned kStepBytes = kPartBytes * (C::kSplit ? 2 : 1);

  /// One tap's place in the depth of a tile.
  struct Cursor {
    Chunk chunk;
    int c = 0;  // number of the chunk
    int tap = 0;
  };

  const ImplicitGeometry& g;
  const Shared& shared;
  RingPosition& ring;
  const RowOffsets<C>& rows;
  int thread;  // within the warpgroup

  /// Multiplies one tile. The operands of the next tap are read while the products of this one are under way.
  __device__ __forceinline__ void run(Sums<C>& sums) {
    Fragment<C> even[C::kRowBlocks], odd[C::kRowBlocks];
    Cursor at;
    bool first = true;
    if constexpr (C::kSplit) {
#pragma unroll
      for (auto& block : sums) {
#pragma unroll
        for (float& sum : block) sum = 0;
      }
    }
    gpu::barrier_wait(shared.full(ring.stage), ring.parity);
    read(at, even);
    for (;;) {
      if (!step(at, even, odd, sums, first)) break;
      if (!step(at, odd, even, sums, first)) break;
    }
  }

 private:
  __device__ __forceinline__ void read(const Cursor& at, Fragment<C> (&to)[C::kRowBlocks]) {
    const int lead = lead_of<C>(g, at.chunk);
#pragma unroll
    for (int block = 0; block < C::kRowBlocks; ++block) {
      read_fragment<C>(g, shared.x(ring.stage), rows.at[block], lead, at.tap, thread % 32, &to[block]);
    }
  }

  /// Multiplies the tap at the cursor and reads the next one; false after the tile's last.
  __device__ __forceinline__ bool step(Cursor& at, const Fragment<C> (&now)[C::kRowBlocks], Fragment<C> (&next)[C::kRowBlocks],
                                       Sums<C>& sums, bool& first) {
    const unsigned char* weight = shared.weight(g.resident ? at.c : ring.stage) + at.tap * C::kSteps * kStepBytes;
    const int stage = ring.stage;
    Sums<C> part;  // of this tap, if sums are not left to the tensor cores
    gpu::warpgroup_fence();
    if constexpr (C::kSplit) {
      multiply(now, weight, part, false);
    } else {
      multiply(now, weight, sums, !first);
    }
    gpu::warpgroup_commit();
    first = false;

    bool more = true, leaves = false;
    if (++at.tap == taps_of(g, at.chunk)) {
      leaves = true;
      at.tap = 0;
      at.chunk.advance(g);
      more = ++at.c < g.chunks;
      ring.advance(g.stages);
      if (more) gpu::barrier_wait(shared.full(ring.stage), ring.parity);
    }
    if (more) read(at, next);
    gpu::warpgroup_wait<0>();
    if constexpr (C::kSplit) {
#pragma unroll
      for (int block = 0; block < C::kRowBlocks; ++block) {
        gpu::warpgroup_settle(part[block]);
#pragma unroll
        for (int i = 0; i < C::kSums; ++i) sums[block][i] += part[block][i];
      }
    } else {
#pragma unroll
      for (auto& block : sums) gpu::warpgroup_settle(block);
    }
    if (leaves) {  // only now are all reads of the stage done, the tensor cores' too
      __syncwarp();
      if (thread % 32 == 0) gpu::barrier_arrive(shared.empty(stage));
    }
    return more;
  }

  __device__ __forceinline__ static void multiply(const Fragment<C> (&x)[C::kRowBlocks], const unsigned char* weight,
                                                  Sums<C>& sums, bool accumulate) {
#pragma unroll
    for (int s = 0; s < C::kSteps; ++s) {
      const std::uint64_t high = gpu::matrix_descriptor(weight + s * kStepBytes, kHalfBytes, kCoreBytes);
#pragma unroll
      for (int block = 0; block < C::kRowBlocks; ++block) {
        const bool add = accumulate || s > 0;
        if constexpr (C::kSplit) {
          const std::uint64_t low = gpu::matrix_descriptor(weight + s * kStepBytes + kPartBytes, kHalfBytes, kCoreBytes);
          gpu::warpgroup_multiply<C::kOperand>(sums[block], x[block].low[s], high, add);
          gpu::warpgroup_multiply<C::kOperand>(sums[block], x[block].high[s], low, true);
          gpu::warpgroup_multiply<C::kOperand>(sums[block], x[block].high[s], high, true);
        } else {
          gpu::warpgroup_multiply<C::kOperand>(sums[block], x[block].high[s], high, add);
        }
      }
    }
  }
};

}  // namespace convt_gemm::implicit

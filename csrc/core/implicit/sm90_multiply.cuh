#pragma once
// sm_90a: a warpgroup multiplies its 64-row blocks of x with the weights; the tensor cores read both from shared memory. A shift
// of x by one position is a shift by 16 bytes there, so all taps read one copy of it.
#include "implicit/operands.cuh"

namespace convt_gemm::implicit {

template <class C>
struct Sm90Multiply {
  static constexpr unsigned kCoreBytes = 128;
  static constexpr unsigned kWeightPlane = C::kColumns * 16;  // four words of depth, all columns

  const ImplicitGeometry& g;
  const Shared& shared;
  RingPosition& ring;
  int first_row;  ///< of the warpgroup in its team
  int thread;     ///< within the warpgroup

  /// Multiplies one tile.
  __device__ __forceinline__ void run(Sums<C>& sums) {
    if constexpr (C::kSplit) {
      run_split(sums);
    } else {
      Chunk chunk;
      int last = -1;  // the stage before
      for (int c = 0; c < g.chunks; ++c, chunk.advance(g)) {
        gpu::barrier_wait(shared.full(ring.stage), ring.parity);
        const int taps = taps_of(g, chunk);
        for (int tap = 0; tap < taps; ++tap) multiply(c, chunk, tap, sums, c > 0 || tap > 0);
        gpu::warpgroup_commit();
        if (last >= 0) {
          gpu::warpgroup_wait<1>();
          release(last);
        }
        last = ring.stage;
        ring.advance(g.stages);
      }
      gpu::warpgroup_wait<0>();
#pragma unroll
      for (auto& block : sums) gpu::warpgroup_settle(block);
      release(last);
    }
  }

 private:
  /// Sums of a tap that are under way while those of the tap before are added up: where registers suffice.
  static constexpr bool kTwoParts = C::kRowBlocks * C::kSums <= 32;

  /// The tensor cores cut off what exceeds a sum's last place, which over a long depth is more than float32's own error. So each
  /// tap of a chunk is summed up by itself and added here, while they work on the next one.
  __device__ __forceinline__ void run_split(Sums<C>& sums) {
#pragma unroll
    for (auto& block : sums) {
#pragma unroll
      for (float& sum : block) sum = 0;
    }
    Cursor at;
    Sums<C> even;
    start(at, even);
    if constexpr (kTwoParts) {
      Sums<C> odd;
      for (;;) {
        const int before = at.leaving;
        if (at.c == g.chunks) {
          finish<0>(even, sums, before);
          break;
        }
        start(at, odd);
        finish<1>(even, sums, before);
        const int after = at.leaving;
        if (at.c == g.chunks) {
          finish<0>(odd, sums, after);
          break;
        }
        start(at, even);
        finish<1>(odd, sums, after);
      }
    } else {
      for (;;) {
        finish<0>(even, sums, at.leaving);
        if (at.c == g.chunks) break;
        start(at, even);
      }
    }
  }

  /// One tap's place in the depth of a tile.
  struct Cursor {
    Chunk chunk;
    int c = 0;         // number of the chunk
    int tap = 0;
    int leaving = -1;  // the stage that the products started last are the last of
  };

  /// Starts the products of a tap and goes on to the next one.
  __device__ __forceinline__ void start(Cursor& at, Sums<C>& part) {
    if (at.tap == 0) gpu::barrier_wait(shared.full(ring.stage), ring.parity);
    multiply(at.c, at.chunk, at.tap, part, false);
    gpu::warpgroup_commit();
    at.leaving = -1;
    if (++at.tap < taps_of(g, at.chunk)) return;
    at.tap = 0;
    at.chunk.advance(g);
    ++at.c;
    at.leaving = ring.stage;
    ring.advance(g.stages);
  }

  /// Waits until at most kPending taps are under way, which `part` is not of, and adds it up.
  template <int kPending>
  __device__ __forceinline__ void finish(Sums<C>& part, Sums<C>& sums, int leaving) const {
    gpu::warpgroup_wait<kPending>();
#pragma unroll
    for (int block = 0; block < C::kRowBlocks; ++block) {
      gpu::warpgroup_settle(part[block]);
#pragma unroll
      for (int i = 0; i < C::kSums; ++i) sums[block][i] += part[block][i];
    }
    if (leaving >= 0) release(leaving);
  }

  /// Gives a stage back; all its products are done.
  __device__ __forceinline__ void release(int stage) const {
    __syncwarp();
    if (thread % kThreadsPerRelease<C> == 0) gpu::barrier_arrive(shared.empty(stage));
  }

  /// A descriptor `quads` of 16 bytes further on: addresses are its lowest bits, in that unit, and do not leave them.
  __device__ __forceinline__ static std::uint64_t further(std::uint64_t descriptor, unsigned quads) {
    return (descriptor & 0xffffffff00000000u) | (static_cast<std::uint32_t>(descriptor) + quads);
  }

  /// Starts the products of one tap of chunk `c`, which is in the ring's stage.
  __device__ __forceinline__ void multiply(int c, const Chunk& chunk, int tap, Sums<C>& sums, bool accumulate) const {
    const unsigned plane = static_cast<unsigned>(g.slots) * 16;
    const unsigned char* x = shared.x(ring.stage) + (first_row + slot_of(g, chunk, tap)) * 16;
    const unsigned char* weight = shared.weight(g.resident ? c : ring.stage) + tap * (C::kQuads * C::kParts) * kWeightPlane;
    const std::uint64_t first_x = gpu::matrix_descriptor(x, plane, kCoreBytes);
    const std::uint64_t first_weight = gpu::matrix_descriptor(weight, kWeightPlane, kCoreBytes);
    gpu::warpgroup_fence();
#pragma unroll
    for (int s = 0; s < C::kSteps; ++s) {
      const std::uint64_t high = further(first_weight, s * C::kParts * 2 * (kWeightPlane / 16)), low = further(high, 2 * (kWeightPlane / 16));
#pragma unroll
      for (int block = 0; block < C::kRowBlocks; ++block) {
        const std::uint64_t x_high = further(first_x, s * C::kParts * 2 * g.slots + block * 64), x_low = further(x_high, 2 * g.slots);
        const bool add = accumulate || s > 0;
        if constexpr (C::kSplit) {
          gpu::warpgroup_multiply<C::kOperand>(sums[block], x_low, high, add);
          gpu::warpgroup_multiply<C::kOperand>(sums[block], x_high, low, true);
          gpu::warpgroup_multiply<C::kOperand>(sums[block], x_high, high, true);
        } else {
          gpu::warpgroup_multiply<C::kOperand>(sums[block], x_high, high, add);
        }
      }
    }
  }
};

}  // namespace convt_gemm::implicit

#pragma once
// sm_80 and later: each warp multiplies its 16 rows of every row block; both operands come from registers.
#include "implicit/consumer.cuh"

namespace convt_gemm::implicit {

template <class C>
struct Sm80Multiply {
  static constexpr int kCore = 32;  // words
  static constexpr int kHalf = C::kColumns / 8 * kCore, kPart = 2 * kHalf, kStep = kPart * (C::kSplit ? 2 : 1);

  const ImplicitGeometry& g;
  const Shared& shared;
  RingPosition& ring;
  const RowOffsets<C>& rows;
  int thread;  // within the warpgroup

  __device__ __forceinline__ void run(Sums<C>& sums) {
#pragma unroll
    for (auto& block : sums) {
#pragma unroll
      for (float& sum : block) sum = 0;
    }
    Chunk chunk;
    for (int c = 0; c < g.chunks; ++c, chunk.advance(g)) {
      gpu::barrier_wait(shared.full(ring.stage), ring.parity);
      const auto* weight = reinterpret_cast<const std::uint32_t*>(shared.weight(g.resident ? c : ring.stage));
      const int lead = lead_of<C>(g, chunk), taps = taps_of(g, chunk);
      for (int tap = 0; tap < taps; ++tap, weight += C::kSteps * kStep) multiply(weight, lead, tap, sums);
      __syncwarp();
      if (thread % 32 == 0) gpu::barrier_arrive(shared.empty(ring.stage));
      ring.advance(g.stages);
    }
  }

 private:
  __device__ __forceinline__ void multiply(const std::uint32_t* weight, int lead, int tap, Sums<C>& sums) {
    const int lane = thread % 32;
    Fragment<C> x[C::kRowBlocks];
#pragma unroll
    for (int block = 0; block < C::kRowBlocks; ++block) {
      read_fragment<C>(g, shared.x(ring.stage), rows.at[block], lead, tap, lane, &x[block]);
    }
#pragma unroll
    for (int core = 0; core < C::kColumns / 8; ++core) {
      float part[C::kRowBlocks][4] = {};
#pragma unroll
      for (int s = 0; s < C::kSteps; ++s) {
        const std::uint32_t* at = weight + s * kStep + core * kCore + lane;
        const std::uint32_t b0 = at[0], b1 = at[kHalf];
#pragma unroll
        for (int block = 0; block < C::kRowBlocks; ++block) {
          float(&sum)[4] = C::kSplit ? part[block] : reinterpret_cast<float(&)[4]>(sums[block][4 * core]);
          if constexpr (C::kSplit) {
            gpu::warp_multiply<C::kOperand>(sum, x[block].low[s], b0, b1);
            gpu::warp_multiply<C::kOperand>(sum, x[block].high[s], at[kPart], at[kPart + kHalf]);
          }
          gpu::warp_multiply<C::kOperand>(sum, x[block].high[s], b0, b1);
        }
      }
      if constexpr (C::kSplit) {
#pragma unroll
        for (int block = 0; block < C::kRowBlocks; ++block) {
#pragma unroll
          for (int i = 0; i < 4; ++i) sums[block][4 * core + i] += part[block][i];
        }
      }
    }
  }
};

}  // namespace convt_gemm::implicit

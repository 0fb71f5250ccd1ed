#pragma once
// sm_80 and later: each warp multiplies its 16 rows of every row block; both operands come from registers.
#include "implicit/operands.cuh"

namespace convt_gemm::implicit {

template <class C>
struct Sm80Multiply {
  static constexpr int kWeightPlane = C::kColumns * 4;  // words: four of depth, all columns

  const Params& p;
  const Tile& tile;
  const Shared& shared;
  RingPosition& ring;
  int first_row;  ///< of the warpgroup in its team
  int thread;     ///< within the warpgroup
  const ImplicitGeometry& g = p.g;

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
      const auto* x = reinterpret_cast<const std::uint32_t*>(shared.x(ring.stage));
      const int taps = taps_of(g, chunk);
      for (int tap = 0; tap < taps; ++tap, weight += C::kQuads * C::kParts * kWeightPlane) multiply(x, weight, first_row + slot_of(g, chunk, tap), sums);
      gpu::barrier_arrive(shared.empty(ring.stage));
      ring.advance(g.stages);
    }
  }

 private:
  /// The words of x for one tap and one block of 64 rows: [step and part][as gpu::warp_multiply wants them].
  struct Fragment {
    std::uint32_t word[C::kSteps * C::kParts][4];
  };

  __device__ __forceinline__ Fragment read(const std::uint32_t* x, int row) const {
    const int lane = thread % 32, plane = g.slots * 4;
    const std::uint32_t* at = x + (row + row_of_thread(0, 0, thread)) * 4 + lane % 4;
    Fragment fragment;
#pragma unroll
    for (int step = 0; step < C::kSteps * C::kParts; ++step, at += 2 * plane) {
      fragment.word[step][0] = at[0], fragment.word[step][1] = at[8 * 4];
      fragment.word[step][2] = at[plane], fragment.word[step][3] = at[plane + 8 * 4];
    }
    return fragment;
  }

  __device__ __forceinline__ void multiply(const std::uint32_t* x, const std::uint32_t* weight, int slot, Sums<C>& sums) {
    const int lane = thread % 32;
    Fragment fragments[C::kRowBlocks];
#pragma unroll
    for (int block = 0; block < C::kRowBlocks; ++block) fragments[block] = read(x, slot + block * 64);
#pragma unroll
    for (int core = 0; core < C::kColumns / 8; ++core) {
      float part[C::kRowBlocks][4] = {};
#pragma unroll
      for (int s = 0; s < C::kSteps; ++s) {
        const std::uint32_t* high = weight + s * C::kParts * 2 * kWeightPlane + core * 32 + lane;
        const std::uint32_t b0 = high[0], b1 = high[kWeightPlane];
#pragma unroll
        for (int block = 0; block < C::kRowBlocks; ++block) {
          float(&sum)[4] = C::kSplit ? part[block] : reinterpret_cast<float(&)[4]>(sums[block][4 * core]);
          const auto& x_high = fragments[block].word[C::kParts * s];
          if constexpr (C::kSplit) {
            const std::uint32_t* low = high + 2 * kWeightPlane;
            gpu::warp_multiply<C::kOperand>(sum, fragments[block].word[C::kParts * s + 1], b0, b1);
            gpu::warp_multiply<C::kOperand>(sum, x_high, low[0], low[kWeightPlane]);
          }
          gpu::warp_multiply<C::kOperand>(sum, x_high, b0, b1);
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

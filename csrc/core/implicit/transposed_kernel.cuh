#pragma once
// The kernel of the transposed product: two warpgroups of a block multiply and store, the other warps load.
#include "implicit/transposed_multiply.cuh"
#include "implicit/transposed_producer.cuh"
#include "implicit/transposed_store.cuh"

namespace convt_gemm::implicit {

/// Registers of a thread in either role: what the block gets at its launch, 168 for each, shared out anew.
inline constexpr int kTransposedMultiplyingRegisters = 224, kTransposedLoadingRegisters = 56;
static_assert(2 * kTransposedMultiplyingRegisters + kTransposedLoadingRegisters <= 3 * (65536 / (3 * kWarpgroup) / 8 * 8));

template <class C>
__device__ __forceinline__ void implicit_gemm_transposed(const TransposedParams& p) {
  const ImplicitGeometry& g = p.g;
  unsigned char* const memory = gpu::dynamic_shared();
  const Shared shared{memory, g, 0};
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < g.stages; ++stage) {
      gpu::barrier_init(shared.full(stage), kTransposedLoading);
      gpu::barrier_init(shared.empty(stage), kTransposedMultiplying);
    }
    gpu::barrier_init_fence();
  }
  __syncthreads();
  const int warp = uniform(static_cast<int>(threadIdx.x / 32));
  if (warp >= kTransposedMultiplying / 32) {
    gpu::give_registers_back<kTransposedLoadingRegisters>();
    produce_transposed<C>(p, shared, static_cast<int>(threadIdx.x) - kTransposedMultiplying);
    if (p.w.splits > 1) {
      gpu::cluster_barrier();
      gpu::cluster_barrier();
    }
    return;
  }
  gpu::take_registers<kTransposedMultiplyingRegisters>();
  const int thread = static_cast<int>(threadIdx.x % kWarpgroup), column = warp / 4 * (kWeightRows / 2);
  TransposedCursor at(p);
  for (; !at.done(); at.next_tile(g)) {
    float sums[C::kSums];
    TransposedMultiply<C>(p, shared, at.tile, column, thread).run(at, sums);
    if (p.w.splits == 1) {
      TransposedStore<C> store(p, at.tile, column, thread, 0);
#pragma unroll
      for (int eighth = 0; eighth < C::kPositions / 8; ++eighth) {
        store({sums[4 * eighth], sums[4 * eighth + 1], sums[4 * eighth + 2], sums[4 * eighth + 3]});
      }
    } else {  // the block's only tile
      using Sums = Exchange<C>;
      const Sums exchange(memory, static_cast<int>(threadIdx.x));
      gpu::named_barrier(1, kTransposedMultiplying);  // the stages have been read
      exchange.put(sums);
      gpu::cluster_barrier();  // everybody's sums are there
      const int rank = static_cast<int>(gpu::cluster_rank());
      const int first = Sums::kEighths * rank / p.w.splits, after = Sums::kEighths * (rank + 1) / p.w.splits;
      TransposedStore<C> store(p, at.tile, column, thread, first);
#pragma unroll 2
      for (int eighth = first; eighth < after; ++eighth) {
        float all[4];
        exchange.add_up(eighth, p.w.splits, all);
        store(all);
      }
      gpu::cluster_barrier();  // and have been read
    }
  }
}

}  // namespace convt_gemm::implicit

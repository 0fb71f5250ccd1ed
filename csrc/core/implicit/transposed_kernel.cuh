#pragma once
// The kernel of the transposed product: two warpgroups of a block multiply and store, the other warps load.
#include "implicit/transposed_multiply.cuh"
#include "implicit/transposed_producer.cuh"
#include "implicit/transposed_store.cuh"

namespace convt_gemm::implicit {

/// Registers of a thread in either role: what the block gets at its launch, shared out anew.
template <class C>
struct TransposedRegisters {
  static constexpr int kEach = 65536 / C::kThreads / 8 * 8;
  static constexpr int kLoading = 56;
  static constexpr int kMultiplying = (kEach * C::kThreads - kLoading * kTransposedLoading) / C::kMultiplying / 8 * 8;
};

/// What columns read instead of weights of a tap that they lack: an element behind each channel's piece of a stage, where nothing is copied to. For the threads that multiply.
template <class C>
__device__ __forceinline__ void zero_missing_taps(const typename C::Params& p, const Shared& shared) {
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < p.g.stages * C::kChannels; i += C::kMultiplying) {
    reinterpret_cast<typename C::Element*>(shared.weight(i / C::kChannels))[i % C::kChannels * p.w.pitch + p.w.length] = typename C::Element{};
  }
}

template <class C>
__device__ __forceinline__ void implicit_gemm_transposed(const typename C::Params& p) {
  const ImplicitGeometry& g = p.g;
  unsigned char* const memory = gpu::dynamic_shared();
  const Shared shared{memory, g, 0};
  const int warp = uniform(static_cast<int>(threadIdx.x / 32));
  if (warp >= C::kMultiplying / 32) {
    gpu::give_registers_back<TransposedRegisters<C>::kLoading>();
    TransposedLoader<C> loader(p, shared, static_cast<int>(threadIdx.x) - C::kMultiplying);  // while barriers are being made
    __syncthreads();
    if (p.w.splits > 1) gpu::cluster_arrive_relaxed();
    loader.run();
    gpu::let_next_kernel_start();  // no earlier: what is left is to multiply and store what the stages hold
    if (p.w.splits > 1) gpu::cluster_wait();
    return;
  }
  if (!p.w.all_taps) zero_missing_taps<C>(p, shared);
  if (threadIdx.x == 0) {
#pragma unroll 1
    for (int stage = 0; stage < g.stages; ++stage) {
      gpu::barrier_init(shared.full(stage), kTransposedLoading);
      gpu::barrier_init(shared.empty(stage), C::kMultiplying);
    }
    Exchange<C>::make_barrier(memory);
    gpu::barrier_init_fence();
    Exchange<C>::expect(p, memory, static_cast<int>(gpu::cluster_rank()));
  }
  __syncthreads();
  if (p.w.splits > 1) gpu::cluster_arrive_relaxed();  // this block can be given sums: barrier_init_fence has made their barrier visible
  gpu::take_registers<TransposedRegisters<C>::kMultiplying>();
  const int thread = static_cast<int>(threadIdx.x % kWarpgroup), warpgroup = warp / 4;
  TransposedCursor<C> at(p);
  for (; !at.done(); at.next_tile()) {
    const ColumnBiases biases = ColumnBiases::of<C>(p, at.tile, warpgroup, thread);
    float sums[C::kSums];
    TransposedMultiply<C>(p, shared, at.tile, warpgroup, thread).run(at, sums);
    if (!C::kTile.splits() || p.w.splits == 1) {
      store_own<C>(p, memory, at.tile, warpgroup, thread, biases, sums);
    } else if constexpr (C::kTile.splits()) {  // the block's only tile
      const int rank = static_cast<int>(gpu::cluster_rank());
      const Exchange<C> exchange(p, memory, rank, static_cast<int>(threadIdx.x));
      gpu::named_barrier(1, C::kMultiplying);  // the stages have been read
      gpu::cluster_wait();
      gpu::warpgroup_settle(sums);  // or ptxas reads 16-bit kernels' sums among the products (C7514)
      exchange.give(sums);
      store_share<C>(p, memory, at.tile, warpgroup, thread, rank, biases, exchange);
    }
  }
}

/// Calls use(configuration) with that of the kernel for the problem. tf32x3 has one for all, whose products wait for each other anyway.
template <class C, class Use>
auto with_transposed_kernel_of(const WeightTiles& w, const Use& use) {
  if constexpr (!C::kSplit) {
    if (!w.paired) return use(WithSingles<C>{});
  }
  return use(C{});
}

}  // namespace convt_gemm::implicit

#pragma once
// The kernel of windows: each warpgroup that multiplies has tiles and a ring of stages of its own, which one lane fills; weights stay in shared memory.
#include "implicit/producer.cuh"
#include "implicit/window_multiply.cuh"
#include "implicit/window_params.h"
#include "implicit/window_store.cuh"

namespace convt_gemm::implicit {

/// Registers of a thread in either role, see Registers. Whoever loads needs few: a box is one instruction.
template <class C>
struct WindowRegisters {
  static constexpr int kAll = 65536 / C::kThreads / 8 * 8 * (C::kThreads / kWarpgroup), kLoading = 24;
  static constexpr int kRest = (kAll - kLoading) / C::kWarpgroups / 8 * 8, kMultiplying = kRest < 240 ? kRest : 240;
};

/// Fills a team's ring for all its tiles; by one lane.
template <class C>
__device__ __forceinline__ void produce_windows(const WindowParams& params, const Shared& shared) {
  const ImplicitGeometry& g = params.p.g;
  const TileRange range(g, shared.team);
  RingPosition ring;
  for (int number = range.first; number < range.end; number += range.step) {
    const Tile tile = tile_of(g, number);
    const int sample = g.sample_tiles.quotient(tile.row);
    const int position = static_cast<int>(g.first_position) + (tile.row - sample * g.sample_tiles.divisor()) * g.tile_rows - C::kWindow.before(C::kVector);
    for (int c = 0; c < g.chunks; ++c) {
      gpu::barrier_wait(shared.empty(ring.stage), ring.parity ^ 1);
      gpu::barrier_arrive_expect(shared.full(ring.stage), static_cast<unsigned>(g.x_bytes));
      gpu::tensor_copy(shared.x(ring.stage), &params.x_map, position, c * C::kWords * C::kWordElements, sample * g.groups + tile.group, shared.full(ring.stage));
      ring.advance(g.stages);
    }
  }
}

template <class C>
__device__ __forceinline__ void implicit_gemm_windows(const WindowParams& params) {
  const Params& p = params.p;
  const ImplicitGeometry& g = p.g;
  const int warpgroup = uniform(static_cast<int>(threadIdx.x / kWarpgroup)), thread = threadIdx.x % kWarpgroup;
  unsigned char* const memory = gpu::dynamic_shared();
  if (threadIdx.x == 0) {
    for (int team = 0; team < g.teams; ++team) {
      const Shared shared{memory, g, team};
      for (int stage = 0; stage < g.stages; ++stage) {
        gpu::barrier_init(shared.full(stage), 1);
        gpu::barrier_init(shared.empty(stage), kWarpgroup);
      }
      gpu::barrier_init(shared.multiplied(team), kWarpgroup);
    }
    gpu::barrier_init_fence();
  }
  const Shared shared{memory, g, warpgroup < C::kWarpgroups ? warpgroup : uniform(thread / 32)};
  load_resident_weights<C>(p, shared, warpgroup, thread);
  float* const biases = static_cast<float*>(shared.staging(0));
  list_biases<C>(p, tile_of(g, TileRange(g, 0).first), biases);
  __syncthreads();
  if (warpgroup >= C::kWarpgroups) {
    gpu::give_registers_back<WindowRegisters<C>::kLoading>();
    if (shared.team < g.teams && gpu::elect()) produce_windows<C>(params, shared);
    return;
  }
  gpu::take_registers<WindowRegisters<C>::kMultiplying>();
  const TileRange range(g, shared.team);
  RingPosition ring;
  if (g.in_turn && shared.team > 0 && range.first < range.end) gpu::barrier_wait(shared.multiplied(shared.team - 1), 0);
  for (int number = range.first; number < range.end; number += range.step) {
    Sums<C> sums;
    WindowMultiply<C>{g, shared, ring, thread}.run(sums);
    if (g.in_turn && number == range.first) gpu::barrier_arrive(shared.multiplied(shared.team));
    WindowStore<C>{p, tile_of(g, number), biases, thread, {}}.run(sums);
  }
}

}  // namespace convt_gemm::implicit

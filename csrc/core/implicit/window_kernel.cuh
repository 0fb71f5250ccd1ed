#pragma once
// The kernel of windows: each warpgroup that multiplies has tiles and a ring of stages of its own, which one lane fills; weights stay in shared memory.
#include "implicit/producer.cuh"
#include "implicit/window_multiply.cuh"
#include "implicit/window_params.cuh"
#include "implicit/window_store.cuh"

namespace convt_gemm::implicit {

/// Registers of a thread in either role, see Registers. Whoever loads needs few: a box is one instruction.
template <class C>
struct WindowRegisters {
  static constexpr int kAll = 65536 / C::kThreads / 8 * 8 * (C::kThreads / kWarpgroup), kLoading = 24;
  static constexpr int kRest = (kAll - kLoading) / C::kWarpgroups / 8 * 8, kMultiplying = kRest < 240 ? kRest : 240;
};

/// Numbers of the tiles that a team has, as whoever loads finds them. A block keeps its column tile.
class WindowTiles {
 public:
  __device__ __forceinline__ WindowTiles(const WindowParams& params, const TileRange& range)
      : columns_(params.p.g.all_column_tiles), number_(range.first), step_(range.step), column_(range.first % columns_),
        taken_(params.row_tiles_taken != nullptr ? params.row_tiles_taken + column_ : nullptr) {
    if (taken_ != nullptr) number_ = take();
  }
  __device__ __forceinline__ int number() const { return number_; }
  /// The one after it: asked for before it is needed.
  __device__ __forceinline__ int next() const { return taken_ != nullptr ? take() : number_ + step_; }
  __device__ __forceinline__ void advance(int next) { number_ = next; }

 private:
  __device__ __forceinline__ int take() const { return atomicAdd(taken_, 1) * columns_ + column_; }

  int columns_, number_, step_, column_;
  int* taken_;
};

/// The named barrier of all that multiply; each team has one of its own, see WindowStore.
inline constexpr int kAllMultiplying = 15;

/// Where the number of the tile is that a stage has the first chunk of; kNoTile after the last one.
__device__ __forceinline__ int* tile_in_stage(const Shared& shared, int stage) {
  static_assert(3 * (2 * kMostStages * int(sizeof(std::uint64_t)) + kMostStages * int(sizeof(int)) + int(sizeof(std::uint64_t))) <= kBarrierBytes);
  return reinterpret_cast<int*>(shared.base + shared.g.teams * 2 * kMostStages * sizeof(std::uint64_t)) + shared.team * kMostStages + stage;
}
inline constexpr int kNoTile = -1;

/// Fills a team's ring for all its tiles; by one lane.
template <class C>
__device__ __forceinline__ void produce_windows(const WindowParams& params, const Shared& shared, const TileRange& range) {
  const ImplicitGeometry& g = params.p.g;
  WindowTiles tiles(params, range);
  RingPosition ring;
  for (; tiles.number() < g.tiles;) {
    const int next = tiles.next();
    const Tile tile = tile_of(g, tiles.number());
    const int sample = g.sample_tiles.quotient(tile.row);
    const int position = static_cast<int>(g.first_position) + C::kWindow.lag() + (tile.row - sample * g.sample_tiles.divisor()) * g.tile_rows - C::kWindow.before(C::kVector);
    for (int c = 0; c < g.chunks; ++c) {
      gpu::barrier_wait(shared.empty(ring.stage), ring.parity ^ 1);
      if (c == 0) *tile_in_stage(shared, ring.stage) = tiles.number();
      gpu::barrier_arrive_expect(shared.full(ring.stage), static_cast<unsigned>(g.x_bytes));
      gpu::tensor_copy(shared.x(ring.stage), &params.x_map, position, c * C::kWords * C::kWordElements, sample * g.groups + tile.group,
                       shared.full(ring.stage));
      ring.advance(g.stages);
    }
    tiles.advance(next);
  }
  gpu::barrier_wait(shared.empty(ring.stage), ring.parity ^ 1);
  *tile_in_stage(shared, ring.stage) = kNoTile;
  gpu::barrier_arrive(shared.full(ring.stage));
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
  gpu::wait_for_kernel_before();
  __syncthreads();
  const Shared shared{memory, g, warpgroup < C::kWarpgroups ? warpgroup : uniform(thread / 32)};
  if (warpgroup >= C::kWarpgroups) {
    gpu::give_registers_back<WindowRegisters<C>::kLoading>();
    const TileRange range(g, shared.team);  // by all lanes: it shuffles
    if (shared.team < g.teams && gpu::elect()) produce_windows<C>(params, shared, range);
    return;
  }
  gpu::take_registers<WindowRegisters<C>::kMultiplying>();
  // While the first of x is on its way.
  const Tile first_tile = tile_of(g, TileRange(g, 0).first);  // the block keeps its column tile
  WeightLoader<C>(p, first_tile, thread).template load_all<C::kWindow.taps>(shared.weight(0), warpgroup, C::kWarpgroups);
  gpu::fence_async_proxy();
  float* const biases = static_cast<float*>(shared.staging(0));
  list_biases<C>(p, first_tile, biases);
  gpu::named_barrier(kAllMultiplying, C::kWarpgroups * kWarpgroup);
  RingPosition ring;
  unsigned char* const runs = g.team_runs_bytes > 0 ? reinterpret_cast<unsigned char*>(biases) - (g.teams - warpgroup) * g.team_runs_bytes : nullptr;
  if (g.in_turn && shared.team > 0) gpu::barrier_wait(shared.multiplied(shared.team - 1), 0);
  for (bool first = true;; first = false) {
    gpu::barrier_wait(shared.full(ring.stage), ring.parity);
    const int number = uniform(*tile_in_stage(shared, ring.stage));
    if (number != kNoTile) {
      Sums<C> sums;
      WindowMultiply<C>{g, shared, ring, thread}.run(sums);
      if (g.in_turn && first) gpu::barrier_arrive(shared.multiplied(shared.team));
      WindowStore<C>{p, tile_of(g, number), biases, runs, warpgroup, thread, {}}.run(sums);
    } else {
      if (g.in_turn && first) gpu::barrier_arrive(shared.multiplied(shared.team));  // a team without tiles
      WindowStore<C>::finish();
      return;
    }
  }
}

}  // namespace convt_gemm::implicit

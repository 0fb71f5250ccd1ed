#pragma once
// The kernel of windows: each warpgroup that multiplies has tiles and a ring of stages of its own, which one lane fills; weights stay in shared memory.
#include "implicit/producer.cuh"
#include "implicit/window_multiply.cuh"
#include "implicit/window_params.cuh"
#include "implicit/window_planes.cuh"
#include "implicit/window_rows.cuh"
#include "implicit/window_shifted_store.cuh"
#include "implicit/window_store.cuh"

namespace convt_gemm::implicit {

/// Numbers of the tiles that a team has, as whoever loads finds them. A block keeps its column tile.
class WindowTiles {
 public:
  __device__ __forceinline__ WindowTiles(const WindowParams& params, int team)
      : columns_(params.p.g.all_column_tiles), step_(static_cast<int>(gridDim.x) * params.p.g.teams), taken_(nullptr) {
    const int block = static_cast<int>(blockIdx.x), of_rows = params.p.g.tile_divisor.quotient(block);
    column_ = block - of_rows * columns_;
    number_ = (of_rows * params.p.g.teams + team) * columns_ + column_;
    if (params.row_tiles_taken == nullptr) return;
    taken_ = params.row_tiles_taken + column_;
    gpu::wait_for_kernel_before();
    number_ = take();
  }
  __device__ __forceinline__ int number() const { return number_; }
  /// The one after it: asked for before it is needed.
  __device__ __forceinline__ int next() const { return taken_ != nullptr ? take() : number_ + step_; }
  __device__ __forceinline__ void advance(int next) { number_ = next; }

 private:
  __device__ __forceinline__ int take() const { return atomicAdd(taken_, 1) * columns_ + column_; }

  int columns_, step_, column_, number_;
  int* taken_;
};

/// The named barrier of all that multiply; each team has one of its own, see WindowStore.
inline constexpr int kAllMultiplying = 15;

/// Where the number of the tile is that a stage has the first chunk of; kNoTile after the last one.
template <class C>
__device__ __forceinline__ int* tile_in_stage(const Shared& shared, int stage) {
  constexpr int kTeams = C::kWarpgroups, kStages = most_window_stages(kTeams), kTeamBytes = 2 * kMostStages * int(sizeof(std::uint64_t));
  if constexpr (kStages < kMostStages) {  // between the barriers of the team: stages that there are not would have theirs there
    static_assert(kTeams * kTeamBytes <= kBarrierBytes && kStages * int(sizeof(int)) <= (kMostStages - kStages) * int(sizeof(std::uint64_t)));
    static_assert(kTeams * int(sizeof(std::uint64_t)) <= (kMostStages - kStages) * int(sizeof(std::uint64_t)));  // Shared::multiplied, at the end
    return reinterpret_cast<int*>(shared.full(kStages)) + stage;
  } else {
    static_assert(kTeams * (kTeamBytes + kMostStages * int(sizeof(int)) + int(sizeof(std::uint64_t))) <= kBarrierBytes);
    return reinterpret_cast<int*>(shared.base + kTeams * kTeamBytes) + shared.team * kMostStages + stage;
  }
}
inline constexpr int kNoTile = -1;

/// Where a tile's x begins.
template <class C>
struct TileInputs {
  int position, sample_and_group;
  PlaneInputs<C::kWindow.lines> planes;  ///< not of one axis

  __device__ __forceinline__ TileInputs(const ImplicitGeometry& g, int number) {
    const Tile tile = tile_of(g, number);
    const int row = g.sample_tiles.quotient(tile.row);
    sample_and_group = row * g.groups + tile.group;
    if (has_planes<C>(g)) {
      const PlaneTaps taps(g, tile.group);
      const Plane plane(g, taps, row, C::kWindow.lines);
      sample_and_group = plane.sample * g.groups + taps.group;
      planes = PlaneInputs<C::kWindow.lines>(plane);
    }
    position = static_cast<int>(g.first_position) + C::kWindow.lag() + (tile.row - row * g.sample_tiles.divisor()) * g.tile_rows - C::kWindow.before(C::kVector);
  }
};

/// Asks for what a ring holds of a tile's x.
template <class C>
__device__ __forceinline__ void prefetch_tile(const WindowParams& params, int position, int sample_and_group, PlaneInputs<C::kWindow.lines> inputs) {
  const ImplicitGeometry& g = params.p.g;
  const int all = PlaneInputs<C::kWindow.lines>::chunks(g), chunks = all < g.stages ? all : g.stages;
#pragma unroll 1
  for (int c = 0; c < chunks; ++c) {
    if (has_planes<C>(g) && !g.flat) {
      gpu::tensor_prefetch(&params.x_map, {position, inputs.at[1], inputs.at[0], inputs.channel_block * C::kWords * C::kWordElements, sample_and_group});
      inputs.advance(g);
    } else {
      gpu::tensor_prefetch(&params.x_map, position, c * C::kWords * C::kWordElements, sample_and_group);
    }
  }
}

/// Fills a team's ring for all its tiles; by one lane.
template <class C>
__device__ __forceinline__ void produce_windows(const WindowParams& params, const Shared& shared) {
  using Inputs = PlaneInputs<C::kWindow.lines>;
  const ImplicitGeometry& g = params.p.g;
  WindowTiles tiles(params, shared.team);
  RingPosition ring;
  for (bool first = true; tiles.number() < g.tiles; first = false) {
    const TileInputs<C> tile(g, tiles.number());
    const int position = tile.position, sample_and_group = tile.sample_and_group;
    Inputs inputs = tile.planes;
    if (first) {
      if (params.row_tiles_taken == nullptr) prefetch_tile<C>(params, position, sample_and_group, inputs);
      gpu::wait_for_kernel_before();  // where the first box is has been worked out meanwhile
    }
    const int next = tiles.next();
    for (int c = 0; c < Inputs::chunks(g); ++c) {
      gpu::barrier_wait(shared.empty(ring.stage), ring.parity ^ 1);
      if (c == 0) *tile_in_stage<C>(shared, ring.stage) = tiles.number();
      gpu::barrier_arrive_expect(shared.full(ring.stage), static_cast<unsigned>(g.x_bytes));
      if (has_planes<C>(g) && !g.flat) {
        const int at[kOuterAxes + 3] = {position, inputs.at[1], inputs.at[0], inputs.channel_block * C::kWords * C::kWordElements, sample_and_group};
        gpu::tensor_copy(shared.x(ring.stage), &params.x_map, at, shared.full(ring.stage));
        inputs.advance(g);
      } else {
        gpu::tensor_copy(shared.x(ring.stage), &params.x_map, position, c * C::kWords * C::kWordElements, sample_and_group, shared.full(ring.stage), params.x_passes);
      }
      ring.advance(g.stages);
    }
    tiles.advance(next);
  }
  gpu::let_next_kernel_start();  // no earlier: what is left is products and stores of what the stages hold, so multiprocessors soon have room
  gpu::barrier_wait(shared.empty(ring.stage), ring.parity ^ 1);
  *tile_in_stage<C>(shared, ring.stage) = kNoTile;
  gpu::barrier_arrive(shared.full(ring.stage));
}

/// The same where rows of x are no whole vectors.
template <class C>
__device__ __forceinline__ void produce_shifted_rows(const WindowParams& params, const Shared& shared) {
  const ImplicitGeometry& g = params.p.g;
  WindowTiles tiles(params, shared.team);
  RingPosition ring;
  gpu::wait_for_kernel_before();
  while (tiles.number() < g.tiles) {
    const TileInputs<C> tile(g, tiles.number());
    const ShiftedRows<C> rows(g, tile.position, tile.sample_and_group);
    const int next = tiles.next();
    for (int c = 0; c < g.chunks; ++c) {
      gpu::barrier_wait(shared.empty(ring.stage), ring.parity ^ 1);
      if (c == 0) *tile_in_stage<C>(shared, ring.stage) = tiles.number();
      rows.copy(params.p.x, c, shared.x(ring.stage), shared.full(ring.stage));
      ring.advance(g.stages);
    }
    tiles.advance(next);
  }
  gpu::let_next_kernel_start();
  gpu::barrier_wait(shared.empty(ring.stage), ring.parity ^ 1);
  *tile_in_stage<C>(shared, ring.stage) = kNoTile;
  gpu::barrier_arrive(shared.full(ring.stage));
}

/// The team's, by the lane that loads for it. (One lane for all teams takes 0.5 us; lanes of a warp take turns.)
__device__ __forceinline__ void init_barriers(const Shared& shared) {
  for (int stage = 0; stage < shared.g.stages; ++stage) {
    gpu::barrier_init(shared.full(stage), 1);
    gpu::barrier_init(shared.empty(stage), kWarpgroup);
  }
  gpu::barrier_init(shared.multiplied(shared.team), kWarpgroup);
  gpu::barrier_init_fence();
}

template <class C>
__device__ __forceinline__ void implicit_gemm_windows(const WindowParams& params) {
  const Params& p = params.p;
  const ImplicitGeometry& g = p.g;
  const int warpgroup = uniform(static_cast<int>(threadIdx.x / kWarpgroup)), thread = threadIdx.x % kWarpgroup;
  unsigned char* const memory = gpu::dynamic_shared();
  const Shared shared{memory, g, warpgroup < C::kWarpgroups ? warpgroup : uniform(thread / 32)};
  if (warpgroup >= C::kWarpgroups) {
    gpu::give_registers_back<WindowRegisters<C>::kLoading>();
    if (shared.team < g.teams && gpu::elect()) init_barriers(shared);
    if (shared.team == 0 && gpu::elect()) {
      prefetch_share(p.weight, std::int64_t{g.in_channels} * g.groups * g.out_channels * g.weights * int(sizeof(typename C::Element)), blockIdx.x, gridDim.x);
    }
    __syncthreads();
    if (shared.team < g.teams && gpu::elect()) {
      if constexpr (kShiftedRows<C>) {
        produce_shifted_rows<C>(params, shared);
      } else {
        produce_windows<C>(params, shared);
      }
    }
    return;
  }
  __syncthreads();  // barriers are there
  gpu::take_registers<WindowRegisters<C>::kMultiplying>();
  Tile first_tile = tile_of(g, static_cast<int>(blockIdx.x));  // the block keeps its column tile
  PlaneTaps taps;
  if (has_planes<C>(g)) taps = PlaneTaps(g, first_tile.group), first_tile.group = taps.group;
  const WeightLoader<C> weights(p, first_tile, thread);
  gpu::wait_for_kernel_before();
  // While the first of x is on its way. The bias first, which takes as long as weights do.
  static_assert(C::kColumns <= C::kWarpgroups * kWarpgroup);
  const float bias = bias_of_column<C>(p, first_tile, static_cast<int>(threadIdx.x));
  const auto channels_of = [&](int chunk, int* first_channel) {
    if (!has_planes<C>(g)) {
      *first_channel = chunk * C::kWords * C::kWordElements;
      return 0;
    }
    return taps.weights_before(g, chunk, C::kWords * C::kWordElements, first_channel);
  };
  weights.template load_all<C::kWindow.taps>(shared.weight(0), warpgroup, C::kWarpgroups, channels_of);
  float* const biases = static_cast<float*>(shared.staging(0));
  if (threadIdx.x < C::kColumns) biases[threadIdx.x] = bias;
  gpu::fence_async_proxy();
  gpu::named_barrier(kAllMultiplying, C::kWarpgroups * kWarpgroup);
  RingPosition ring;
  unsigned char* const runs = g.team_runs_bytes > 0 ? reinterpret_cast<unsigned char*>(biases) - (g.teams - warpgroup) * g.team_runs_bytes : nullptr;
  if (g.in_turn && shared.team > 0) gpu::barrier_wait(shared.multiplied(shared.team - 1), 0);
  for (bool first = true;; first = false) {
    gpu::barrier_wait(shared.full(ring.stage), ring.parity);
    const int number = uniform(*tile_in_stage<C>(shared, ring.stage));
    if (number != kNoTile) {
      LineSums<C> sums;
      const TileInputs<C> inputs(g, number);  // for kShiftedRows only
      WindowMultiply<C>{g, shared, ring, thread, {g, inputs.position, inputs.sample_and_group}}.run(sums);
      if (g.in_turn && first) gpu::barrier_arrive(shared.multiplied(shared.team));
      const Tile tile = tile_of(g, number);
      StoreOf<C>{p, tile, TileRows::of<C>(g, tile, 0), biases, runs, warpgroup, thread, 0, {}}.run(sums[0]);
      if constexpr (C::kWindow.lines == 2) {
        unsigned char* const further_runs = runs == nullptr ? nullptr : runs + WindowStore<C>::kRunsBytes;
        WindowStore<C>{p, tile, TileRows::of<C>(g, tile, 1), biases, further_runs, warpgroup, thread, 1, {}}.run(sums[1]);
      }
    } else {
      if (g.in_turn && first) gpu::barrier_arrive(shared.multiplied(shared.team));  // a team without tiles
      WindowStore<C>::finish();
      return;
    }
  }
}

/// Calls `use` with the configuration of the kernel for the geometry's rows.
template <class C, class Use>
auto with_kernel_of(const ImplicitGeometry& g, const Use& use) {
  if constexpr (C::kTile.has_shifted_store(C::kSplit)) {
    if (g.shifted_store) return g.vector_rows ? use(WithShiftedStore<C>{}) : use(WithShiftedStore<WithShiftedRows<C>>{});
  }
  if constexpr (C::kWindow.lines == 1) {  // tiles of several lines have outer axes, whose rows are whole vectors
    if (!g.vector_rows) return use(WithShiftedRows<C>{});
  }
  return use(C{});
}

}  // namespace convt_gemm::implicit

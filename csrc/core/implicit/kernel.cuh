#pragma once
// The fused kernel: some warpgroups of a block load, the others multiply and store, tile after tile.
#include "implicit/epilogue.cuh"
#include "implicit/producer.cuh"
#include "implicit/sm80_multiply.cuh"
#include "implicit/sm90_multiply.cuh"

namespace convt_gemm::implicit {

/// Registers of a thread in either role, on sm_90, where warpgroups can share out what the block got at its launch: 64K over the
/// threads, in steps of 8. To ask for more than there is would wait for ever.
template <class C>
struct Registers {
  static constexpr int kAtLaunch = 65536 / C::kThreads / 8 * 8, kAll = C::kThreads / kWarpgroup * kAtLaunch;
  static constexpr int kSums = C::kRowBlocks * C::kSums;
  static constexpr int kWanted = (kSums + (!C::kSplit ? 0 : kSums <= 32 ? 2 * kSums : kSums) + (C::kRawRows ? 136 : 88)) / 8 * 8;  // to multiply and to store
  static constexpr int kLeft = (kAll - C::kWarpgroups * kWanted) / C::kLoaders / 8 * 8;
  // Rows of x that lie as in memory pass through no registers of a loading thread; with less than 80 it spills where its items are, which is
  // less bad than that those who split products in two spill more.
  static constexpr int kNeeded = !C::kRawRows ? 104 : C::kSplit ? 56 : 80;
  static constexpr int kLeast = kAtLaunch < kNeeded ? kAtLaunch : kNeeded;
  static constexpr int kLoading = kLeft < kLeast ? kLeast : kLeft < kAtLaunch ? kLeft : kAtLaunch;
  static constexpr int kRest = (kAll - C::kLoaders * kLoading) / C::kWarpgroups / 8 * 8;
  static constexpr int kMultiplying = kRest < 240 ? kRest : 240;
  static_assert(C::kLoaders * kLoading + C::kWarpgroups * kMultiplying <= kAll);
};

/// What a warpgroup that multiplies does: all tiles of its team.
template <class C, int kSets>
__device__ __forceinline__ void multiply_and_store(const Params& p, unsigned char* memory, int warpgroup, int thread) {
  using Multiply = std::conditional_t<C::kFamily == Family::sm90, Sm90Multiply<C, kSets>, Sm80Multiply<C>>;
  const ImplicitGeometry& g = p.g;
  const int team_warpgroups = C::kWarpgroups / g.teams, team = warpgroup / team_warpgroups, in_team = warpgroup - team * team_warpgroups;
  const Shared shared{memory, g, team};
  const int first_row = in_team * g.owned_rows;
  const TileRange range(g, team);
  RingPosition ring;
  Tile last{-1, -1, -1};
  EpilogueState state;
  if (g.in_turn && team > 0 && range.first < range.end) gpu::barrier_wait(shared.multiplied(team - 1), 0);
  for (int number = range.first; number < range.end; number += range.step) {
    const Tile tile = tile_of(g, number);
    if (tile.column != last.column || tile.group != last.group) state.listed = EpilogueState::kNothing;
    last = tile;
    Sums<C> sums;
    Multiply{p, tile, shared, ring, first_row, thread}.run(sums);
    if (g.in_turn && number == range.first) gpu::barrier_arrive(shared.multiplied(team));
    Epilogue<C, kSets>{p, tile, static_cast<typename C::Element*>(shared.staging(warpgroup)), warpgroup, first_row, thread, {}}.run(sums, state);
  }
  Epilogue<C, kSets>::finish();
}

template <class C>
__device__ __forceinline__ void implicit_gemm(const Params& p) {
  const ImplicitGeometry& g = p.g;
  const int warpgroup = uniform(static_cast<int>(threadIdx.x / kWarpgroup)), thread = threadIdx.x % kWarpgroup;
  const int team_warpgroups = C::kWarpgroups / g.teams;
  // Loaders of one team take its chunks in turn; one loader of several teams has its warps shared among them.
  const int team_loaders = g.teams == 1 ? C::kLoaders : 1, loader_teams = g.teams == 1 ? 1 : g.teams / C::kLoaders;
  unsigned char* memory = gpu::dynamic_shared();
  if (threadIdx.x == 0) {
    for (int team = 0; team < g.teams; ++team) {
      const Shared shared{memory, g, team};
      for (int stage = 0; stage < g.stages; ++stage) {
        gpu::barrier_init(shared.full(stage), C::kRawRows ? 32 : kWarpgroup / loader_teams);
        gpu::barrier_init(shared.empty(stage), team_warpgroups * kWarpgroup);
      }
      gpu::barrier_init(shared.multiplied(team), kWarpgroup);
    }
    gpu::barrier_init_fence();
  }
  gpu::wait_for_kernel_before();
  if (g.resident) {
    const Shared shared{memory, g, 0};
    load_resident_weights<C>(p, shared, warpgroup, thread);
    if constexpr (Epilogue<C, 1>::kStoresDirectly) {
      if (g.store == Store::direct) {
        const Tile tile = tile_of(g, TileRange(g, 0).first);
        Epilogue<C, 1>{p, tile, static_cast<typename C::Element*>(shared.staging(0)), 0, 0, 0, {}}.list_biases(threadIdx.x, C::kThreads);
      }
    }
  }
  __syncthreads();
  if (warpgroup >= C::kWarpgroups) {
    if constexpr (C::kFamily == Family::sm90) gpu::give_registers_back<Registers<C>::kLoading>();
    const int loader = warpgroup - C::kWarpgroups, threads = kWarpgroup / loader_teams, part = thread / threads;
    const int team = g.teams == 1 ? 0 : loader * loader_teams + part;
    if constexpr (C::kRawRows) {  // each warp loads chunks of its own
      const int warps = threads / 32, warp = uniform((thread - part * threads) / 32) + (g.teams == 1 ? loader * warps : 0);
      // No more than stages: who waits for a stage must not be two of its phases ahead.
      const int loading = warps * team_loaders < g.stages ? warps * team_loaders : g.stages;
      if (warp < loading) produce_raw<C>(p, Shared{memory, g, team}, thread % 32, warp, loading);
    } else {
      produce<C>(p, Shared{memory, g, team}, thread - part * threads, threads, g.teams == 1 ? loader : 0, team_loaders);
    }
  } else {
    if constexpr (C::kFamily == Family::sm90) gpu::take_registers<Registers<C>::kMultiplying>();
    if constexpr (C::kTwoSets) {
      if (g.sets == 2) return multiply_and_store<C, 2>(p, memory, warpgroup, thread);
    }
    multiply_and_store<C, 1>(p, memory, warpgroup, thread);
  }
}

/// Puts the weights of all chunks into memory as the chunks need them: block b has chunks b, b + blocks, ... `p.y` is the
/// packed weights.
template <class C>
__device__ __forceinline__ void pack_weights(const Params& p) {
  const ImplicitGeometry& g = p.g;
  const int total = g.all_column_tiles * g.chunks;
  gpu::wait_for_kernel_before();  // also for x, which the next kernel reads: this one is done after it
  gpu::let_next_kernel_start();
  for (int number = blockIdx.x; number < total; number += gridDim.x) {
    const int columns = number / g.chunks, c = number - columns * g.chunks;
    Tile tile{};
    tile.group = columns / g.column_tiles.divisor();
    tile.column = columns - tile.group * g.column_tiles.divisor();
    Chunk chunk;
    chunk.channel_block = c / g.tap_blocks;
    chunk.tap_block = c - chunk.channel_block * g.tap_blocks;
    unsigned char* to = static_cast<unsigned char*>(p.y) + std::int64_t{number} * g.weight_bytes;
    WeightLoader<C>(p, tile, threadIdx.x).load(chunk, to, [] {});
  }
}

}  // namespace convt_gemm::implicit

#pragma once
// What the parts of the fused kernel share: its compile-time choices, and the numbers that name a tile.
#include <cstdint>
#include <type_traits>

#include "implicit/gpu_ops.cuh"
#include "implicit/params.h"
#include "plan/implicit_geometry.h"
#include "util/half_types.h"

namespace convt_gemm::implicit {

/// How products are formed.
enum class Kind {
  tf32,
  tf32x3,  ///< three TF32 products of values split in two
  bfloat16,
  float16,
};

template <Kind kKind>
struct KindTraits {
  static constexpr DType kDType = DType::float32;
  using Element = float;
  static constexpr gpu::Words kWords = gpu::Words::tf32;
};
template <>
struct KindTraits<Kind::bfloat16> {
  static constexpr DType kDType = DType::bfloat16;
  using Element = BFloat16;
  static constexpr gpu::Words kWords = gpu::Words::bfloat16;
};
template <>
struct KindTraits<Kind::float16> {
  static constexpr DType kDType = DType::float16;
  using Element = Float16;
  static constexpr gpu::Words kWords = gpu::Words::float16;
};

struct NoWindow {
  static constexpr Window kWindow{};
};
/// A Window as a template argument.
template <Form kForm, int kTaps, int kStep, int kSets, int kSetStep, int kLines = 1>
struct WindowOf {
  static constexpr Window kWindow{kForm, kTaps, kStep, kSets, kSetStep, kLines};
};

template <Family kFamily_, Kind kKind_, Layout kLayout_, int kRows_, int kColumns_, int kWords_, int kRowBlocks_, int kLoaders_, class Window_ = NoWindow>
struct Config {
  static constexpr Window kWindow = Window_::kWindow;
  static constexpr bool kHasWindow = kWindow.form != Form::none;
  static constexpr ImplicitTile kTile{kFamily_, kRows_, kColumns_, kWords_, kRowBlocks_, kLoaders_, kWindow};
  static constexpr Family kFamily = kFamily_;
  static constexpr Kind kKind = kKind_;
  static constexpr bool kSplit = kKind_ == Kind::tf32x3;
  static constexpr bool kChannelsLast = kLayout_ == Layout::channels_last;
  static constexpr int kRows = kRows_;
  static constexpr int kColumns = kColumns_;
  static constexpr int kWords = kWords_;          // depth of a chunk for one tap
  static constexpr int kSteps = kWords_ / 8;      // products of 8 words in it
  static constexpr int kQuads = kWords_ / 4;      // 16 bytes in it
  static constexpr int kRowBlocks = kRowBlocks_;  // of 64 rows for each warpgroup
  static constexpr int kColumnBlocks = kColumns_ / kColumnBlock;
  static constexpr int kSums = kColumns_ / 2;  // of a thread for one row block
  static constexpr int kWarpgroups = kTile.warpgroups();  // that multiply
  static constexpr int kLoaders = kLoaders_;              // warpgroups that load
  static constexpr int kThreads = kTile.threads();
  /// Rows of x are multiplied as they lie in memory.
  static constexpr bool kRawRows = multiplies_raw_rows(kFamily_, KindTraits<kKind_>::kDType, kLayout_);
  static constexpr bool kServesAnyRows = kHasWindow && kTile.serves_any_rows(kSplit);
  static constexpr bool kTwoSets = !kHasWindow && multiplies_two_sets(kTile, kLayout_, kSplit);
  using Element = typename KindTraits<kKind_>::Element;
  static constexpr gpu::Words kOperand = KindTraits<kKind_>::kWords;
  static constexpr int kWordElements = 4 / int(sizeof(Element));
  static constexpr int kVector = 16 / int(sizeof(Element));  // elements of a 16-byte access
  static constexpr int kParts = kSplit ? 2 : 1;              // high and low, one after the other, in operands of eight words
  static_assert(kHasWindow || kWarpgroups * (2 * kMostStages + 1) * int(sizeof(std::uint64_t)) <= kBarrierBytes);
  static_assert(kColumns_ % (kHasWindow ? 8 : kColumnBlock) == 0 && kWords_ % 8 == 0 && kRows_ % (64 * kRowBlocks_) == 0);
  static_assert(kWindow.lines == 1 || (kServesAnyRows && !kSplit && kWindow.lines == 2));
  static_assert(kWindow.form != Form::thirds || kColumns_ % (24 * kWindow.sets) == 0);
};

/// A kernel of windows: see window_instances.def.
template <Kind kKind, int kRows, int kColumns, int kWords, int kRowBlocks, class Window>
using WindowConfig = Config<Family::sm90, kKind, Layout::channels_first, kRows, kColumns, kWords, kRowBlocks, 1, Window>;

/// float32 sums of a warpgroup's thread: for each row block and each 8 columns c, sum[block][4c ..] as
/// gpu::warp_multiply has them.
template <class C>
using Sums = float[C::kRowBlocks][C::kSums];

/// Of all lines of a tile, see Window::lines.
template <class C>
using LineSums = Sums<C>[C::kWindow.lines];

/// The row, within its warpgroup, that a thread holds in half `half` (0, 1) of a block of 64 rows: see gpu::warp_multiply.
__device__ __forceinline__ int row_of_thread(int row_block, int half, int thread) {
  return row_block * 64 + thread / 32 * 16 + half * 8 + thread % 32 / 4;
}

/// A value that is the same in all lanes, so that the compiler knows it too: tensor-core products wait for each other in paths that it
/// takes for divergent.
__device__ __forceinline__ int uniform(int value) { return __shfl_sync(0xffffffffu, value, 0); }

struct Tile {
  int row;     ///< row tile
  int column;  ///< column tile within its group
  int group;
};

__device__ __forceinline__ Tile tile_of(const ImplicitGeometry& g, int number) {
  const int quotient = g.tile_divisor.quotient(number), rest = number - quotient * g.tile_divisor.divisor();
  const int columns = g.columns_first ? rest : quotient;
  Tile tile;
  tile.row = g.columns_first ? quotient : rest;
  tile.group = g.column_tiles.quotient(columns);
  tile.column = columns - tile.group * g.column_tiles.divisor();
  return tile;
}

/// A row of the product.
struct Row {
  int sample;
  int position;  ///< u - first_position
  bool valid;    ///< rows between samples and after the last one stand for nothing
};

__device__ __forceinline__ Row row_of(const ImplicitGeometry& g, int number) {
  const int sample = g.sample_rows.quotient(number), position = number - sample * g.sample_rows.divisor();
  return {sample, position, position < g.positions && sample < g.batch};
}

/// A column of the product, within its group.
struct Column {
  int channel, residue;
  int first_tap;  ///< k of the formula for j = 0
  int major;      ///< major index within the column block
  bool valid;  ///< blocks may have columns that stand for nothing
};

/// Not with Store::direct: column `i` of column block `block` of the group.
__device__ __forceinline__ Column column_of(const ImplicitGeometry& g, int block, int i) {
  const int first = g.minor_blocks.quotient(block);
  const int part = block - first * g.minor_blocks.divisor();
  const int local = g.minors_of_block.quotient(i);
  const int major = first * g.block_majors + local;
  const int minor = part * kColumnBlock + i - local * g.minors_of_block.divisor();
  Column column;
  column.channel = g.channels_last ? minor : major;
  column.residue = column.first_tap = g.channels_last ? major : minor;
  column.major = local;
  column.valid = local < g.block_majors && major < g.majors && minor < g.minors && block < g.column_blocks;
  return column;
}

/// A thread holds columns 2t and 2t + 1 of each eight. If the product's column `i` is number dealt(i, together), then so many of a thread's, one
/// after the other, are consecutive, and after them come those of the next thread.
__device__ __forceinline__ int dealt(int i, int together) {
  const int rest = i & (4 * together - 1);
  return together == 1 ? (i & ~7) + i % 2 * 4 + i % 8 / 2 : i - rest + i % 8 / 2 * together + rest / 8 * 2 + i % 2;
}

/// Store::direct: which of the tile's consecutive columns the product's column `n` is. With two sets a thread has one half of what it stores
/// together in each half of the columns.
template <class C>
__device__ __forceinline__ int direct_column(const ImplicitGeometry& g, int n) {
  if (g.sets == 1) return dealt(n, g.direct_outputs);
  const int together = g.direct_outputs / 2, set = n / (C::kColumns / 2), number = dealt(n % (C::kColumns / 2), together);
  return 2 * number - number % together + set * together;
}

/// The same where a thread has neighbouring positions: see Form and ImplicitGeometry::classes.
template <class C>
__device__ __forceinline__ Column column_of_window(const ImplicitGeometry& g, int tile, int n) {
  constexpr int kSets = C::kWindow.sets, kSetColumns = C::kColumns / kSets;
  const int set = n / kSetColumns, i = n % kSetColumns;
  Column column;
  column.residue = column.major = 0;
  if constexpr (C::kWindow.form == Form::halves) {
    column.channel = tile * kSetColumns + i, column.residue = set;
  } else if constexpr (C::kWindow.form == Form::pairs) {
    column.channel = (tile * (kSetColumns / 2) + i / 2) * kSets + g.class_channel[set], column.residue = i % 2;
  } else if constexpr (C::kWindow.form == Form::thirds) {
    column.channel = (tile * (kSetColumns / 3) + i / 24 * 8 + i % 8) * g.classes + g.class_channel[set], column.residue = i / 8 % 3;
  } else {
    const bool two = g.classes == 2 * kSets;
    column.channel = (tile * (two ? kSetColumns / 2 : kSetColumns) + (two ? i / 2 : i)) * g.classes + g.class_channel[two ? 2 * set + i % 2 : set];
  }
  column.first_tap = column.residue + g.shift;
  if (column.first_tap >= g.stride && C::kWindow.form == Form::halves) column.first_tap -= g.stride;
  column.valid = column.channel < g.out_channels;
  return column;
}

/// Column `n` of a column tile.
template <class C>
__device__ __forceinline__ Column column_of_tile(const ImplicitGeometry& g, int tile, int n) {
  if constexpr (C::kHasWindow) return column_of_window<C>(g, tile, n);
  if (g.store != Store::direct) return column_of(g, tile * C::kColumnBlocks + n / kColumnBlock, n % kColumnBlock);
  const int number = tile * C::kColumns + direct_column<C>(g, n);
  Column column;
  column.channel = g.minors_of_block.quotient(number);
  column.residue = number - column.channel * g.minors_of_block.divisor();
  column.first_tap = column.residue + g.shift;
  if (column.first_tap >= g.stride && g.sets == 2) column.first_tap -= g.stride;
  column.major = 0;
  column.valid = column.channel < g.out_channels;
  return column;
}

/// Places of the parts of a block's dynamic shared memory, as one team sees them, and its barriers: full and empty of each stage.
struct Shared {
  unsigned char* base;
  const ImplicitGeometry& g;
  int team;

  __device__ __forceinline__ std::uint64_t* full(int stage) const {
    return reinterpret_cast<std::uint64_t*>(base) + team * 2 * kMostStages + stage;
  }
  __device__ __forceinline__ std::uint64_t* empty(int stage) const { return full(kMostStages + stage); }
  __device__ __forceinline__ unsigned char* x(int stage) const {
    return base + kBarrierBytes + (team * g.stages + stage) * g.x_bytes;
  }
  /// `slot` is the chunk if the weights are resident, else the stage.
  __device__ __forceinline__ unsigned char* weight(int slot) const {
    return base + kBarrierBytes + g.teams * g.stages * g.x_bytes + slot * g.weight_bytes;
  }
  __device__ __forceinline__ void* staging(int warpgroup) const {
    return base + g.shared_bytes - (g.stagings == 1 ? 1 : warpgroup + 1) * g.staging_bytes;
  }
  /// ImplicitGeometry::in_turn: the team has multiplied its first tile.
  __device__ __forceinline__ std::uint64_t* multiplied(int of_team) const {
    return reinterpret_cast<std::uint64_t*>(base + kBarrierBytes) - 1 - of_team;
  }
};

/// The tiles of a team: first, first + step, ... below end. A block with resident weights keeps to one column tile. Tiles that are at work at
/// the same time are next to each other, which memory likes (3 % faster than a part of all rows for each team).
struct TileRange {
  int first, step, end;

  __device__ __forceinline__ TileRange(const ImplicitGeometry& g, int team) {
    const int block = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
    first = block, step = blocks, end = g.tiles;
    if (g.resident) {
      step = g.all_column_tiles;
      const int column = block % step;
      first = uniform((block / step * g.teams + team) * step + column);
      step = uniform(blocks / step * g.teams * step);
    }
  }
};

/// Where a thread stands in the ring of stages.
struct RingPosition {
  int stage = 0;
  int parity = 0;

  __device__ __forceinline__ void advance(int stages) {
    if (++stage == stages) stage = 0, parity ^= 1;
  }
};

/// The chunk's part of the depth.
struct Chunk {
  int channel_block = 0, tap_block = 0;

  __device__ __forceinline__ void advance(const ImplicitGeometry& g) {
    if (++tap_block == g.tap_blocks) tap_block = 0, ++channel_block;
  }
};

/// Taps of a chunk that exist: the last block of taps may be shorter.
__device__ __forceinline__ int taps_of(const ImplicitGeometry& g, const Chunk& chunk) {
  const int left = g.taps - chunk.tap_block * g.chunk_taps;
  return left < g.chunk_taps ? left : g.chunk_taps;
}

/// Slots before the first that a team's row 0 reads: groups of kVectorPositions begin where they do in all samples' slots.
__device__ __forceinline__ int slots_before(const ImplicitGeometry& g, const Chunk& chunk) {
  return g.vector_rows ? (g.halo - ((chunk.tap_block + 1) * g.chunk_taps - 1) * g.input_step) & (kVectorPositions - 1) : 0;
}

/// Slot 0 of a chunk's stage among the slots of all samples.
__device__ __forceinline__ int first_slot(const ImplicitGeometry& g, const Tile& tile, const Chunk& chunk) {
  return tile.row * g.tile_rows + g.halo - ((chunk.tap_block + 1) * g.chunk_taps - 1) * g.input_step - slots_before(g, chunk);
}

/// raw_rows: how many elements after a multiple of 16 bytes a channel's slot 0 lies, in x and so in its row of the stage. `channel` is counted
/// in its group; channels four apart agree.
__device__ __forceinline__ int phase_of(const Params& p, const Tile& tile, const Chunk& chunk, int channel) {
  const ImplicitGeometry& g = p.g;
  const unsigned row = static_cast<unsigned>(tile.group * g.in_channels + channel) * static_cast<unsigned>(g.input);
  const unsigned slot = static_cast<unsigned>(g.first_position) - static_cast<unsigned>(g.halo) + static_cast<unsigned>(first_slot(g, tile, chunk));
  return static_cast<int>((static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(p.x) / sizeof(float)) + row + slot) & 3);
}

/// The slot, in a stage of x, that a team's row 0 reads for tap `tap` of the chunk.
__device__ __forceinline__ int slot_of(const ImplicitGeometry& g, const Chunk& chunk, int tap) {
  return (g.chunk_taps - 1 - tap) * g.input_step + slots_before(g, chunk);
}

}  // namespace convt_gemm::implicit

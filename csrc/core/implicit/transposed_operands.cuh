#pragma once
// What the parts of the transposed product's kernel share, and the order of its tiles.
#include "implicit/operands.cuh"
#include "implicit/transposed_params.h"

namespace convt_gemm::implicit {

/// Compile-time choices.
template <Kind kKind_, int kPositions_, int kColumns_, int kWords_>
struct TransposedConfig {
  static constexpr TransposedTile kTile{kPositions_, kColumns_, kWords_};
  static constexpr bool kSplit = kKind_ == Kind::tf32x3;
  static constexpr bool kChannelsLast = false;  // as XPlaces wants it
  static constexpr int kPositions = kPositions_;
  static constexpr int kColumns = kColumns_;
  static constexpr int kWords = kWords_;
  static constexpr int kSteps = kWords_ / 8;
  static constexpr int kQuads = kWords_ / 4;
  static constexpr int kSums = kPositions_ / 2;  // of a thread
  static constexpr int kStagedEighths = kTile.staged_positions() / 8;
  static constexpr int kMultiplying = kTile.multiplying();
  static constexpr int kThreads = kMultiplying + kTransposedLoading;
  using Element = typename KindTraits<kKind_>::Element;
  static constexpr gpu::Words kOperand = KindTraits<kKind_>::kWords;
  static constexpr int kWordElements = 4 / int(sizeof(Element));
  static constexpr int kChannels = kWords * kWordElements;  // of a chunk
  static constexpr int kVector = 16 / int(sizeof(Element));
  static constexpr int kParts = kSplit ? 2 : 1;
  static constexpr int kPlanes = kQuads * kParts;  // of x in a chunk
  /// Quads of x that a thread of the first kernel puts into order: 16 elements.
  static constexpr int kPackedQuads = 16 / kVector;
  static_assert(kPositions_ % 8 == 0 && kPositions_ <= 256 && kColumns_ % kGroupColumns == 0 && kWords_ % 16 == 0);
};

/// The tiles of a cluster, the chunks of them that this block has, and where it stands in both.
struct TransposedCursor {
  int number, step, end;   ///< of tiles
  int first_chunk, chunks;  ///< of each
  Tile tile{};
  Chunk chunk;
  int c = 0;  ///< of the block's chunks
  RingPosition ring;

  __device__ __forceinline__ explicit TransposedCursor(const TransposedParams& p) {
    const int rank = static_cast<int>(gpu::cluster_rank()), log2_splits = p.w.log2_splits;
    number = uniform(static_cast<int>(blockIdx.x) >> log2_splits), step = static_cast<int>(gridDim.x) >> log2_splits, end = p.g.tiles;
    first_chunk = p.g.chunks * rank >> log2_splits;  // fewer than 2^31 / 8 chunks and at most 8 splits
    chunks = (p.g.chunks * (rank + 1) >> log2_splits) - first_chunk;
    start_tile(p.g);
  }

  __device__ __forceinline__ bool done() const { return number >= end; }

  __device__ __forceinline__ void start_tile(const ImplicitGeometry& g) {
    c = 0;
    chunk.channel_block = g.tap_blocks == 1 ? first_chunk : first_chunk / g.tap_blocks, chunk.tap_block = first_chunk - chunk.channel_block * g.tap_blocks;
    if (!done()) tile = tile_of(g, number);
  }

  __device__ __forceinline__ void next_tile(const ImplicitGeometry& g) {
    number += step;
    start_tile(g);
  }

  /// To the next chunk, of the next tile if this was the last; the ring goes on.
  __device__ __forceinline__ void advance(const ImplicitGeometry& g) {
    ring.advance(g.stages);
    chunk.advance(g);
    if (++c == chunks) next_tile(g);
  }
};

/// A column of the weights.
struct WeightColumn {
  int channel, residue;
  int at;      ///< elements from the start of the tile's piece of a row to its first tap
  int taps;    ///< that it has
  bool valid;  ///< tiles may have columns that stand for nothing
};

/// Which column of the tile a thread has in half `half` (0, 1) of its warpgroup's 64: its own neighbour's neighbour, or with WeightTiles::paired the
/// next one.
__device__ __forceinline__ int column_of_thread(const WeightTiles& w, int warpgroup, int half, int thread) {
  const int lane_group = thread % 32 / 4;
  return warpgroup * kGroupColumns + thread / 32 * 16 + (w.paired ? lane_group * 2 + half : half * 8 + lane_group);
}

/// Column `i` of a tile.
template <class C>
__device__ __forceinline__ WeightColumn weight_column(const TransposedParams& p, const Tile& tile, int i) {
  const ImplicitGeometry& g = p.g;
  const WeightTiles& w = p.w;
  const int first = w.parts.quotient(tile.column), part = tile.column - first * w.parts.divisor();
  const int group = w.group_channels > 0 ? i / kGroupColumns : 0, in_group = i - group * kGroupColumns;
  const int of_group = w.residues.quotient(in_group), residue = in_group - of_group * w.residues.divisor();
  const int channel = group * w.group_channels + of_group;
  WeightColumn column;
  column.channel = first * w.channels + channel;
  column.residue = part * C::kColumns + residue;
  column.valid = in_group < w.columns && column.channel < g.out_channels && column.residue < g.residues;
  column.at = column.valid ? channel * g.kernel + residue : 0;
  const int more = g.taps - 1;  // or one less
  column.taps = column.residue + std::int64_t{more} * g.tap_step < g.kernel ? g.taps : more;
  return column;
}

}  // namespace convt_gemm::implicit

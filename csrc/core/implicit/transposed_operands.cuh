#pragma once
// What the parts of the transposed product's kernel share, and the order of its tiles.
#include "implicit/operands.cuh"
#include "implicit/transposed_params.h"

namespace convt_gemm::implicit {

/// Compile-time choices.
template <Kind kKind_, int kPositions_, int kWords_>
struct TransposedConfig {
  static constexpr bool kSplit = kKind_ == Kind::tf32x3;
  static constexpr bool kChannelsLast = false;  // as XPlaces wants it
  static constexpr int kPositions = kPositions_;
  static constexpr int kWords = kWords_;
  static constexpr int kSteps = kWords_ / 8;
  static constexpr int kQuads = kWords_ / 4;
  static constexpr int kSums = kPositions_ / 2;  // of a thread
  static constexpr int kThreads = kTransposedMultiplying + kTransposedLoading;
  using Element = typename KindTraits<kKind_>::Element;
  static constexpr gpu::Words kOperand = KindTraits<kKind_>::kWords;
  static constexpr int kWordElements = 4 / int(sizeof(Element));
  static constexpr int kChannels = kWords * kWordElements;  // of a chunk
  static constexpr int kVector = 16 / int(sizeof(Element));
  static constexpr int kParts = kSplit ? 2 : 1;
  static constexpr int kPlanes = kQuads * kParts;  // of x in a chunk
  static_assert(kPositions_ % 8 == 0 && kPositions_ <= 256 && kWords_ % 16 == 0);
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
    const int splits = p.w.splits, rank = static_cast<int>(gpu::cluster_rank());
    number = uniform(static_cast<int>(blockIdx.x) / splits), step = static_cast<int>(gridDim.x) / splits, end = p.g.tiles;
    first_chunk = p.g.chunks * rank / splits;  // fewer than 2^31 / 8 chunks and at most 8 splits
    chunks = p.g.chunks * (rank + 1) / splits - first_chunk;
    start_tile(p.g);
  }

  __device__ __forceinline__ bool done() const { return number >= end; }

  __device__ __forceinline__ void start_tile(const ImplicitGeometry& g) {
    c = 0;
    chunk.channel_block = first_chunk / g.tap_blocks, chunk.tap_block = first_chunk - chunk.channel_block * g.tap_blocks;
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

/// Column `i` of a tile.
__device__ __forceinline__ WeightColumn weight_column(const TransposedParams& p, const Tile& tile, int i) {
  const ImplicitGeometry& g = p.g;
  const WeightTiles& w = p.w;
  const int first = w.parts.quotient(tile.column), part = tile.column - first * w.parts.divisor();
  const int channel = w.residues.quotient(i), residue = i - channel * w.residues.divisor();
  WeightColumn column;
  column.channel = first * w.channels + channel;
  column.residue = part * kWeightRows + residue;
  column.valid = i < w.columns && column.channel < g.out_channels && column.residue < g.residues;
  column.at = column.valid ? channel * g.kernel + residue : 0;
  const int more = g.taps - 1;  // or one less
  column.taps = column.residue + std::int64_t{more} * g.tap_step < g.kernel ? g.taps : more;
  return column;
}

}  // namespace convt_gemm::implicit

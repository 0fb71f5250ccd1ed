#pragma once
// What the parts of the transposed product's kernel share, and the order of its tiles.
#include "implicit/operands.cuh"
#include "implicit/transposed_params.h"

namespace convt_gemm::implicit {

/// Compile-time choices.
template <Kind kKind_, int kPositions_, int kColumns_, int kWords_, Axes kAxes_>
struct TransposedConfig {
  using Plain = TransposedConfig;
  static constexpr bool kSingles = false;
  static constexpr TransposedTile kTile{kPositions_, kColumns_, kWords_, kAxes_};
  static constexpr bool kManyAxes = kAxes_ == Axes::many;
  using Params = std::conditional_t<kManyAxes, PlaneParams, TransposedParams>;
  static constexpr bool kSplit = kKind_ == Kind::tf32x3;
  static constexpr bool kChannelsLast = false;  // as XPlaces wants it
  static constexpr int kPositions = kPositions_;
  static constexpr int kColumns = kColumns_;
  static constexpr int kWords = kWords_;
  static constexpr int kSteps = kWords_ / 8;
  static constexpr int kQuads = kWords_ / 4;
  static constexpr int kSums = kPositions_ / 2;  // of a thread
  static constexpr int kMultiplying = kTile.multiplying();
  static constexpr int kThreads = kMultiplying + kTransposedLoading;
  using Element = typename KindTraits<kKind_>::Element;
  static constexpr int kStagedEighths = kTile.staged_positions(int(sizeof(Element))) / 8;
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

/// The configuration of the kernel for columns that are not paired, which are read one by one: where one kernel has a loop for either, ptxas makes products wait for each other (C7514).
template <class C>
struct WithSingles : C {
  static constexpr bool kSingles = true;
};

/// The tiles of a cluster, the chunks of them that this block has, and where it stands in both.
template <class C>
struct TransposedCursor {
  const typename C::Params& p;
  int number, step, end;   ///< of tiles
  int first_chunk, chunks;  ///< of each
  Tile tile{};
  Chunk chunk;
  int c = 0;  ///< of the block's chunks
  RingPosition ring;

  __device__ __forceinline__ explicit TransposedCursor(const typename C::Params& params) : p(params) {
    const int rank = static_cast<int>(gpu::cluster_rank()), log2_splits = p.w.log2_splits;
    number = uniform(static_cast<int>(blockIdx.x) >> log2_splits), step = static_cast<int>(gridDim.x) >> log2_splits, end = p.g.tiles;
    first_chunk = p.g.chunks * rank >> log2_splits;  // fewer than 2^31 / 8 chunks and at most 8 splits
    chunks = (p.g.chunks * (rank + 1) >> log2_splits) - first_chunk;
    start_tile();
  }

  __device__ __forceinline__ bool done() const { return number >= end; }

  __device__ __forceinline__ void start_tile() {
    const ImplicitGeometry& g = p.g;
    c = 0;
    chunk.channel_block = g.tap_blocks == 1 ? first_chunk : first_chunk / g.tap_blocks, chunk.tap_block = first_chunk - chunk.channel_block * g.tap_blocks;
    for (; !done(); number += step) {
      tile = tile_of(g, number);
      if (has_outputs()) return;
    }
  }

  __device__ __forceinline__ void next_tile() {
    number += step;
    start_tile();
  }

  /// To the next chunk, of the next tile if this was the last; the ring goes on.
  __device__ __forceinline__ void advance() {
    ring.advance(p.g.stages);
    chunk.advance(p.g);
    if (++c == chunks) next_tile();
  }

 private:
  /// Whether the tile has positions of the outermost axis that have outputs.
  __device__ __forceinline__ bool has_outputs() const {
    if constexpr (C::kManyAxes) {
      const PlaneAxis& axis = p.planes.axis[0];
      const int row = p.w.first_row + tile.row * p.g.tile_rows, first = p.planes.outermost_slots.quotient(row);
      const int place = first - axis.slots.quotient(first) * axis.slots.divisor();
      const bool next = row + p.g.tile_rows > (first - place + axis.slots.divisor()) * p.planes.outermost_slots.divisor();
      return place < p.planes.outermost_positions || next;
    }
    return true;
  }
};

/// A column of the weights.
struct WeightColumn {
  int channel, residue;
  int at;      ///< elements from the start of the tile's piece of a row to its first tap
  int taps;    ///< that it has; of several axes: bits, of which of them it lacks the last one
  bool valid;  ///< tiles may have columns that stand for nothing
};

/// Of several axes: the part of a column's residue that is of each.
struct PlaneResidue {
  int of[kAllAxes];

  __device__ __forceinline__ PlaneResidue(const PlaneTiles& planes, int residue) {
#pragma unroll
    for (int a = kAllAxes - 1; a >= 0; --a) {
      const FastDiv<std::int32_t>& stride = planes.axis[a].stride;
      const int rest = stride.quotient(residue);
      of[a] = residue - rest * stride.divisor();
      residue = rest;
    }
  }
};

/// Which column of the tile a thread has in half `half` (0, 1) of its warpgroup's 64: its own neighbour's neighbour, or with WeightTiles::paired the
/// next one.
__device__ __forceinline__ int column_of_thread(const WeightTiles& w, int warpgroup, int half, int thread) {
  const int lane_group = thread % 32 / 4;
  return warpgroup * kGroupColumns + thread / 32 * 16 + (w.paired ? lane_group * 2 + half : half * 8 + lane_group);
}

/// Column `i` of a tile.
template <class C>
__device__ __forceinline__ WeightColumn weight_column(const typename C::Params& p, const Tile& tile, int i) {
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
  if constexpr (C::kManyAxes) {
    const PlaneResidue of_axis(p.planes, residue);
    int place = 0;
    column.taps = 0;
#pragma unroll
    for (int a = 0; a < kAllAxes; ++a) {
      const PlaneAxis& axis = p.planes.axis[a];
      place = place * axis.kernel + of_axis.of[a];
      if (of_axis.of[a] + (axis.most_taps - 1) * axis.stride.divisor() >= axis.kernel) column.taps |= 1 << a;
    }
    column.at = column.valid ? channel * g.kernel + place : 0;
  } else {
    column.at = column.valid ? channel * g.kernel + residue : 0;
    const int more = g.taps - 1;  // or one less
    column.taps = column.residue + std::int64_t{more} * g.tap_step < g.kernel ? g.taps : more;
  }
  return column;
}

}  // namespace convt_gemm::implicit

#pragma once
// The transposed product: the residue form of implicit_geometry.h with its factors the other way round. Its rows are columns of the weights,
// (out channel, residue) pairs, its columns are positions u, and its depth is (in channel, tap j):
//
//   y[(channel, r), u] = sum over channels c and j of w[c, channel, r + j S'] x[c, u - j D'].
//
// It is for layers with more weights than positions, where to put the weights into another order first would take as long as the product:
// their rows are copied as they lie in memory, and threads read the words that wgmma takes from registers there, whatever tap they are of.
// x, the smaller operand, is what a first kernel puts into the tensor cores' order, in the workspace, with the zeros around its samples: a tile's
// part of it is then as easily copied as the weights. Where tiles are fewer than multiprocessors, the blocks of a cluster share out
// the depth of a tile and add up their sums.
#include "plan/implicit_geometry.h"

namespace convt_gemm {

/// Columns of weights of a tile: 64 for each of two warpgroups.
inline constexpr int kWeightRows = 128;
/// Threads of a block: two warpgroups that multiply, and one that loads.
inline constexpr int kTransposedMultiplying = 2 * kWarpgroup, kTransposedLoading = kWarpgroup;

/// What a kernel instance computes at a time.
struct TransposedTile {
  int positions;  ///< a multiple of 8, at most 256
  int words;      ///< depth of a chunk, as in ImplicitTile
};

/// A column tile: either all residues of some channels, or a part of the residues of one. Of its columns, kWeightRows at most, the pieces of the
/// weights' rows that a chunk needs, and the blocks that share out the chunks of a tile.
struct WeightTiles {
  int channels;                    ///< of a column tile; 1 if it has a part of the residues
  int columns;                     ///< of a column tile that are used
  FastDiv<std::int32_t> residues;  ///< of a column tile for each channel
  FastDiv<std::int32_t> parts;     ///< column tiles for each channel; 1 if a tile has whole channels

  int pieces;      ///< of a chunk for each in channel: 1, or one for each tap if a tile has a part of the residues
  int length;      ///< elements of a piece
  int pitch;       ///< elements from one channel's piece to the next channel's
  int tap_offset;  ///< elements from one tap of a column to the next

  int splits;      ///< blocks of a cluster, which share out the chunks of a tile

  // x in the workspace: for each block of channels, planes of quads (see ImplicitGeometry), each with the slots of all tiles. Slot i there is
  // slot i - slots_before in the numbering of ImplicitGeometry.
  int packed_slots;
  int slots_before;
};

struct TransposedGeometry {
  ImplicitGeometry g;  ///< the problem, its residue form, positions (a tile's rows) and stages
  WeightTiles w;
};

/// Works out the geometry, or says false where the tile cannot serve the problem: more than one axis, channels_last, outputs without taps,
/// rows of weights that are not multiples of 16 bytes, more of x than of weights, sizes beyond 32 bits, stages that do not fit shared memory, or
/// more splits than pay.
bool make_transposed_geometry(const Problem& problem, Precision precision, const TransposedTile& tile, int splits,
                              const DeviceTraits& traits, TransposedGeometry* geometry);

/// Bytes of x in the workspace.
std::int64_t packed_positions_bytes(Precision precision, const TransposedTile& tile, const TransposedGeometry& geometry);

}  // namespace convt_gemm

#pragma once
// The transposed product: the residue form of implicit_geometry.h with its factors the other way round. Its rows are columns of the weights,
// (out channel, residue) pairs, its columns are positions u, and its depth is (in channel, tap j):
//
//   y[(channel, r), u] = sum over channels c and j of w[c, channel, r + j S'] x[c, u - j D'].
//
// It is for layers with more weights than positions, where to put the weights into another order first would take as long as the product:
// their rows are copied as they lie in memory, and threads read the words that wgmma takes from registers there, whatever tap they are of.
//
// Where a problem has several axes, r, j and u have a part for each, and so rows, columns and depth are products of those of the axes. Positions are numbered as they lie
// in a block of R_0 x R_1 x R_2 slots for each sample, whose rows end with zeros where it takes some for one tap further to be the same number of slots away for all of them.
//
// x, the smaller operand, is what a first kernel puts into the tensor cores' order, in the workspace, with the zeros around its samples: a tile's
// part of it is then as easily copied as the weights. Where tiles are fewer than multiprocessors, the blocks of a cluster share out
// the depth of a tile and add up their sums.
#include "plan/implicit_geometry.h"

namespace convt_gemm {

/// Most parts that the rows of the product are done in.
inline constexpr int kMostRanges = 8;
/// Columns of weights that a warpgroup has, and threads of a block that load.
inline constexpr int kGroupColumns = 64, kTransposedLoading = kWarpgroup;

/// Of WeightTiles::swapped: the first of the two channels of eight, in the order of memory, whose elements are in the first word of thread `i` of four; the other one is two further.
CONVT_HOST_DEVICE constexpr int first_swapped_channel(int i) { return (i & 1) + (i >> 1) * 4; }

/// Of a problem. A kernel is for either.
enum class Axes : std::int8_t { one, many };

/// What a kernel instance computes at a time.
struct TransposedTile {
  int positions;  ///< a multiple of 8, at most 256
  int columns;    ///< of weights: kGroupColumns for each warpgroup that multiplies
  int words;      ///< depth of a chunk, as in ImplicitTile
  Axes axes;
  constexpr int multiplying() const { return columns / kGroupColumns * kWarpgroup; }  ///< threads
  /// Whether clusters share out a tile: with more columns, threads have too few registers for it.
  constexpr bool splits() const { return columns <= 128; }
  /// Whose sums of elements of so many bytes are staged at a time, 0 if they are not, for the same reason. Stages of several axes leave less room.
  constexpr int staged_positions(int element) const { return columns > 128 ? 0 : positions <= 144 ? 48 : axes == Axes::one || words > 16 || element == 2 ? 72 : 48; }
};

/// A column tile: either all residues of some channels, or a part of the residues of one. Of its columns, the pieces of the
/// weights' rows that a chunk needs, the blocks that share out the chunks of a tile, and the way of sums to memory.
struct WeightTiles {
  int channels;                    ///< of a column tile; 1 if it has a part of the residues
  int group_channels;              ///< of a warpgroup, if each has channels of its own; else 0
  int columns;                     ///< of a column tile, or of a warpgroup that has channels of its own, that are used
  FastDiv<std::int32_t> residues;  ///< of a column tile for each channel
  FastDiv<std::int32_t> parts;     ///< column tiles for each channel; 1 if a tile has whole channels
  bool all_taps;                   ///< all columns have all taps; else there is room for a zero behind each piece of weights
  bool paired;                     ///< and a thread's two columns are neighbours, whose words are read together: pairs are aligned
  bool pair_stores;                ///< and are neighbouring outputs whose place in y is aligned too
  /// 16-bit elements: the middle two channels of each four have changed places in the depth, of x and of weights alike, where a warp's reads of weights then meet
  /// fewer others in a bank.
  bool swapped;
  // Positions (u - first_position) from first_whole on and below after_whole have outputs of all residues.
  int first_whole, after_whole;

  int pieces;      ///< of a chunk for each in channel: 1, or one for each tap if a tile has a part of the residues
  int length;      ///< elements of a piece
  int pitch;       ///< elements from one channel's piece to the next channel's
  int tap_offset;  ///< elements from one tap of a column to the next

  // Blocks of a cluster, which share out the chunks of a tile, and then its positions: each adds up the sums of 8 share_eighths of them, the last ones of what is left.
  // Kernels shift by log2_splits: a block's first copies would wait for divisions.
  int splits, log2_splits;
  int share_eighths;
  int exchange_bytes;  ///< of shared memory, for what the other blocks give a block

  // A warpgroup that has channels of its own puts the outputs of some positions (in a cluster: of its share), which follow each other in memory, into a buffer first,
  // one row of it for each channel, and stores them from there, up to 16 bytes of a row at a time: rows begin as far after such a vector in the buffer as in y.
  bool staged;
  int staging_pitch;                     ///< elements from row to row
  int staging_bytes;                     ///< of a warpgroup
  int log2_vector;                       ///< elements that are stored together
  int first_in_vector;                   ///< where in one a row's first output lies
  FastDiv<std::int32_t> sample_outputs;  ///< of a sample's rows, with those that do not exist

  // x in the workspace: for each block of channels, planes of quads (see ImplicitGeometry), each with the slots of all tiles. Slot i there is
  // slot i - slots_before in the numbering of ImplicitGeometry.
  int packed_slots;
  int slots_before;
  // Where it would take more memory than it may, rows (row tiles) are done in ranges, one after the other, each with its part of x.
  int ranges;
  int first_row;  ///< of the range that a launch has
};

inline constexpr int kAllAxes = kOuterAxes + 1;

/// An axis of several. gcd(stride, dilation) is 1 and kernel >= stride, so that residues are [0, stride) and each has a tap.
struct PlaneAxis {
  int input, output, kernel, dilation;
  FastDiv<std::int32_t> stride;
  FastDiv<std::int32_t> slots;  ///< R
  int most_taps;                ///< of a residue
  int first_input;              ///< input that slot 0 holds
  int first_output;             ///< of position 0 and residue 0; may be negative
};

/// What tiles of several axes have besides. ImplicitGeometry::kernel, residues, taps, input and halo are those of all axes together.
struct PlaneTiles {
  static constexpr int kMostTaps = 64, kMostRuns = 16;
  PlaneAxis axis[kAllAxes];
  FastDiv<std::int32_t> outermost_slots;  ///< of one position of axis 0
  int outermost_positions;                ///< of axis 0 that have outputs

  // Of each tap: elements from the weight of a column's first tap to its own, the slot of a stage that position 0 of a tile reads, and (bits) of which axes it is the last one, which
  // some residues lack.
  std::int32_t tap_weights[kMostTaps];
  std::int16_t tap_slots[kMostTaps];
  std::uint8_t tap_last[kMostTaps];
  // A stage's slots are runs of neighbouring ones, each of those that neighbouring taps read: so many slots each, which begin so far before ImplicitGeometry::halo.
  int runs, run_slots;
  int run_before[kMostRuns];

  // A row of the staging buffer is the outputs of a channel and of one residue of the outer axes. Vectors of a row, threads that have those of one, and channels that all threads
  // have rows of at a time.
  int outer_residues;
  int row_vectors, channels_at_once;
  FastDiv<std::int32_t> row_threads;
};

struct TransposedGeometry {
  ImplicitGeometry g;  ///< the problem, its residue form, positions (a tile's rows) and stages
  WeightTiles w;
  PlaneTiles planes;
};

/// Works out the geometry, or says false where the tile cannot serve the problem: channels_last, outputs without taps,
/// rows of weights that are not multiples of 16 bytes, sizes beyond 32 bits, stages that do not fit shared memory, more splits than pay;
/// of one axis much more of x than of weights, of several more residues than a warpgroup's columns or neighbouring ones that do not have neighbouring outputs.
bool make_transposed_geometry(const Problem& problem, Precision precision, const TransposedTile& tile, int splits,
                              const DeviceTraits& traits, TransposedGeometry* geometry);

/// Cuts rows into as few ranges as it takes that one's x is at most `most_bytes`; false if that cannot be, or if the depth is split.
bool set_ranges(Precision precision, const TransposedTile& tile, std::int64_t most_bytes, TransposedGeometry* geometry);

/// What the launch of range `range` is given.
TransposedGeometry range_of(const TransposedGeometry& geometry, int range);

/// Bytes of x in the workspace.
std::int64_t packed_positions_bytes(Precision precision, const TransposedTile& tile, const TransposedGeometry& geometry);

}  // namespace convt_gemm

#pragma once
// How gemm_col2im runs on a CPU: the residue form of lowering.md. The taps that meet in one output are summed in the
// depth of the GEMM, so that a piece has one column per residue instead of one per tap, and every column belongs to one
// output.
//
// A residue is named by its first tap k0 in [0, min(S', kernel)), its "lead". With u = (o + padding) / g the lead's
// outputs are u = m*S' + k0*D', and tap k0 + j*S' reads input m - j*D'. Leads with equally many taps read the same
// inputs and can be rows of one GEMM over the positions m: there are at most two such classes. With many output
// channels every lead is a class of its own, so that it computes no position but its own.
#include <array>
#include <cstddef>
#include <cstdint>

#include "convt_gemm/plan.h"
#include "plan/pieces.h"
#include "util/residues.h"

namespace convt_gemm {

/// Leads [first, first + count) of an axis; each has `taps` taps.
struct LeadClass {
  std::int64_t first = 0;
  std::int64_t count = 0;
  std::int64_t taps = 0;
};

inline constexpr int kMaxLeadClasses = 8;

/// An axis without the taps at either end that reach no output: they would only widen the halo.
struct CpuAxis {
  Axis axis;                   ///< kernel and padding without those taps; stride see cpu_axis()
  std::int64_t first_tap = 0;  ///< of the problem's kernel
  Residues residues;
  std::int64_t leads = 1;      ///< 0 if no tap reaches an output
  std::int64_t most_taps = 1;  ///< of any lead
  int classes = 1;
  std::array<LeadClass, kMaxLeadClasses> lead_class;

  int class_of(std::int64_t lead) const { return classes == leads ? int(lead) : lead < lead_class[0].count ? 0 : 1; }
};

/// `split_leads`: a class for each lead, if kMaxLeadClasses suffice.
CpuAxis cpu_axis(const Axis& axis, bool split_leads = false);

/// Positions m of an output range on one axis.
struct CpuTileAxis {
  Range output;
  std::int64_t first_position = 0;              ///< of any class
  std::int64_t positions = 0;                   ///< from there to the last of any class
  std::array<Range, kMaxLeadClasses> of_class;  ///< relative to first_position; empty if the class has no output here
  std::int64_t most_of_class = 1;               ///< size of the longest of these
  double taps_in_tensor = 1;                    ///< share of the taps of all positions whose inputs lie in the tensor
  std::int64_t shared_zeros = 0;  ///< inputs that lie outside the tensor at either end of the halo and positions
};

/// A packed input tile is [channel][sample][axis 0][axis 1][axis 2], every axis with its taps' windows of inputs, last
/// tap first: window j holds the inputs m - j*D' of all positions m. Windows overlap, so that they are one run with a
/// halo, unless D' exceeds the number of positions. Neighbouring lines, planes and samples share the zeros between
/// them. The columns of a row are [segment][position in segment]: a segment merges as many of the inner dimensions as
/// costs least, its positions run through the halos between them, and those columns are never read.
struct CpuTileLayout {
  std::int64_t samples = 1;
  std::array<std::int64_t, kMaxAxes> positions{1, 1, 1};
  std::array<std::int64_t, kMaxAxes> window_step{1, 1, 1};  ///< from a tap's window to the one before
  std::array<std::int64_t, kMaxAxes> halo{0, 0, 0};         ///< inputs before window 0
  std::array<std::int64_t, kMaxAxes> inputs{1, 1, 1};       ///< positions + halo
  std::array<std::int64_t, kMaxAxes> input_step{1, 1, 1};   ///< from one input to the next on an axis, within a channel
  std::int64_t sample_step = 1;
  std::int64_t channel_step = 1;
  int merged = 0;  ///< how many dimensions outside axis 2 are merged: 0 none, 1 axis 1, 2 axis 0, 3 samples
  std::int64_t segment_step = 1;  ///< from one segment to the next in a row of columns
  std::int64_t row_step = 1;      ///< from one row of columns to the next

  CpuTileLayout() = default;
  /// `most_row_step` bounds row_step; a tile with no more samples and positions than that of another layout keeps to
  /// the other's.
  CpuTileLayout(const std::array<CpuAxis, kMaxAxes>& axes, std::int64_t samples,
                const std::array<CpuTileAxis, kMaxAxes>& tile, std::int64_t most_row_step);

  /// Where a position (p0, p1, 0) lies within a channel of the packed tile, counted from the first without the halos.
  std::int64_t input_of(std::int64_t sample, std::int64_t p0, std::int64_t p1) const {
    return sample * sample_step + p0 * input_step[0] + p1 * input_step[1];
  }
  /// Where the column of a position (p0, p1, 0) lies in a row.
  std::int64_t column_of(std::int64_t sample, std::int64_t p0, std::int64_t p1) const;
};

/// Elements of row alignment in tiles and columns; the widest vector of any back end, in float32.
inline constexpr std::int64_t kCpuLane = 16;

/// Everything about a plan that does not depend on the tensors' addresses. Sizes are in elements of the accumulation
/// type.
struct CpuSchedule {
  Problem problem;
  std::array<CpuAxis, kMaxAxes> axes;
  Piece piece;
  std::array<std::int64_t, kMaxAxes> tiles{1, 1, 1};
  std::int64_t sample_tiles = 1;
  std::int64_t depth_chunk = 1;  ///< input channels that one pass of the GEMM goes through
  std::int64_t block = 1;        ///< output channels whose columns are in memory at a time
  std::int64_t blocks = 1;       ///< per group
  std::int64_t rows_per_channel = 1;
  std::int64_t row_step = 1;   ///< of the largest tile's columns
  std::int64_t used_taps = 1;  ///< taps that reach an output

  std::int64_t tile_elements = 0;    ///< packed input, per thread
  std::int64_t column_elements = 0;  ///< per thread
  std::int64_t line_elements = 0;    ///< per thread: an output line of 16-bit values before rounding
  std::int64_t block_weights = 0;    ///< packed weights of one block and depth chunk
  std::int64_t all_weights = 0;      ///< packed weights of the problem

  CpuSchedule(const Problem& problem, const Piece& piece);

  std::int64_t position_tiles() const { return sample_tiles * tiles[0] * tiles[1] * tiles[2]; }
  CpuTileAxis tile_axis(int a, std::int64_t tile) const;
  /// Bytes of the workspace; with `shared_weights` the weights are packed once before the tiles run, else by each tile.
  std::size_t workspace_bytes(int threads, bool shared_weights) const;
  /// Weights are worth sharing if several tiles read them.
  bool can_share_weights() const { return position_tiles() > 1; }
};

/// Threads and weight packing that a workspace allows.
struct CpuWorkers {
  int threads = 1;
  bool shared_weights = false;
};

/// As many of the threads as the budget has room for, at least one; weights shared where there is room for that too.
CpuWorkers cpu_workers(const CpuSchedule& schedule, int threads, std::size_t budget);

}  // namespace convt_gemm

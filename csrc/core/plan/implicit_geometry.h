#pragma once
// The residue form of a transposed convolution as one matrix product whose column buffer never leaves the chip, and how a
// kernel cuts it into tiles. Plain numbers, worked out on the host and handed to the kernel as they are.
//
// Along an axis let g = gcd(stride, dilation), S' = stride / g and D' = dilation / g. Write a tap as k = r + j S' with a
// residue r in [0, S'). Input i adds through tap k to the output at q = i stride + k dilation (q = output + padding); with
// u = i + j D' that is
//
//   q = u stride + r dilation,   y(q) = sum over channels and j of x[u - j D'] w[r + j S'],
//
// because S' dilation = D' stride. So the rows of the product are positions u, its columns are (out channel, residue), and its
// depth is (in channel, j): a product of x, shifted by j D', with weights that are only read. Each q that is a multiple
// of g has exactly one (u, r); if r has no tap (r >= kernel) or g does not divide q, the output is the bias.
//
// Where a position's outputs begin in the middle of what a thread could store at a time, since padding is no multiple of the stride, residues
// can be numbered by the output instead. With dilation 1, kernel >= stride and p = padding mod stride, output m stride + rho has
//
//   r = rho + p and u = m + floor(padding / stride)  if rho + p < stride,  else r = rho + p - stride and a u that is one more.
//
// So a row is a position m, and columns are two sets, of which the second reads x one position further. With p = stride / 2, which is
// the padding of upsampling layers (kernel = 2 stride), both have as many columns: a tile's first half is of one set, its second half of the other.
#include <cstdint>

#include "convt_gemm/plan.h"
#include "util/fast_div.h"

namespace convt_gemm {

/// Which instructions a kernel is written for.
enum class Family : std::int8_t {
  sm80,  ///< mma.sync, cp.async: sm_80 and later
  sm90,  ///< wgmma, bulk copies: sm_90a
};

/// Columns are handled, and their sums leave the registers, in blocks of this many.
inline constexpr int kColumnBlock = 32;
/// Threads of a warpgroup: four warps, each of which has 16 rows of every 64.
inline constexpr int kWarpgroup = 128;
/// Positions of x that are loaded at a time where rows are aligned.
inline constexpr int kVectorPositions = 4;
/// Most classes of channels that begin at different places of a sector.
inline constexpr int kMostClasses = 8;
/// Most stages of the ring of operand tiles in shared memory.
inline constexpr int kMostStages = 8;

/// Which four outputs a thread stores together where it has neighbouring positions.
enum class Form : std::int8_t {
  none,        ///< a thread's positions are not neighbours
  neighbours,  ///< stride 1: four positions
  pairs,       ///< stride 2: both residues of two positions, in neighbouring columns
  halves,      ///< the same, of residues numbered by the output: one in each half of the columns
  gaps,        ///< stride 2, where every other output has no tap: two positions, with the biases between them
  thirds,      ///< stride 3: the twelve of four positions, a third after the other; a residue's eights of columns are two apart
};

/// How a thread has neighbouring positions. What it reads of a channel is then one window of x for all taps and sets, some vectors of
/// shared memory.
struct Window {
  Form form = Form::none;
  int taps = 0, step = 0;  ///< ImplicitGeometry::taps, input_step
  int sets = 1;            ///< of columns, each of which reads x `set_step` positions further than the one before. Rows of y begin at
  int set_step = 0;        ///< different places of a sector: a channel is in the set whose stores begin where a sector does. Form::thirds: see lag.
  int lines = 1;           ///< of y that a tile has: of neighbouring outputs of the axis before the last, whose stride is 1. Most of x that one of them reads, the other does too.
  constexpr int positions() const { return form == Form::neighbours || form == Form::thirds ? 4 : 2; }
  constexpr int outputs() const { return form == Form::neighbours ? 1 : form == Form::thirds ? 3 : 2; }  ///< of a position
  /// Columns of the product for an out channel.
  constexpr int channel_columns() const { return form == Form::thirds ? 3 : form == Form::pairs || form == Form::halves ? 2 : 1; }
  /// Sets that differ in their channels, not in their residue.
  constexpr int channel_sets() const { return form == Form::halves ? 1 : sets; }
  /// How much further the last set's outputs are than the first one's, in positions.
  constexpr int ahead() const { return (channel_sets() - 1) * set_step; }
  constexpr int reach() const { return (sets - 1) * set_step; }
  /// A thread's positions are so many before a whole vector of x, since what it reads is whole vectors: at stride 1, what its taps reach begins with one then (sets bring
  /// its outputs to where stores begin); a stride of 3 may have no store begin where vectors do.
  constexpr int lag() const {
    if (form == Form::neighbours && sets > 1) return (positions() - (taps - 1) * step % positions()) % positions();
    return form == Form::thirds ? set_step : 0;
  }
  /// Positions of x before a tile's first that come with it: whole 16 bytes, `vector` elements.
  constexpr int before(int vector) const { return ((taps - 1) * step + lag() + vector - 1) / vector * vector; }
  /// Positions of x that come for `rows` positions. What lanes read at a time of neighbouring channels is then in different banks.
  constexpr int box(int rows, int vector) const { return (before(vector) + rows + reach() + 7) / 16 * 16 + 8; }
  // A run is the outputs of an out channel for `rows` positions, side by side in shared memory, elements of so many bytes: its bytes, and those from one run to the
  // next. What lanes write at a time is then in different banks.
  constexpr int run_bytes(int rows, int element) const { return rows * outputs() * element; }
  constexpr int run_pitch(int rows, int element) const { return run_bytes(rows, element) + (form == Form::pairs ? 32 : 16); }
  /// Bytes of the sums with which a team's second warp and those after it begin, see ShiftedStore: three of each of the tile's out channels, with room for a fourth.
  constexpr int heads_bytes(int columns) const { return (kWarpgroup / 32 - 1) * (columns / channel_columns()) * 4 * int(sizeof(float)); }
};

/// Bytes that rows have more in shared memory where they begin up to 15 late: also so many that lanes which read words of different rows use different banks.
constexpr int shifted_row_bytes(int element) { return element == 2 ? 32 : 16; }

/// What a kernel instance computes at a time.
struct ImplicitTile {
  Family family;
  int rows;         ///< positions of a block: 64 row_blocks for each warpgroup that multiplies
  int columns;      ///< (out channel, residue) pairs, a multiple of kColumnBlock, or of 8 with a window
  int words;        ///< depth of a chunk for each tap, in words of 32 bits: one float32 channel or two 16-bit ones; a multiple of 8
  int row_blocks;   ///< blocks of 64 rows that a warpgroup has
  int loaders;      ///< warpgroups that load
  Window window{};
  constexpr int warpgroup_rows() const { return 64 * row_blocks; }
  constexpr int warpgroups() const { return rows / warpgroup_rows(); }  ///< that multiply
  /// Too large for the loading threads to have registers for weights: those that stream come from the workspace.
  constexpr bool packed_only() const { return row_blocks * columns >= 256; }
  /// Windows: whether rows of y may begin anywhere and there may be axes before the last. Not where sets or a stride of 3 want rows that begin alike; and kernels
  /// whose time is that of a few tiles, or that have no registers left, do without the code.
  /// `split`: tf32x3.
  constexpr bool serves_any_rows(bool split) const {
    return window.channel_sets() == 1 && window.form != Form::thirds && window.taps <= 3 && (window.form != Form::halves || (columns >= 64 && !split));
  }
  /// Windows of one axis: whether a kernel of its own stores rows of y that begin anywhere, see ShiftedStore. For tiles that serve no such rows else (where threads store
  /// their outputs one by one, that is up to a tenth faster), but for tf32x3's narrow ones, which have no registers left.
  constexpr bool has_shifted_store(bool split) const {
    return window.channel_sets() == 1 && (window.form == Form::thirds || (window.form == Form::halves && (columns >= 64) == split));
  }
  constexpr int threads() const { return (warpgroups() + loaders) * kWarpgroup; }
};

/// Most stages of a team's ring where so many teams have windows: barriers of four teams leave no other room for the numbers of their tiles.
constexpr int most_window_stages(int teams) { return teams > 3 ? kMostStages / 2 : kMostStages; }

/// How sums are put together to consecutive outputs ("runs") before they are stored.
enum class Store : std::int8_t {
  direct,     ///< channels_first: no runs, each thread stores its own sums, up to 16 bytes at a time
  rows,       ///< channels_first, all residues in one column block: a run is a part of an output row
  positions,  ///< channels_first, more residues than a block holds: a run is the outputs of one position
  channels,   ///< channels_last: a run is the channels of one output position
  scattered,  ///< channels_first, residues of one position reach past the next position: element by element
};

/// Axes before the last one.
inline constexpr int kOuterAxes = 2;
/// The one of Window::lines.
inline constexpr int kLineAxis = kOuterAxes - 1;

/// An axis before the last one. A tile has one output o of it (or lines). Of the formula above, with gcd 1, q = o + padding has r = q inverse mod stride and
/// u = (q - r dilation) / stride: so residues are numbered by o mod stride, and each has outputs one stride apart, whose u are neighbours. A block has one
/// residue, that is the same taps for all its tiles; the taps of outer axes are more depth: the same channels, of another row of x.
struct OuterAxis {
  int input, output, kernel, dilation, padding;
  FastDiv<std::int32_t> stride;
  FastDiv<std::int32_t> tiles_of_residue;  ///< outputs, or lines of them, at most
  int inverse;                 ///< of dilation modulo stride
  FastDiv<std::int32_t> taps;  ///< of any output, at most; those that there are not have weights of zero
};

struct ImplicitGeometry {
  // The problem. Channels are those of one group.
  std::int64_t input, output, batch;
  std::int64_t padding;
  int in_channels, out_channels, groups;
  int kernel, stride, dilation;
  bool channels_last;
  int weights;         ///< of an in and an out channel: all taps of all axes
  std::int64_t plane;  ///< outputs of a channel
  bool planes;         ///< there is an outer axis; only kernels of windows serve those
  bool flat;           ///< no position of any axis shares an output with another: those of all axes are one row, whose outputs are rows of y again when they are stored
  FastDiv<std::int32_t> flat_row, flat_rows;  ///< flat: positions of the last axis, and of the one before it
  OuterAxis outer[kOuterAxes];

  // Residue form.
  int residues;    ///< with at least one tap: min(kernel, S')
  int taps;        ///< of residue 0, which has most: ceil(kernel / S')
  int tap_step;    ///< S'
  int input_step;  ///< D'
  int gcd;         ///< g
  int inverse;     ///< of D' modulo S'
  bool fill;       ///< some outputs have no tap and are the bias
  bool compact;    ///< the residues of a position end before those of the next begin
  int sets;        ///< of columns: 2 if residues are numbered by the output; or Window::sets
  int shift;       ///< p of two sets, else 0

  // A team is warpgroups that multiply one tile together and the warps that load for them. If the weights of a column tile fit
  // in shared memory as a whole, each warpgroup is a team of its own, and one stores while the other multiplies; else all
  // warpgroups share what is loaded.
  int teams;
  bool in_turn;  ///< a team begins when the one before it has multiplied its first tile, so that one stores while another multiplies
  int team_rows;                  ///< positions of a tile
  FastDiv<std::int32_t> team_rows_divisor;
  int owned_rows;                 ///< of each of its warpgroups, from the first on, whose outputs it stores
  int used_rows;                  ///< from the first on, that its outputs come from: the others are computed for nothing
  int tile_rows;                  ///< of all of them: from one tile to the next

  // Rows: the positions of all samples one after the other, so that a tile of short samples is as full as one of a long one. Sample
  // n has rows n sample_rows + (u - first_position). x is laid out likewise, `halo` slots further: row p reads slot
  // p + halo - j D' for tap j (the second set's columns the one after that), and slot n sample_rows + e holds x[first_position - halo + e] of sample n. Samples lie as close as
  // the zeros around them allow. With vector_rows, slots that are a multiple of kVectorPositions hold elements of x that are one in
  // their row, so that rows whose length is one too can be loaded so many positions at a time.
  std::int64_t first_position;  ///< lowest u that reaches an output
  std::int64_t first_output;    ///< of that position and residue 0, in its row, which may begin later
  int positions;                ///< that do, of a sample
  int halo;
  // With raw_rows, rows of x lie in shared memory as in memory, 16 bytes aligned there as here: a slot of any sample is as far after a
  // multiple of 16 bytes as its number says, but for a constant of its channel.
  bool vector_rows, raw_rows;
  FastDiv<std::int32_t> sample_rows;
  int row_tiles;

  // Columns, in blocks of kColumnBlock. The minor index runs fastest: the residue in channels_first, the channel in
  // channels_last; the other one is the major index.
  int majors, minors;
  int block_majors;  ///< major indices of a block if all minor ones fit in it; else 1
  FastDiv<std::int32_t> minors_of_block;  ///< min(minors, kColumnBlock)
  FastDiv<std::int32_t> minor_blocks;  ///< blocks for one major index; 1 if several majors share a block
  int column_blocks;                   ///< of a group
  FastDiv<std::int32_t> column_tiles;  ///< of a group
  int all_column_tiles;                ///< of all groups

  // Depth: chunks of `words` channel words times `chunk_taps` taps.
  int chunk_taps, tap_blocks, channel_blocks, chunks;
  // Outer axes.
  FastDiv<std::int32_t> channel_blocks_divisor;  ///< planes: chunks count the taps of outer axes, and channel blocks for each

  // Shared memory, bytes unless said otherwise. A stage of x has, for each four words of depth, `slots` slots of 16 bytes, one for
  // each position; shifting a tap is then a shift by 16 bytes. With raw_rows it has, for each channel, `slots` elements.
  int slots;         ///< rows of a team and their halo
  int slot_groups;   ///< vector_rows: groups of kVectorPositions slots that are used
  bool whole_quads;  ///< channels_last: 16 bytes of channels are aligned and all of the group
  int x_bytes;       ///< of one stage
  int weight_bytes;  ///< of one chunk
  int stages;        ///< of each team's ring
  bool resident;     ///< every chunk of the weights has its own place and is loaded once; a team is one warpgroup
  bool packed;       ///< weights are read from the workspace, where a first kernel has put them as the chunks need them

  // Sums leave the registers a column block at a time. A warpgroup's part of a row of y starts and ends at a multiple of `boundary`
  // elements in memory (32 bytes: parts of such a sector cost memory as much as all of it), but for the row's ends: if it is more than one,
  // a warpgroup has rows beyond its owned ones for what lies between. (With Store::direct it is one.)
  Store store;
  int direct_outputs;                ///< direct: consecutive outputs that a thread stores together: 1, 2, 4 or 8, at most 16 bytes
  int direct_positions;              ///< direct: neighbouring positions whose outputs it stores together: 2 with stride 1 and aligned pairs, else 1
  int segments;                      ///< rows: samples that a warpgroup's rows may be of
  int boundary;
  int run_length;                    ///< outputs
  int run_pitch;                     ///< elements from one run (rows: from one channel) to the next in the staging buffer
  int run_vectors;                   ///< most whole 16-byte vectors of a run
  int log2_run_lanes;                ///< lanes that store a run together, at most 32
  FastDiv<std::int32_t> run_majors;  ///< major indices of a column block that has runs
  int runs;                          ///< most of a block
  int buffers;                       ///< staging buffers of a warpgroup: with two, one is written while the other is stored
  int buffer_elements;
  int spare;                         ///< elements from the start of a staging buffer to where sums of no column go
  int staging_bytes;                 ///< of one warpgroup, with the tables of runs and of places; direct: the biases of a tile's columns
  int stagings;                      ///< one for each warpgroup, or one for all: biases of a block that keeps its column tile
  int shared_bytes;                  ///< all

  // Windows: tiles are of one sample each.
  FastDiv<std::int32_t> sample_tiles;  ///< row tiles of a sample
  // Channels are dealt to sets. Of each `classes` channels one after the other, a set has those that are `class_channel` from
  // set * classes / sets on; where a set has two, they are neighbouring columns.
  int classes;
  int class_channel[kMostClasses];
  int channel_step;  ///< channels from one eight of a set's columns to the next; Form::thirds: from three eights to the next three
  std::uint32_t same[2];  ///< equal, which a compiler does not know: see WindowOperands
  int team_runs_bytes;  ///< of the place where a team puts its outputs side by side, to be stored from there; 0 if threads store theirs. shifted_store: of its heads
  bool any_place;  ///< rows of y begin anywhere: so do a team's runs, of which whole sectors are stored but at a row's ends; without them, threads store what is aligned
  bool shifted_store;  ///< any_place without runs: threads exchange outputs until what they store is aligned, see ShiftedStore
  bool late[2];      ///< Form::gaps: what a thread stores begins with an output without taps, in even columns and in odd ones

  // Order of the tiles.
  FastDiv<std::int32_t> tile_divisor;  ///< tile number -> (quotient, remainder)
  bool columns_first;                  ///< the remainder counts column tiles (else row tiles)
  int tiles;
  int blocks;  ///< of the grid
};

/// A run of outputs, as the threads that store it find it in shared memory.
struct alignas(16) Run {
  std::int64_t first;   ///< its first aligned 16 bytes, in bytes from the start of y
  std::int32_t staged;  ///< where they are in the staging buffer, in bytes
  std::uint16_t whole;  ///< how many whole vectors there are from there on
  std::uint8_t head;    ///< outputs before them
  std::uint8_t tail;    ///< and after
};

/// Where a column's sums go in the staging buffers: see Epilogue.
struct alignas(8) Place {
  std::int32_t at;
  float bias;
};

/// Memory's smallest unit of transfer, in bytes: a part of it costs as much as all of it.
inline constexpr int kSectorBytes = 32;

/// Bytes of shared memory before the operands: the barriers.
inline constexpr int kBarrierBytes = 512;

/// Whether a kernel multiplies rows of x as they lie in memory: their words are the register operand of wgmma. (Words of two 16-bit
/// elements would have to be put together from two rows for each tap, which takes longer than to transpose them once.)
constexpr bool multiplies_raw_rows(Family family, DType dtype, Layout layout) {
  return family == Family::sm90 && dtype == DType::float32 && layout == Layout::channels_first;
}

/// Whether a kernel has a way to multiply for two sets of columns. (Where a thread splits its words in two, there would have to be registers for
/// more words of x at a time.)
constexpr bool multiplies_two_sets(const ImplicitTile& tile, Layout layout, bool split) {
  return tile.family == Family::sm90 && layout == Layout::channels_first && tile.columns >= 64 && !split;
}

/// Works out the geometry, or says false where the tile cannot serve the problem (more than one axis, sizes beyond 32 bits,
/// runs or stages that do not fit shared memory).
bool make_implicit_geometry(const Problem& problem, Precision precision, const ImplicitTile& tile, const DeviceTraits& traits,
                            ImplicitGeometry* geometry);

/// What the geometries of the fused kernels have in common.
namespace implicit_parts {

/// Depth, in channels times taps, from which on the tensor cores and not memory are what teams share: they then begin in turn. (Teams that
/// begin together would go on to multiply at the same time and to store at the same time.)
inline constexpr int kInTurnDepth = 256;
/// Bytes of dynamic shared memory that a block can have.
int shared_limit(int compute_capability);
std::int64_t floor_div(std::int64_t a, std::int64_t b);
/// The smallest number from `least` on that leaves `rest` modulo `modulus`.
int next_with_rest(std::int64_t least, int rest, int modulus);
/// Whether extents are small enough for 32-bit indices.
bool fits_int32(const Problem& problem);
bool one_axis(const Problem& problem);
/// Fills in the problem and its residue form.
void set_problem(const Problem& problem, ImplicitGeometry* g);
/// How the positions of all samples lie one after the other; false if they are more than a kernel counts.
bool set_samples(int element, ImplicitGeometry* g);

}  // namespace implicit_parts

/// Whether weights have to come from the workspace.
inline bool needs_packing(const ImplicitTile& tile, const ImplicitGeometry& g) { return !g.resident && (g.raw_rows || tile.packed_only()); }

/// Bytes of the packed weights of a geometry with `packed` set; else 0.
std::int64_t packed_weight_bytes(const ImplicitGeometry& geometry);

}  // namespace convt_gemm

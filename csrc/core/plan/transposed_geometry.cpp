#include "plan/transposed_geometry.h"

#include <algorithm>
#include <array>
#include <limits>

#include "plan/arithmetic.h"
#include "util/residues.h"

namespace convt_gemm {
namespace {

using namespace implicit_parts;

/// Bytes that the copy engine copies at a time are multiples of this.
constexpr int kVectorBytes = 16;
constexpr int kLeastStages = 3, kLeastStagesOfPlanes = 2;  // chunks with the taps of several axes are large
constexpr int kMostChunkTaps = 4;
/// Blocks that a grid can have along its second and third axis.
constexpr int kMostBlocks = 65535;
/// Outputs that are counted in 32 bits on their way through a staging buffer.
constexpr std::int64_t kMostOutputs = std::numeric_limits<std::int32_t>::max();

/// Slots of a row of several axes are a multiple of this, so that more of a row's outputs are stored together; but of rows so short that it would be much more.
constexpr int kRowUnit = 2, kShortRow = 16;
/// Of an axis: sizes that are counted in 32 bits with room for sums and small products of them.
constexpr std::int64_t kMostExtent = 1 << 29;

/// Positions of several axes, and what they have for columns and depth; false if the tile cannot serve them.
bool set_planes(const Problem& problem, TransposedGeometry* t) {
  ImplicitGeometry& g = t->g;
  double rows = double(g.batch), residues = 1, taps = 1, weights = 1;
  std::int64_t shift = 1, halo = 0;  // slots from one position of the axis to the next, and before the first that position 0 reads
  g.input = g.plane = 1;
  for (int a = kMaxAxes - 1; a >= 0; --a) {
    const Axis& axis = problem.axes[a];
    for (const std::int64_t extent : {axis.input, axis.output(), axis.kernel, axis.stride, axis.padding, axis.dilation, axis.kernel * axis.dilation}) {
      if (extent > kMostExtent) return false;
    }
    const Residues r = residues_of(axis);
    if (r.gcd > 1 || axis.kernel < axis.stride) return false;
    if (a == kMaxAxes - 1 && axis.stride > 1 && axis.dilation > 1) return false;
    // As for one axis: see set_samples.
    const std::int64_t reach = (axis.stride - 1) * axis.dilation, before = (r.most_taps - 1) * axis.dilation;
    const std::int64_t first = floor_div(axis.padding - (reach < axis.stride ? 0 : reach), axis.stride);
    const std::int64_t first_output = first * axis.stride - axis.padding;
    const std::int64_t positions = floor_div(axis.output() - 1 - first_output, axis.stride) + 1;
    // A row has what its positions read of x, and what they read beyond it is zeros: those at its end, or those before the first input of the next row.
    std::int64_t slots = std::max(positions + std::max<std::int64_t>(first, 0), std::min(positions + before, axis.input + before - first));
    if (a == kMaxAxes - 1 && slots >= kShortRow) slots = round_up(slots, kRowUnit);
    PlaneAxis& plane = t->planes.axis[a];
    plane.input = int(axis.input), plane.output = int(axis.output()), plane.kernel = int(axis.kernel), plane.dilation = int(axis.dilation);
    plane.stride = FastDiv<std::int32_t>(axis.stride);
    plane.first_input = int(first - before), plane.first_output = int(first_output), plane.most_taps = int(r.most_taps);
    rows *= double(slots), residues *= double(axis.stride), taps *= double(r.most_taps), weights *= double(axis.kernel);
    if (rows > 2.0 * kMostExtent - (1 << 20) || residues > kGroupColumns || taps > PlaneTiles::kMostTaps || weights > kMostExtent) return false;
    plane.slots = FastDiv<std::int32_t>(slots);
    if (a == 0) {
      t->planes.outermost_slots = FastDiv<std::int32_t>(shift);
      t->planes.outermost_positions = t->w.splits == 1 ? int(positions) : int(slots);  // a cluster has just one tile
    }
    halo += before * shift, shift *= slots;
    g.input *= axis.input, g.plane *= axis.output();
  }
  if (double(shift) * double(g.batch) + double(halo) > 2.0 * kMostExtent || g.input > kMostOutputs || weights * double(g.out_channels) > kMostExtent) return false;
  g.kernel = g.weights = int(weights), g.residues = int(residues), g.taps = int(taps);
  g.halo = int(halo), g.sample_rows = FastDiv<std::int32_t>(shift);
  return true;
}

/// Of several axes: elements from the weight of the first tap to that of the taps `k`.
std::int64_t weight_place(const PlaneTiles& planes, const int (&k)[kMaxAxes]) {
  std::int64_t place = 0;
  for (int a = 0; a < kMaxAxes; ++a) place = place * planes.axis[a].kernel + k[a];
  return place;
}

/// Calls f(at) with each place in a block of the given extents, the last axis fastest.
template <class F>
void for_each_place(const int (&extents)[kMaxAxes], F f) {
  int at[kMaxAxes];
  for (at[0] = 0; at[0] < extents[0]; ++at[0]) {
    for (at[1] = 0; at[1] < extents[1]; ++at[1]) {
      for (at[2] = 0; at[2] < extents[2]; ++at[2]) f(at);
    }
  }
}

/// Of several axes: where the weights of taps are, and whether two columns are always neighbours in memory.
void set_plane_columns(TransposedGeometry* t) {
  PlaneTiles& planes = t->planes;
  int taps[kMaxAxes], strides[kMaxAxes];
  t->w.all_taps = true;
  for (int a = 0; a < kMaxAxes; ++a) {
    taps[a] = planes.axis[a].most_taps, strides[a] = planes.axis[a].stride.divisor();
    t->w.all_taps = t->w.all_taps && planes.axis[a].kernel % strides[a] == 0;
  }
  bool paired = t->w.all_taps && t->g.residues % 2 == 0 && t->g.kernel % 2 == 0;
  int tap = 0;
  for_each_place(taps, [&](const int (&j)[kMaxAxes]) {
    const int k[kMaxAxes] = {j[0] * strides[0], j[1] * strides[1], j[2] * strides[2]};
    planes.tap_weights[tap] = std::int32_t(weight_place(planes, k));
    planes.tap_last[tap] = std::uint8_t((j[0] == taps[0] - 1) | (j[1] == taps[1] - 1) << 1 | (j[2] == taps[2] - 1) << 2);
    paired = paired && planes.tap_weights[tap] % 2 == 0;
    ++tap;
  });
  std::int64_t number = 0, even = 0;
  for_each_place(strides, [&](const int (&r)[kMaxAxes]) {
    const std::int64_t place = weight_place(planes, r);
    paired = paired && (number % 2 == 0 ? place % 2 == 0 : place == even + 1);
    if (number++ % 2 == 0) even = place;
  });
  t->w.paired = paired;
}

/// Of several axes: the slots that taps read, as runs; false if they are too many.
bool set_runs(int positions, PlaneTiles* planes) {
  // Taps of an axis are one run with those of the axes behind it, where that has fewer slots than one for each.
  std::int64_t shift = 1, length = positions;
  std::int64_t shifts[kMaxAxes];
  int merged = kMaxAxes, taps[kMaxAxes], runs[kMaxAxes];
  for (int a = kMaxAxes - 1; a >= 0; --a) {
    const PlaneAxis& axis = planes->axis[a];
    shifts[a] = shift * axis.dilation, shift *= axis.slots.divisor(), taps[a] = axis.most_taps;
    const std::int64_t together = length + (taps[a] - 1) * shifts[a];
    if (merged == a + 1 && together <= taps[a] * length) merged = a, length = together;
    runs[a] = merged == a ? 1 : taps[a];
  }
  if (runs[0] * runs[1] * runs[2] > PlaneTiles::kMostRuns || length * runs[0] * runs[1] * runs[2] > std::numeric_limits<std::int16_t>::max()) return false;
  planes->runs = runs[0] * runs[1] * runs[2], planes->run_slots = int(length);
  int tap = 0;
  for_each_place(taps, [&](const int (&j)[kMaxAxes]) {
    int run = 0;
    std::int64_t before = 0, within = 0;
    for (int a = 0; a < kMaxAxes; ++a) {
      run = run * runs[a] + (runs[a] > 1 ? j[a] : 0);
      const std::int64_t most = (taps[a] - 1) * shifts[a];
      before += runs[a] > 1 ? j[a] * shifts[a] : most, within += runs[a] > 1 ? 0 : most - j[a] * shifts[a];
    }
    planes->run_before[run] = int(before);
    planes->tap_slots[tap++] = std::int16_t(run * length + within);
  });
  return true;
}

/// The order of a chunk's channels. A thread's word is two neighbouring columns of a channel, and a warp reads those of eight pairs of columns and four channels at a time.
void set_depth_order(int element, const TransposedTile& tile, TransposedGeometry* t) {
  constexpr int kPairs = 8, kChannels = 4, kBanks = 32;
  if (element != 2 || !t->w.paired) return;
  int word[kPairs];  // of the first channel
  for (int pair = 0; pair < kPairs; ++pair) {
    const int column = std::min(pair * 2, t->w.columns - 2), channel = t->w.residues.quotient(column);
    int residue = column - channel * t->w.residues.divisor();
    if (tile.axes == Axes::many) {
      int place[kMaxAxes];
      for (int a = kMaxAxes - 1; a >= 0; --a) {
        const FastDiv<std::int32_t>& stride = t->planes.axis[a].stride;
        const int rest = stride.quotient(residue);
        place[a] = residue - rest * stride.divisor(), residue = rest;
      }
      residue = int(weight_place(t->planes, place));
    }
    word[pair] = (channel * t->g.kernel + residue) / 2;
  }
  const auto most_in_bank = [&](bool swapped) {
    std::array<int, kBanks> words{};
    int most = 0;
    for (int i = 0; i < kChannels; ++i) {
      const int first = (swapped ? first_swapped_channel(i) : 2 * i) * t->w.pitch / 2;
      for (const int of_pair : word) most = std::max(most, ++words[std::size_t((first + of_pair) % kBanks)]);
    }
    return most;
  };
  t->w.swapped = most_in_bank(true) < most_in_bank(false);
}

/// Eight neighbouring columns of four (pairs of) channels are in 32 banks, where neighbours are next to each other.
void set_pitch(TransposedGeometry* t) { t->w.pitch = next_with_rest(t->w.length + (t->w.all_taps ? 0 : 1), 8, 32); }

/// Which columns a tile has, and the pieces of the weights' rows that they come from; false if pieces do not begin and end at whole vectors.
bool set_weight_pieces(int element, const TransposedTile& tile, TransposedGeometry* t) {
  ImplicitGeometry& g = t->g;
  const auto whole = [&](std::int64_t elements) { return elements * element % kVectorBytes == 0; };
  if (!whole(std::int64_t{g.out_channels} * g.kernel)) return false;
  std::int64_t tiles = 0;
  if (g.residues <= tile.columns) {
    const int groups = g.residues <= kGroupColumns ? tile.columns / kGroupColumns : 1;  // that have channels of their own
    const int most = tile.columns / groups / g.residues, wanted = std::min(most, int(ceil_div(g.out_channels, groups)));
    const auto pieces_are_whole = [&](int channels) { return whole(std::int64_t{groups} * channels * g.kernel); };
    int channels = wanted;
    while (channels <= most && !pieces_are_whole(channels)) ++channels;
    if (channels > most) channels = wanted;
    while (channels > 0 && !pieces_are_whole(channels)) --channels;
    if (channels == 0) return false;
    t->w.channels = groups * channels;
    t->w.group_channels = g.residues <= kGroupColumns ? channels : 0;
    t->w.columns = channels * g.residues;
    t->w.residues = FastDiv<std::int32_t>(g.residues);
    t->w.parts = FastDiv<std::int32_t>(1);
    t->w.pieces = 1;
    t->w.length = t->w.channels * g.kernel;
    t->w.tap_offset = g.tap_step;
    tiles = ceil_div(g.out_channels, t->w.channels);
  } else {
    if (!whole(g.kernel) || !whole(g.tap_step)) return false;
    t->w.channels = 1;
    t->w.columns = tile.columns;
    t->w.residues = FastDiv<std::int32_t>(tile.columns);
    t->w.parts = FastDiv<std::int32_t>(ceil_div(g.residues, tile.columns));
    t->w.length = tile.columns;
    tiles = std::int64_t{g.out_channels} * t->w.parts.divisor();
  }
  if (tiles * g.groups > std::numeric_limits<std::int32_t>::max() / 2) return false;
  g.column_tiles = FastDiv<std::int32_t>(tiles);
  g.all_column_tiles = int(tiles * g.groups);
  if (tile.axes == Axes::many) {
    set_plane_columns(t);
    set_pitch(t);
    return true;
  }
  t->w.all_taps = g.kernel % g.tap_step == 0;
  t->w.paired = t->w.all_taps && g.residues % 2 == 0;
  t->w.pair_stores = t->w.paired && g.dilation == 1 && g.output % 2 == 0 && g.first_output % 2 == 0;
  // A position's first output lies at g.first_output and its number times the stride, its last one `reach` further.
  const std::int64_t reach = std::int64_t{g.residues - 1} * g.dilation;
  t->w.first_whole = int(std::max<std::int64_t>(0, ceil_div(-g.first_output, std::int64_t{g.stride})));
  t->w.after_whole = int(std::max<std::int64_t>(0, std::min<std::int64_t>(g.positions, floor_div(g.output - 1 - reach - g.first_output, g.stride) + 1)));
  set_pitch(t);
  return true;
}

/// How outputs go to memory.
void set_staging(int element, const TransposedTile& tile, TransposedGeometry* t) {
  const ImplicitGeometry& g = t->g;
  const int positions = t->w.splits > 1 ? t->w.share_eighths * 8 : tile.staged_positions(element);
  const std::int64_t outputs = std::int64_t{g.sample_rows.divisor()} * g.stride;
  const std::int64_t all = (std::int64_t{g.row_tiles} * g.tile_rows + positions) * g.stride;
  t->w.staged = positions > 0 && t->w.group_channels > 0 && g.dilation == 1 && outputs <= kMostOutputs && all <= kMostOutputs;
  if (!t->w.staged) return;
  const int most = kVectorBytes / element;
  int vector = most;
  while (g.output % vector != 0 || (g.batch > 1 && outputs % vector != 0)) vector /= 2;
  while (1 << t->w.log2_vector < vector) ++t->w.log2_vector;
  t->w.first_in_vector = int((g.first_output % vector + vector) % vector);
  t->w.staging_pitch = positions * g.stride + most;
  t->w.sample_outputs = FastDiv<std::int32_t>(outputs);
}

/// The same of several axes; false if outputs cannot be staged.
bool set_plane_staging(int element, const TransposedTile& tile, TransposedGeometry* t) {
  const ImplicitGeometry& g = t->g;
  PlaneTiles& planes = t->planes;
  const PlaneAxis& last = planes.axis[kMaxAxes - 1];
  const int stride = last.stride.divisor(), positions = t->w.splits > 1 ? t->w.share_eighths * 8 : tile.staged_positions(element);
  if (t->w.group_channels == 0 || positions == 0) return false;
  // Rows of the buffer and of y are whole vectors, which begin equally far after a position's first output.
  const int most = kVectorBytes / element;
  int vector = most;
  while (last.output % vector != 0 || last.slots.divisor() * stride % vector != 0 || 8 * stride % vector != 0) vector /= 2;
  t->w.staged = true, t->w.log2_vector = 0;
  while (1 << t->w.log2_vector < vector) ++t->w.log2_vector;
  t->w.first_in_vector = (last.first_output % vector + vector) % vector;
  t->w.staging_pitch = next_with_rest(std::int64_t{positions} * stride + most, 16, 128 / element);  // what is put there at a time is in different banks, mostly
  planes.outer_residues = g.residues / stride;
  planes.row_vectors = int(ceil_div(t->w.first_in_vector + positions * stride, vector));
  const int threads = std::min(planes.row_vectors, kWarpgroup);
  planes.row_threads = FastDiv<std::int32_t>(threads), planes.channels_at_once = kWarpgroup / threads;
  return true;
}

/// Stages of both operands with chunks of `chunk_taps` taps; false if there is no room for them.
bool set_stages(int element, bool split, int chunk_taps, const TransposedTile& tile, const DeviceTraits& traits, TransposedGeometry* t) {
  ImplicitGeometry& g = t->g;
  const int channels = tile.words * 4 / element;
  g.chunk_taps = chunk_taps;
  const bool planes = tile.axes == Axes::many;
  const std::int64_t halo = planes ? 0 : std::int64_t{g.chunk_taps - 1} * g.input_step;
  if (halo > 1024) return false;
  g.tap_blocks = int(ceil_div(g.taps, g.chunk_taps));
  g.channel_blocks = int(ceil_div(g.in_channels, channels));
  if (std::int64_t{g.tap_blocks} * g.channel_blocks > std::numeric_limits<std::int32_t>::max() / 8) return false;
  g.chunks = g.tap_blocks * g.channel_blocks;
  // The kernel that puts x into order has a block for each quad of channels and each group.
  if (std::int64_t{g.channel_blocks} * tile.words / 4 > kMostBlocks || g.groups > kMostBlocks) return false;
  if (planes && !set_runs(tile.positions, &t->planes)) return false;
  g.slots = (planes ? t->planes.runs * t->planes.run_slots : int(tile.positions + halo)) | 1;  // odd, so that planes begin in different banks
  t->w.slots_before = planes ? 0 : int((std::int64_t{g.tap_blocks} * g.chunk_taps - g.taps) * g.input_step);  // that taps which do not exist would read
  const std::int64_t packed_slots = t->w.slots_before + std::int64_t{g.row_tiles} * g.tile_rows + g.halo;
  if (packed_slots > std::numeric_limits<std::int32_t>::max()) return false;
  t->w.packed_slots = int(packed_slots), t->w.ranges = 1;
  if (t->w.parts.divisor() > 1) t->w.pieces = g.chunk_taps, t->w.tap_offset = channels * t->w.pitch;
  const std::int64_t weight_bytes = round_up(std::int64_t{t->w.pieces} * channels * t->w.pitch * element, 128);
  const std::int64_t x_bytes = round_up(std::int64_t{g.slots} * 4 * (split ? 2 : 1) * tile.words, 128);
  const std::int64_t stage_bytes = weight_bytes + x_bytes;
  const int groups = tile.columns / kGroupColumns;
  std::int64_t room = shared_limit(traits.compute_capability) - kBarrierBytes;
  const int least = planes ? kLeastStagesOfPlanes : kLeastStages;
  if (room < least * stage_bytes) return false;
  const std::int64_t staging_rows = std::int64_t{t->w.group_channels} * (planes ? t->planes.outer_residues : 1);
  const std::int64_t staging_bytes = groups * round_up(staging_rows * t->w.staging_pitch * element, 16);
  // A block of a cluster has its own sums, and puts outputs side by side, in what were the stages.
  const std::int64_t own = t->w.splits > 1 ? std::int64_t{t->w.share_eighths} * 8 * tile.columns * 4 : 0, others = (t->w.splits - 1) * own;
  if (room < others + least * stage_bytes) return false;
  const std::int64_t reserved = t->w.splits > 1 ? others : !t->w.staged || room - staging_bytes < least * stage_bytes ? 0 : staging_bytes;
  t->w.exchange_bytes = int(others);
  g.x_bytes = int(x_bytes), g.weight_bytes = int(weight_bytes);
  g.stages = int(std::min<std::int64_t>(kMostStages, (room - reserved) / stage_bytes));
  const std::int64_t stages_bytes = g.stages * stage_bytes;
  if (stages_bytes < own) return false;
  t->w.staged = t->w.staged && (t->w.splits > 1 ? own + staging_bytes <= stages_bytes : reserved > 0);  // else threads store what they have
  if (planes && !t->w.staged) return false;
  t->w.staging_bytes = t->w.staged ? int(staging_bytes / groups) : 0;
  g.shared_bytes = int(kBarrierBytes + stages_bytes + reserved);
  return true;
}

/// false if the tiles are too many to be counted, or if so many splits leave a block too little to do.
bool set_order(const DeviceTraits& traits, TransposedGeometry* t) {
  ImplicitGeometry& g = t->g;
  const std::int64_t tiles = std::int64_t{g.row_tiles} * g.all_column_tiles;
  if (tiles * t->w.splits > std::numeric_limits<std::int32_t>::max() / 2) return false;
  if (t->w.splits > 1 && (g.chunks < 2 * t->w.splits || tiles * t->w.splits > 4 * std::int64_t{traits.multiprocessors})) return false;
  g.tiles = int(tiles);
  g.blocks = int(t->w.splits > 1 ? tiles * t->w.splits : std::min<std::int64_t>(tiles, traits.multiprocessors));
  // What the blocks at work share should be the larger operand.
  g.columns_first = g.batch * g.input > std::int64_t{g.out_channels} * g.kernel;
  g.tile_divisor = FastDiv<std::int32_t>(g.columns_first ? g.all_column_tiles : g.row_tiles);
  return true;
}

}  // namespace

bool make_transposed_geometry(const Problem& problem, Precision precision, const TransposedTile& tile, int splits,
                              const DeviceTraits& traits, TransposedGeometry* geometry) {
  if (problem.dtype == DType::float64 || problem.layout != Layout::channels_first || one_axis(problem) != (tile.axes == Axes::one) || !fits_int32(problem)) return false;
  const int element = int(size_of(problem.dtype));
  TransposedGeometry t{};
  ImplicitGeometry& g = t.g;
  set_problem(problem, &g);
  if (splits < 1 || (splits & (splits - 1)) != 0 || (splits > 1 && !tile.splits())) return false;
  while (1 << t.w.log2_splits < splits) ++t.w.log2_splits;
  t.w.splits = splits, t.w.share_eighths = int(ceil_div(tile.positions / 8, splits));
  const bool planes = tile.axes == Axes::many;
  if (planes) {
    if (!set_planes(problem, &t)) return false;
  } else if (g.fill || problem.input_elements() > kMostRanges * problem.weight_elements() || !set_samples(element, &g)) {
    return false;
  }
  // The stores count bytes of y and places in its rows in 32 bits, and go from one sample into the next at most once for eight positions.
  if (problem.output_elements() * element > std::numeric_limits<std::uint32_t>::max() || g.output > (1 << 29) || g.padding > (1 << 29)) return false;
  if (!planes && g.batch > 1 && g.sample_rows.divisor() < 8) return false;
  g.teams = 1;
  g.tile_rows = tile.positions;
  g.row_tiles = int(ceil_div(g.batch * g.sample_rows.divisor(), g.tile_rows));
  if (!set_weight_pieces(element, tile, &t)) return false;
  if (planes) {
    if (!set_plane_staging(element, tile, &t)) return false;
  } else {
    set_staging(element, tile, &t);
  }
  const bool split = problem.dtype == DType::float32 && precision == Precision::tf32x3;
  // All taps of whole channels are in one piece; of a part of the residues, as many taps as there is room for.
  const bool whole_channels = t.w.parts.divisor() == 1;
  int chunk_taps = whole_channels ? g.taps : std::min(g.taps, kMostChunkTaps);
  while (!set_stages(element, split, chunk_taps, tile, traits, &t)) {
    if (whole_channels || --chunk_taps == 0) return false;
  }
  if (!set_order(traits, &t)) return false;
  set_depth_order(element, tile, &t);
  *geometry = t;
  return true;
}

bool set_ranges(Precision precision, const TransposedTile& tile, std::int64_t most_bytes, TransposedGeometry* t) {
  const ImplicitGeometry& g = t->g;
  const int most = t->w.splits > 1 ? 1 : std::min(kMostRanges, g.row_tiles);
  for (t->w.ranges = 1; t->w.ranges <= most; ++t->w.ranges) {
    t->w.packed_slots = int(t->w.slots_before + ceil_div(g.row_tiles, t->w.ranges) * g.tile_rows + g.halo);
    if (packed_positions_bytes(precision, tile, *t) <= most_bytes) return true;
  }
  return false;
}

TransposedGeometry range_of(const TransposedGeometry& t, int range) {
  TransposedGeometry result = t;
  ImplicitGeometry& g = result.g;
  if (t.w.ranges == 1) return result;
  const int tiles = int(ceil_div(t.g.row_tiles, t.w.ranges)), first = range * tiles;
  g.row_tiles = std::min(tiles, t.g.row_tiles - first);
  g.tiles = g.row_tiles * g.all_column_tiles;
  g.blocks = std::min(t.g.blocks, g.tiles);
  if (!g.columns_first) g.tile_divisor = FastDiv<std::int32_t>(g.row_tiles);
  result.w.first_row = first * g.tile_rows;
  return result;
}

std::int64_t packed_positions_bytes(Precision precision, const TransposedTile& tile, const TransposedGeometry& t) {
  const std::int64_t words = std::int64_t{t.g.groups} * t.g.channel_blocks * tile.words * (precision == Precision::tf32x3 ? 2 : 1);
  return words * 4 * t.w.packed_slots;
}

}  // namespace convt_gemm

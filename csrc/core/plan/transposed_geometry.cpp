#include "plan/transposed_geometry.h"

#include <algorithm>
#include <limits>

#include "plan/arithmetic.h"

namespace convt_gemm {
namespace {

using namespace implicit_parts;

/// Bytes that the copy engine copies at a time are multiples of this.
constexpr int kVectorBytes = 16;
constexpr int kLeastStages = 3;
constexpr int kMostChunkTaps = 4;
/// Blocks that a grid can have along its second and third axis.
constexpr int kMostBlocks = 65535;
/// Outputs that are counted in 32 bits on their way through a staging buffer.
constexpr std::int64_t kMostOutputs = std::numeric_limits<std::int32_t>::max();

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
  t->w.paired = g.residues % 2 == 0 && g.kernel % g.tap_step == 0;
  t->w.pair_stores = t->w.paired && g.dilation == 1 && g.output % 2 == 0 && g.first_output % 2 == 0;
  // A position's first output lies at g.first_output and its number times the stride, its last one `reach` further.
  const std::int64_t reach = std::int64_t{g.residues - 1} * g.dilation;
  t->w.first_whole = int(std::max<std::int64_t>(0, ceil_div(-g.first_output, std::int64_t{g.stride})));
  t->w.after_whole = int(std::max<std::int64_t>(0, std::min<std::int64_t>(g.positions, floor_div(g.output - 1 - reach - g.first_output, g.stride) + 1)));
  // A column that lacks the last tap reads where that would be. Eight neighbouring columns of four (pairs of) channels are in 32 banks, where
  // neighbours are next to each other.
  t->w.pitch = next_with_rest(t->w.length + (t->w.parts.divisor() == 1 ? g.tap_step : 0), 8, 32);
  return true;
}

/// How outputs go to memory.
void set_staging(int element, const TransposedTile& tile, TransposedGeometry* t) {
  const ImplicitGeometry& g = t->g;
  const int positions = t->w.splits > 1 ? t->w.share_eighths * 8 : tile.staged_positions();
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

/// Stages of both operands with chunks of `chunk_taps` taps; false if there is no room for them.
bool set_stages(int element, bool split, int chunk_taps, const TransposedTile& tile, const DeviceTraits& traits, TransposedGeometry* t) {
  ImplicitGeometry& g = t->g;
  const int channels = tile.words * 4 / element;
  g.chunk_taps = chunk_taps;
  const std::int64_t halo = std::int64_t{g.chunk_taps - 1} * g.input_step;
  if (halo > 1024) return false;
  g.tap_blocks = int(ceil_div(g.taps, g.chunk_taps));
  g.channel_blocks = int(ceil_div(g.in_channels, channels));
  if (std::int64_t{g.tap_blocks} * g.channel_blocks > std::numeric_limits<std::int32_t>::max() / 8) return false;
  g.chunks = g.tap_blocks * g.channel_blocks;
  // The kernel that puts x into order has a block for each quad of channels and each group.
  if (std::int64_t{g.channel_blocks} * tile.words / 4 > kMostBlocks || g.groups > kMostBlocks) return false;
  g.slots = int(tile.positions + halo) | 1;  // odd, so that planes begin in different banks
  t->w.slots_before = int((std::int64_t{g.tap_blocks} * g.chunk_taps - g.taps) * g.input_step);  // that taps which do not exist would read
  const std::int64_t packed_slots = t->w.slots_before + std::int64_t{g.row_tiles} * g.tile_rows + g.halo;
  if (packed_slots > std::numeric_limits<std::int32_t>::max()) return false;
  t->w.packed_slots = int(packed_slots), t->w.ranges = 1;
  if (t->w.parts.divisor() > 1) t->w.pieces = g.chunk_taps, t->w.tap_offset = channels * t->w.pitch;
  const std::int64_t weight_bytes = round_up(std::int64_t{t->w.pieces} * channels * t->w.pitch * element, 128);
  const std::int64_t x_bytes = round_up(std::int64_t{g.slots} * 4 * (split ? 2 : 1) * tile.words, 128);
  const std::int64_t stage_bytes = weight_bytes + x_bytes;
  const int groups = tile.columns / kGroupColumns;
  std::int64_t room = shared_limit(traits.compute_capability) - kBarrierBytes;
  if (room < kLeastStages * stage_bytes) return false;
  const std::int64_t staging_bytes = groups * round_up(std::int64_t{t->w.group_channels} * t->w.staging_pitch * element, 16);
  // A block of a cluster has its own sums, and puts outputs side by side, in what were the stages.
  const std::int64_t own = t->w.splits > 1 ? std::int64_t{t->w.share_eighths} * 8 * tile.columns * 4 : 0, others = (t->w.splits - 1) * own;
  if (room < others + kLeastStages * stage_bytes) return false;
  const std::int64_t reserved = t->w.splits > 1 ? others : !t->w.staged || room - staging_bytes < kLeastStages * stage_bytes ? 0 : staging_bytes;
  t->w.exchange_bytes = int(others);
  g.x_bytes = int(x_bytes), g.weight_bytes = int(weight_bytes);
  g.stages = int(std::min<std::int64_t>(kMostStages, (room - reserved) / stage_bytes));
  const std::int64_t stages_bytes = g.stages * stage_bytes;
  if (stages_bytes < own) return false;
  t->w.staged = t->w.staged && (t->w.splits > 1 ? own + staging_bytes <= stages_bytes : reserved > 0);  // else threads store what they have
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
  if (problem.dtype == DType::float64 || problem.layout != Layout::channels_first || !one_axis(problem) || !fits_int32(problem)) return false;
  const int element = int(size_of(problem.dtype));
  TransposedGeometry t{};
  ImplicitGeometry& g = t.g;
  set_problem(problem, &g);
  if (g.fill || problem.input_elements() > kMostRanges * problem.weight_elements() || !set_samples(element, &g)) return false;
  // The stores count bytes of y and places in its rows in 32 bits, and go from one sample into the next at most once for eight positions.
  if (problem.output_elements() * element > std::numeric_limits<std::uint32_t>::max() || g.output > (1 << 29) || g.padding > (1 << 29)) return false;
  if (g.batch > 1 && g.sample_rows.divisor() < 8) return false;
  if (splits < 1 || (splits & (splits - 1)) != 0 || (splits > 1 && !tile.splits())) return false;
  while (1 << t.w.log2_splits < splits) ++t.w.log2_splits;
  t.w.splits = splits, t.w.share_eighths = int(ceil_div(tile.positions / 8, splits));
  g.teams = 1;
  g.tile_rows = tile.positions;
  g.row_tiles = int(ceil_div(g.batch * g.sample_rows.divisor(), g.tile_rows));
  if (!set_weight_pieces(element, tile, &t)) return false;
  set_staging(element, tile, &t);
  const bool split = problem.dtype == DType::float32 && precision == Precision::tf32x3;
  // All taps of whole channels are in one piece; of a part of the residues, as many taps as there is room for.
  const bool whole_channels = t.w.parts.divisor() == 1;
  int chunk_taps = whole_channels ? g.taps : std::min(g.taps, kMostChunkTaps);
  while (!set_stages(element, split, chunk_taps, tile, traits, &t)) {
    if (whole_channels || --chunk_taps == 0) return false;
  }
  if (!set_order(traits, &t)) return false;
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

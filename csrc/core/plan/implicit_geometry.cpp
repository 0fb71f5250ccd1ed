#include "plan/implicit_geometry.h"

#include <algorithm>
#include <limits>

#include "plan/arithmetic.h"
#include "util/residues.h"

namespace convt_gemm {
namespace implicit_parts {

int shared_limit(int compute_capability) {  // 227 KiB on sm_90, 163 KiB on sm_80, less on 8.6 and 8.9
  if (compute_capability >= 90) return 227 << 10;
  return compute_capability == 80 || compute_capability == 87 ? 163 << 10 : 99 << 10;
}

std::int64_t floor_div(std::int64_t a, std::int64_t b) { return a >= 0 ? a / b : -ceil_div(-a, b); }

int next_with_rest(std::int64_t least, int rest, int modulus) {
  return int(round_up(least - rest, modulus) + rest);
}

bool fits_int32(const Problem& problem) {
  constexpr std::int64_t kMax = std::int64_t{1} << 30;
  const Axis& axis = problem.axes[kMaxAxes - 1];
  for (std::int64_t extent : {problem.in_channels, problem.out_channels, problem.groups, axis.kernel, axis.stride, axis.dilation,
                              axis.kernel * axis.dilation, problem.group_out_channels() * axis.kernel}) {
    if (extent > kMax) return false;
  }
  return true;
}

bool one_axis(const Problem& problem) {
  for (int a = 0; a < kMaxAxes - 1; ++a) {
    const Axis& axis = problem.axes[a];
    if (axis.input != 1 || axis.kernel != 1 || axis.output() != 1 || axis.padding != 0) return false;
  }
  return true;
}

void set_problem(const Problem& problem, ImplicitGeometry* g) {
  const Axis& axis = problem.axes[kMaxAxes - 1];
  const Residues residues = residues_of(axis);
  g->input = axis.input, g->output = axis.output(), g->batch = std::max<std::int64_t>(problem.batch, 1);  // an empty batch has plans too
  g->padding = axis.padding;
  g->in_channels = int(problem.group_in_channels()), g->out_channels = int(problem.group_out_channels());
  g->groups = int(problem.groups);
  g->kernel = int(axis.kernel), g->stride = int(axis.stride), g->dilation = int(axis.dilation);
  g->weights = g->kernel, g->plane = g->output;
  g->channels_last = problem.layout == Layout::channels_last;
  g->tap_step = int(residues.tap_step), g->input_step = int(residues.input_step), g->gcd = int(residues.gcd);
  g->inverse = int(residues.inverse);
  g->residues = int(std::min(axis.kernel, residues.tap_step));
  g->taps = int(residues.most_taps);
  g->fill = g->gcd > 1 || g->residues < g->tap_step;
  g->sets = 1;
  g->compact = std::int64_t{g->residues - 1} * g->dilation < g->stride;
  g->minors = g->channels_last ? g->out_channels : g->residues;
  g->majors = g->channels_last ? g->residues : g->out_channels;
  g->store = g->channels_last                ? Store::channels
             : !g->compact                   ? Store::scattered
             : g->minors <= kColumnBlock ? Store::rows
                                             : Store::positions;
}

bool set_samples(int element, ImplicitGeometry* g) {
  const std::int64_t reach = std::int64_t{g->residues - 1} * g->dilation;
  std::int64_t halo = std::int64_t{g->taps - 1} * g->input_step;
  g->first_position = floor_div(g->padding - (g->compact ? 0 : reach), g->stride);
  g->first_output = g->first_position * g->stride - g->padding + g->shift;
  const std::int64_t positions = floor_div(g->output - 1 - g->first_output, g->stride) + 1;
  const std::int64_t reach_of_x = positions + g->sets - 1;  // places of x that they read
  const int unit = g->vector_rows ? kVectorPositions : 1;
  halo += g->first_position - halo - floor_div(g->first_position - halo, unit) * unit;
  // The zeros before a sample may be those after the one before it.
  const std::int64_t before = std::max<std::int64_t>(0, halo - g->first_position);
  const std::int64_t after = std::max<std::int64_t>(0, reach_of_x + g->first_position - g->input);
  std::int64_t sample_rows = reach_of_x + halo - std::min({halo + g->sets - 1, before, after});
  sample_rows = round_up(sample_rows, g->store == Store::direct ? std::max(unit, g->direct_positions) : unit);
  if (g->raw_rows) {
    const int vector = 16 / element;
    sample_rows = next_with_rest(sample_rows, int(std::int64_t{g->in_channels} * g->groups % vector * (g->input % vector) % vector), vector);
  }
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max() - (1 << 20);
  if (halo > kMost || sample_rows > kMost || g->batch * sample_rows + halo > kMost) return false;
  g->positions = int(positions), g->halo = int(halo);
  g->sample_rows = FastDiv<std::int32_t>(sample_rows);
  return true;
}

}  // namespace implicit_parts

namespace {

using namespace implicit_parts;

/// Bytes of a staging buffer: blocks with more outputs have fewer columns. If one channel's do not fit, there is more room for it.
constexpr int kStagingLimit = 36 << 10, kMostStaging = 60 << 10;
/// More taps in a chunk save reloading x for them, and cost stages.
constexpr int kMostChunkTaps = 4;
/// Depth, in words times taps, from which on threads store four bytes at a time: neighbouring residues are then apart in memory, and
/// the more of them there are, the more sectors a warp's store has part of. (Stores of two bytes are not worth it at any depth.)
constexpr int kDirectDepth = 128, kDirectDepthOfManyResidues = 512;

/// Numbers residues by the output if a thread can then store all of a position's at a time, and else could not.
void set_sets(int element, ImplicitGeometry* g) {
  const int shift = int(g->padding % g->stride);
  if (g->dilation > 1 || g->residues < g->stride || 2 * shift != g->stride || 16 / element % g->stride != 0 || g->output % g->stride != 0) return;
  g->sets = 2, g->shift = shift;
}

/// Consecutive residues are consecutive outputs, and begin where so many of them are aligned in every row of y.
int direct_outputs(int element, const ImplicitGeometry& g) {
  int outputs = 16 / element;
  const auto together = [&] {
    return g.dilation == 1 && g.residues % outputs == 0 && g.output % outputs == 0 && (g.padding - g.shift) % outputs == 0 && g.stride % outputs == 0;
  };
  while (outputs > 1 && !together()) outputs /= 2;
  return outputs;
}

/// With stride 1 neighbouring positions are consecutive outputs. Pairs begin where two are aligned in every row of y if all samples' first
/// rows are even.
int direct_positions(const ImplicitGeometry& g) {
  const bool even_samples = !g.raw_rows || std::int64_t{g.in_channels} * g.groups % 2 * (g.input % 2) == 0;
  return g.stride == 1 && g.output % 2 == 0 && even_samples ? 2 : 1;
}

/// Whether threads store their sums themselves: it takes a third of the instructions of putting runs together, but more requests to memory
/// where each store is one output. Those are fewer than the products' cycles if there is enough depth (measured: see PERFORMANCE.md).
bool stores_directly(int element, const ImplicitTile& tile, const ImplicitGeometry& g) {
  if (tile.family != Family::sm90 || g.channels_last || g.fill) return false;  // outputs without taps would be one more pass
  const bool short_rows = g.output < std::int64_t{4} * tile.warpgroup_rows() * g.stride;  // whose runs are put together one by one
  if (g.direct_outputs > 1 || short_rows) return true;
  const std::int64_t depth = std::int64_t{g.in_channels} * g.taps * element / 4;
  return element * g.direct_positions >= 4 && depth >= (g.residues <= 2 ? kDirectDepth : kDirectDepthOfManyResidues);
}

/// Rows of a warpgroup whose outputs it stores, and where its stores are cut.
void set_owned_rows(int element, const ImplicitTile& tile, ImplicitGeometry* g) {
  const int rows = tile.warpgroup_rows(), warpgroups = tile.warpgroups() / g->teams;
  g->owned_rows = g->used_rows = rows, g->boundary = 1;
  if ((g->store != Store::rows && g->store != Store::direct) || g->positions < 4 * rows) return;
  const int boundary = g->store == Store::rows ? kSectorBytes / element : 1, beyond = int(ceil_div(boundary - 1, g->stride));
  const auto try_owned = [&](std::int64_t most, int eighths) {
    const int owned = int(std::max<std::int64_t>(0, std::min<std::int64_t>(most, rows - beyond)) / kVectorPositions * kVectorPositions);
    if (8 * owned < eighths * rows) return false;
    g->owned_rows = owned, g->used_rows = owned + beyond, g->boundary = boundary;
    return true;
  };
  // So few that what they read of x is no more slots than a team has rows: the loading threads' work comes out even.
  const std::int64_t halo = std::int64_t{std::min(g->taps, kMostChunkTaps) - 1} * g->input_step + g->sets - 1 + kVectorPositions - 1;
  if (g->vector_rows && try_owned((g->team_rows - halo - beyond) / warpgroups, 6)) return;
  try_owned(rows, 7);
}

/// false if there are more rows than the kernel counts.
bool set_rows(int element, const ImplicitTile& tile, ImplicitGeometry* g) {
  if (!set_samples(element, g)) return false;
  set_owned_rows(element, tile, g);
  g->tile_rows = tile.warpgroups() / g->teams * g->owned_rows;
  g->row_tiles = int(ceil_div(g->batch * g->sample_rows.divisor(), g->tile_rows));
  return true;
}

/// Store::direct: columns are (out channel, residue) pairs one after the other, whatever blocks they fall in. false if there are too many.
bool set_direct_columns(const ImplicitTile& tile, ImplicitGeometry* g) {
  const std::int64_t columns = std::int64_t{g->out_channels} * g->residues, tiles = ceil_div(columns, tile.columns);
  if (columns > std::numeric_limits<std::int32_t>::max() / 64 || tiles * g->groups > std::numeric_limits<std::int32_t>::max() / 2) return false;
  g->block_majors = 1, g->buffers = 1;
  g->minors_of_block = FastDiv<std::int32_t>(g->residues);
  g->minor_blocks = FastDiv<std::int32_t>(1);
  g->run_majors = FastDiv<std::int32_t>(1);
  g->staging_bytes = tile.columns * int(sizeof(float));
  g->stagings = g->resident ? 1 : tile.warpgroups();
  g->column_blocks = int(ceil_div(columns, kColumnBlock));
  g->column_tiles = FastDiv<std::int32_t>(tiles);
  g->all_column_tiles = int(tiles * g->groups);
  return true;
}

/// Columns and how they are stored. false if a block does not fit a staging buffer.
bool set_columns(int element, int buffers, const ImplicitTile& tile, ImplicitGeometry* g) {
  if (g->store == Store::direct) return set_direct_columns(tile, g);
  const int vector = 16 / element, rows = tile.warpgroup_rows();
  const bool together = g->minors <= kColumnBlock;
  g->block_majors = together ? std::min(kColumnBlock / g->minors, g->majors) : 1;
  g->segments = (rows - 2) / g->sample_rows.divisor() + 2;
  std::int64_t length = 0, span = 0;  // of a run's outputs, and its place in the staging buffer
  switch (g->store) {
    case Store::rows:
      length = std::int64_t{std::min(rows, g->positions)} * g->stride;
      span = std::int64_t{rows} * g->stride + (g->segments - 1) * 2 * vector + vector - 1;
      break;
    case Store::positions:  // the last residue's cell reaches to the next position
      length = std::int64_t{kColumnBlock - 1} * g->dilation +
               std::max<std::int64_t>(g->dilation, g->stride - std::int64_t{g->residues - 1} * g->dilation);
      span = length + vector - 1;
      break;
    case Store::channels:
      length = std::min(g->minors, kColumnBlock);
      span = length + vector - 1;
      break;
    case Store::scattered:
    case Store::direct:
      length = span = rows;
  }
  if (span * element > kMostStaging) return false;
  g->run_length = int(length);
  // The eight rows and four columns that a warp writes at a time should meet in as few banks as 16-byte alignment allows. With two
  // residues neighbouring columns are a run apart and rows two words, else columns are two runs or less than a run apart.
  const int unit = g->store == Store::rows && g->residues == 2 ? 2 * vector : vector;
  g->run_pitch = next_with_rest(span, unit, 2 * unit);
  g->run_vectors = int(std::max<std::int64_t>(1, length / vector));
  g->log2_run_lanes = 0;
  while (g->log2_run_lanes < 5 && (1 << g->log2_run_lanes) < g->run_vectors) ++g->log2_run_lanes;
  if (g->store == Store::scattered) {
    g->runs = kColumnBlock;
    g->run_majors = FastDiv<std::int32_t>(1);
    g->buffer_elements = g->runs * g->run_pitch;
  } else {
    const bool shared_pitch = g->store == Store::rows;  // by a channel's segments
    const std::int64_t major_runs = shared_pitch ? g->segments : rows;
    const std::int64_t major_bytes = (shared_pitch ? 1 : major_runs) * g->run_pitch * std::int64_t{element} + major_runs * std::int64_t{sizeof(Run)};
    // Fewer major indices in a block than it has room for: columns are wasted, but runs stay whole.
    const int majors = int(std::max<std::int64_t>(1, std::min<std::int64_t>(g->block_majors, kStagingLimit / major_bytes)));
    g->block_majors = majors;
    if (majors * major_bytes > (majors == 1 ? kMostStaging : kStagingLimit)) return false;
    g->runs = int(majors * major_runs);
    g->run_majors = FastDiv<std::int32_t>(majors);
    g->buffer_elements = int(majors * (shared_pitch ? 1 : major_runs) * g->run_pitch);
  }
  const int blocks_of_tile = tile.columns / kColumnBlock;
  const int tables = std::max(g->runs, blocks_of_tile * g->run_majors.divisor()) * int(sizeof(Run)) + tile.columns * int(sizeof(Place));
  g->buffers = buffers;
  g->spare = g->buffer_elements;
  // Sums of columns that stand for nothing are written like others, to a place that nobody reads.
  const bool all_used = together && g->block_majors * g->minors == kColumnBlock && g->majors % (g->block_majors * blocks_of_tile) == 0;
  if (!all_used && g->store == Store::rows) g->buffer_elements += g->run_pitch;
  g->staging_bytes = int(round_up(std::int64_t{g->buffers} * g->buffer_elements * element + tables, 128));
  g->stagings = tile.warpgroups();
  g->minors_of_block = FastDiv<std::int32_t>(std::min(g->minors, kColumnBlock));
  g->minor_blocks = FastDiv<std::int32_t>(together ? 1 : ceil_div(g->minors, kColumnBlock));
  const std::int64_t blocks = ceil_div(g->majors, g->block_majors) * g->minor_blocks.divisor();
  const std::int64_t tiles = ceil_div(blocks, tile.columns / kColumnBlock);
  if (blocks > std::numeric_limits<std::int32_t>::max() / 64 || tiles * g->groups > std::numeric_limits<std::int32_t>::max() / 2) return false;
  g->column_blocks = int(blocks);
  g->column_tiles = FastDiv<std::int32_t>(tiles);
  g->all_column_tiles = int(tiles * g->groups);
  return true;
}

/// Stages for chunks of `chunk_taps` taps; false if there is no room for two.
bool set_chunks(int element, bool split, int chunk_taps, const ImplicitTile& tile, const DeviceTraits& traits, ImplicitGeometry* g) {
  const int word_elements = 4 / element, parts = split ? 2 : 1;
  const std::int64_t halo = std::int64_t{chunk_taps - 1} * g->input_step + g->sets - 1;
  if (halo > 4096) return false;
  g->chunk_taps = chunk_taps;
  g->tap_blocks = int(ceil_div(g->taps, chunk_taps));
  g->channel_blocks = int(ceil_div(g->in_channels, tile.words * word_elements));
  if (std::int64_t{g->tap_blocks} * g->channel_blocks > std::numeric_limits<std::int32_t>::max() / 8) return false;
  g->chunks = g->tap_blocks * g->channel_blocks;
  if (g->raw_rows) {
    // The eight positions of four channels that a warp reads at a time are in 32 banks.
    g->slots = next_with_rest(g->team_rows + halo + 16 / element - 1, 8, 32);
  } else {
    // Odd, so that one slot of eight neighbouring depths is in eight banks.
    g->slots = int(g->vector_rows ? round_up(g->team_rows + halo + kVectorPositions - 1, kVectorPositions) : g->team_rows + halo) | 1;
  }
  const std::int64_t used = (tile.warpgroups() / g->teams - 1) * g->owned_rows + g->used_rows;
  g->slot_groups = g->vector_rows ? int(ceil_div(used + halo + kVectorPositions - 1, kVectorPositions)) : 0;
  g->whole_quads = g->channels_last && g->in_channels % (16 / element) == 0;
  const std::int64_t x_bytes = round_up(std::int64_t{g->slots} * 4 * (g->raw_rows ? 1 : parts) * tile.words, 128);
  const std::int64_t weight_bytes = std::int64_t{chunk_taps} * tile.words * tile.columns * 4 * parts;
  const std::int64_t weights = g->resident ? weight_bytes * g->chunks : 0;
  const std::int64_t stage_bytes = g->teams * x_bytes + (g->resident ? 0 : weight_bytes);
  const std::int64_t fixed = kBarrierBytes + std::int64_t{g->stagings} * g->staging_bytes + weights;
  const std::int64_t room = shared_limit(traits.compute_capability) - fixed;
  if (room < 2 * stage_bytes) return false;
  g->x_bytes = int(x_bytes), g->weight_bytes = int(weight_bytes);
  g->stages = int(std::min<std::int64_t>(kMostStages, room / stage_bytes));
  g->shared_bytes = int(fixed + g->stages * stage_bytes);
  return true;
}

/// false if the tiles are too many to be counted, or if resident weights would not be used more than once.
bool set_order(const DeviceTraits& traits, ImplicitGeometry* g) {
  const std::int64_t tiles = std::int64_t{g->row_tiles} * g->all_column_tiles;
  if (tiles > std::numeric_limits<std::int32_t>::max() / 2) return false;
  g->tiles = int(tiles);
  if (g->resident) {  // a block keeps its column tile
    if (g->all_column_tiles > traits.multiprocessors || tiles <= std::int64_t{traits.multiprocessors} * g->teams) return false;
    g->columns_first = true;
    g->blocks = traits.multiprocessors / g->all_column_tiles * g->all_column_tiles;
  } else {
    // What the blocks at work share should be the larger operand.
    g->columns_first = g->batch * g->input > std::int64_t{g->out_channels} * g->kernel;
    g->blocks = int(std::min<std::int64_t>(tiles, traits.multiprocessors));
  }
  g->tile_divisor = FastDiv<std::int32_t>(g->columns_first ? g->all_column_tiles : g->row_tiles);
  return true;
}

}  // namespace

bool make_implicit_geometry(const Problem& problem, Precision precision, const ImplicitTile& tile, const DeviceTraits& traits,
                            ImplicitGeometry* geometry) {
  if (problem.dtype == DType::float64 || !one_axis(problem) || !fits_int32(problem)) return false;
  const int element = int(size_of(problem.dtype));
  const bool split = problem.dtype == DType::float32 && precision == Precision::tf32x3;
  // Resident weights before streamed ones, more stages before less, many taps for a copy of x before few.
  const bool raw_rows = multiplies_raw_rows(tile.family, problem.dtype, problem.layout);
  struct Attempt {
    bool resident;
    int most_stages, least_stages;
  };
  // Two stages do not keep up with who reads raw rows: rather weights that stream.
  for (const Attempt& attempt : {Attempt{true, 3, raw_rows ? 3 : 2}, Attempt{false, 4, 2}, Attempt{true, 2, 2}}) {
    const bool resident = attempt.resident;
    ImplicitGeometry g{};
    set_problem(problem, &g);
    g.raw_rows = raw_rows;
    g.vector_rows = !g.raw_rows && !g.channels_last && g.input % kVectorPositions == 0;
    if (multiplies_two_sets(tile, problem.layout, split)) set_sets(element, &g);
    g.direct_outputs = direct_outputs(element, g);
    g.direct_positions = direct_positions(g);
    if (stores_directly(element, tile, g)) g.store = Store::direct;
    g.resident = resident;
    g.teams = resident ? tile.warpgroups() : 1;
    g.in_turn = g.teams > 1 && std::int64_t{g.in_channels} * g.taps >= kInTurnDepth;
    g.team_rows = tile.rows / g.teams;
    g.team_rows_divisor = FastDiv<std::int32_t>(g.team_rows);
    if (!set_rows(element, tile, &g)) continue;
    const int most_taps = std::min(g.taps, kMostChunkTaps);
    for (const int least_stages : {4, 3, 2}) {
      if (least_stages > attempt.most_stages || least_stages < attempt.least_stages) continue;  // streamed weights take longer to come
      if (least_stages == 4 && tile.family == Family::sm80) continue;
      for (const int buffers : {2, 1}) {
        if (buffers == 2 && (tile.family == Family::sm80 || g.store != Store::rows)) continue;  // only the copy engine has use for two
        if (!set_columns(element, buffers, tile, &g)) continue;
        for (int chunk_taps = most_taps; chunk_taps > (least_stages > 2 ? most_taps - 1 : 0); --chunk_taps) {
          if (!set_chunks(element, split, chunk_taps, tile, traits, &g) || g.stages < least_stages) continue;
          if (!set_order(traits, &g)) break;
          *geometry = g;
          return true;
        }
      }
    }
  }
  return false;
}

std::int64_t packed_weight_bytes(const ImplicitGeometry& g) {
  return g.packed ? std::int64_t{g.weight_bytes} * g.chunks * g.all_column_tiles : 0;
}

}  // namespace convt_gemm

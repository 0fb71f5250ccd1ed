#include "plan/window_geometry.h"

#include <algorithm>
#include <limits>

#include "plan/arithmetic.h"
#include "util/residues.h"

namespace convt_gemm {
namespace {

using namespace implicit_parts;

/// Outputs that a thread stores together.
constexpr int kTogether = 4;
/// Tiles of a team from which on it pays that teams that are late leave tiles to others, which takes one more command on the device, and that they go on while
/// the copy engine stores.
constexpr int kManyTiles = 12;
/// Two stages do not keep up with the products.
constexpr int kLeastStages = 3;

/// false if outputs of an outer axis are not those of residues, or sizes are more than the kernel counts, or tiles want lines where there are none.
bool set_planes(const Problem& problem, int lines, ImplicitGeometry* g) {
  constexpr std::int64_t kMost = std::int64_t{1} << 30, kMostStride = 1 << 15;  // products of two below the stride are counted
  g->planes = !one_axis(problem);
  std::int64_t weights = g->kernel;
  for (int a = 0; a < kOuterAxes; ++a) {
    const Axis& axis = problem.axes[a];
    const Residues residues = residues_of(axis);
    if (residues.gcd != 1 || axis.stride > kMostStride) return false;
    for (std::int64_t extent : {axis.input, axis.output() + axis.padding + axis.stride, axis.kernel, axis.kernel * axis.dilation}) {
      if (extent > kMost) return false;
    }
    g->outer[a] = {int(axis.input), int(axis.output()), int(axis.kernel), int(axis.dilation), int(axis.padding), FastDiv<std::int32_t>(axis.stride),
                   FastDiv<std::int32_t>(ceil_div(axis.output(), axis.stride * (a == kLineAxis ? lines : 1))), int(residues.inverse), FastDiv<std::int32_t>(residues.most_taps)};
    g->plane *= axis.output(), weights *= axis.kernel;
    if (weights * g->out_channels > kMost) return false;
  }
  const Axis& axis = problem.axes[kLineAxis];
  if (lines > 1 && (axis.stride != 1 || axis.dilation != 1 || axis.kernel == 1)) return false;
  g->weights = int(weights);
  return g->plane / g->output <= std::numeric_limits<std::int32_t>::max();  // rows of y
}

/// Rows of x for each sample and residue of outer axes.
std::int64_t rows_of_sample(const ImplicitGeometry& g) { return std::int64_t{g.outer[0].tiles_of_residue.divisor()} * g.outer[1].tiles_of_residue.divisor(); }
/// Taps of all outer axes together, at most.
std::int64_t outer_taps(const ImplicitGeometry& g) { return std::int64_t{g.outer[0].taps.divisor()} * g.outer[1].taps.divisor(); }
std::int64_t outer_residues(const ImplicitGeometry& g) { return std::int64_t{g.outer[0].stride.divisor()} * g.outer[1].stride.divisor(); }

/// Whether the positions of all axes can be one row: where no input has an output with another, each of an axis' outputs is of one input.
bool is_flat(const Problem& problem) {
  for (const Axis& axis : problem.axes) {
    if (axis.kernel > axis.stride || axis.dilation != 1 || axis.padding != 0 || axis.output() != axis.input * axis.stride) return false;
  }
  return true;
}

/// Makes one row of all axes.
void set_flat(const Problem& problem, ImplicitGeometry* g) {
  g->flat = true;
  g->flat_row = FastDiv<std::int32_t>(problem.axes[2].input), g->flat_rows = FastDiv<std::int32_t>(problem.axes[1].input);
  g->input = problem.input_positions(), g->output = g->input * g->stride;
  for (OuterAxis& axis : g->outer) axis.tiles_of_residue = FastDiv<std::int32_t>(1);
}

/// Whether the problem's outputs are those of the form.
bool has_form(const Window& window, const ImplicitGeometry& g) {
  if (g.taps != window.taps || g.input_step != window.step) return false;
  switch (window.form) {
    case Form::neighbours: return g.stride == 1;
    case Form::gaps: return g.stride == 2 && g.gcd == 2;
    case Form::pairs: return g.stride == 2 && g.dilation == 1 && g.residues == 2 && g.padding % 2 == 0;
    case Form::halves: return g.stride == 2 && g.dilation == 1 && g.residues == 2 && g.padding % 2 == 1;
    case Form::thirds: return g.stride == 3 && g.dilation == 1 && g.residues == 3;
    case Form::none: return false;
  }
  return false;
}

/// Deals channels to sets, so that all that is stored begins at a multiple of `together` outputs, or of as many as sets are apart; false if that cannot be.
bool set_classes(const Window& window, int together, ImplicitGeometry* g) {
  const bool gaps = window.form == Form::gaps;
  const int sets = window.channel_sets();
  const int apart = sets > 1 ? window.set_step * g->stride : 0;   // outputs from one set to the next
  const int unit = std::max(together, sets * apart);              // a store begins at a multiple of it
  if (g->planes && g->output % unit != 0) return false;  // a channel's rows would differ
  const std::int64_t row = g->plane % unit;  // from one channel to the next
  if (row * (g->out_channels % unit) % unit != 0) return false;  // or groups and samples would differ
  const int of_set = gaps && row % 2 != 0 ? 2 : 1;
  g->classes = of_set * sets;
  if (g->classes > kMostClasses || row * g->classes % unit != 0) return false;
  bool taken[kMostClasses] = {};
  g->late[0] = g->late[1] = false;
  for (int channel = 0; channel < g->classes; ++channel) {
    const int begin = int(((row * channel + g->first_output) % unit + unit) % unit);  // of the first position, after a multiple
    const int late = gaps ? begin % 2 : 0;
    int set = 0;
    while (set < sets && (begin - late + set * apart) % unit != 0) ++set;
    const int place = set * of_set + (of_set == 2 ? late : 0);
    if (set == sets || taken[place]) return false;
    taken[place] = true;
    g->class_channel[place] = channel;
    g->late[0] = of_set == 1 && late != 0, g->late[1] = of_set == 2 || late != 0;
  }
  return true;
}

/// Form::thirds: the latest position up to `latest` that is `lag` before a whole `vector` of x and whose outputs begin at a sector.
std::int64_t first_of_thirds(std::int64_t latest, int lag, int vector, std::int64_t padding) {
  constexpr int kSector = 16, kInverse = 11;  // outputs of a sector of any type; 3 times it is 1 modulo that
  // Position x - lag begins at output 3 x - (3 lag + padding). The latter is a multiple of kTogether, and so is an x for which this is one of kSector. In 16
  // bits x has to be one of 8: some paddings' stores then begin a quarter of a sector late.
  const int rest = int((3 * lag + padding) % kSector) * kInverse % kSector / vector * vector;
  return floor_div(latest + lag - rest, kSector) * kSector + rest - lag;
}

/// The first position of a row: at most `latest`.
std::int64_t first_of_row(const Window& window, std::int64_t latest, int element, std::int64_t padding, bool any_place) {
  const int sector = kSectorBytes / element, vector = 16 / element;
  if (window.form == Form::thirds && any_place) return floor_div(latest + window.lag(), vector) * vector - window.lag();
  if (window.form == Form::thirds) return first_of_thirds(latest, window.lag(), vector, padding);
  // Where sets bring outputs to sectors, what is read of x begins at one; else outputs do, but for what padding is further.
  const int before = window.form == Form::neighbours && window.sets > 1 ? window.before(vector) - window.lag() : 0;
  return floor_div(latest - before, sector) * sector + before;
}

/// Where no alignment is asked for, all channels are alike.
void set_one_class(ImplicitGeometry* g) {
  g->classes = 1, g->class_channel[0] = 0;
  g->late[0] = g->late[1] = false;
}

/// `tile_rows`: positions from one tile to the next. false if there are more rows than the kernel counts.
bool set_rows(int element, const ImplicitTile& tile, int tile_rows, ImplicitGeometry* g) {
  const bool gaps = tile.window.form == Form::gaps;
  // A set that is further begins with positions before the first; and with gaps an output before a position's own is stored with it.
  const std::int64_t latest = floor_div(g->padding, g->stride) - tile.window.ahead() - gaps;
  g->first_position = first_of_row(tile.window, latest, element, g->padding, g->any_place);
  g->first_output = g->first_position * g->stride - g->padding + g->shift;
  const std::int64_t positions = floor_div(g->output - 1 - g->first_output, g->stride) + 1 + gaps;
  g->tile_rows = tile_rows;
  const std::int64_t tiles = ceil_div(positions, g->tile_rows);
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max() - (1 << 20);
  if (g->input > kMost || g->first_position + positions > kMost || tiles > kMost / g->batch / rows_of_sample(*g)) return false;
  g->positions = int(positions);
  g->sample_tiles = FastDiv<std::int32_t>(tiles);
  g->row_tiles = int(tiles * g->batch * rows_of_sample(*g));
  return true;
}

/// false if there are too many.
bool set_columns(const ImplicitTile& tile, ImplicitGeometry* g) {
  const Window& window = tile.window;
  const std::int64_t tiles = ceil_div(g->out_channels, tile.columns / g->residues), groups = g->groups * outer_residues(*g);
  if (groups > std::numeric_limits<std::int32_t>::max() / 2 / tiles) return false;
  const int columns_of_class = window.form == Form::pairs ? 2 : window.form == Form::halves ? 1 : g->classes / window.sets;  // next to each other
  g->channel_step = 8 / columns_of_class * g->classes;
  g->column_tiles = FastDiv<std::int32_t>(tiles);
  g->all_column_tiles = int(tiles * groups);
  return true;
}

/// Tiles of a team, where none takes those of others.
std::int64_t team_tiles(const ImplicitGeometry& g) { return ceil_div(g.row_tiles, std::int64_t{g.blocks / g.all_column_tiles} * g.teams); }

/// `runs`: teams put their outputs side by side if there is room. false if there is not enough for the weights of a column tile and stages of x.
bool set_memory(int element, bool split, bool runs, const ImplicitTile& tile, const DeviceTraits& traits, ImplicitGeometry* g) {
  const int parts = split ? 2 : 1, channels = tile.words * 4 / element;  // of a chunk
  g->chunk_taps = g->taps, g->tap_blocks = 1;
  g->channel_blocks = int(ceil_div(g->in_channels, channels));
  g->channel_blocks_divisor = FastDiv<std::int32_t>(g->channel_blocks);
  const std::int64_t chunks = outer_taps(*g) * g->channel_blocks;
  if (chunks > shared_limit(traits.compute_capability)) return false;
  g->chunks = int(chunks);
  g->slots = tile.window.box(tile.warpgroup_rows(), 16 / element);
  g->x_bytes = (g->slots * element + (g->vector_rows ? 0 : shifted_row_bytes(element))) * channels;
  const std::int64_t chunk = std::int64_t{g->taps} * tile.words * tile.columns * int(sizeof(float)) * parts;
  g->staging_bytes = tile.columns * int(sizeof(float)), g->stagings = 1;
  const std::int64_t fixed = kBarrierBytes + g->staging_bytes + chunk * g->chunks;
  const std::int64_t free = shared_limit(traits.compute_capability) - fixed;
  const auto stages_beside = [&](int team_bytes) { return (free / g->teams - team_bytes) / g->x_bytes; };
  const int run_bytes = g->shifted_store ? tile.window.heads_bytes(tile.columns) : tile.window.lines * (tile.columns / tile.window.channel_columns()) * tile.window.run_pitch(tile.warpgroup_rows(), element);
  g->team_runs_bytes = runs && stages_beside(run_bytes) >= kLeastStages ? run_bytes : 0;
  const std::int64_t stages = stages_beside(g->team_runs_bytes);
  if (stages < kLeastStages || (g->team_runs_bytes == 0 && g->shifted_store)) return false;
  g->weight_bytes = int(chunk);
  // One for all chunks of all tiles, and one that tells that there are no more: making barriers takes time.
  g->stages = int(std::min({stages, team_tiles(*g) * g->chunks + 1, std::int64_t{most_window_stages(g->teams)}}));
  g->shared_bytes = int(fixed + (g->stages * g->x_bytes + g->team_runs_bytes) * g->teams);
  return true;
}

/// false if the tiles are too many to be counted. A block keeps its column tile.
bool set_order(const DeviceTraits& traits, ImplicitGeometry* g) {
  const std::int64_t tiles = std::int64_t{g->row_tiles} * g->all_column_tiles;
  if (tiles > std::numeric_limits<std::int32_t>::max() / 2 || g->all_column_tiles > traits.multiprocessors) return false;
  g->tiles = int(tiles);
  g->columns_first = true;
  const std::int64_t most = std::min<std::int64_t>(traits.multiprocessors / g->all_column_tiles, ceil_div(g->row_tiles, g->teams));
  g->blocks = int(most * g->all_column_tiles);
  g->tile_divisor = FastDiv<std::int32_t>(g->all_column_tiles);
  return true;
}

/// Whether each team has so many tiles that its time is what counts, not a tile's.
bool has_many_tiles(const ImplicitGeometry& g) { return g.row_tiles >= kManyTiles * std::int64_t{g.blocks / g.all_column_tiles} * g.teams; }

}  // namespace

bool make_window_geometry(const Problem& problem, Precision precision, const ImplicitTile& tile, const DeviceTraits& traits, ImplicitGeometry* geometry) {
  const Window& window = tile.window;
  if (problem.dtype == DType::float64 || problem.layout != Layout::channels_first || !fits_int32(problem)) return false;
  const int element = int(size_of(problem.dtype)), vector = 16 / element;
  const bool split = problem.dtype == DType::float32 && precision == Precision::tf32x3;
  ImplicitGeometry g{};
  set_problem(problem, &g);
  if (!set_planes(problem, window.lines, &g) || (g.planes && !tile.serves_any_rows(split))) return false;
  if (g.planes && window.form == Form::pairs && is_flat(problem)) set_flat(problem, &g);
  g.resident = true;
  g.same[0] = g.same[1] = element == 2 ? 0x5410 : 0;  // a selection of bytes, or what is added
  g.sets = window.sets, g.shift = window.form == Form::halves ? 1 : 0;
  g.teams = tile.warpgroups();
  g.in_turn = g.teams > 1 && outer_taps(g) * g.in_channels * g.taps >= kInTurnDepth;
  if (!has_form(window, g)) return false;
  g.vector_rows = g.input % vector == 0;
  if (!g.vector_rows && g.planes && !g.flat) return false;
  const int rows = tile.warpgroup_rows();
  if (!set_rows(element, tile, rows, &g)) return false;
  const bool at_sectors = set_classes(window, kSectorBytes / element, &g), at_vectors = at_sectors || set_classes(window, std::max(kTogether, vector), &g);
  const bool any_rows = tile.serves_any_rows(split), shifted_store = !g.planes && tile.has_shifted_store(split);
  const bool aligned = at_vectors || (!any_rows && set_classes(window, kTogether, &g));
  if (g.flat || (!aligned && (any_rows || shifted_store))) {
    set_one_class(&g);
    g.any_place = !g.flat;  // pairs of a flat row find their places themselves
    g.shifted_store = g.any_place && !any_rows;
    if (!set_rows(element, tile, rows, &g)) return false;
  } else if (!aligned) {
    return false;
  }
  if (!set_columns(tile, &g) || !set_order(traits, &g)) return false;
  if (!set_memory(element, split, !g.flat && (g.any_place || (at_vectors && has_many_tiles(g))), tile, traits, &g)) return false;
  const int sector = kSectorBytes / element;  // outputs
  // Where memory is what limits, runs of whole sectors are worth more tiles.
  if (g.team_runs_bytes > 0 && !g.shifted_store && (g.any_place || (!at_sectors && sector % window.outputs() == 0 && !g.in_turn && !split))) {
    if (!set_rows(element, tile, rows - sector / window.outputs(), &g) || !set_order(traits, &g)) return false;
  }
  *geometry = g;
  return true;
}

std::int64_t window_workspace_bytes(const ImplicitGeometry& g) {
  return has_many_tiles(g) ? g.all_column_tiles * std::int64_t{sizeof(int)} : 0;
}

bool window_x_passes(const ImplicitGeometry& g) { return g.vector_rows && !g.planes && g.all_column_tiles == 1 && team_tiles(g) * g.chunks <= g.stages; }

}  // namespace convt_gemm

#include "plan/direct_streamed.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "plan/arithmetic.h"
#include "plan/direct_columns.h"
#include "plan/pieces.h"

namespace convt_gemm {
namespace direct {
namespace {

constexpr std::int64_t kFewestChannels = 8;          // of a group; fewer are not worth a block's threads
constexpr std::int64_t kMostLanes = 128;
constexpr std::int64_t kMostOutputs = std::int64_t{1} << 28;  // of a sample's channel
/// Multiprocessors that share the work, and bytes of a row that cost as much as what a block does once.
constexpr std::int64_t kMultiprocessors = 132, kRowOverhead = 64;

/// Output channels whose columns are whole vectors in memory, at least; 0 if none are.
std::int64_t vector_channels(const Problem& problem, std::int64_t vector) {
  if (problem.group_out_channels() * problem.taps() % vector != 0) return 0;
  return vector / std::gcd(problem.taps(), vector);
}

std::int64_t most_columns(std::int64_t vector) { return kMostLanes * vector; }

}  // namespace

bool streamed_serve(const Problem& problem) {
  // In double: the product may exceed any integer.
  if (double(problem.axes[0].input) * double(problem.axes[1].input) * double(problem.axes[2].input) > kMostStreamedPositions) return false;
  if (problem.batch < 1 || problem.batch > std::numeric_limits<std::int32_t>::max() / 2 || problem.group_in_channels() < kFewestChannels) return false;
  double outputs = 1, taps = 1;
  for (const Axis& axis : problem.axes) {
    if (!fits_int32(axis)) return false;
    outputs *= double(axis.output());
    taps *= double(axis.kernel);
  }
  if (outputs > kMostOutputs || taps > double(kMostLanes) || double(problem.group_out_channels()) * taps > std::numeric_limits<std::int32_t>::max() / 2) return false;
  if (problem.group_in_channels() > kMostSharedBytes) return false;  // so that the geometry's products fit
  const StreamedGeometry g = streamed_geometry(problem);
  return g.shared_bytes <= kMostSharedBytes && double(problem.groups) * double(g.tiles) * double(g.sample_blocks) <= std::numeric_limits<std::int32_t>::max() &&
         double(g.tile_channels) * double(g.samples) * outputs <= std::numeric_limits<std::int32_t>::max() / 2;
}

StreamedGeometry streamed_geometry(const Problem& problem) {
  StreamedGeometry g;
  const std::int64_t size = std::int64_t(size_of(problem.dtype)), accumulator = std::int64_t(column_size(problem.dtype)), channels = problem.group_out_channels();
  g.sample_blocks = ceil_div(problem.batch, kMostStreamedPositions / problem.input_positions());
  g.samples = ceil_div(problem.batch, g.sample_blocks);
  g.positions = *std::find_if(std::begin(kStreamedPositions), std::end(kStreamedPositions), [&](int count) { return count >= g.samples * problem.input_positions(); });
  g.vector = int(16 / size);
  std::int64_t unit = vector_channels(problem, g.vector);
  if (unit == 0 || unit * problem.taps() > most_columns(g.vector)) g.vector = 1, unit = 1;

  // All multiprocessors at the same time, each with as long a part of a row as that leaves.
  const std::int64_t most_threads = most_streamed_threads(g.vector, g.positions, std::size_t(accumulator));
  double least = std::numeric_limits<double>::infinity();
  for (std::int64_t tile = unit; tile == unit || (tile < channels + unit && tile * problem.taps() <= most_columns(g.vector)); tile += unit) {
    const double rounds = double(ceil_div(g.sample_blocks * problem.groups * ceil_div(channels, tile), kMultiprocessors));
    const double cost = rounds * double(tile * problem.taps() * size + kRowOverhead);
    if (cost <= least) least = cost, g.tile_channels = tile;
  }
  g.tiles = ceil_div(channels, g.tile_channels);
  g.blocks = g.sample_blocks * problem.groups * g.tiles;
  g.lanes = int(ceil_div(g.tile_channels * problem.taps(), std::int64_t(g.vector)));
  g.slots = int(std::min<std::int64_t>(most_threads / g.lanes, problem.group_in_channels()));
  g.shared_bytes = accumulator * g.positions * std::max<std::int64_t>(problem.group_in_channels(), std::int64_t(g.slots) * g.columns());
  return g;
}

}  // namespace direct
}  // namespace convt_gemm

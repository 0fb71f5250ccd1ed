#include "plan/direct_columns.h"

#include <algorithm>
#include <limits>

#include "plan/arithmetic.h"

namespace convt_gemm {
namespace direct {
namespace {

constexpr std::int64_t kMostReach = 16;              // half of the smallest tile
constexpr std::int64_t kBanks = 32;

/// Four rounds of 16 warps for each of 132 multiprocessors: beyond that, splitting channels brings no more loads into flight.
constexpr std::int64_t kEnoughWarps = 8192;
/// Somewhat less than two warps for each scheduler: below that, latencies are not hidden.
constexpr std::int64_t kBusyWarps = 960;
constexpr std::int64_t kEnoughBlocks = 512;
/// Channels of a split that are not worth splitting further: their columns cost as much to exchange. A warp waits for
/// about as many at once.
constexpr std::int64_t kFewChannels = 16;
constexpr std::int64_t kFewestChannels = 4;  ///< where multiprocessors are idle
/// Terms that are added in turn; the sums of the splits are then added to each other.
constexpr std::int64_t kMostTerms = 256;

std::size_t accumulator_size(const Problem& problem) { return problem.dtype == DType::float64 ? 8 : 4; }

std::int64_t columns_of(const Problem& problem) { return problem.group_out_channels() * problem.taps(); }

int count_for(std::int64_t columns) {
  return *std::find_if(std::begin(kColumnCounts), std::end(kColumnCounts), [&](int count) { return count >= columns; });
}

/// Positions before a position's own that the outputs from its first tap to the next position's read.
std::int64_t reach_of(const Axis& axis) { return (axis.kernel - 1) * axis.dilation / axis.stride; }

std::int64_t positions_of(const Problem& problem) {  // of a warp
  return kWarpLanes * column_positions(count_for(columns_of(problem)), accumulator_size(problem));
}

}  // namespace

bool fits_int32(const convt_gemm::Axis& axis) {  // in double: the products may exceed any integer
  constexpr double kMax = std::numeric_limits<std::int32_t>::max() - 65536.0;
  const double stride = double(axis.stride), tile = kColumnWarps * 4 * kWarpLanes;
  return (double(axis.input) + tile) * stride + double(axis.kernel) * double(axis.dilation) + double(axis.padding) +
             double(axis.output()) <= kMax && stride * stride <= kMax;
}

std::int64_t channel_block_lanes(const Problem& problem) {
  const convt_gemm::Axis& last = problem.axes[2];
  return round_up(ceil_div(last.output(), kBlockOutputs), last.stride);
}

bool channel_blocks_serve(const Problem& problem, std::int64_t enough_threads) {
  const convt_gemm::Axis& last = problem.axes[2];
  const std::int64_t channels = problem.group_out_channels();
  if (problem.layout != Layout::channels_first || problem.dtype == DType::float64 || channels < kBlockChannels / 2 || problem.group_in_channels() == 1) return false;
  if (last.stride > last.output() || (last.stride <= 2 && (last.dilation == 1 || last.kernel == 1))) return false;
  if (double(problem.group_in_channels()) * double(problem.taps()) * kBlockChannels > kMostBlockWeights) return false;
  // Of a sample and channel block, whose last block of threads is filled up, so that they should be as many as a block has.
  const double each = double(problem.axes[0].output()) * double(problem.axes[1].output()) * double(channel_block_lanes(problem));
  const double all = double(problem.batch) * double(problem.groups) * double(ceil_div(channels, kBlockChannels));
  if (each < double(std::min<std::int64_t>(enough_threads, kBlockThreads)) || all * (2 * each + kBlockThreads) > std::numeric_limits<std::int32_t>::max()) return false;
  return all * each >= double(enough_threads);
}

bool columns_serve(const Problem& problem) {
  if (problem.layout != Layout::channels_first || problem.group_in_channels() < 2) return false;
  if (columns_of(problem) > kMostColumns || reach_of(problem.axes[2]) > kMostReach) return false;
  for (int a = 0; a < kMaxAxes; ++a) {
    if (!fits_int32(problem.axes[a]) || (a < 2 && reach_of(problem.axes[a]) > 0)) return false;
  }
  if (problem.group_in_channels() > kMostSharedBytes) return false;  // so that the geometry's products fit
  const ColumnGeometry g = column_geometry(problem, choose_column_shape(problem));
  return g.shared_bytes <= kMostSharedBytes && g.blocks <= std::numeric_limits<std::int32_t>::max();
}

bool frames_serve(const Problem& problem) {
  const Axis &last = problem.axes[2], one;
  return columns_serve(problem) && problem.axes[0] == one && problem.axes[1] == one && last.dilation == 1 &&
         (last.stride == 4 || last.stride == 5) && last.kernel == kFrameTaps * last.stride && problem.group_out_channels() == 1 &&
         problem.group_in_channels() <= kMostFrameChannels && frame_geometry(problem).blocks <= std::numeric_limits<std::int32_t>::max();
}

FrameGeometry frame_geometry(const Problem& problem) {
  const Axis& last = problem.axes[2];
  FrameGeometry g;
  g.first = last.padding / last.stride;
  g.tiles = ceil_div(ceil_div(last.padding + last.output(), last.stride) - g.first, std::int64_t(kFrameOwn));
  g.blocks = problem.batch * problem.groups * g.tiles;
  return g;
}

ColumnShape choose_column_shape(const Problem& problem) {
  const std::int64_t row_slices = ceil_div(problem.axes[2].input, positions_of(problem));
  const auto with_splits = [&](int splits) {
    return ColumnShape{int(std::min<std::int64_t>(kColumnWarps / splits, row_slices)), splits};
  };
  ColumnShape shape = with_splits(1);
  while (shape.splits < kColumnWarps) {
    const std::int64_t channels = ceil_div(problem.group_in_channels(), shape.splits);
    const ColumnGeometry g = column_geometry(problem, shape);
    const std::int64_t warps = g.blocks * shape.slices * shape.splits;
    const std::int64_t worth = warps >= kEnoughWarps ? kMostTerms : warps >= kBusyWarps ? kFewChannels : kFewestChannels;
    if (channels <= worth) break;
    shape = with_splits(2 * shape.splits);
  }
  // Small blocks spread more evenly.
  while (shape.slices > 1 && column_geometry(problem, shape).blocks < kEnoughBlocks) shape.slices = (shape.slices + 1) / 2;
  return shape;
}

void set_tiles(const Problem& problem, std::int64_t tile, ColumnGeometry* g) {
  const Axis& last = problem.axes[2];
  g->reach = reach_of(last);
  g->own = last.input <= tile ? last.input : tile - g->reach;
  g->tiles = ceil_div(last.input, g->own);
  g->blocks = problem.batch * problem.groups * problem.axes[0].input * problem.axes[1].input * g->tiles;
  // Neighbouring outputs read columns of `stride` taps at 32/stride neighbouring positions: all in different banks.
  g->pitch = tile + ceil_div(kBanks, last.stride) % kBanks;
}

ColumnGeometry column_geometry(const Problem& problem, const ColumnShape& shape) {
  ColumnGeometry g;
  const std::int64_t columns = columns_of(problem), size = std::int64_t(accumulator_size(problem));
  g.columns = count_for(columns);
  g.shape = shape;
  g.split_channels = ceil_div(problem.group_in_channels(), shape.splits);
  set_tiles(problem, shape.slices * positions_of(problem), &g);
  const std::int64_t quads = problem.group_in_channels() * g.columns * size / 16;
  g.parked = g.split_channels <= parked_channels(g.columns, std::size_t(size)) && quads <= g.threads();
  const std::int64_t inputs = g.parked ? g.split_channels * g.threads() * column_positions(g.columns, std::size_t(size)) : 0;
  g.shared_bytes = size * std::max(problem.group_in_channels() * g.columns + inputs, shape.splits * g.columns * g.pitch);
  return g;
}

}  // namespace direct
}  // namespace convt_gemm

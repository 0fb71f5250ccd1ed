#include "plan/mma_columns.h"

#include <algorithm>
#include <limits>

#include "plan/arithmetic.h"

namespace convt_gemm {
namespace direct {
namespace {

/// Of a block, so that the one of the next kernel finds room beside it: a multiprocessor has 228 KiB, and keeps 1 KiB a block.
constexpr std::int64_t kMostBlockBytes = 112 << 10;
constexpr std::int64_t kMostWeightBytes = 48 << 10;
/// A block copies a row of each channel at least, however short: smaller tiles than that of so many slices take no less time.
constexpr int kFewestSlices = 4;
/// Of a row: longer parts of it are no faster, and leave fewer blocks.
constexpr std::int64_t kMostTileBytes = 512;
constexpr std::int64_t kEnoughBlocks = 100;  // of 132 multiprocessors
/// Bytes under way that keep memory busy if every multiprocessor has as many. More of them leave less room for the next kernel's blocks.
constexpr std::int64_t kEnoughBytes = 44 << 10;

std::int64_t padded_columns(const Problem& problem) { return round_up(problem.group_out_channels() * problem.taps(), std::int64_t{kMmaColumns}); }

std::int64_t chunks_of(const Problem& problem) { return ceil_div(problem.group_in_channels(), std::int64_t{kMmaChannels}); }

}  // namespace

bool mma_columns_serve(const Problem& problem, Precision precision) {
  const bool tensor_cores = size_of(problem.dtype) == 2 || (problem.dtype == DType::float32 && precision == Precision::tf32);
  if (!tensor_cores || !columns_serve(problem) || frames_serve(problem)) return false;
  const MmaColumnGeometry g = mma_column_geometry(problem, choose_mma_column_shape(problem));
  return g.weight_bytes <= kMostWeightBytes && g.columns.blocks <= std::numeric_limits<std::int32_t>::max();
}

ColumnShape choose_mma_column_shape(const Problem& problem) {
  const auto geometry = [&](int slices) { return mma_column_geometry(problem, {slices, 1}).columns; };
  const std::int64_t most = kMostTileBytes / (kMmaSlice * std::int64_t(size_of(problem.dtype)));
  int slices = int(std::min<std::int64_t>(most, ceil_div(problem.axes[2].input, std::int64_t{kMmaSlice})));
  while (slices > kFewestSlices && geometry(slices).blocks < kEnoughBlocks) slices = std::max((slices + 1) / 2, kFewestSlices);
  // Tiles of nearly equal size.
  while (slices > 1 && geometry(slices - 1).tiles == geometry(slices).tiles) --slices;
  return {slices, int(std::min<std::int64_t>(kMmaWarps / slices, chunks_of(problem)))};
}

MmaColumnGeometry mma_column_geometry(const Problem& problem, const ColumnShape& shape, std::int64_t most_stages) {
  MmaColumnGeometry g;
  const std::int64_t element = std::int64_t(size_of(problem.dtype));
  const std::int64_t tile = shape.slices * kMmaSlice;
  ColumnGeometry& c = g.columns;
  c.columns = int(padded_columns(problem));
  c.shape = shape;
  set_tiles(problem, tile, &c);
  g.chunks = chunks_of(problem);
  g.weight_bytes = g.chunks * kMmaChannels * c.columns * element;
  // Rows begin less than 16 bytes late. Four neighbouring rows, which a warp reads together, are a quarter of the banks apart.
  g.row_pitch = tile * element + 32;
  const std::int64_t each = shape.splits * g.stage_bytes();
  std::int64_t room = kMostBlockBytes - kMmaBarrierBytes - std::min(g.weight_bytes, kMostWeightBytes);
  if (c.blocks >= kEnoughBlocks) room = std::min(room, round_up(kEnoughBytes, each));
  const std::int64_t of_split = std::min({ceil_div(g.chunks, std::int64_t{shape.splits}), room / each, most_stages / shape.splits});
  g.stages = shape.splits * std::max<std::int64_t>(of_split, 1);
  c.shared_bytes = 4 * shape.splits * c.columns * c.pitch;
  g.shared_bytes = kMmaBarrierBytes + g.weight_bytes + std::max(g.stages * g.stage_bytes(), c.shared_bytes);
  return g;
}

int resident_mma_blocks(const MmaColumnGeometry& geometry) {
  constexpr std::int64_t kShared = 228 << 10, kOfEach = 1 << 10, kRegisters = 65536, kOfThread = 80;
  return int(std::min(kShared / (geometry.shared_bytes + kOfEach), kRegisters / (kOfThread * geometry.threads())));
}

}  // namespace direct
}  // namespace convt_gemm

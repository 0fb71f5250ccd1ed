#pragma once
// Geometry of the direct algorithm's column kernel (direct/columns_kernel.cuh), for layers of few output channels and many
// input channels. The columns of an input position are its products with the weights, summed over the input channels of a
// group: one for each output channel of the group and tap. A block computes the columns of a tile of neighbouring
// positions of one row, and from them the outputs that are nearest.
#include <cstddef>
#include <cstdint>

#include "convt_gemm/problem.h"

namespace convt_gemm {
namespace direct {

inline constexpr int kColumnWarps = 8;   ///< of a block, at most
inline constexpr int kWarpLanes = 32;

/// A thread's columns of one position are filled up to the next of these; each is a kernel.
inline constexpr int kColumnCounts[] = {4, 8, 16, 20, 32};
inline constexpr int kMostColumns = 32;

/// Positions of a thread: about 64 registers of sums, so that a multiprocessor holds 16 warps. More positions make no
/// better use of the weights, which every thread reads from shared memory.
constexpr int column_positions(int columns, std::size_t accumulator_size) {
  const int fit = 64 / (columns * int(accumulator_size / 4));
  return fit < 1 ? 1 : fit > 4 ? 4 : fit;
}

/// Channels whose inputs a thread asks for at once and then parks in shared memory: 36 registers, and not more than 12.
constexpr int parked_channels(int columns, std::size_t accumulator_size) {
  const int fit = 36 / (column_positions(columns, accumulator_size) * int(accumulator_size / 4));
  return fit > 12 ? 12 : fit;
}

/// How the warps of a block share its work.
struct ColumnShape {
  int slices = 1;  ///< of the tile's positions
  int splits = 1;  ///< of the input channels
};

struct ColumnGeometry {
  int columns = 0;  ///< of kColumnCounts
  ColumnShape shape;
  std::int64_t split_channels = 0;  ///< of the first splits; the last ones may have fewer, or none
  std::int64_t reach = 0;           ///< positions before the own ones that the outputs of a tile read
  std::int64_t own = 0;             ///< positions of a tile whose outputs are its own
  std::int64_t tiles = 0;           ///< of a row
  std::int64_t blocks = 0;
  bool parked = false;              ///< few channels: their inputs wait in shared memory
  std::int64_t pitch = 0;           ///< accumulators from one column to the next in shared memory
  std::int64_t shared_bytes = 0;    ///< the weights and parked inputs at first, then the columns of every split

  int threads() const { return shape.slices * shape.splits * kWarpLanes; }
};

/// Blocks of output channels and outputs, direct/channel_blocks_kernel.cuh: of a thread. All threads of a block have the same channels.
inline constexpr int kBlockChannels = 8, kBlockOutputs = 4, kBlockThreads = 256;
inline constexpr int kMostBlockWeights = 48 * 1024 / 4;  ///< in shared memory, as float32

/// Whether that kernel takes a problem that the gathering one could have: channels_first, several input channels a group and not much fewer output channels than a block, a last axis of stride
/// 3 or more or with dilation, weights that fit shared memory, no float64, and not fewer than `enough_threads`.
bool channel_blocks_serve(const Problem& problem, std::int64_t enough_threads);
/// Its threads for a row of the last axis, a multiple of the stride.
std::int64_t channel_block_lanes(const Problem& problem);
/// A problem for which kernels with several outputs a thread have fewer threads than this takes one with one vector a thread: about four warps for each scheduler of an H200.
inline constexpr std::int64_t kEnoughThreads = 65536;

/// Shared memory of a block, at most: two blocks of an H100 or H200, one of any other GPU from sm_80 on.
inline constexpr std::int64_t kMostSharedBytes = 96 << 10;
/// Whether every index inside a row of the axis, and every output of it, stays below 2^31.
bool fits_int32(const convt_gemm::Axis& axis);

/// Whether the column kernel takes the problem: channels_first; a group has two input channels or more, and at most 32
/// pairs of output channel and tap; taps overlap on the last axis only, and there reach 16 positions at most; the weights
/// of a group fit into shared memory.
bool columns_serve(const Problem& problem);

/// Some of these problems are frames that overlap, and have a kernel of their own (direct/frames_kernel.cuh): one axis without dilation,
/// a stride of 4 or 5, a kernel of 4 strides, one output channel a group and few input channels.
bool frames_serve(const Problem& problem);

inline constexpr int kFrameTaps = 4;  ///< of each output
inline constexpr int kMostFrameChannels = 12;
inline constexpr int kFrameWarps = 4;  ///< of a block; they share the channels of a tile
inline constexpr int kFrameThreads = kFrameWarps * kWarpLanes;
inline constexpr int kFrameQuad = 4;                               ///< neighbouring positions of a lane
inline constexpr int kFrameTile = kFrameQuad * kWarpLanes;         ///< positions of a tile
inline constexpr int kFrameOwn = kFrameTile - kFrameQuad;          ///< those whose outputs are its own: all but the first lane's

/// The positions of a row are the inputs, and those after them that still have outputs.
struct FrameGeometry {
  std::int64_t first = 0;   ///< position that the first output belongs to
  std::int64_t tiles = 0;   ///< of a row
  std::int64_t blocks = 0;
};
FrameGeometry frame_geometry(const Problem& problem);

/// The problem must satisfy columns_serve().
ColumnShape choose_column_shape(const Problem& problem);
ColumnGeometry column_geometry(const Problem& problem, const ColumnShape& shape);
/// Cuts rows into tiles of so many positions: reach, own, tiles, blocks and pitch.
void set_tiles(const Problem& problem, std::int64_t tile, ColumnGeometry* geometry);

}  // namespace direct
}  // namespace convt_gemm

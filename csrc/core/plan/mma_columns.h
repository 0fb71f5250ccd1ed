#pragma once
// Geometry of the column kernel that multiplies with tensor cores (direct/mma_columns_kernel.cuh). Tiles, columns and reach are those of plan/direct_columns.h; what
// differs is how a block reads x: a ring of stages in shared memory, each of which takes a chunk of channels at the tile's positions.
#include <cstdint>

#include "convt_gemm/plan.h"
#include "plan/direct_columns.h"

namespace convt_gemm {
namespace direct {

inline constexpr int kMmaWarps = 8;      ///< that multiply, of a block, at most
inline constexpr int kMmaLoaders = 4;    ///< warps that bring x, one lane each: they share a chunk's rows
inline constexpr int kMmaChannels = 16;  ///< of a chunk: one product deep in 16-bit types, two in TF32
inline constexpr int kMmaColumns = 16;   ///< of a product; a kernel has one or two
inline constexpr int kMmaSlice = 32;     ///< positions of a warp
inline constexpr int kMostMmaStages = 32;
inline constexpr int kPrefetchedMmaStages = 4;  ///< that a block asks for before it waits for the kernel ahead: more take longer than that
inline constexpr int kMmaBarrierBytes = 2 * kMostMmaStages * 8;

/// Shared memory is [barriers, weights, stages]; the columns of every split come where the stages were.
struct MmaColumnGeometry {
  ColumnGeometry columns;         ///< of 16 or 32 columns; `parked` and `split_channels` mean nothing here
  std::int64_t chunks = 0;        ///< of a group's channels. A split has every shape.splits-th one
  std::int64_t stages = 0;        ///< a multiple of shape.splits, so that a stage is always the same split's
  std::int64_t row_pitch = 0;     ///< bytes from one channel of a stage to the next
  std::int64_t weight_bytes = 0;  ///< of a group, filled up to whole products
  std::int64_t shared_bytes = 0;

  std::int64_t stage_bytes() const { return kMmaChannels * row_pitch; }
  int multiplying_threads() const { return columns.threads(); }
  int threads() const { return multiplying_threads() + kMmaLoaders * kWarpLanes; }
};

/// Whether the kernel takes the problem: 16-bit types, and float32 as TF32; what the column kernel takes, but no frames (those have a kernel of their own); weights of
/// a group that leave shared memory to the stages.
bool mma_columns_serve(const Problem& problem, Precision precision);

/// The problem must satisfy mma_columns_serve().
ColumnShape choose_mma_column_shape(const Problem& problem);
/// `most_stages`: fewer than fit, but at least one for each split.
MmaColumnGeometry mma_column_geometry(const Problem& problem, const ColumnShape& shape, std::int64_t most_stages = kMostMmaStages);

/// Blocks that a multiprocessor of an H100 holds.
int resident_mma_blocks(const MmaColumnGeometry& geometry);

}  // namespace direct
}  // namespace convt_gemm

#pragma once
// Geometry of the direct algorithm's streamed kernel (direct/streamed_kernel.cuh), for layers of few input positions, as a codec or vocoder has that is
// decoded a step at a time: nearly all of what they move is weights, each of which is needed once. As in direct_columns.h, the columns of a position
// are its products with the weights, one for each output channel of a group and tap.
#include <cstddef>
#include <cstdint>

#include "convt_gemm/problem.h"

namespace convt_gemm {
namespace direct {

/// Positions of a block, those of all its samples together, are filled up to the next of these; each is a kernel.
inline constexpr int kStreamedPositions[] = {1, 2, 4, 8};
inline constexpr int kMostStreamedPositions = 8;

/// Rows of weights that a thread asks for at a time; it has two such batches under way.
inline constexpr int kStreamedBatch = 4;

/// Threads of a block, at most: as registers allow for the sums, `vector` columns at `positions` positions each. One block a multiprocessor: two took up to a third longer,
/// since each begins with all inputs.
constexpr int most_streamed_threads(int vector, int positions, std::size_t accumulator_size) {
  return vector * positions * int(accumulator_size / 4) > 32 ? 256 : 512;
}

/// A block has some samples, at all positions and in channels of some neighbouring output channels of a group. Its threads are [slot, lane]: lanes share a row of the
/// block's weights, that of one in channel, slots share the rows.
struct StreamedGeometry {
  int positions = 0;                ///< of kStreamedPositions
  int vector = 0;                   ///< columns of a lane: 16 bytes of weights, or one where rows are no whole vectors
  std::int64_t samples = 0;         ///< of a block
  std::int64_t sample_blocks = 0;   ///< that share out the batch. Each reads the weights; all but the first find them in the L2 cache
  std::int64_t tile_channels = 0;   ///< output channels of a block
  std::int64_t tiles = 0;           ///< of a group
  std::int64_t blocks = 0;
  int lanes = 0;
  int slots = 0;
  std::int64_t shared_bytes = 0;  ///< the inputs at first, then the sums of every thread

  int columns() const { return lanes * vector; }  ///< columns of a block, filled up
  int threads() const { return (slots * lanes + 31) / 32 * 32; }
};

/// Whether the kernel takes the problem: at most eight positions a sample, eight in channels a group or more, inputs and sums that fit shared memory.
bool streamed_serve(const Problem& problem);

/// The problem must satisfy streamed_serve().
StreamedGeometry streamed_geometry(const Problem& problem);

}  // namespace direct
}  // namespace convt_gemm

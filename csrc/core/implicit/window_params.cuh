#pragma once
#include "implicit/gpu_ops.cuh"
#include "implicit/params.h"

namespace convt_gemm::implicit {

/// What a kernel of windows is given.
struct WindowParams {
  Params p;
  gpu::TensorMap x_map;  ///< of positions, in channels and (sample, group) pairs; boxes are what a stage has
  /// How many row tiles of each column tile have been taken, zero at first: a team takes the next one that no other has, so that those at work stay neighbours.
  /// Null if each team's tiles are those that its place says.
  int* row_tiles_taken;
  bool x_passes;  ///< no part of x is read twice, but by teams that do so at the same time: L2 need not keep it
};

}  // namespace convt_gemm::implicit

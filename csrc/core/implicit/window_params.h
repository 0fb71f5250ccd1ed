#pragma once
#include "implicit/gpu_ops.cuh"
#include "implicit/params.h"

namespace convt_gemm::implicit {

/// What a kernel of windows is given: `x_map` has positions, in channels and (sample, group) pairs, and boxes of a stage.
struct WindowParams {
  Params p;
  gpu::TensorMap x_map;
};

}  // namespace convt_gemm::implicit

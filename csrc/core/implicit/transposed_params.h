#pragma once
#include "implicit/params.h"
#include "plan/transposed_geometry.h"

namespace convt_gemm::implicit {

/// What a kernel of the transposed product is given. Its weights are as given, never packed.
struct TransposedParams : Params {
  WeightTiles w;
};

/// The same of several axes.
struct PlaneParams : TransposedParams {
  PlaneTiles planes;
};

}  // namespace convt_gemm::implicit

#pragma once
#include "plan/implicit_geometry.h"

namespace convt_gemm::implicit {

/// What a fused kernel is given.
struct Params {
  ImplicitGeometry g;
  const void* x;
  const void* weight;  ///< as given, or packed
  const void* bias;    ///< or nullptr
  void* y;
};

}  // namespace convt_gemm::implicit

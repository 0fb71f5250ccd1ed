#pragma once
#include "convt_gemm/plan.h"

namespace convt_gemm::instance_kinds {

/// What a `kind` in a list of kernel instances means to the planner.
struct Kind {
  DType dtype;
  Precision precision;
};
inline constexpr Kind tf32{DType::float32, Precision::tf32};
inline constexpr Kind tf32x3{DType::float32, Precision::tf32x3};
inline constexpr Kind ieee{DType::float32, Precision::ieee};
inline constexpr Kind bfloat16{DType::bfloat16, Precision::ieee};
inline constexpr Kind float16{DType::float16, Precision::ieee};
inline constexpr Kind float64{DType::float64, Precision::ieee};

}  // namespace convt_gemm::instance_kinds

#pragma once
// From a dtype to the C++ type of its elements.
#include "convt_gemm/problem.h"
#include "util/half_types.h"

namespace convt_gemm::testing {

/// run(T{}) for the dtype's T.
template <class Run>
auto with_type(DType dtype, const Run& run) {
  switch (dtype) {
    case DType::float64:
      return run(double{});
    case DType::bfloat16:
      return run(BFloat16{});
    case DType::float16:
      return run(Float16{});
    case DType::float32:
      break;
  }
  return run(float{});
}

}  // namespace convt_gemm::testing

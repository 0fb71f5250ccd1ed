#pragma once
// What a problem costs whatever computes it.
#include "convt_gemm/problem.h"

namespace convt_gemm {

/// Bytes of input, weight and output.
inline double tensor_bytes(const Problem& problem) {
  return double(size_of(problem.dtype)) * (double(problem.input_elements()) + double(problem.weight_elements()) + double(problem.output_elements()));
}

/// Multiplications and additions.
inline double flops_of(const Problem& problem) {
  return 2.0 * double(problem.batch) * double(problem.input_positions()) * double(problem.in_channels) * double(problem.group_out_channels()) *
         double(problem.taps());
}

}  // namespace convt_gemm

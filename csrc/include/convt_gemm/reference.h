#pragma once
// The oracle: the definition of a transposed convolution, written as plainly as possible in float64.
#include "convt_gemm/problem.h"

namespace convt_gemm {

/// Scatters every product x[n,ci,i]*w[ci,co,k] to its output. Tensors are float64 and dense in the problem's layout, whatever
/// problem.dtype says; `bias` is read only if problem.bias. Slow and single-threaded on purpose.
void reference_forward(const Problem& problem, const double* input, const double* weight, const double* bias, double* output);

}  // namespace convt_gemm

#pragma once
// The column kernel that multiplies with tensor cores, on the GPU (mma_columns_kernel.cuh). A header without kernels: theirs needs CUTLASS.
#include <cuda_runtime.h>

#include "convt_gemm/exec.h"
#include "convt_gemm/problem.h"

namespace convt_gemm {
namespace direct {

/// Enqueues the kernel of a problem that satisfies mma_columns_serve(). `T` is its dtype, BFloat16, Float16 or float: cuda_mma_columns_<dtype>.cu.
template <class T>
cudaError_t launch_mma_columns(const Problem& problem, const Tensors& tensors, cudaStream_t stream);

}  // namespace direct
}  // namespace convt_gemm

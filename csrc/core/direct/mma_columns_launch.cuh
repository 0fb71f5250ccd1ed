#pragma once
// The device's side of mma_columns_kernel.cuh: the __global__ functions and their launch.
#include <cuda_runtime.h>

#include "direct/cuda_mma_columns.h"
#include "direct/device_access.cuh"
#include "direct/mma_columns_kernel.cuh"
#include "util/kernel_order.cuh"

namespace convt_gemm {
namespace direct {

/// Two blocks a multiprocessor: this kernel's, and that of the next one, which begins while this one's ends.
template <class Kernel>
__global__ void __launch_bounds__((kMmaWarps + kMmaLoaders) * kWarpLanes, 2) mma_columns_kernel(const __grid_constant__ MmaColumnParams params) {
  Kernel::template run<DeviceAccess>(params);
}

template <class T>
cudaError_t launch_mma_columns(const Problem& problem, const Tensors& tensors, cudaStream_t stream) {
  const MmaColumnGeometry g = mma_column_geometry(problem, choose_mma_column_shape(problem));
  const auto kernel = g.columns.columns == kMmaColumns ? mma_columns_kernel<MmaColumns<T, 1>> : mma_columns_kernel<MmaColumns<T, 2>>;
  const cudaError_t error = allow_shared_bytes(kernel, g.shared_bytes);
  if (error != cudaSuccess) return error;
  return launch_early({static_cast<unsigned>(g.columns.blocks), static_cast<unsigned>(g.threads()), static_cast<std::size_t>(g.shared_bytes), stream}, kernel,
                      mma_column_params(problem, g, tensors));
}

}  // namespace direct
}  // namespace convt_gemm

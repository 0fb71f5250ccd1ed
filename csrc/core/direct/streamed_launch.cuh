#pragma once
// The device's side of streamed_kernel.cuh: the __global__ function and its launch.
#include <cuda_runtime.h>

#include "convt_gemm/exec.h"
#include "direct/device_access.cuh"
#include "direct/streamed_dispatch.h"
#include "util/kernel_order.cuh"

namespace convt_gemm {
namespace direct {

template <class Kernel>
__global__ void __launch_bounds__(Kernel::kMostThreads, Kernel::kMinBlocks)
streamed_kernel(const typename Kernel::T* __restrict__ weight, const typename Kernel::T* __restrict__ input, const typename Kernel::T* __restrict__ bias,
                typename Kernel::T* __restrict__ output, const __grid_constant__ StreamedParams p) {
  extern __shared__ Words shared[];
  auto* const inputs = reinterpret_cast<typename Kernel::Inputs*>(shared);
  auto* const columns = reinterpret_cast<typename Kernel::Acc*>(shared);
  const auto thread = static_cast<typename Kernel::Int>(threadIdx.x), threads = static_cast<typename Kernel::Int>(blockDim.x);
  const typename Kernel::Block block = Kernel::block_of(p, static_cast<typename Kernel::Int>(blockIdx.x));
  typename Kernel::Thread state;
  Kernel::template ask<DeviceAccess>(p, block, weight, input, thread, state);
  Kernel::template stage<DeviceAccess>(p, block, input, thread, threads, inputs);
  __syncthreads();
  Kernel::template multiply<DeviceAccess>(p, inputs, state);
  __syncthreads();
  Kernel::put(p, reinterpret_cast<typename Kernel::Sums*>(shared), state);
  __syncthreads();
  Kernel::sum(p, columns, thread, threads);
  __syncthreads();
  Kernel::template store<DeviceAccess>(p, block, columns, bias, output, thread, threads);
}

/// Enqueues the problem's kernel.
template <class T>
cudaError_t launch_streamed(const Problem& problem, const Tensors& tensors, cudaStream_t stream) {
  const StreamedGeometry g = streamed_geometry(problem);
  cudaError_t error = cudaSuccess;
  for_streamed_kernel<T>(problem, g, [&](auto kernel, const StreamedParams& p) {
    const auto function = streamed_kernel<decltype(kernel)>;
    error = allow_shared_bytes(function, g.shared_bytes);
    if (error != cudaSuccess) return;
    error = launch_early({static_cast<unsigned>(g.blocks), static_cast<unsigned>(g.threads()), static_cast<std::size_t>(g.shared_bytes), stream}, function,
                         static_cast<const T*>(tensors.weight), static_cast<const T*>(tensors.input),
                         problem.bias ? static_cast<const T*>(tensors.bias) : nullptr, static_cast<T*>(tensors.output), p);
  });
  return error;
}

/// cuda_streamed.cu.
extern template cudaError_t launch_streamed<float>(const Problem&, const Tensors&, cudaStream_t);
extern template cudaError_t launch_streamed<double>(const Problem&, const Tensors&, cudaStream_t);
extern template cudaError_t launch_streamed<BFloat16>(const Problem&, const Tensors&, cudaStream_t);
extern template cudaError_t launch_streamed<Float16>(const Problem&, const Tensors&, cudaStream_t);

}  // namespace direct
}  // namespace convt_gemm

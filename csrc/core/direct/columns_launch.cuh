#pragma once
// The device's side of columns_kernel.cuh and frames_kernel.cuh: the __global__ functions and their launch.
#include <cuda_runtime.h>

#include "convt_gemm/exec.h"
#include "direct/columns_dispatch.h"
#include "direct/device_access.cuh"
#include "util/kernel_order.cuh"

namespace convt_gemm {
namespace direct {

template <class Kernel>
__global__ void __launch_bounds__(kColumnWarps* kWarpLanes, Kernel::kMinBlocks)
columns_kernel(const typename Kernel::T* __restrict__ input, const typename Kernel::T* __restrict__ weight,
               const typename Kernel::T* __restrict__ bias, typename Kernel::T* __restrict__ output,
               const __grid_constant__ ColumnParams p) {
  extern __shared__ Words shared[];
  auto* const weights = reinterpret_cast<typename Kernel::Quad*>(shared);
  auto* const columns = reinterpret_cast<typename Kernel::Acc*>(shared);
  const auto thread = static_cast<typename Kernel::Int>(threadIdx.x);
  const typename Kernel::Block block = Kernel::block_of(p, static_cast<typename Kernel::Int>(blockIdx.x));
  if (!Kernel::has_outputs(block)) return;
  typename Kernel::Thread state;
  Kernel::template start<DeviceAccess>(p, block, input, weight, weights, thread, state);
  __syncthreads();
  Kernel::template multiply<DeviceAccess>(p, weights, thread, state);
  __syncthreads();
  Kernel::put(p, columns, thread, state);
  __syncthreads();
  Kernel::template finish<DeviceAccess>(p, block, columns, bias, output, thread, state);
}

template <class Kernel>
__global__ void __launch_bounds__(kFrameThreads)
frames_kernel(const __grid_constant__ FrameParams p, const typename Kernel::T* __restrict__ input, const typename Kernel::T* __restrict__ weight,
              const typename Kernel::T* __restrict__ bias, typename Kernel::T* __restrict__ output) {
  __shared__ typename Kernel::Shared shared;
  const auto thread = static_cast<typename Kernel::Int>(threadIdx.x);
  const typename Kernel::Block block = Kernel::block_of(p, static_cast<typename Kernel::Int>(blockIdx.x));
  typename Kernel::Thread state;
  Kernel::template ask<DeviceAccess>(p, block, input, weight, shared, thread, state);
  Kernel::template park<DeviceAccess>(shared, state);
  __syncwarp();
  Kernel::multiply(shared, state);
  Kernel::put(shared, state);
  __syncthreads();
  Kernel::template store<DeviceAccess>(p, block, shared, bias, output, thread);
}

template <class T>
cudaError_t launch_frames(const Problem& problem, const Tensors& tensors, cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  for_frame_kernel<T>(problem, [&](auto kernel, const FrameParams& p, std::int64_t blocks) {
    error = launch_early({static_cast<unsigned>(blocks), static_cast<unsigned>(kFrameThreads), 0, stream}, frames_kernel<decltype(kernel)>, p,
                         static_cast<const T*>(tensors.input), static_cast<const T*>(tensors.weight),
                         problem.bias ? static_cast<const T*>(tensors.bias) : nullptr, static_cast<T*>(tensors.output));
  });
  return error;
}

/// Enqueues the problem's kernel. Each dtype has a translation unit of its own, for the time that compiling them takes.
template <class T>
cudaError_t launch_columns(const Problem& problem, const Tensors& tensors, cudaStream_t stream) {
  if (frames_serve(problem)) return launch_frames<T>(problem, tensors, stream);
  const ColumnGeometry g = column_geometry(problem, choose_column_shape(problem));
  cudaError_t error = cudaSuccess;
  for_column_kernel<T>(problem, g, [&](auto kernel, const ColumnParams& p) {
    const auto function = columns_kernel<decltype(kernel)>;
    error = allow_shared_bytes(function, g.shared_bytes);
    if (error != cudaSuccess) return;
    error = launch_early({static_cast<unsigned>(g.blocks), static_cast<unsigned>(g.threads()), static_cast<std::size_t>(g.shared_bytes), stream}, function,
                         static_cast<const T*>(tensors.input), static_cast<const T*>(tensors.weight),
                         problem.bias ? static_cast<const T*>(tensors.bias) : nullptr, static_cast<T*>(tensors.output), p);
  });
  return error;
}

/// cuda_columns_<dtype>.cu.
extern template cudaError_t launch_columns<float>(const Problem&, const Tensors&, cudaStream_t);
extern template cudaError_t launch_columns<double>(const Problem&, const Tensors&, cudaStream_t);
extern template cudaError_t launch_columns<BFloat16>(const Problem&, const Tensors&, cudaStream_t);
extern template cudaError_t launch_columns<Float16>(const Problem&, const Tensors&, cudaStream_t);

}  // namespace direct
}  // namespace convt_gemm

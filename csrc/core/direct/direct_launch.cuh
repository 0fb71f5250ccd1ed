#pragma once
// The device's side of direct_kernel.cuh: the __global__ function and its launch.
#include <cuda_runtime.h>

#include <cstdint>

#include "convt_gemm/exec.h"
#include "direct/device_access.cuh"
#include "direct/direct_dispatch.h"
#include "util/kernel_order.cuh"

namespace convt_gemm {
namespace direct {

inline constexpr int kThreads = 256;

template <class Kernel>
__global__ void __launch_bounds__(kThreads, Kernel::kMinBlocks)
direct_kernel(const typename Kernel::P p, const typename Kernel::T* __restrict__ input,
              const typename Kernel::T* __restrict__ weight, const typename Kernel::T* __restrict__ bias,
              typename Kernel::T* __restrict__ output) {
  using Int = typename Kernel::Int;
  const Int thread = Int(blockIdx.x) * Int(blockDim.x) + Int(threadIdx.x);
  Kernel::template run<DeviceAccess>(p, input, weight, bias, output, thread);
}

/// Enqueues the problem's kernel. Each dtype has a translation unit of its own, for the time that compiling them takes.
template <class T>
cudaError_t launch(const Problem& problem, const Tensors& tensors, cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  for_direct_kernel<T>(problem, [&](auto kernel, const auto& p, std::int64_t threads) {
    using Kernel = decltype(kernel);
    // One vector a thread mostly means a small problem, and so do several of depthwise rows: smaller blocks spread more evenly.
    // But where kernels wait behind each other, fewer blocks start sooner.
    constexpr bool kDepthwise = std::is_same_v<typename Kernel::P, DepthwiseParams>;
    const int block = (kDepthwise ? threads * kDeep > kRoom : Kernel::G == 1) ? kThreads / 2 : kThreads;
    error = launch_early({static_cast<unsigned>(ceil_div(threads, block)), static_cast<unsigned>(block), 0, stream}, direct_kernel<Kernel>, p,
                         static_cast<const T*>(tensors.input), static_cast<const T*>(tensors.weight),
                         problem.bias ? static_cast<const T*>(tensors.bias) : nullptr, static_cast<T*>(tensors.output));
  });
  return error;
}

/// cuda_direct_<dtype>.cu.
extern template cudaError_t launch<float>(const Problem&, const Tensors&, cudaStream_t);
extern template cudaError_t launch<double>(const Problem&, const Tensors&, cudaStream_t);
extern template cudaError_t launch<BFloat16>(const Problem&, const Tensors&, cudaStream_t);
extern template cudaError_t launch<Float16>(const Problem&, const Tensors&, cudaStream_t);

}  // namespace direct
}  // namespace convt_gemm

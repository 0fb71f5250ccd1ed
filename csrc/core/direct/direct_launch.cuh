#pragma once
// The device's side of direct_kernel.cuh: the __global__ function and its launch.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "convt_gemm/exec.h"
#include "direct/device_access.cuh"
#include "direct/direct_dispatch.h"
#include "util/kernel_order.cuh"

namespace convt_gemm {
namespace direct {

template <class Kernel>
__global__ void __launch_bounds__(Kernel::kMostThreads, Kernel::kMinBlocks)
direct_kernel(const typename Kernel::P p, const typename Kernel::T* __restrict__ input,
              const typename Kernel::T* __restrict__ weight, const typename Kernel::T* __restrict__ bias,
              typename Kernel::T* __restrict__ output) {
  using Int = typename Kernel::Int;
  const Int thread = Int(blockIdx.x) * Int(blockDim.x) + Int(threadIdx.x);
  if constexpr (kStagesWeights<Kernel>) {
    extern __shared__ unsigned char memory[];
    auto* const shared = reinterpret_cast<typename Kernel::Weights*>(memory);
    Kernel::template stage<DeviceAccess>(p, weight, thread, shared);
    __syncthreads();
    Kernel::template run<DeviceAccess>(p, input, shared, bias, output, thread);
  } else {
    Kernel::template run<DeviceAccess>(p, input, weight, bias, output, thread);
  }
}

/// Threads of a block.
template <class Kernel>
int threads_of_block(std::int64_t threads) {
  constexpr int kMany = 256, kFew = kMany / 2;
  if constexpr (std::is_same_v<typename Kernel::P, DepthwiseParams>) {
    // Where kernels wait behind each other, few blocks start soonest: a third of the multiprocessors that an H100 has.
    constexpr int kFewBlocks = 44, kWarp = 32;
    if (threads * kDeep > kRoom) return kFew;
    return static_cast<int>(std::clamp<std::int64_t>(round_up(ceil_div(threads, kFewBlocks), kWarp), kFew, Kernel::kMostThreads));
  } else if constexpr (kStagesWeights<Kernel>) {
    return kBlockThreads;
  } else {
    return Kernel::G == 1 ? kFew : kMany;  // one vector a thread mostly means a small problem: smaller blocks spread more evenly
  }
}

/// Enqueues the problem's kernel. Each dtype has a translation unit of its own, for the time that compiling them takes.
template <class T>
cudaError_t launch(const Problem& problem, const Tensors& tensors, cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  for_direct_kernel<T>(problem, [&](auto kernel, const auto& p, std::int64_t threads) {
    using Kernel = decltype(kernel);
    const int block = threads_of_block<Kernel>(threads);
    std::size_t shared_bytes = 0;
    if constexpr (kStagesWeights<Kernel>) shared_bytes = static_cast<std::size_t>(Kernel::shared_bytes(p));
    error = launch_early({static_cast<unsigned>(ceil_div(threads, block)), static_cast<unsigned>(block), shared_bytes, stream}, direct_kernel<Kernel>, p,
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

#pragma once
// The device's side of direct_kernel.cuh: memory access, the __global__ function and its launch.
#include <cuda_runtime.h>

#include <cstdint>

#include "convt_gemm/exec.h"
#include "direct/direct_dispatch.h"

namespace convt_gemm {
namespace direct {

inline constexpr int kThreads = 256;

struct DeviceAccess {
  static __device__ __forceinline__ float load(const float* from) { return __ldg(from); }
  static __device__ __forceinline__ double load(const double* from) { return __ldg(from); }
  static __device__ __forceinline__ BFloat16 load(const BFloat16* from) { return {__ldg(&from->bits)}; }
  static __device__ __forceinline__ Float16 load(const Float16* from) { return {__ldg(&from->bits)}; }

  template <class T>
  static __device__ __forceinline__ Words load_vector(const T* from) {
    const uint4 words = __ldg(reinterpret_cast<const uint4*>(from));
    return {{words.x, words.y, words.z, words.w}};
  }

  /// kCount elements in loads of kBytes.
  template <int kBytes, int kCount, class T, class Acc, int kSize>
  static __device__ __forceinline__ void load_run(const T* from, Acc (&to)[kSize]) {
    constexpr int kEach = kBytes / int(sizeof(T));
#pragma unroll
    for (int i = 0; i < kCount; i += kEach) {
      if constexpr (kEach == 1) {
        to[i] = widen(load(from + i));
      } else {
        Words words = {};
        if constexpr (kBytes == 16) {
          words = load_vector(from + i);
        } else if constexpr (kBytes == 8) {
          const uint2 pair = __ldg(reinterpret_cast<const uint2*>(from + i));
          words.word[0] = pair.x, words.word[1] = pair.y;
        } else {
          words.word[0] = __ldg(reinterpret_cast<const unsigned*>(from + i));
        }
#pragma unroll
        for (int e = 0; e < kEach; ++e) to[i + e] = widen(element_of<T>(words, e));
      }
    }
  }

  template <class T>
  static __device__ __forceinline__ void store(T* to, T value) {
    *to = value;
  }
  /// __stwb: a vector built from separate registers may otherwise become separate stores.
  template <class T>
  static __device__ __forceinline__ void store_vector(T* to, const Words& words) {
    __stwb(reinterpret_cast<uint4*>(to), make_uint4(words.word[0], words.word[1], words.word[2], words.word[3]));
  }
};

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
void launch(const Problem& problem, const Tensors& tensors, cudaStream_t stream) {
  for_direct_kernel<T>(problem, [&](auto kernel, const auto& p, std::int64_t threads) {
    using Kernel = decltype(kernel);
    // One vector a thread means a small problem: smaller blocks spread more evenly.
    const int block = Kernel::G == 1 ? kThreads / 2 : kThreads;
    direct_kernel<Kernel><<<static_cast<unsigned>(ceil_div(threads, block)), block, 0, stream>>>(
        p, static_cast<const T*>(tensors.input), static_cast<const T*>(tensors.weight),
        problem.bias ? static_cast<const T*>(tensors.bias) : nullptr, static_cast<T*>(tensors.output));
  });
}

/// cuda_direct_<dtype>.cu.
extern template void launch<float>(const Problem&, const Tensors&, cudaStream_t);
extern template void launch<double>(const Problem&, const Tensors&, cudaStream_t);
extern template void launch<BFloat16>(const Problem&, const Tensors&, cudaStream_t);
extern template void launch<Float16>(const Problem&, const Tensors&, cudaStream_t);

}  // namespace direct
}  // namespace convt_gemm

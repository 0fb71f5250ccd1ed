#pragma once
// How the direct algorithm's kernels reach global memory on the device.
#include <cuda_runtime.h>

#include "direct/direct_kernel.cuh"

namespace convt_gemm {
namespace direct {

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

}  // namespace direct
}  // namespace convt_gemm

#pragma once
// How the direct algorithm's kernels reach global memory on the device.
#include <cuda_runtime.h>

#include "direct/direct_kernel.cuh"
#include "util/kernel_order.cuh"

namespace convt_gemm {
namespace direct {

inline constexpr unsigned kRoom = 132 * 1024;  ///< for threads: half of what an H100 has for those of the fewest registers
inline constexpr unsigned kDeep = 4;         ///< kernels that wait behind each other

struct DeviceAccess {
  /// Asks for memory that is read later, and may be called before `begin`: the 32 bytes around an address, or `count` elements.
  template <class T>
  static __device__ __forceinline__ void prefetch(const T* at) {
    gpu::prefetch(at);
  }
  template <class T>
  static __device__ __forceinline__ void prefetch_run(const T* from, int count) {
    gpu::prefetch_run(from, static_cast<unsigned>(count) * unsigned(sizeof(T)));
  }
  /// Whether a GPU such as an H100 has room for the threads of `kernels` like this one at once.
  static __device__ __forceinline__ bool has_room_for(unsigned kernels) {
    return gridDim.x * blockDim.x * kernels <= kRoom;
  }
  /// From here on memory may be touched: what kernels before this one read and write is done.
  static __device__ __forceinline__ void begin() {
    gpu::wait_for_kernel_before();
    if (has_room_for(2)) gpu::let_next_kernel_start();
  }
  /// First of all in a kernel that prefetches, if there is room for several like it: then those behind it do so too, while it waits.
  static __device__ __forceinline__ void let_next_start() {
    if (has_room_for(kDeep)) gpu::let_next_kernel_start();
  }

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

  /// An element to shared memory, without waiting for it; zero if it is not `there`.
  template <class T>
  static __device__ __forceinline__ void copy(T* to, const T* from, bool there) {
    asm volatile("{ .reg .pred outside; setp.eq.u32 outside, %3, 0; cp.async.ca.shared.global [%0], [%1], %2, outside; }" ::"r"(
                     static_cast<unsigned>(__cvta_generic_to_shared(to))),
                 "l"(from), "n"(sizeof(T)), "r"(static_cast<unsigned>(there))
                 : "memory");
  }
  /// Likewise, kCount elements that are aligned to 16 bytes.
  template <int kCount, class T>
  static __device__ __forceinline__ void copy_run(T* to, const T* from) {
#pragma unroll
    for (int i = 0; i < kCount; i += kVector<T>) {
      asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(to + i))), "l"(from + i)
                   : "memory");
    }
  }
  static __device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

  /// kCount sums, rounded, in stores of 16 bytes, or of all of them if that is less.
  template <int kCount, class T, class Acc>
  static __device__ __forceinline__ void store_run(T* to, const Acc (&from)[kCount]) {
    if constexpr (kCount * sizeof(T) == 8) {
      __stwb(reinterpret_cast<uint2*>(to), make_uint2(pack<T>(from[0], from[1]), pack<T>(from[2], from[3])));
    } else {
      constexpr int kEach = kVector<T>;
#pragma unroll
      for (int i = 0; i < kCount; i += kEach) {
        Acc each[kEach];
#pragma unroll
        for (int e = 0; e < kEach; ++e) each[e] = from[i + e];
        store_vector(to + i, words_of<T>(each));
      }
    }
  }
};

}  // namespace direct
}  // namespace convt_gemm

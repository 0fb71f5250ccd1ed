#pragma once
// Kernels that start before the one ahead of them in the stream is done ("programmatic dependent launch"): a launch then costs a microsecond less. Such a kernel
// waits by itself, before it touches any memory that another one may write or read.
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace convt_gemm {
namespace gpu {

/// Until the kernel ahead is done and what it wrote is there. Every kernel that launch_early starts has to call it.
__device__ __forceinline__ void wait_for_kernel_before() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Asks for the memory around an address, at least 32 bytes that begin at a multiple of 32, so that the L2 cache has them when they are read. May come before
/// wait_for_kernel_before: all writes meet in that cache, so what another kernel has yet to write is not missed.
__device__ __forceinline__ void prefetch(const void* at) {
#if __CUDA_ARCH__ >= 900
  asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
#endif
}

/// The same of all of `bytes` from an address on, by the copy engine: one instruction of one thread.
__device__ __forceinline__ void prefetch_run(const void* from, unsigned bytes) {
#if __CUDA_ARCH__ >= 900
  constexpr std::uintptr_t kEach = 16;  // whole ones are asked for
  const auto first = reinterpret_cast<std::uintptr_t>(from), begin = first / kEach * kEach;
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(begin), "r"(static_cast<unsigned>((first + bytes - begin + kEach - 1) / kEach * kEach)));
#endif
}

/// Lets the kernel behind this one, if launch_early starts it, have its first blocks as soon as a thread of each block of this one has come here; else it has them when this
/// one's blocks end. It waits by itself for this one to be done. Early blocks fill the multiprocessors that have room first, which are too few where most of this
/// kernel's blocks are still at work: so not before then.
__device__ __forceinline__ void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace gpu

/// The shared memory that each of `blocks` blocks has to ask for, so that a multiprocessor takes little more than its share of them. Those of a kernel that starts early would
/// else fill the multiprocessors that are free first, and be few at work at a time. 0 where the shares are so large that it does not matter; never more than a kernel may have
/// without saying so first (four blocks of a multiprocessor then, which was as fast as one).
inline cudaError_t spreading_bytes(std::int64_t blocks, std::size_t* bytes) {
  constexpr int kMostBlocks = 16, kUnit = 1024, kMostBytes = 48 << 10;
  int device = 0, multiprocessors = 0, memory = 0, reserved = 0;
  cudaError_t error = cudaGetDevice(&device);
  const auto get = [&](int* value, cudaDeviceAttr attribute) {
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(value, attribute, device);
  };
  get(&multiprocessors, cudaDevAttrMultiProcessorCount), get(&memory, cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  get(&reserved, cudaDevAttrReservedSharedMemoryPerBlock);
  if (error != cudaSuccess) return error;
  const std::int64_t share = (blocks - 1) / multiprocessors + 1;
  const int each = share > kMostBlocks ? 0 : (memory / static_cast<int>(share) - reserved) / kUnit * kUnit;
  *bytes = static_cast<std::size_t>(each < kMostBytes ? each : kMostBytes);
  return cudaSuccess;
}

/// Lets a kernel be launched with so much dynamic shared memory; more than 48 KiB take this. For every launch: the runtime keeps it for each device by itself, and the call takes half
/// a microsecond.
template <class... Parameters>
cudaError_t allow_shared_bytes(void (*kernel)(Parameters...), std::int64_t bytes) {
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (error != cudaSuccess) cudaGetLastError();  // so that it is reported once, here
  return error;
}

/// How a kernel is launched.
struct LaunchShape {
  dim3 blocks, threads;
  std::size_t shared_bytes;  ///< of a block, dynamic
  cudaStream_t stream;
  unsigned cluster_blocks = 1;
};

/// Enqueues a kernel that may start before the one ahead of it is done, from compute capability 9.0 on.
template <class... Parameters, class... Arguments>
cudaError_t launch_early(const LaunchShape& shape, void (*kernel)(Parameters...), const Arguments&... arguments) {
  int device = 0, major = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute attributes[2] = {};
  unsigned count = 0;
  if (major >= 9) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (shape.cluster_blocks > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count++].val.clusterDim = {shape.cluster_blocks, 1, 1};
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.blocks;
  config.blockDim = shape.threads;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = shape.stream;
  config.attrs = attributes;
  config.numAttrs = count;
  error = cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
  const cudaError_t pending = cudaGetLastError();  // so that a failure is reported once, here
  return error != cudaSuccess ? error : pending;
}

}  // namespace convt_gemm

#pragma once
// Kernels that start before the one ahead of them in the stream is done ("programmatic dependent launch"): a launch then costs a microsecond less. Such a kernel
// waits by itself, before it touches any memory that another one may write or read.
#include <cuda_runtime.h>

#include <cstddef>

namespace convt_gemm {
namespace gpu {

/// Until the kernel ahead is done and what it wrote is there. Every kernel that launch_early starts has to call it.
__device__ __forceinline__ void wait_for_kernel_before() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
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

/// The same for a kernel without shared memory to speak of, of one block axis, if so few threads are at work that the next one's have room beside them everywhere.
__device__ __forceinline__ void let_next_kernel_start_beside_few() {
  constexpr unsigned kFew = 1u << 16;  // a quarter of what an H100 has room for
  if (gridDim.x * blockDim.x <= kFew) let_next_kernel_start();
}

}  // namespace gpu

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

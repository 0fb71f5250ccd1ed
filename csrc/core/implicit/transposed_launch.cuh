#pragma once
// Launches one instance of the transposed product's kernel; included by the translation unit that is generated for it.
#define CONVT_GEMM_ALL_PRODUCT_SHAPES  // see gpu_ops.cuh
#include <cuda_runtime.h>

#include "implicit/launch.cuh"
#include "implicit/transposed_kernel.cuh"

namespace convt_gemm::implicit {

template <class C>
__global__ void __launch_bounds__(C::kThreads, 1) implicit_gemm_transposed_kernel(const __grid_constant__ TransposedParams p) {
  implicit_gemm_transposed<C>(p);
}

template <class C>
__global__ void __launch_bounds__(kWarpgroup) pack_positions_kernel(const __grid_constant__ TransposedParams p) {
  pack_positions<C>(p);
}

/// `packed` is the place for a range's x in the tensor cores' order.
template <class C>
Status launch_range(TransposedParams p, void* packed, cudaStream_t stream) {
  TransposedParams to_packed = p;
  to_packed.y = packed;
  const dim3 grid(static_cast<unsigned>((p.w.packed_slots - 1) / kWarpgroup + 1), static_cast<unsigned>(p.g.channel_blocks * C::kQuads / C::kPackedQuads),
                  static_cast<unsigned>(p.g.groups));
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;  // each of the kernels waits for the one before by itself
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = static_cast<unsigned>(p.w.splits);
  attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(kWarpgroup);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 1;
  cudaError_t error = cudaLaunchKernelEx(&config, pack_positions_kernel<C>, to_packed);
  if (error != cudaSuccess) return checked("implicit GEMM: positions", error);
  p.x = packed;
  config.gridDim = dim3(static_cast<unsigned>(p.g.blocks));
  config.blockDim = dim3(C::kThreads);
  config.dynamicSmemBytes = static_cast<std::size_t>(p.g.shared_bytes);
  config.numAttrs = p.w.splits > 1 ? 2 : 1;
  error = cudaLaunchKernelEx(&config, implicit_gemm_transposed_kernel<C>, p);
  return checked("implicit GEMM", error == cudaSuccess ? cudaGetLastError() : error);
}

template <class C>
Status launch_transposed(const TransposedParams& p, void* packed, cudaStream_t stream) {
  const cudaError_t error = cudaFuncSetAttribute(implicit_gemm_transposed_kernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, p.g.shared_bytes);
  if (error != cudaSuccess) return checked("implicit GEMM: shared memory", error);
  for (int range = 0; range < p.w.ranges; ++range) {
    const TransposedGeometry geometry = range_of({p.g, p.w}, range);
    TransposedParams params = p;
    params.g = geometry.g, params.w = geometry.w;
    const Status status = launch_range<C>(params, packed, stream);
    if (!status.ok()) return status;
  }
  return {};
}

}  // namespace convt_gemm::implicit

#define CONVT_DEFINE_TRANSPOSED_GEMM(symbol, kind, positions, columns, words)            \
  namespace convt_gemm::implicit {                                                       \
  Status symbol(const TransposedParams& params, void* packed, cudaStream_t stream) {     \
    return launch_transposed<TransposedConfig<Kind::kind, positions, columns, words>>(params, packed, stream); \
  }                                                                                      \
  }

#pragma once
// Launches one instance of the transposed product's kernel; included by the translation units that are generated for them.
#define CONVT_GEMM_ALL_PRODUCT_SHAPES  // see gpu_ops.cuh
#include <cuda_runtime.h>

#include "implicit/launch.cuh"
#include "implicit/transposed_kernel.cuh"

namespace convt_gemm::implicit {

template <class C>
__global__ void __launch_bounds__(C::kThreads, 1) implicit_gemm_transposed_kernel(const __grid_constant__ typename C::Params p) {
  implicit_gemm_transposed<C>(p);
}

template <class C>
__global__ void __launch_bounds__(kWarpgroup) pack_positions_kernel(const __grid_constant__ typename C::Params p) {
  pack_positions<C>(p);
}

/// `packed` is the place for a range's x in the tensor cores' order. `C` is the configuration of the product's kernel, see with_transposed_kernel_of.
template <class C>
Status launch_range(typename C::Params p, void* packed, cudaStream_t stream) {
  typename C::Params to_packed = p;
  to_packed.y = packed;
  const dim3 grid(static_cast<unsigned>((p.w.packed_slots - 1) / kWarpgroup + 1), static_cast<unsigned>(p.g.channel_blocks * C::kQuads / C::kPackedQuads),
                  static_cast<unsigned>(p.g.groups));
  std::size_t shared_bytes = 0;
  cudaError_t error = spreading_bytes(std::int64_t{grid.x} * grid.y * grid.z, &shared_bytes);
  if (error == cudaSuccess) error = launch_early({grid, kWarpgroup, shared_bytes, stream}, pack_positions_kernel<typename C::Plain>, to_packed);
  if (error != cudaSuccess) return checked("implicit GEMM: positions", error);
  p.x = packed;
  error = launch_early({static_cast<unsigned>(p.g.blocks), C::kThreads, static_cast<std::size_t>(p.g.shared_bytes), stream, static_cast<unsigned>(p.w.splits)},
                       implicit_gemm_transposed_kernel<C>, p);
  return checked("implicit GEMM", error);
}

template <class C>
Status launch_ranges(const PlaneParams& p, void* packed, cudaStream_t stream) {
  const cudaError_t error = allow_shared_bytes(implicit_gemm_transposed_kernel<C>, p.g.shared_bytes);
  if (error != cudaSuccess) return checked("implicit GEMM: shared memory", error);
  for (int range = 0; range < p.w.ranges; ++range) {
    const TransposedGeometry geometry = range_of({p.g, p.w, p.planes}, range);
    PlaneParams params = p;
    params.g = geometry.g, params.w = geometry.w;
    const Status status = launch_range<C>(params, packed, stream);
    if (!status.ok()) return status;
  }
  return {};
}

template <class C>
Status launch_transposed(const PlaneParams& p, void* packed, cudaStream_t stream) {
  return with_transposed_kernel_of<C>(p.w, [&](auto config) { return launch_ranges<decltype(config)>(p, packed, stream); });
}

}  // namespace convt_gemm::implicit

#define CONVT_DEFINE_TRANSPOSED_GEMM(symbol, kind, positions, columns, words, axes)                                      \
  namespace convt_gemm::implicit {                                                                                       \
  Status symbol(const PlaneParams& params, void* packed, cudaStream_t stream) {                                          \
    return launch_transposed<TransposedConfig<Kind::kind, positions, columns, words, Axes::axes>>(params, packed, stream); \
  }                                                                                                                      \
  }

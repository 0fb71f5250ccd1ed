#pragma once
// Launches one instance of the fused kernel; included by the translation units that are generated for them.
#include <cuda_runtime.h>

#include <algorithm>
#include <string>

#include "convt_gemm/status.h"
#include "implicit/kernel.cuh"

namespace convt_gemm::implicit {

template <class C>
__global__ void __launch_bounds__(C::kThreads, 1) implicit_gemm_kernel(const __grid_constant__ Params p) {
  implicit_gemm<C>(p);
}

template <class C>
__global__ void __launch_bounds__(kWarpgroup) pack_weights_kernel(const __grid_constant__ Params p) {
  pack_weights<C>(p);
}

inline Status checked(const char* what, cudaError_t error) {
  if (error == cudaSuccess) return {};
  return Status::failure(std::string(what) + ": " + cudaGetErrorString(error));
}

/// `packed` is the place for packed weights if the geometry asks for them.
template <class C>
Status launch(Params p, void* packed, cudaStream_t stream) {
  const auto kernel = implicit_gemm_kernel<C>;
  cudaError_t error = allow_shared_bytes(kernel, p.g.shared_bytes);
  if (error != cudaSuccess) return checked("implicit GEMM: shared memory", error);
  if (p.g.packed) {
    Params to_packed = p;
    to_packed.y = packed;
    p.weight = packed;
    const std::int64_t chunks = std::int64_t{p.g.all_column_tiles} * p.g.chunks;
    error = launch_early({static_cast<unsigned>(std::min<std::int64_t>(chunks, 1 << 16)), kWarpgroup, 0, stream}, pack_weights_kernel<C>, to_packed);
    if (error != cudaSuccess) return checked("implicit GEMM: weights", error);
  }
  error = launch_early({static_cast<unsigned>(p.g.blocks), C::kThreads, static_cast<std::size_t>(p.g.shared_bytes), stream}, kernel, p);
  return checked("implicit GEMM", error);
}

}  // namespace convt_gemm::implicit

#define CONVT_DEFINE_IMPLICIT_GEMM(symbol, family, kind, layout, rows, columns, words, row_blocks, loaders)            \
  namespace convt_gemm::implicit {                                                                                    \
  Status symbol(const Params& params, void* packed, cudaStream_t stream) {                                            \
    return launch<Config<Family::family, Kind::kind, Layout::layout, rows, columns, words, row_blocks, loaders>>(       \
        params, packed, stream);                                                                                      \
  }                                                                                                                   \
  }

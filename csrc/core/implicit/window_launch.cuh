#pragma once
// Launches one instance of the kernel of windows; included by the translation units that are generated for them.
#define CONVT_GEMM_ALL_PRODUCT_SHAPES  // see gpu_ops.cuh
#include <array>

#include "implicit/launch.cuh"
#include "implicit/window_kernel.cuh"
#include "plan/window_geometry.h"

namespace convt_gemm::implicit {

template <class C>
__global__ void __launch_bounds__(C::kThreads, 1) implicit_gemm_windows_kernel(const __grid_constant__ WindowParams params) {
  implicit_gemm_windows<C>(params);
}

/// Describes x for copies of a stage.
template <class C>
Status make_x_map(const ImplicitGeometry& g, const void* x, CUtensorMap* map) {
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
    return error == cudaSuccess && found == cudaDriverEntryPointSuccess ? reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function) : nullptr;
  }();
  if (encode == nullptr) return Status::failure("implicit GEMM: the CUDA driver has no cuTensorMapEncodeTiled");
  constexpr int kMostAxes = kOuterAxes + 3;
  std::array<cuuint64_t, kMostAxes> extents, strides;
  std::array<cuuint32_t, kMostAxes> box, steps;
  int axes = 0;
  cuuint64_t bytes = sizeof(typename C::Element);
  const auto add = [&](std::int64_t extent, int of_box) {
    if (axes > 0) strides[axes - 1] = bytes;
    extents[axes] = cuuint64_t(extent), box[axes] = cuuint32_t(of_box), steps[axes] = 1;
    bytes *= cuuint64_t(extent), ++axes;
  };
  add(g.input, g.slots);
  if (g.planes && !g.flat) {
    for (int a = kOuterAxes - 1; a >= 0; --a) add(g.outer[a].input, 1);
  }
  add(g.in_channels, C::kWords * C::kWordElements);
  add(g.batch * g.groups, 1);
  const CUresult result = encode(map, C::kWordElements == 1 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32 : CU_TENSOR_MAP_DATA_TYPE_UINT16, cuuint32_t(axes), const_cast<void*>(x), extents.data(), strides.data(), box.data(), steps.data(), CU_TENSOR_MAP_INTERLEAVE_NONE,
                                 CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) return Status::failure("implicit GEMM: cuTensorMapEncodeTiled: error " + std::to_string(int(result)));
  return {};
}

/// `C` is that of the kernel, see with_kernel_of.
template <class C>
Status launch_kernel(const Params& p, void* workspace, cudaStream_t stream) {
  const auto kernel = implicit_gemm_windows_kernel<C>;
  const std::int64_t counters = window_workspace_bytes(p.g);
  WindowParams params{p, {}, counters > 0 ? static_cast<int*>(workspace) : nullptr, window_x_passes(p.g)};
  // First of all a call that gives the thread the device's context, which the driver's own function wants.
  cudaError_t error = allow_shared_bytes(kernel, p.g.shared_bytes);
  if (error != cudaSuccess) return checked("implicit GEMM: shared memory", error);
  if constexpr (!kShiftedRows<C>) {
    const Status status = make_x_map<C>(p.g, p.x, &params.x_map);
    if (!status.ok()) return status;
  }
  if (counters > 0) error = cudaMemsetAsync(workspace, 0, static_cast<std::size_t>(counters), stream);
  if (error != cudaSuccess) return checked("implicit GEMM: cudaMemsetAsync", error);
  error = launch_early({static_cast<unsigned>(p.g.blocks), C::kThreads, static_cast<std::size_t>(p.g.shared_bytes), stream}, kernel, params);
  return checked("implicit GEMM", error);
}

template <class C>
Status launch_windows(const Params& p, void* workspace, cudaStream_t stream) {
  return with_kernel_of<C>(p.g, [&](auto config) { return launch_kernel<decltype(config)>(p, workspace, stream); });
}

}  // namespace convt_gemm::implicit

#define CONVT_DEFINE_WINDOW_GEMM(symbol, kind, rows, columns, words, row_blocks, form, taps, step, sets, set_step, lines)                                                  \
  namespace convt_gemm::implicit {                                                                                                                                         \
  Status symbol(const Params& params, void* workspace, cudaStream_t stream) {                                                                                              \
    return launch_windows<WindowConfig<Kind::kind, rows, columns, words, row_blocks, WindowOf<Form::form, taps, step, sets, set_step, lines>>>(params, workspace, stream); \
  }                                                                                                                                                                        \
  }

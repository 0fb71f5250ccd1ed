#pragma once
// Running a plan. The library allocates nothing and keeps no state: memory, stream, handle and threads come from the caller.
#include <cstddef>
#include <cstdint>

#include "convt_gemm/plan.h"

namespace convt_gemm {

/// Dense tensors in the problem's dtype; x and y in the problem's layout, the weight [in, out/groups, kernel...].
/// On CUDA, input, weight and output are aligned to 16 bytes.
struct Tensors {
  const void* input = nullptr;
  const void* weight = nullptr;
  const void* bias = nullptr;  ///< [out_channels]; read only if the problem has a bias
  void* output = nullptr;      ///< every element is written
};

struct CpuContext {
  void* workspace = nullptr;  ///< at least plan.workspace_bytes, aligned to 64 bytes
  std::size_t workspace_bytes = 0;
  /// Calls body(arg, begin, end, thread) on disjoint ranges that cover [0, count), `thread` in [0, threads), no thread number
  /// twice at the same time. nullptr: the library starts and joins its own threads.
  void (*parallel_for)(std::int64_t count, int threads, void (*body)(void* arg, std::int64_t begin, std::int64_t end, int thread),
                       void* arg) = nullptr;
  int threads = 1;  ///< as in the DeviceTraits the plan was made for
};

struct CudaContext {
  void* stream = nullptr;         ///< cudaStream_t
  void* cublas_handle = nullptr;  ///< cublasHandle_t set to that stream; needed by cuBLAS plans only
  void* workspace = nullptr;      ///< device memory, at least plan.workspace_bytes, aligned to 256 bytes
  std::size_t workspace_bytes = 0;
};

/// Runs a CPU plan to its end. Library convt_gemm.
Status forward(const Problem& problem, const Plan& plan, const Tensors& tensors, const CpuContext& context);

/// Enqueues a CUDA plan on the context's stream. Library convt_gemm_cuda.
Status forward(const Problem& problem, const Plan& plan, const Tensors& tensors, const CudaContext& context);

}  // namespace convt_gemm

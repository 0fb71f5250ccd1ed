#include "gemm/cuda_gemm.h"
#include "gemm/native_gemm.cuh"

namespace convt_gemm {
namespace {

/// Whether all copies and stores of the product can be 16 bytes wide.
bool aligned(const BatchedGemm& gemm) {
  const auto addresses = reinterpret_cast<std::uintptr_t>(gemm.weight) | reinterpret_cast<std::uintptr_t>(gemm.x) |
                         reinterpret_cast<std::uintptr_t>(gemm.columns);
  const std::int64_t elements = gemm.rows | gemm.positions | gemm.weight_stride | gemm.weight_batch_stride |
                                gemm.x_stride | gemm.x_batch_stride | gemm.columns_stride | gemm.columns_batch_stride;
  return addresses % 16 == 0 && elements % 4 == 0;
}

template <class Tile>
Status run(const BatchedGemm& gemm, int multiprocessors, cudaStream_t stream) {
  return aligned(gemm) ? column_gemm::run<Tile, 4>(gemm, multiprocessors, stream)
                       : column_gemm::run<Tile, 1>(gemm, multiprocessors, stream);
}

}  // namespace

Status native_gemm(const Plan& plan, const BatchedGemm& gemm, const CudaContext& context) {
  int device = 0, multiprocessors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess)
    return Status::failure(std::string("number of multiprocessors: ") + cudaGetErrorString(error));
  const auto stream = static_cast<cudaStream_t>(context.stream);
  return plan.precision == Precision::tf32x3 ? run<column_gemm::TensorCoreTile>(gemm, multiprocessors, stream)
                                             : run<column_gemm::PlainTile>(gemm, multiprocessors, stream);
}

}  // namespace convt_gemm

#include "direct/cuda_direct.h"

#include <string>

#include "direct/direct_launch.cuh"

namespace convt_gemm {

Status direct_cuda(const Problem& problem, const Plan&, const Tensors& tensors, const CudaContext& context) {
  const auto stream = static_cast<cudaStream_t>(context.stream);
  switch (problem.dtype) {
    case DType::float32:
      direct::launch<float>(problem, tensors, stream);
      break;
    case DType::float64:
      direct::launch<double>(problem, tensors, stream);
      break;
    case DType::bfloat16:
      direct::launch<BFloat16>(problem, tensors, stream);
      break;
    case DType::float16:
      direct::launch<Float16>(problem, tensors, stream);
      break;
  }
  const cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) return {};
  return Status::failure(std::string("direct kernel: ") + cudaGetErrorString(error));
}

}  // namespace convt_gemm

#include "direct/cuda_direct.h"

#include <string>

#include "direct/columns_launch.cuh"
#include "direct/cuda_mma_columns.h"
#include "direct/direct_launch.cuh"
#include "direct/streamed_launch.cuh"
#include "plan/direct_plans.h"

namespace convt_gemm {
namespace {

template <class T>
cudaError_t launch(const Problem& problem, const Plan& plan, const Tensors& tensors, cudaStream_t stream) {
  if (plan.instance == kColumnsInstance) return direct::launch_columns<T>(problem, tensors, stream);
  if (plan.instance == kStreamedInstance) return direct::launch_streamed<T>(problem, tensors, stream);
  if constexpr (sizeof(T) <= 4) {
    if (plan.instance == kMmaColumnsInstance) return direct::launch_mma_columns<T>(problem, tensors, stream);
  }
  return direct::launch<T>(problem, tensors, stream);
}

cudaError_t launch_as(const Problem& problem, const Plan& plan, const Tensors& tensors, cudaStream_t stream) {
  switch (problem.dtype) {
    case DType::float32:
      return launch<float>(problem, plan, tensors, stream);
    case DType::float64:
      return launch<double>(problem, plan, tensors, stream);
    case DType::bfloat16:
      return launch<BFloat16>(problem, plan, tensors, stream);
    case DType::float16:
      return launch<Float16>(problem, plan, tensors, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

Status direct_cuda(const Problem& problem, const Plan& plan, const Tensors& tensors, const CudaContext& context) {
  const cudaError_t error = launch_as(problem, plan, tensors, static_cast<cudaStream_t>(context.stream));
  if (error == cudaSuccess) return {};
  return Status::failure(std::string("direct kernel: ") + cudaGetErrorString(error));
}

}  // namespace convt_gemm

#include <cublas_v2.h>

#include "gemm/cuda_gemm.h"

namespace convt_gemm {
namespace {

struct Types {
  cudaDataType_t operand;
  cudaDataType_t column;
  cublasComputeType_t compute;
};

Types types_of(const Plan& plan) {
  switch (plan.dtype) {
    case DType::float64:
      return {CUDA_R_64F, CUDA_R_64F, CUBLAS_COMPUTE_64F};
    case DType::bfloat16:
      return {CUDA_R_16BF, CUDA_R_32F, CUBLAS_COMPUTE_32F};
    case DType::float16:
      return {CUDA_R_16F, CUDA_R_32F, CUBLAS_COMPUTE_32F};
    case DType::float32:
      break;
  }
  return {CUDA_R_32F, CUDA_R_32F,
          plan.precision == Precision::tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F};
}

/// The caller's handle may allow TF32 or reduced-precision sums; a plan's precision is its own, and the handle is given back
/// as it came. Host-side state only.
class MathMode {
 public:
  MathMode(cublasHandle_t handle, cublasMath_t mode) : handle_(handle), wanted_(mode) {
    cublasGetMathMode(handle_, &saved_);
    if (saved_ != wanted_) cublasSetMathMode(handle_, wanted_);
  }
  ~MathMode() {
    if (saved_ != wanted_) cublasSetMathMode(handle_, saved_);
  }
  MathMode(const MathMode&) = delete;
  MathMode& operator=(const MathMode&) = delete;

 private:
  cublasHandle_t handle_;
  cublasMath_t wanted_;
  cublasMath_t saved_ = CUBLAS_DEFAULT_MATH;
};

/// Whether samples of one position each are the rows of one product: products of one column each would read all weights for every sample.
bool is_one_product(const BatchedGemm& gemm) {
  const bool channels_are_neighbours = gemm.x_layout == Layout::channels_last || gemm.x_stride == 1;
  return gemm.positions == 1 && gemm.batch > 1 && gemm.weight_batch_stride == 0 && channels_are_neighbours && gemm.columns_stride == 1;
}

}  // namespace

Status cublas_gemm(const Plan& plan, const BatchedGemm& gemm, const CudaContext& context) {
  if (context.cublas_handle == nullptr) {
    return Status::invalid("expected context.cublas_handle to be set for " + plan.name() + ", but got nullptr");
  }
  const auto handle = static_cast<cublasHandle_t>(context.cublas_handle);
  const MathMode math(handle, plan.dtype == DType::float32
                                  ? CUBLAS_DEFAULT_MATH
                                  : cublasMath_t(CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION));
  const Types types = types_of(plan);
  const float one_f = 1, zero_f = 0;
  const double one_d = 1, zero_d = 0;
  const bool wide = plan.dtype == DType::float64;
  const void* one = wide ? static_cast<const void*>(&one_d) : &one_f;
  const void* zero = wide ? static_cast<const void*>(&zero_d) : &zero_f;
  cublasStatus_t status;
  if (is_one_product(gemm)) {
    // cuBLAS counts in columns: it sees columns^T[rows, batch] = weight^T[rows, depth] * x^T[depth, batch].
    status = cublasGemmEx_64(handle, CUBLAS_OP_N, CUBLAS_OP_N, gemm.rows, gemm.batch, gemm.depth, one, gemm.weight, types.operand, gemm.weight_stride, gemm.x,
                             types.operand, gemm.x_batch_stride, zero, gemm.columns, types.column, gemm.columns_batch_stride, types.compute, CUBLAS_GEMM_DEFAULT);
  } else {
    // Likewise columns^T[positions, rows] = x^T[positions, depth] * weight^T^T[depth, rows].
    const cublasOperation_t x_op = gemm.x_layout == Layout::channels_first ? CUBLAS_OP_N : CUBLAS_OP_T;
    status = cublasGemmStridedBatchedEx_64(
        handle, x_op, CUBLAS_OP_T, gemm.positions, gemm.rows, gemm.depth, one, gemm.x, types.operand, gemm.x_stride,
        gemm.x_batch_stride, gemm.weight, types.operand, gemm.weight_stride, gemm.weight_batch_stride, zero, gemm.columns,
        types.column, gemm.columns_stride, gemm.columns_batch_stride, gemm.batch, types.compute, CUBLAS_GEMM_DEFAULT);
  }
  if (status != CUBLAS_STATUS_SUCCESS) {
    return Status::failure(std::string("cuBLAS: ") + cublasGetStatusString(status));
  }
  return {};
}

}  // namespace convt_gemm

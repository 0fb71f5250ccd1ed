#include "convt_gemm/exec.h"

#include <cstdint>

#include "direct/cuda_direct.h"
#include "gemm_col2im/cuda.h"
#include "implicit/cuda.h"
#include "plan/cuda_plans.h"

namespace convt_gemm {
namespace {

/// CUTLASS loads and vector stores assume what every allocator gives.
constexpr std::uintptr_t kTensorAlignment = 16;
constexpr std::uintptr_t kWorkspaceAlignment = 256;

Status check_pointer(const char* name, const void* pointer, std::uintptr_t alignment) {
  if (pointer == nullptr) return Status::invalid(std::string("expected ") + name + " to be set, but got nullptr");
  if (reinterpret_cast<std::uintptr_t>(pointer) % alignment != 0) {
    return Status::invalid(std::string("expected ") + name + " to be aligned to " + std::to_string(alignment) +
                           " bytes, but it is not");
  }
  return {};
}

Status check(const Problem& problem, const Plan& plan, const Tensors& tensors, const CudaContext& context) {
  Status status = validate(problem);
  if (!status.ok()) return status;
  status = check_cuda_plan(problem, plan);
  if (!status.ok() || problem.output_elements() == 0) return status;
  status = check_pointer("tensors.input", tensors.input, kTensorAlignment);
  if (status.ok()) status = check_pointer("tensors.weight", tensors.weight, kTensorAlignment);
  if (status.ok()) status = check_pointer("tensors.output", tensors.output, kTensorAlignment);
  if (status.ok() && problem.bias) status = check_pointer("tensors.bias", tensors.bias, size_of(problem.dtype));
  if (status.ok() && plan.workspace_bytes > 0) {
    status = check_pointer("context.workspace", context.workspace, kWorkspaceAlignment);
  }
  if (status.ok() && context.workspace_bytes < plan.workspace_bytes) {
    status = Status::invalid("expected context.workspace_bytes to be at least " + std::to_string(plan.workspace_bytes) +
                             ", but got " + std::to_string(context.workspace_bytes));
  }
  return status;
}

}  // namespace

Status forward(const Problem& problem, const Plan& plan, const Tensors& tensors, const CudaContext& context) {
  Status status = check(problem, plan, tensors, context);
  if (!status.ok() || problem.output_elements() == 0) return status;
  switch (plan.algorithm) {
    case Algorithm::gemm_col2im:
      return gemm_col2im_cuda(problem, plan, tensors, context);
    case Algorithm::direct:
      return direct_cuda(problem, plan, tensors, context);
    case Algorithm::implicit_gemm:
      return implicit_gemm_cuda(problem, plan, tensors, context);
  }
  return Status::invalid("expected a known algorithm, but got " + plan.name());
}

}  // namespace convt_gemm

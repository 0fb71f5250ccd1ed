#include <cstdint>

#include "convt_gemm/exec.h"
#include "gemm_col2im/cpu.h"
#include "plan/cpu_schedule.h"

namespace convt_gemm {
namespace {

constexpr std::size_t kWorkspaceAlignment = 64;

Status check_tensor(const char* name, const void* data, bool needed) {
  if (needed && data == nullptr)
    return Status::invalid("expected tensors." + std::string(name) + " to be set, but got nullptr");
  return {};
}

/// The plan must be one of this problem's: what forward() needs must fit the workspace that the plan asks for.
Status check_plan(const Problem& problem, const Plan& plan) {
  if (plan.device != Device::cpu)
    return Status::invalid("expected a plan for the cpu, but got '" + plan.name() + "' for cuda");
  if (plan.dtype != problem.dtype) {
    return Status::invalid("expected a plan for " + std::string(name_of(problem.dtype)) + ", but got '" + plan.name() +
                           "'");
  }
  bool legal = plan.piece.batch >= 1;
  for (int a = 0; a < kMaxAxes; ++a) {
    const std::int64_t piece = plan.piece.output[a], stride = cpu_axis(problem.axes[a]).axis.stride;
    legal = legal && piece >= 1 && (piece >= problem.axes[a].output() || piece % stride == 0);
  }
  if (legal && problem.batch > 0) {
    const CpuSchedule schedule(problem, plan.piece);
    const CpuWorkers least = cpu_workers(schedule, 1, plan.workspace_bytes);
    legal = schedule.workspace_bytes(least.threads, least.shared_weights) <= plan.workspace_bytes;
  }
  if (!legal)
    return Status::invalid("expected a plan that was made for " + to_string(problem) +
                           ", but its pieces do not fit it");
  return {};
}

Status check(const Problem& problem, const Plan& plan, const Tensors& tensors, const CpuContext& context) {
  if (Status status = validate(problem); !status.ok()) return status;
  if (Status status = check_plan(problem, plan); !status.ok()) return status;
  if (context.threads < 1) {
    return Status::invalid("expected context.threads to be positive, but got " + std::to_string(context.threads));
  }
  if (problem.batch == 0) return {};
  const struct {
    const char* name;
    const void* data;
    bool needed;
  } all[] = {{"input", tensors.input, true},
             {"weight", tensors.weight, true},
             {"bias", tensors.bias, problem.bias},
             {"output", tensors.output, true}};
  for (const auto& tensor : all) {
    if (Status status = check_tensor(tensor.name, tensor.data, tensor.needed); !status.ok()) return status;
  }
  if (context.workspace_bytes < plan.workspace_bytes) {
    return Status::invalid("expected a workspace of at least " + std::to_string(plan.workspace_bytes) +
                           " bytes, but got workspace_bytes " + std::to_string(context.workspace_bytes));
  }
  if (plan.workspace_bytes > 0 && context.workspace == nullptr) {
    return Status::invalid("expected context.workspace to be set, but got nullptr");
  }
  if (reinterpret_cast<std::uintptr_t>(context.workspace) % kWorkspaceAlignment != 0) {
    return Status::invalid("expected context.workspace to be aligned to " + std::to_string(kWorkspaceAlignment) +
                           " bytes, but its address is " +
                           std::to_string(reinterpret_cast<std::uintptr_t>(context.workspace) % kWorkspaceAlignment) +
                           " bytes beyond such a boundary");
  }
  return {};
}

}  // namespace

Status forward(const Problem& problem, const Plan& plan, const Tensors& tensors, const CpuContext& context) {
  if (Status status = check(problem, plan, tensors, context); !status.ok()) return status;
  if (problem.batch == 0) return {};
  switch (plan.algorithm) {
    case Algorithm::gemm_col2im:
      return gemm_col2im_cpu(problem, plan, tensors, context);
    case Algorithm::direct:
    case Algorithm::implicit_gemm:
      break;
  }
  return Status::unsupported("plan '" + plan.name() + "' has no CPU implementation");
}

}  // namespace convt_gemm

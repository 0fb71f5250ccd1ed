// The CUDA kernel of convt_gemm::conv_transpose, for both of its operators.
#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/headeronly/util/Exception.h>

#include <array>
#include <mutex>

#include "arguments.h"
#include "convt_gemm/exec.h"
#include "entry_points.h"
#include "recent_plans.h"
#include "tuned_plans.h"

namespace convt_gemm::torch_bindings {
namespace {

/// When the GPU is first used: such a package gives right results, so nothing else would show why it is slow.
void warn_of_unoptimised_kernels() {
#ifdef CONVT_GEMM_FAST_COMPILE
  static std::once_flag said;
  std::call_once(said, [] {
    aoti_torch_warn("conv_transpose", "ops_cuda.cpp", __LINE__,
                    "convt_gemm: the CUDA kernels were compiled unoptimised (CONVT_GEMM_FAST_COMPILE, as `make test` does where there is no GPU) and are slow; "
                    "build the package again without that option");
  });
#endif
}

/// Asked of each device once: a query costs more than planning does.
const DeviceTraits& cuda_traits(int device) {
  constexpr int kMaxDevices = 64;
  static std::array<DeviceTraits, kMaxDevices> traits;
  static std::array<std::once_flag, kMaxDevices> known;
  STD_TORCH_CHECK(device >= 0 && device < kMaxDevices, "expected a device index below ", kMaxDevices, ", but got ", device);
  std::call_once(known[device], [device] {
    warn_of_unoptimised_kernels();
    int major = 0, minor = 0, multiprocessors = 0, l2_bytes = 0;
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&l2_bytes, cudaDevAttrL2CacheSize, device));
    traits[device].device = Device::cuda;
    traits[device].compute_capability = 10 * major + minor;
    traits[device].multiprocessors = multiprocessors;
    traits[device].l2_bytes = l2_bytes;
  });
  return traits[device];
}

/// The plan of a call, remembered from an earlier one of this thread if that was alike.
Plan plan_of(const Problem& problem, const PlanOptions& options, int device) {
  thread_local RecentPlans recent;
  const std::int64_t generation = tuned_plans().generation();
  if (const Plan* known = recent.find(problem, options, device, generation)) return *known;
  Plan plan;
  raise_unless_ok(choose(problem, cuda_traits(device), options, &plan));
  recent.remember(problem, options, device, generation, plan);
  return plan;
}

Tensor forward_on_cuda(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, const Geometry& geometry,
                       const PlanOptions& options) {
  const Problem problem = make_problem(input, weight, bias, geometry);
  const int device = input.get_device_index();
  std::optional<torch::stable::accelerator::DeviceGuard> guard;  // making one takes five times as long as asking whether it is needed
  if (torch::stable::accelerator::getCurrentDeviceIndex() != device) guard.emplace(device);
  const Plan plan = plan_of(problem, options, device);
  const Tensor x = dense(input, problem.layout), w = dense(weight, Layout::channels_first);
  const std::optional<Tensor> b = bias ? std::optional<Tensor>(dense(*bias, Layout::channels_first)) : std::nullopt;
  Tensor output = empty_output(input, problem);
  if (problem.output_elements() == 0) return output;
  CudaContext context;
  std::optional<Tensor> workspace;  // many plans have none, and asking for no bytes takes as long as asking for some
  if (plan.workspace_bytes > 0) {
    workspace = empty_workspace(input, plan.workspace_bytes);
    context.workspace = workspace->mutable_data_ptr(), context.workspace_bytes = plan.workspace_bytes;
  }
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &context.stream));
  if (plan.backend == GemmBackend::cublas) {
    STABLE_TORCH_ERROR_CODE_CHECK(torch_get_current_cuda_blas_handle(&context.cublas_handle));
  }
  raise_unless_ok(forward(problem, plan,
                          {x.const_data_ptr(), w.const_data_ptr(), b ? b->const_data_ptr() : nullptr, output.mutable_data_ptr()},
                          context));
  return output;
}

}  // namespace
}  // namespace convt_gemm::torch_bindings

STABLE_TORCH_LIBRARY_IMPL(convt_gemm, CUDA, m) {
  using namespace convt_gemm::torch_bindings;
  m.impl("conv_transpose", TORCH_BOX(&conv_transpose<&forward_on_cuda>));
  m.impl("conv_transpose_packed", TORCH_BOX(&conv_transpose_packed<&forward_on_cuda>));
}

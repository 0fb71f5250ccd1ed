// Schemas of the operators and the CPU kernel.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/Exception.h>

#include "arguments.h"
#include "convt_gemm/exec.h"
#include "entry_points.h"
#include "plans.h"
#include "tuned_plans.h"

namespace convt_gemm::torch_bindings {
namespace {

/// The core's loops on torch's own threads, so that torch.set_num_threads holds and no second pool competes.
void parallel_for(std::int64_t count, int threads, void (*body)(void*, std::int64_t, std::int64_t, int), void* arg) {
  if (threads <= 1) return body(arg, 0, count, 0);
  // One chunk for each thread number: a chunk is run by one thread, whichever that is.
  torch::stable::parallel_for(0, threads, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) body(arg, count * t / threads, count * (t + 1) / threads, int(t));
  });
}

Tensor forward_on_cpu(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, const Geometry& geometry,
                      const PlanOptions& options) {
  const Problem problem = make_problem(input, weight, bias, geometry);
  const DeviceTraits traits = cpu_traits();
  Plan plan;
  raise_unless_ok(choose(problem, traits, options, &plan));
  const Tensor x = dense(input, problem.layout), w = dense(weight, Layout::channels_first);
  const std::optional<Tensor> b = bias ? std::optional<Tensor>(dense(*bias, Layout::channels_first)) : std::nullopt;
  Tensor output = empty_output(input, problem);
  if (problem.output_elements() == 0) return output;
  const Tensor workspace = empty_workspace(input, plan.workspace_bytes);
  CpuContext context;
  context.workspace = workspace.mutable_data_ptr();
  context.workspace_bytes = plan.workspace_bytes;
  context.parallel_for = &parallel_for;
  context.threads = traits.threads;
  raise_unless_ok(forward(problem, plan,
                          {x.const_data_ptr(), w.const_data_ptr(), b ? b->const_data_ptr() : nullptr, output.mutable_data_ptr()},
                          context));
  return output;
}

}  // namespace
}  // namespace convt_gemm::torch_bindings

STABLE_TORCH_LIBRARY(convt_gemm, m) {
  m.def(
      "conv_transpose(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] output_padding, "
      "SymInt groups, SymInt[] dilation, str algorithm=\"auto\", str precision=\"ieee\", int workspace_limit=536870912) -> Tensor");
  m.def("conv_transpose_packed(Tensor input, Tensor weight, Tensor? bias, str settings) -> Tensor");
  m.def(
      "conv_transpose_plans(SymInt[] input_size, SymInt[] weight_size, bool has_bias, SymInt[] stride, SymInt[] padding, "
      "SymInt[] output_padding, SymInt groups, SymInt[] dilation, str dtype, bool channels_last, str device, str algorithm, "
      "str precision, int workspace_limit, int[] device_traits) -> str");
  m.def(
      "remember_plan(SymInt[] input_size, SymInt[] weight_size, bool has_bias, SymInt[] stride, SymInt[] padding, "
      "SymInt[] output_padding, SymInt groups, SymInt[] dilation, str dtype, bool channels_last, str device, str precision, "
      "int[] device_traits, str plan) -> ()");
  m.def("tuned_plans() -> str");
  m.def("forget_plans() -> ()");
  m.def("tuned_plans_address() -> int");
}

STABLE_TORCH_LIBRARY_IMPL(convt_gemm, CPU, m) {
  using namespace convt_gemm::torch_bindings;
  m.impl("conv_transpose", TORCH_BOX(&conv_transpose<&forward_on_cpu>));
  m.impl("conv_transpose_packed", TORCH_BOX(&conv_transpose_packed<&forward_on_cpu>));
}

STABLE_TORCH_LIBRARY_IMPL(convt_gemm, CompositeExplicitAutograd, m) {
  m.impl("conv_transpose_plans", TORCH_BOX(&convt_gemm::torch_bindings::conv_transpose_plans));
  m.impl("remember_plan", TORCH_BOX(&convt_gemm::torch_bindings::remember_plan));
  m.impl("tuned_plans", TORCH_BOX(&convt_gemm::torch_bindings::tuned_plans_json));
  m.impl("forget_plans", TORCH_BOX(&convt_gemm::torch_bindings::forget_plans));
  m.impl("tuned_plans_address", TORCH_BOX(&convt_gemm::torch_bindings::tuned_plans_address));
}

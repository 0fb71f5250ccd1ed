#pragma once
// Runs plans on the GPU: operands up, NaN into everything that is written, forward(), result and guards back.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "convt_gemm/exec.h"
#include "convt_gemm/reference.h"
#include "cuda/device_memory.h"
#include "cuda/machine.h"
#include "support/dtype.h"
#include "support/layout.h"
#include "support/values.h"

namespace convt_gemm::testing {

/// A dtype and how its products are formed.
struct Arithmetic {
  DType dtype;
  Precision precision;
};

inline const std::vector<Arithmetic>& every_arithmetic() {
  static const std::vector<Arithmetic> all{{DType::float32, Precision::ieee},   {DType::float32, Precision::tf32},
                                           {DType::float32, Precision::tf32x3}, {DType::bfloat16, Precision::ieee},
                                           {DType::float16, Precision::ieee},   {DType::float64, Precision::ieee}};
  return all;
}

inline constexpr Layout kLayouts[] = {Layout::channels_first, Layout::channels_last};

/// The same problem in another dtype and layout; one dimension has no channels_last of its own in PyTorch, but the core
/// does.
inline Problem in(Problem problem, DType dtype, Layout layout) {
  problem.dtype = dtype;
  problem.layout = layout;
  return problem;
}

inline std::vector<Plan> plans_of(const Problem& problem, Precision precision,
                                  std::int64_t workspace_limit = kDefaultWorkspaceLimit) {
  PlanOptions options;
  options.precision = precision;
  options.workspace_limit = workspace_limit;
  return enumerate_plans(problem, Machine::get().traits(), options);
}

/// The problem's result in float64, channels first, from operands rounded to the dtype.
inline std::vector<double> expected_output(Problem problem, const Operands& operands) {
  problem.layout = Layout::channels_first;
  std::vector<double> output(std::size_t(problem.output_elements()));
  reference_forward(problem, operands.input.data(), operands.weight.data(), operands.bias.data(), output.data());
  return output;
}

class PlanRunner {
 public:
  PlanRunner(const Problem& problem, const Operands& operands)
      : problem_(problem),
        input_(encode(problem.dtype,
                      arranged(operands.input, problem.layout, problem.in_channels, problem.input_positions()))),
        weight_(encode(problem.dtype, operands.weight)),
        bias_(problem.bias ? encode(problem.dtype, operands.bias) : Bytes()) {}

  Tensors tensors() const { return {input_.data(), weight_.data(), bias_.data(), output().data()}; }

  CudaContext context(const Plan& plan) const {
    CudaContext context;
    context.stream = Machine::get().stream();
    if (plan.backend == GemmBackend::cublas) context.cublas_handle = Machine::get().cublas();
    context.workspace = workspace().data();
    context.workspace_bytes = plan.workspace_bytes;
    return context;
  }

  void reset(const Plan& plan) const {
    output().reset(std::size_t(problem_.output_elements()) * size_of(problem_.dtype));
    workspace().reset(plan.workspace_bytes);
  }

  /// The output's bytes; a failure of the test if the call fails or writes where it must not.
  Bytes run(const Plan& plan) const {
    reset(plan);
    const Status status = forward(problem_, plan, tensors(), context(plan));
    EXPECT_TRUE(status.ok()) << status.message;
    return finish();
  }

  Bytes finish() const {
    Machine::get().synchronize();
    EXPECT_TRUE(output().guards_intact()) << "written beside the output";
    EXPECT_TRUE(workspace().guards_intact()) << "written beside the workspace";
    return output().read();
  }

  static GuardedMemory& output() {
    static GuardedMemory memory;
    return memory;
  }
  static GuardedMemory& workspace() {
    static GuardedMemory memory;
    return memory;
  }

 private:
  Problem problem_;
  DeviceArray input_, weight_, bias_;
};

/// Equal values: bytes, or zeros of either sign.
inline ::testing::AssertionResult same_values(DType dtype, const Bytes& got, const Bytes& expected) {
  if (got == expected) return ::testing::AssertionSuccess();
  const std::vector<double> got_values = decode(dtype, got), expected_values = decode(dtype, expected);
  std::size_t wrong = 0, first = 0;
  for (std::size_t i = 0; i < got_values.size(); ++i) {
    if (got_values[i] == expected_values[i]) continue;
    if (wrong++ == 0) first = i;
  }
  if (wrong == 0) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << wrong << " of " << got_values.size() << " elements differ, first at " << first
                                       << ": got " << got_values[first] << ", expected " << expected_values[first];
}

}  // namespace convt_gemm::testing

// What forward() refuses: a Status that names the argument, and nothing enqueued.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "cuda/plan_runner.h"
#include "support/problems.h"

namespace convt_gemm::testing {
namespace {

class SmallErrors : public NeedsGpu {
 protected:
  const Problem problem_ = make_problem(2, 8, 8, {{16, 4, 2, 1}}, 1, true);
  const Operands operands_ = integer_operands(problem_);
};

/// Changes one thing of a good call.
struct Call {
  Problem problem;
  Plan plan;
  Tensors tensors;
  CudaContext context;
};

template <class T>
T* moved(T* pointer, std::ptrdiff_t bytes) {
  return reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(pointer) + std::uintptr_t(bytes));
}

TEST_F(SmallErrors, AreRefusedBeforeAnyLaunch) {
  struct Bad {
    const char* name;
    void (*change)(Call&);
    std::vector<std::string> message;
    bool workspace = false;  // wrong only for plans that need one: it is all that ties a plan to its problem
  };
  const Bad table[] = {
      {"null_input", [](Call& c) { c.tensors.input = nullptr; }, {"tensors.input", "nullptr"}},
      {"null_weight", [](Call& c) { c.tensors.weight = nullptr; }, {"tensors.weight", "nullptr"}},
      {"null_bias", [](Call& c) { c.tensors.bias = nullptr; }, {"tensors.bias", "nullptr"}},
      {"null_output", [](Call& c) { c.tensors.output = nullptr; }, {"tensors.output", "nullptr"}},
      {"null_workspace", [](Call& c) { c.context.workspace = nullptr; }, {"context.workspace", "nullptr"}, true},
      {"misaligned_input", [](Call& c) { c.tensors.input = moved(c.tensors.input, 4); }, {"tensors.input", "16 bytes"}},
      {"misaligned_weight",
       [](Call& c) { c.tensors.weight = moved(c.tensors.weight, 8); },
       {"tensors.weight", "16 bytes"}},
      {"misaligned_bias", [](Call& c) { c.tensors.bias = moved(c.tensors.bias, 2); }, {"tensors.bias", "4 bytes"}},
      {"misaligned_output",
       [](Call& c) { c.tensors.output = moved(c.tensors.output, 4); },
       {"tensors.output", "16 bytes"}},
      {"misaligned_workspace",
       [](Call& c) { c.context.workspace = moved(c.context.workspace, 16); },
       {"context.workspace", "256 bytes"},
       true},
      {"small_workspace", [](Call& c) { c.context.workspace_bytes -= 1; }, {"workspace_bytes", "at least"}, true},
      {"other_dtype", [](Call& c) { c.plan.dtype = DType::float64; }, {"CUDA plan for float32"}},
      {"cpu_plan", [](Call& c) { c.plan.device = Device::cpu; }, {"CUDA plan for float32"}},
      {"longer_kernel", [](Call& c) { c.problem.axis(0).kernel = 5; }, {"another problem"}, true},
      {"illegal_problem", [](Call& c) { c.problem.axis(0).stride = 0; }, {"stride", "positive", "0"}},
      {"empty_output", [](Call& c) { c.problem.axis(0).padding = 17; }, {"positive output size"}},
  };
  const PlanRunner runner(problem_, operands_);
  std::vector<Plan> plans;
  for (Precision precision : {Precision::ieee, Precision::tf32, Precision::tf32x3}) {
    for (const Plan& plan : plans_of(problem_, precision)) plans.push_back(plan);
  }
  for (const Plan& plan : plans) {
    for (const Bad& bad : table) {
      if (bad.workspace && plan.workspace_bytes == 0) continue;
      SCOPED_TRACE(plan.name() + " " + bad.name);
      runner.reset(plan);
      Call call{problem_, plan, runner.tensors(), runner.context(plan)};
      bad.change(call);
      const Status status = forward(call.problem, call.plan, call.tensors, call.context);
      EXPECT_EQ(status.code, StatusCode::invalid_argument);
      for (const std::string& part : bad.message) {
        EXPECT_NE(status.message.find(part), std::string::npos) << "no '" << part << "' in: " << status.message;
      }
      Machine::get().synchronize();
      EXPECT_TRUE(PlanRunner::output().untouched());
      EXPECT_TRUE(PlanRunner::workspace().untouched());
    }
  }
  check_cuda(cudaGetLastError(), "an error was left behind");
}

TEST_F(SmallErrors, CublasPlanNeedsItsHandle) {
  const PlanRunner runner(problem_, operands_);
  for (const Plan& plan : plans_of(problem_, Precision::ieee)) {
    if (plan.backend != GemmBackend::cublas) continue;
    runner.reset(plan);
    CudaContext context = runner.context(plan);
    context.cublas_handle = nullptr;
    const Status status = forward(problem_, plan, runner.tensors(), context);
    EXPECT_EQ(status.code, StatusCode::invalid_argument);
    EXPECT_NE(status.message.find("cublas_handle"), std::string::npos) << status.message;
    Machine::get().synchronize();
    EXPECT_TRUE(PlanRunner::output().untouched());
  }
}

TEST_F(SmallErrors, PlanOfTheCpuIsRefused) {
  Plan plan;
  ASSERT_TRUE(choose_plan(problem_, DeviceTraits{}, PlanOptions{}, &plan).ok());
  const PlanRunner runner(problem_, operands_);
  runner.reset(plan);
  const Status status = forward(problem_, plan, runner.tensors(), runner.context(plan));
  EXPECT_EQ(status.code, StatusCode::invalid_argument);
  EXPECT_NE(status.message.find("gemm_col2im_cpu_float32"), std::string::npos) << status.message;
  EXPECT_TRUE(PlanRunner::output().untouched());
}

TEST_F(SmallErrors, EmptyBatchNeedsNoPointers) {
  Problem problem = problem_;
  problem.batch = 0;
  for (const Plan& plan : plans_of(problem, Precision::ieee)) {
    const Status status = forward(problem, plan, Tensors{}, CudaContext{});
    EXPECT_TRUE(status.ok()) << plan.name() << ": " << status.message;
  }
}

TEST_F(SmallErrors, UnusedBiasMayBeAnything) {
  Problem problem = problem_;
  problem.bias = false;
  const PlanRunner runner(problem, operands_);
  const Bytes want = encode(problem.dtype, expected_output(problem, operands_));
  for (const Plan& plan : plans_of(problem, Precision::ieee)) {
    runner.reset(plan);
    Tensors tensors = runner.tensors();
    tensors.bias = moved(tensors.output, 3);
    const Status status = forward(problem, plan, tensors, runner.context(plan));
    ASSERT_TRUE(status.ok()) << status.message;
    EXPECT_TRUE(same_values(problem.dtype, runner.finish(), want)) << plan.name();
  }
}

}  // namespace
}  // namespace convt_gemm::testing

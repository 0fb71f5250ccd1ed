// The caller's cuBLAS handle: a plan's precision is its own, and the handle comes back as it was.
#include <cublas_v2.h>
#include <gtest/gtest.h>

#include "cuda/plan_runner.h"
#include "support/problems.h"

namespace convt_gemm::testing {
namespace {

class SmallCublasHandle : public NeedsGpu, public ::testing::WithParamInterface<cublasMath_t> {
 protected:
  void SetUp() override {
    NeedsGpu::SetUp();
    if (!Machine::get().missing().empty()) return;
    ASSERT_EQ(cublasGetMathMode(Machine::get().cublas(), &before_), CUBLAS_STATUS_SUCCESS);
    ASSERT_EQ(cublasSetMathMode(Machine::get().cublas(), GetParam()), CUBLAS_STATUS_SUCCESS);
  }
  void TearDown() override {
    if (Machine::get().missing().empty()) cublasSetMathMode(Machine::get().cublas(), before_);
  }

 private:
  cublasMath_t before_ = CUBLAS_DEFAULT_MATH;
};

TEST_P(SmallCublasHandle, KeepsItsMathModeAndDoesNotDecideThePrecision) {
  const Problem base = make_problem(2, 32, 32, {{64, 4, 2, 1}}, 1, true);
  Operands operands = integer_operands(base);
  for (const Arithmetic& arithmetic : every_arithmetic()) {
    Operands wide = operands;
    // Thirteen bits where the plan keeps them: a handle that allows TF32 must not spoil float32.
    if (arithmetic.dtype == DType::float32 && arithmetic.precision == Precision::ieee) {
      for (double& value : wide.input) value += 4094;
    }
    const Problem problem = in(base, arithmetic.dtype, Layout::channels_first);
    const Bytes want = encode(problem.dtype, expected_output(problem, wide));
    const PlanRunner runner(problem, wide);
    for (const Plan& plan : plans_of(problem, arithmetic.precision)) {
      if (plan.backend != GemmBackend::cublas) continue;
      SCOPED_TRACE(plan.name());
      EXPECT_TRUE(same_values(problem.dtype, runner.run(plan), want));
      cublasMath_t after = CUBLAS_DEFAULT_MATH;
      ASSERT_EQ(cublasGetMathMode(Machine::get().cublas(), &after), CUBLAS_STATUS_SUCCESS);
      EXPECT_EQ(after, GetParam());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(MathModes, SmallCublasHandle,
                         ::testing::Values(CUBLAS_DEFAULT_MATH, CUBLAS_TF32_TENSOR_OP_MATH, CUBLAS_PEDANTIC_MATH,
                                           cublasMath_t(CUBLAS_DEFAULT_MATH |
                                                        CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION)));

}  // namespace
}  // namespace convt_gemm::testing

// The relative oracle: random operands, and every output within the rounding errors of its own sum.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "cuda/plan_runner.h"
#include "support/problems.h"

namespace convt_gemm::testing {
namespace {

std::vector<NamedProblem> problems() {
  return {
      {"kernel_twice_stride", make_problem(2, 64, 32, {{96, 16, 8, 4}}, 1, true)},
      {"reference_problem", make_problem(2, 32, 64, {{515, 3, 2, 1, 0, 2}})},
      {"deep", make_problem(1, 768, 96, {{40, 4, 2, 1}}, 1, true)},
      {"very_deep", make_problem(1, 4096, 8, {{24, 2, 1}})},
      {"groups", make_problem(2, 48, 48, {{64, 7, 3, 2, 1, 2}}, 4, true)},
      {"few_outputs", make_problem(2, 500, 1, {{601, 16, 8, 8}})},
      {"depthwise", make_problem(2, 32, 32, {{301, 12, 2, 5}}, 32)},
      {"square", make_problem(2, 40, 24, {{14, 4, 2, 1}, {18, 4, 2, 1}}, 1, true)},
      {"square_odd", make_problem(1, 33, 17, {{13, 3, 2, 1, 1}, {11, 3, 2, 1, 1}}, 1, true)},
      {"cube", make_problem(1, 16, 16, {{6, 3, 2, 1, 1}, {7, 3, 2, 1, 1}, {8, 3, 2, 1, 1}}, 1, true)},
  };
}

/// Errors of a sum of `terms` products, in units of the sum of the products' magnitudes.
double sum_error(const Arithmetic& arithmetic, double terms) {
  const double growth = 4 + std::sqrt(terms);
  switch (arithmetic.dtype) {
    case DType::float64:
      return 0x1p-52 * growth;
    case DType::bfloat16:
    case DType::float16:
      return 0x1p-22 * growth;  // exact products; tensor cores truncate their float32 sums
    case DType::float32:
      break;
  }
  // TF32 keeps ten bits of each operand, and may truncate.
  return arithmetic.precision == Precision::tf32 ? 0x1p-9 + 0x1p-22 * growth : 0x1p-22 * growth;
}

/// Largest |got - exact| over the outputs, in units of each one's magnitude, once the rounding of the result is taken
/// off.
double largest_error(DType dtype, const std::vector<double>& got, const std::vector<double>& exact,
                     const std::vector<double>& magnitude) {
  double largest = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (std::isnan(got[i])) return HUGE_VAL;
    const double rounding = unit_roundoff(dtype) * std::fabs(exact[i]) + (dtype == DType::float16 ? 0x1p-25 : 0);
    const double error = std::max(0.0, std::fabs(got[i] - exact[i]) - rounding);
    largest = std::max(largest, error / (magnitude[i] + 1e-30));
  }
  return largest;
}

class RelativeForward : public NeedsGpu, public ::testing::WithParamInterface<NamedProblem> {};

/// Worst error of any plan with this arithmetic.
double check_arithmetic(const Problem& base, const Arithmetic& arithmetic) {
  // Operands as the dtype holds them: the reference sees what the kernels see.
  Operands operands = uniform_operands(base), magnitudes;
  for (std::vector<double> Operands::*part : {&Operands::input, &Operands::weight, &Operands::bias}) {
    operands.*part = decode(arithmetic.dtype, encode(arithmetic.dtype, operands.*part));
    for (double value : operands.*part) (magnitudes.*part).push_back(std::fabs(value));
  }
  const std::vector<double> exact = expected_output(base, operands), magnitude = expected_output(base, magnitudes);
  const double bound = sum_error(arithmetic, double(base.group_in_channels() * base.taps()));
  double worst = 0;
  for (Layout layout : kLayouts) {
    const Problem problem = in(base, arithmetic.dtype, layout);
    const auto as_written = [&](const std::vector<double>& values) {
      return arranged(values, layout, problem.out_channels, problem.output_positions());
    };
    const PlanRunner runner(problem, operands);
    for (const Plan& plan : plans_of(problem, arithmetic.precision)) {
      SCOPED_TRACE(describe(problem, plan));
      const Bytes output = runner.run(plan);
      const double error =
          largest_error(problem.dtype, decode(problem.dtype, output), as_written(exact), as_written(magnitude));
      EXPECT_LE(error, bound);
      EXPECT_EQ(runner.run(plan), output) << "two runs differ";
      worst = std::max(worst, error);
    }
  }
  return worst;
}

TEST_P(RelativeForward, EveryPlanIsWithinItsRounding) {
  for (const Arithmetic& arithmetic : every_arithmetic()) {
    const double worst = check_arithmetic(GetParam().problem, arithmetic);
    const std::string name = std::string(name_of(arithmetic.dtype)) + "_" + name_of(arithmetic.precision);
    RecordProperty(name, std::to_string(worst * 0x1p24) + " * 2^-24");
  }
}

TEST_P(RelativeForward, Tf32x3IsAsGoodAsFloat32) {
  const double ieee = check_arithmetic(GetParam().problem, {DType::float32, Precision::ieee});
  const double tf32x3 = check_arithmetic(GetParam().problem, {DType::float32, Precision::tf32x3});
  EXPECT_LE(tf32x3, 4 * ieee + 0x1p-24);
}

INSTANTIATE_TEST_SUITE_P(Random, RelativeForward, ::testing::ValuesIn(problems()), ProblemName());

}  // namespace
}  // namespace convt_gemm::testing

// The oracle itself: against values worked out by hand, and against a gather that shares no code or loop order with it.
#include "convt_gemm/reference.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "support/layout.h"
#include "support/problems.h"
#include "support/values.h"

namespace convt_gemm::testing {
namespace {

std::vector<double> reference(const Problem& problem, const Operands& operands) {
  // NaN shows every output that is not written.
  std::vector<double> output(std::size_t(problem.output_elements()), std::nan(""));
  reference_forward(problem, operands.input.data(), operands.weight.data(), operands.bias.data(), output.data());
  return output;
}

/// Tap k of output o has an input only if q - k*dilation, q = o + padding, is divisible by the stride. Channels first.
std::vector<double> gathered(const Problem& p, const Operands& operands) {
  std::vector<double> output;
  for (std::int64_t n = 0; n < p.batch; ++n) {
    for (std::int64_t co = 0; co < p.out_channels; ++co) {
      const std::int64_t group = co / p.group_out_channels();
      for (std::int64_t position = 0; position < p.output_positions(); ++position) {
        double sum = p.bias ? operands.bias[std::size_t(co)] : 0;
        for (std::int64_t tap = 0; tap < p.taps(); ++tap) {
          std::int64_t input = 0, scale = 1, rest_o = position, rest_k = tap;
          bool reaches = true;
          for (int a = kMaxAxes - 1; a >= 0; --a) {
            const Axis& axis = p.axes[std::size_t(a)];
            const std::int64_t q = rest_o % axis.output() + axis.padding - rest_k % axis.kernel * axis.dilation;
            reaches = reaches && q >= 0 && q % axis.stride == 0 && q / axis.stride < axis.input;
            input += q / axis.stride * scale;
            scale *= axis.input;
            rest_o /= axis.output();
            rest_k /= axis.kernel;
          }
          if (!reaches) continue;
          for (std::int64_t c = 0; c < p.group_in_channels(); ++c) {
            const std::int64_t ci = group * p.group_in_channels() + c;
            sum +=
                operands.input[std::size_t((n * p.in_channels + ci) * p.input_positions() + input)] *
                operands
                    .weight[std::size_t((ci * p.group_out_channels() + co % p.group_out_channels()) * p.taps() + tap)];
          }
        }
        output.push_back(sum);
      }
    }
  }
  return output;
}

/// The formula i = (o + 2P - k*D) / S without the divisibility test, with the weight read as [out, in, kernel]. 1-D.
std::vector<double> wrong_formula(const Problem& p, const Operands& operands) {
  const Axis& axis = p.axis(0);
  std::vector<double> output;
  for (std::int64_t co = 0; co < p.out_channels; ++co) {
    for (std::int64_t o = 0; o < axis.output(); ++o) {
      double sum = 0;
      for (std::int64_t k = 0; k < axis.kernel; ++k) {
        const std::int64_t numerator = o + 2 * axis.padding - k * axis.dilation;
        const std::int64_t i = numerator / axis.stride;
        if (numerator < 0 || i >= axis.input) continue;
        for (std::int64_t ci = 0; ci < p.in_channels; ++ci) {
          sum += operands.input[std::size_t(ci * axis.input + i)] *
                 operands.weight[std::size_t((co * p.in_channels + ci) * axis.kernel + k)];
        }
      }
      output.push_back(sum);
    }
  }
  return output;
}

TEST(Reference, StrideTwo) {
  // x = [1, 2], w = [10, 20, 30]: the full output is [10, 20, 30+20, 40, 60]; padding 1 drops both ends.
  const Problem problem = make_problem(1, 1, 1, {{2, 3, 2, 1}});
  EXPECT_EQ(reference(problem, {{1, 2}, {10, 20, 30}, {}}), (std::vector<double>{20, 50, 40}));
}

TEST(Reference, OutputPaddingUncoversTheEnd) {
  const Problem problem = make_problem(1, 1, 1, {{2, 3, 2, 1, 1}});
  EXPECT_EQ(reference(problem, {{1, 2}, {10, 20, 30}, {}}), (std::vector<double>{20, 50, 40, 60}));
}

TEST(Reference, DilationLeavesGapsToTheBias) {
  // Taps at 0 and 2, inputs at 0 and 2: odd outputs get nothing else.
  const Problem problem = make_problem(1, 1, 1, {{2, 2, 2, 0, 1, 2}}, 1, true);
  EXPECT_EQ(reference(problem, {{1, 2}, {10, 20}, {5}}), (std::vector<double>{15, 5, 45, 5, 45, 5}));
}

TEST(Reference, WeightIsInOutKernel) {
  // y[co] = sum over ci of x[ci] * w[ci, co].
  const Problem problem = make_problem(1, 2, 3, {{1, 1}});
  EXPECT_EQ(reference(problem, {{1, 100}, {1, 2, 3, 4, 5, 6}, {}}), (std::vector<double>{401, 502, 603}));
}

TEST(Reference, GroupsAreIndependent) {
  // Two groups of one input and two outputs each.
  const Problem problem = make_problem(1, 2, 4, {{1, 1}}, 2, true);
  EXPECT_EQ(reference(problem, {{3, 7}, {1, 2, 3, 4}, {100, 200, 300, 400}}),
            (std::vector<double>{103, 206, 321, 428}));
}

TEST(Reference, TwoAxes) {
  // A 2x2 kernel at stride 2 paints one block for each input.
  const Problem problem = make_problem(1, 1, 1, {{1, 2, 2}, {2, 2, 2}});
  EXPECT_EQ(reference(problem, {{1, 10}, {1, 2, 3, 4}, {}}), (std::vector<double>{1, 2, 10, 20, 3, 4, 30, 40}));
}

TEST(Reference, BatchesAreIndependent) {
  const Problem problem = make_problem(2, 1, 1, {{2, 1}});
  EXPECT_EQ(reference(problem, {{1, 2, 3, 4}, {2}, {}}), (std::vector<double>{2, 4, 6, 8}));
}

TEST(WrongFormula, DiffersWhereTheStrideDoesNotDivide) {
  const Problem problem = make_problem(1, 1, 1, {{2, 3, 2, 1}});
  const Operands operands{{1, 2}, {10, 20, 30}, {}};
  EXPECT_NE(wrong_formula(problem, operands), reference(problem, operands));
}

TEST(WrongFormula, DiffersByTheOrderOfTheWeightAlone) {
  const Problem problem = make_problem(1, 2, 2, {{1, 1}});
  const Operands operands{{1, 100}, {1, 2, 3, 4}, {}};
  EXPECT_EQ(reference(problem, operands), (std::vector<double>{301, 402}));
  EXPECT_EQ(wrong_formula(problem, operands), (std::vector<double>{201, 403}));
}

class ReferenceOnProblem : public ::testing::TestWithParam<NamedProblem> {};

TEST_P(ReferenceOnProblem, IsTheGather) {
  const Problem& problem = GetParam().problem;
  const Operands operands = integer_operands(problem);
  EXPECT_EQ(reference(problem, operands), gathered(problem, operands));
}

TEST_P(ReferenceOnProblem, ChannelsLastIsTheSameRearranged) {
  Problem problem = GetParam().problem;
  Operands operands = integer_operands(problem);
  const std::vector<double> expected =
      arranged(reference(problem, operands), Layout::channels_last, problem.out_channels, problem.output_positions());
  problem.layout = Layout::channels_last;
  operands.input = arranged(operands.input, problem.layout, problem.in_channels, problem.input_positions());
  EXPECT_EQ(reference(problem, operands), expected);
}

INSTANTIATE_TEST_SUITE_P(Small, ReferenceOnProblem, ::testing::ValuesIn(small_problems()), ProblemName());
INSTANTIATE_TEST_SUITE_P(WideIndex, ReferenceOnProblem, ::testing::ValuesIn(wide_index_problems()), ProblemName());

}  // namespace
}  // namespace convt_gemm::testing

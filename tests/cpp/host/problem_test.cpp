// Validation and the texts that a person reads.
#include "convt_gemm/problem.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "support/cases.h"
#include "support/problems.h"

namespace convt_gemm::testing {
namespace {

constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max();

struct BadProblem {
  std::string name;
  std::function<void(Problem&)> change;  // of a legal 2-D problem
  std::vector<std::string> message;      // parts that the message must have: argument, value, expectation
};

void PrintTo(const BadProblem& bad, std::ostream* os) { *os << bad.name; }

Problem legal() { return make_problem(2, 4, 6, {{7, 3, 2, 1, 1}, {5, 3, 2, 1, 1}}, 2, true); }

class ValidateRefuses : public ::testing::TestWithParam<BadProblem> {};

TEST_P(ValidateRefuses, NamingArgumentValueAndExpectation) {
  Problem problem = legal();
  GetParam().change(problem);
  const Status status = validate(problem);
  EXPECT_EQ(status.code, StatusCode::invalid_argument);
  for (const std::string& part : GetParam().message) {
    EXPECT_NE(status.message.find(part), std::string::npos) << "no '" << part << "' in: " << status.message;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Table, ValidateRefuses,
    ::testing::Values(
        BadProblem{"rank_zero", [](Problem& p) { p.rank = 0; }, {"rank", "1, 2 or 3", "0"}},
        BadProblem{"rank_four", [](Problem& p) { p.rank = 4; }, {"rank", "1, 2 or 3", "4"}},
        BadProblem{"axis_before_rank", [](Problem& p) { p.axes[0].kernel = 2; }, {"axes before the last 2", "Axis{}"}},
        BadProblem{"batch", [](Problem& p) { p.batch = -1; }, {"batch", "non-negative", "-1"}},
        BadProblem{"groups_zero", [](Problem& p) { p.groups = 0; }, {"groups", "positive", "0"}},
        BadProblem{"groups_negative", [](Problem& p) { p.groups = -2; }, {"groups", "positive", "-2"}},
        BadProblem{"in_channels_zero",
                   [](Problem& p) { p.in_channels = 0; },
                   {"in_channels", "positive multiple of groups 2", "0"}},
        BadProblem{
            "in_channels_odd", [](Problem& p) { p.in_channels = 5; }, {"in_channels", "multiple of groups 2", "5"}},
        BadProblem{
            "out_channels_zero", [](Problem& p) { p.out_channels = 0; }, {"out_channels", "positive multiple", "0"}},
        BadProblem{
            "out_channels_odd", [](Problem& p) { p.out_channels = 7; }, {"out_channels", "multiple of groups 2", "7"}},
        BadProblem{"input", [](Problem& p) { p.axis(1).input = 0; }, {"input size", "positive", "0", "axis 1"}},
        BadProblem{"kernel", [](Problem& p) { p.axis(0).kernel = -3; }, {"kernel size", "positive", "-3", "axis 0"}},
        BadProblem{"stride", [](Problem& p) { p.axis(1).stride = 0; }, {"stride", "positive", "0", "axis 1"}},
        BadProblem{"dilation", [](Problem& p) { p.axis(0).dilation = 0; }, {"dilation", "positive", "0", "axis 0"}},
        BadProblem{"padding", [](Problem& p) { p.axis(0).padding = -1; }, {"padding", "non-negative", "-1", "axis 0"}},
        BadProblem{"output_padding_negative",
                   [](Problem& p) { p.axis(1).output_padding = -1; },
                   {"output_padding", "non-negative", "-1", "axis 1"}},
        BadProblem{"output_padding_large",
                   [](Problem& p) { p.axis(1).output_padding = 2; },
                   {"output padding must be smaller than either stride or dilation", "output_padding 2", "stride 2",
                    "dilation 1", "axis 1"}},
        BadProblem{"output_empty",
                   [](Problem& p) { p.axis(0).padding = 8; },
                   {"positive output size", "padding 8", "give 0", "axis 0"}},
        BadProblem{"output_negative",
                   [](Problem& p) { p.axis(0).padding = 100; },
                   {"positive output size", "padding 100", "axis 0"}},
        BadProblem{
            "extent_overflow", [](Problem& p) { p.axis(0).stride = kHuge; }, {"stride 9223372036854775807", "axis 0"}},
        BadProblem{"kernel_overflow",
                   [](Problem& p) { p.axis(0).dilation = kHuge / 2; },
                   {"dilation 4611686018427387903", "axis 0"}},
        BadProblem{"padding_overflow",
                   [](Problem& p) { p.axis(0).padding = kHuge; },
                   {"padding 9223372036854775807", "axis 0"}},
        BadProblem{
            "elements_overflow", [](Problem& p) { p.batch = kHuge / 100; }, {"2^59 elements", "N92233720368547758"}},
        BadProblem{"weight_overflow",
                   [](Problem& p) { p.in_channels = p.out_channels = std::int64_t{1} << 40; },
                   {"2^59 elements"}}),
    [](const auto& info) { return info.param.name; });

TEST(Validate, NamesNoAxisOfOneDimension) {
  Problem problem = make_problem(1, 1, 1, {{3, 3}});
  problem.axis(0).stride = 0;
  EXPECT_EQ(validate(problem).message, "expected stride to be positive, but got 0");
}

TEST(Validate, AcceptsEveryTestProblem) {
  for (const auto& list : {small_problems(), wide_index_problems(), cases(), reduced_cases(3e7, 400000)}) {
    for (const NamedProblem& named : list) {
      const Status status = validate(named.problem);
      EXPECT_TRUE(status.ok()) << named.name << ": " << status.message;
    }
  }
}

TEST(Validate, AcceptsMoreThanTwoToThe31Elements) {
  EXPECT_TRUE(validate(make_problem(64, 128, 128, {{std::int64_t{1} << 33, 3}})).ok());
  EXPECT_TRUE(validate(make_problem(0, 4, 4, {{8, 3}})).ok());
}

TEST(Problem, CountsElements) {
  const Problem problem = legal();
  EXPECT_EQ(problem.taps(), 9);
  EXPECT_EQ(problem.input_positions(), 35);
  EXPECT_EQ(problem.output_positions(), 14 * 10);
  EXPECT_EQ(problem.input_elements(), 2 * 4 * 35);
  EXPECT_EQ(problem.weight_elements(), 4 * 3 * 9);
  EXPECT_EQ(problem.output_elements(), 2 * 6 * 140);
  EXPECT_EQ(problem.group_in_channels(), 2);
  EXPECT_EQ(problem.group_out_channels(), 3);
}

TEST(Problem, AxisCountsFromTheOutermostOfItsRank) {
  const Problem problem = make_problem(1, 1, 1, {{7}, {5}});
  EXPECT_EQ(problem.axes[0].input, 1);
  EXPECT_EQ(problem.axes[1].input, 7);
  EXPECT_EQ(problem.axes[2].input, 5);
}

TEST(Axis, OutputIsOneBeyondTheLastThatAnInputReaches) {
  for (std::int64_t input : {1, 2, 7}) {
    for (std::int64_t kernel : {1, 3, 4}) {
      for (std::int64_t stride : {1, 2, 5}) {
        for (std::int64_t dilation : {1, 3}) {
          const Axis axis{input, kernel, stride, 0, 0, dilation};
          EXPECT_EQ(axis.output(), (input - 1) * stride + (kernel - 1) * dilation + 1);
          const Axis padded{input, kernel, stride, 2, 1, dilation};
          EXPECT_EQ(padded.output(), axis.output() - 3);
        }
      }
    }
  }
  EXPECT_EQ((Axis{131072, 3, 2, 1, 0, 2}).output(), 262145);  // the reference problem
}

TEST(ToString, NamesEveryField) {
  EXPECT_EQ(to_string(make_problem(16, 32, 64, {{131072, 3, 2, 1, 0, 2}})),
            "1-D float32 N16 C32->64 I131072 K3 S2 P1 R0 D2 G1 -> O262145");
  Problem problem = legal();
  problem.dtype = DType::bfloat16;
  problem.layout = Layout::channels_last;
  EXPECT_EQ(to_string(problem), "2-D bfloat16 N2 C4->6 I7,5 K3,3 S2,2 P1,1 R1,1 D1,1 G2 -> O14,10 bias channels_last");
}

TEST(DTypes, HaveSizesAndNames) {
  EXPECT_EQ(size_of(DType::float32), 4u);
  EXPECT_EQ(size_of(DType::float64), 8u);
  EXPECT_EQ(size_of(DType::bfloat16), 2u);
  EXPECT_EQ(size_of(DType::float16), 2u);
  EXPECT_STREQ(name_of(DType::float32), "float32");
  EXPECT_STREQ(name_of(DType::float64), "float64");
  EXPECT_STREQ(name_of(DType::bfloat16), "bfloat16");
  EXPECT_STREQ(name_of(DType::float16), "float16");
  EXPECT_STREQ(name_of(Layout::channels_first), "channels_first");
  EXPECT_STREQ(name_of(Layout::channels_last), "channels_last");
}

}  // namespace
}  // namespace convt_gemm::testing

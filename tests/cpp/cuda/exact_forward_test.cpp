// The exact oracle: small integers are exact in every dtype, in TF32 and in float32 sums, so that every plan, whatever
// its tile, order of summation or pieces, must give the reference's values bit for bit.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "cuda/plan_runner.h"
#include "plan/pieces.h"
#include "support/cases.h"
#include "support/problems.h"

namespace convt_gemm::testing {
namespace {

/// Most pieces that a problem is cut into here. Sanitizers, for which every launch takes long, ask for fewer.
std::int64_t most_pieces() {
  const char* const asked = std::getenv("CONVT_GEMM_MOST_PIECES");
  return asked != nullptr ? std::atoll(asked) : 300;
}

/// The plans whose names contain `part` and what the environment asks for: sanitizers are to look at some kernels only.
std::vector<Plan> asked_for(const std::vector<Plan>& plans, const std::string& part) {
  const char* const asked = std::getenv("CONVT_GEMM_PLANS");
  std::vector<Plan> chosen;
  std::copy_if(plans.begin(), plans.end(), std::back_inserter(chosen), [&](const Plan& plan) {
    return plan.name().find(part) != std::string::npos && (asked == nullptr || plan.name().find(asked) != std::string::npos);
  });
  return chosen;
}

/// Limits that cut the columns of the problem into few, some and the most pieces, as far as that is quick.
std::vector<std::int64_t> tight_limits(const Problem& problem, Precision precision) {
  const std::vector<Plan> whole = plans_of(problem, precision);
  std::vector<std::int64_t> limits;
  std::set<std::size_t> seen{whole.empty() ? 0 : whole[0].workspace_bytes};
  for (std::int64_t parts : {3, 17, 0}) {
    const std::int64_t limit = parts == 0 || whole.empty() ? 0 : std::int64_t(whole[0].workspace_bytes) / parts;
    const std::vector<Plan> plans = plans_of(problem, precision, limit);
    if (plans.empty() || count_pieces(problem, plans[0].piece) > most_pieces()) continue;
    if (seen.insert(plans[0].workspace_bytes).second) limits.push_back(limit);
  }
  return limits;
}

/// `part`: of the names of the plans that are run.
void expect_exact(const Problem& base, const Operands& operands, const std::vector<Arithmetic>& arithmetics, const std::string& part = "") {
  const std::vector<double> expected = expected_output(base, operands);
  for (const Arithmetic& arithmetic : arithmetics) {
    for (Layout layout : kLayouts) {
      const Problem problem = in(base, arithmetic.dtype, layout);
      const std::vector<Plan> every_plan = plans_of(problem, arithmetic.precision), plans = asked_for(every_plan, part);
      EXPECT_FALSE(every_plan.empty()) << to_string(problem);
      if (plans.empty()) continue;
      const Bytes want =
          encode(problem.dtype, arranged(expected, layout, problem.out_channels, problem.output_positions()));
      const PlanRunner runner(problem, operands);
      for (const Plan& plan : plans) {
        SCOPED_TRACE(describe(problem, plan));
        const Bytes first = runner.run(plan);
        ASSERT_TRUE(same_values(problem.dtype, first, want));
        ASSERT_EQ(runner.run(plan), first) << "two runs differ";
      }
      for (std::int64_t limit : tight_limits(problem, arithmetic.precision)) {
        for (const Plan& plan : asked_for(plans_of(problem, arithmetic.precision, limit), part)) {
          SCOPED_TRACE("workspace limit " + std::to_string(limit) + ": " + describe(problem, plan));
          ASSERT_TRUE(same_values(problem.dtype, runner.run(plan), want));
        }
      }
    }
  }
}

class ExactForward : public NeedsGpu, public ::testing::WithParamInterface<NamedProblem> {};

TEST_P(ExactForward, EveryPlanIsTheReference) {
  expect_exact(GetParam().problem, integer_operands(GetParam().problem), every_arithmetic());
}

/// Inputs of 13 bits: TF32 would round them, so that a plan for full precision that uses it shows.
TEST_P(ExactForward, FullPrecisionKeepsThirteenBits) {
  const Problem& problem = GetParam().problem;
  // Sums must stay below 2^24 to be exact in float32.
  if (double(problem.group_in_channels()) * double(problem.taps()) * 4097 * 3 >= 0x1p24)
    GTEST_SKIP() << "sums are too large";
  Operands operands = integer_operands(problem);
  for (double& value : operands.input) value += value < 0 ? -4094 : 4094;
  expect_exact(
      problem, operands,
      {{DType::float32, Precision::ieee}, {DType::float32, Precision::tf32x3}, {DType::float64, Precision::ieee}});
}

INSTANTIATE_TEST_SUITE_P(Small, ExactForward, ::testing::ValuesIn(small_problems()), ProblemName());
INSTANTIATE_TEST_SUITE_P(WideIndex, ExactForward, ::testing::ValuesIn(wide_index_problems()), ProblemName());

class ExactCase : public ExactForward {};

TEST_P(ExactCase, EveryPlanIsTheReference) {
  expect_exact(GetParam().problem, integer_operands(GetParam().problem), every_arithmetic());
}

INSTANTIATE_TEST_SUITE_P(Cases, ExactCase, ::testing::ValuesIn(reduced_cases(3e7, 400000)), ProblemName());

/// What the transposed product is for: clusters that share out the depth, samples that share a tile, groups, residues of one channel in several tiles,
/// columns that lack a tap.
INSTANTIATE_TEST_SUITE_P(
    MoreWeightsThanPositions, ExactCase,
    ::testing::Values(NamedProblem{"clusters", make_problem(2, 1100, 24, {{9, 16, 8, 4}}, 1, true)},
                      NamedProblem{"samples", make_problem(5, 70, 96, {{33, 4, 2, 1}}, 1, true)},
                      NamedProblem{"groups", make_problem(2, 96, 64, {{20, 8, 4, 2}}, 2, true)},
                      NamedProblem{"residues", make_problem(2, 37, 5, {{9, 1024, 256}}, 1, true)},
                      NamedProblem{"tiles_of_one_sample", make_problem(2, 24, 3, {{500, 256, 128, 64}}, 1, true)},
                      NamedProblem{"odd_stride", make_problem(2, 330, 96, {{61, 10, 5, 3, 1}}, 1, true)},
                      NamedProblem{"taps", make_problem(1, 130, 64, {{30, 7, 3, 2}})}),
    ProblemName());

/// The same with several axes: clusters, groups, rows that end in the middle of what is stored together, outputs that padding crops, tiles without outputs.
INSTANTIATE_TEST_SUITE_P(
    MoreWeightsPlanes, ExactCase,
    ::testing::Values(NamedProblem{"clusters", make_problem(2, 600, 40, {{5, 4, 2, 1}, {7, 4, 2, 1}}, 1, true)},
                      NamedProblem{"shifted_rows", make_problem(3, 70, 48, {{9, 4, 2, 1}, {33, 4, 2, 1}}, 1, true)},
                      NamedProblem{"cropped_volumes", make_problem(2, 48, 24, {{4, 4, 2, 3}, {9, 4, 2, 3}, {21, 4, 2, 3}}, 1, true)},
                      NamedProblem{"runs", make_problem(1, 40, 24, {{5, 4, 2, 1}, {240, 4, 2, 1}}, 1, true)},
                      NamedProblem{"runs_of_volumes", make_problem(1, 40, 16, {{2, 2, 1}, {4, 3, 1, 1}, {236, 2, 2}})},
                      NamedProblem{"missing_taps", make_problem(2, 66, 56, {{12, 3, 2, 1, 1}, {20, 3, 2, 1, 1}}, 1, true)},
                      NamedProblem{"strides_of_four", make_problem(2, 64, 64, {{11, 4, 4}, {18, 4, 4}}, 2, true)},
                      NamedProblem{"one_of_the_strides", make_problem(2, 96, 40, {{6, 8, 4}, {50, 1, 1}}, 1, true)},
                      NamedProblem{"dilation", make_problem(2, 36, 24, {{6, 5, 3, 2, 1, 2}, {20, 3, 1, 1, 0, 3}})},
                      NamedProblem{"empty_tiles", make_problem(2, 40, 16, {{26, 3, 1, 12}, {2, 1, 1}, {60, 2, 2}}, 1, true)}),
    ProblemName());

/// What the direct kernels of frames and of depthwise rows are for, the last one with four vectors a thread.
INSTANTIATE_TEST_SUITE_P(
    SmallRows, ExactCase,
    ::testing::Values(NamedProblem{"frames", make_problem(2, 11, 1, {{700, 20, 5}})},
                      NamedProblem{"frames_of_groups", make_problem(3, 18, 2, {{301, 16, 4, 6}}, 2, true)},
                      NamedProblem{"frames_of_few_channels", make_problem(1, 4, 1, {{130, 20, 5, 2, 1}}, 1, true)},
                      NamedProblem{"depthwise", make_problem(3, 40, 40, {{333, 3, 2, 1, 1}}, 40, true)},
                      NamedProblem{"depthwise_of_twelve_taps", make_problem(1, 24, 24, {{501, 12, 2, 5}}, 24)},
                      NamedProblem{"depthwise_four_vectors", make_problem(2, 64, 64, {{2100, 4, 2, 1}}, 64, true)}),
    ProblemName());

/// What the column kernels are for: rows that begin anywhere in 16 bytes and end with x inside of them, chunks of channels that are full and not, rings that go round,
/// one block of columns and two, short rows, whose warps share the channels, more blocks than there is room for at once.
INSTANTIATE_TEST_SUITE_P(
    FewColumns, ExactCase,
    ::testing::Values(NamedProblem{"many_channels", make_problem(2, 512, 1, {{1001, 16, 8, 8}})},
                      NamedProblem{"odd_channels", make_problem(3, 333, 2, {{517, 5, 3, 1, 1}}, 1, true)},
                      NamedProblem{"two_blocks_of_columns", make_problem(1, 140, 2, {{999, 16, 8, 4}}, 1, true)},
                      NamedProblem{"groups", make_problem(2, 150, 6, {{301, 7, 2, 3}}, 3, true)},
                      NamedProblem{"short_rows", make_problem(5, 400, 3, {{11, 4, 2, 1}}, 1, true)},
                      NamedProblem{"many_blocks", make_problem(60, 24, 1, {{1027, 16, 8, 4}})},
                      NamedProblem{"planes", make_problem(2, 66, 1, {{9, 2, 2}, {133, 2, 2}}, 1, true)}),
    ProblemName());

/// Weights that are streamed: every number of positions up to eight, rows of weights that are whole vectors and not, more rows than a thread has under way, all axes, groups.
INSTANTIATE_TEST_SUITE_P(
    FewPositions, ExactCase,
    ::testing::Values(NamedProblem{"one", make_problem(1, 1100, 70, {{1, 16, 8}}, 1, true)},
                      NamedProblem{"two_of_a_codec", make_problem(1, 1024, 512, {{2, 16, 8}}, 1, true)},
                      NamedProblem{"three_samples", make_problem(3, 520, 33, {{1, 12, 5, 2}}, 1, true)},
                      NamedProblem{"samples_of_two", make_problem(4, 300, 96, {{2, 10, 5, 3}}, 3)},
                      NamedProblem{"many_samples", make_problem(67, 100, 64, {{1, 4}, {1, 4}}, 1, true)},
                      NamedProblem{"eight", make_problem(1, 700, 150, {{8, 4, 2, 1}}, 1, true)},
                      NamedProblem{"odd_rows", make_problem(1, 333, 77, {{5, 3, 2, 1, 1}}, 1, true)},
                      NamedProblem{"dilated", make_problem(1, 130, 20, {{7, 5, 3, 4, 1, 2}}, 1, true)},
                      NamedProblem{"box", make_problem(1, 260, 24, {{2, 3, 2}, {2, 2, 1}, {2, 4, 3, 1}}, 2, true)}),
    ProblemName());

/// The same with axes before the last: residues and taps of those, rows of y that begin anywhere, positions of all axes in one row, odd numbers of them too.
INSTANTIATE_TEST_SUITE_P(
    Planes, ExactCase,
    ::testing::Values(NamedProblem{"neighbours", make_problem(2, 20, 40, {{9, 3, 1}, {300, 3, 1}}, 1, true)},
                      NamedProblem{"neighbours_of_volumes", make_problem(2, 10, 24, {{5, 3, 1, 1}, {6, 3, 1}, {96, 3, 1}})},
                      NamedProblem{"halves", make_problem(2, 20, 24, {{7, 4, 2, 1}, {272, 4, 2, 1}}, 2, true)},
                      NamedProblem{"halves_of_odd_rows", make_problem(2, 12, 16, {{7, 3, 2, 1, 1}, {272, 3, 2, 1}}, 1, true)},
                      NamedProblem{"pairs_of_odd_rows", make_problem(3, 17, 33, {{8, 3, 2}, {272, 3, 2}}, 1, true)},
                      NamedProblem{"other_order_of_residues", make_problem(2, 8, 16, {{6, 4, 3, 2, 0, 2}, {160, 3, 1}}, 1, true)},
                      NamedProblem{"residues_without_taps", make_problem(2, 8, 16, {{6, 2, 3, 0, 1}, {160, 4, 2, 1}}, 1, true)},
                      NamedProblem{"one_row", make_problem(3, 40, 37, {{14, 2, 2}, {12, 2, 2}}, 1, true)},
                      NamedProblem{"one_row_of_odd_rows", make_problem(2, 24, 32, {{16, 2, 2}, {79, 2, 2}}, 2, true)},
                      NamedProblem{"one_row_of_volumes", make_problem(2, 33, 16, {{4, 2, 2}, {5, 2, 2}, {22, 2, 2}})}),
    ProblemName());

/// What the kernels of windows are for: rows of several tiles that begin at all places of a sector, channels that are more or fewer than a tile has, short
/// samples, groups, a tap that is missing.
INSTANTIATE_TEST_SUITE_P(
    LongRows, ExactCase,
    ::testing::Values(NamedProblem{"neighbours", make_problem(3, 37, 138, {{1400, 3, 1}}, 1, true)},
                      NamedProblem{"neighbours_apart", make_problem(2, 21, 66, {{1032, 5, 1, 0, 0, 3}})},
                      NamedProblem{"gaps", make_problem(3, 33, 72, {{1000, 3, 2, 1, 0, 2}}, 1, true)},
                      NamedProblem{"gaps_of_other_classes", make_problem(2, 16, 16, {{1000, 3, 2, 2, 0, 2}}, 2, true)},
                      NamedProblem{"gaps_of_even_rows", make_problem(2, 8, 24, {{520, 3, 2, 1, 1, 2}}, 1, true)},
                      NamedProblem{"halves", make_problem(2, 100, 96, {{904, 4, 2, 1}}, 1, true)},
                      NamedProblem{"halves_without_a_tap", make_problem(5, 16, 10, {{208, 3, 2, 1, 1}}, 1, true)},
                      NamedProblem{"halves_of_groups", make_problem(2, 32, 64, {{400, 4, 2, 1}}, 2, true)},
                      NamedProblem{"pairs", make_problem(2, 70, 34, {{1208, 4, 2}}, 1, true)},
                      NamedProblem{"thirds", make_problem(2, 100, 70, {{904, 6, 3, 2, 1}}, 1, true)},
                      NamedProblem{"thirds_without_a_tap", make_problem(5, 16, 10, {{208, 5, 3, 2, 2}}, 1, true)},
                      NamedProblem{"thirds_of_groups", make_problem(2, 32, 66, {{400, 6, 3, 6, 1}}, 2, true)},
                      NamedProblem{"thirds_that_begin_anywhere", make_problem(3, 50, 37, {{904, 6, 3, 2}}, 1, true)},
                      NamedProblem{"thirds_of_another_padding", make_problem(2, 34, 72, {{640, 5, 3, 1, 1}}, 2, true)},
                      NamedProblem{"short_samples", make_problem(70, 9, 8, {{16, 4, 2, 1}})},
                      NamedProblem{"tiles_taken_in_order", make_problem(4300, 9, 8, {{16, 4, 2, 1}}, 1, true)},
                      NamedProblem{"thirds_taken_in_order", make_problem(4300, 9, 8, {{16, 6, 3, 2, 1}})}),
    ProblemName());

/// The same where rows of x are no whole 16 bytes, in some types or in all: they begin anywhere, and so do samples.
INSTANTIATE_TEST_SUITE_P(
    ShiftedRows, ExactCase,
    ::testing::Values(NamedProblem{"neighbours", make_problem(3, 37, 138, {{1401, 3, 1}}, 1, true)},
                      NamedProblem{"gaps", make_problem(3, 33, 72, {{999, 3, 2, 1, 0, 2}}, 1, true)},
                      NamedProblem{"halves", make_problem(2, 100, 96, {{903, 4, 2, 1}}, 1, true)},
                      NamedProblem{"halves_of_even_rows", make_problem(3, 35, 48, {{906, 4, 2, 1}})},
                      NamedProblem{"halves_of_groups", make_problem(2, 34, 64, {{401, 4, 2, 1}}, 2, true)},
                      NamedProblem{"pairs", make_problem(2, 70, 34, {{1207, 4, 2}}, 1, true)},
                      NamedProblem{"thirds", make_problem(2, 100, 70, {{908, 6, 3, 2, 1}}, 1, true)},
                      NamedProblem{"thirds_that_begin_anywhere", make_problem(3, 100, 70, {{911, 6, 3, 2, 1}}, 1, true)},
                      NamedProblem{"thirds_of_another_padding", make_problem(2, 34, 66, {{401, 5, 3, 0, 2}}, 2, true)},
                      NamedProblem{"halves_of_odd_rows", make_problem(3, 100, 48, {{905, 3, 2, 1}}, 1, true)},
                      NamedProblem{"halves_of_few_channels", make_problem(5, 16, 7, {{901, 4, 2, 1, 1}}, 1, true)},
                      NamedProblem{"halves_without_room_for_runs", make_problem(2, 192, 96, {{903, 4, 2, 1, 1}}, 1, true)},
                      NamedProblem{"neighbours_without_room_for_runs", make_problem(2, 128, 70, {{1002, 3, 1}}, 1, true)},
                      NamedProblem{"one_row", make_problem(3, 40, 37, {{7, 2, 2}, {9, 2, 2}}, 1, true)},
                      NamedProblem{"short_samples", make_problem(70, 9, 16, {{17, 4, 2, 1}})}),
    ProblemName());

class WindowCase : public ExactForward {};

TEST_P(WindowCase, EveryWindowIsTheReference) {
  const Problem& problem = GetParam().problem;
  if (Machine::get().traits().compute_capability == 90) {
    const std::vector<Plan> plans = plans_of(in(problem, DType::float32, Layout::channels_first), Precision::tf32);
    EXPECT_TRUE(std::any_of(plans.begin(), plans.end(), [](const Plan& plan) { return plan.name().find("_windows_") != std::string::npos; }));
  }
  expect_exact(problem, integer_operands(problem), every_arithmetic(), "_windows_");
}

/// Tiles between others of their row, and so many that teams go on while the copy engine stores.
INSTANTIATE_TEST_SUITE_P(
    LongRowsOfManyTiles, WindowCase,
    ::testing::Values(NamedProblem{"neighbours", make_problem(1100, 3, 8, {{400, 3, 1}}, 1, true)},
                      NamedProblem{"neighbours_apart", make_problem(1100, 3, 8, {{400, 5, 1, 0, 0, 3}})},
                      NamedProblem{"gaps", make_problem(1100, 3, 8, {{400, 3, 2, 1, 0, 2}}, 1, true)},
                      NamedProblem{"halves", make_problem(1100, 3, 8, {{400, 4, 2, 1}}, 1, true)},
                      NamedProblem{"pairs", make_problem(1100, 3, 8, {{400, 4, 2}}, 1, true)},
                      NamedProblem{"halves_of_shifted_rows", make_problem(1100, 3, 64, {{401, 4, 2, 1}}, 1, true)},
                      NamedProblem{"pairs_of_shifted_rows", make_problem(1100, 3, 8, {{403, 4, 2}}, 1, true)},
                      NamedProblem{"thirds", make_problem(1100, 3, 8, {{400, 6, 3, 2, 1}}, 1, true)},
                      NamedProblem{"thirds_that_begin_anywhere", make_problem(1100, 3, 40, {{403, 6, 3, 2, 1}}, 1, true)}),
    ProblemName());

/// More products than one batched call or grid takes, and positions that end just below 2^31.
INSTANTIATE_TEST_SUITE_P(
    Many, ExactCase,
    ::testing::Values(NamedProblem{"samples", make_problem(65537, 1, 1, {{2, 3, 2}})},
                      NamedProblem{"groups", make_problem(1, 65537, 65537, {{1, 2}}, 65537, true)},
                      NamedProblem{"int32_edge",
                                   make_problem(1, 1, 1, {{49861, 1025, 45000, 2145844903, 1, 1999992}}, 1, true)}),
    ProblemName());

}  // namespace
}  // namespace convt_gemm::testing

// How a problem is cut so that its columns fit a workspace.
#include "plan/pieces.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <limits>

#include "plan/arithmetic.h"
#include "support/cases.h"
#include "support/problems.h"

namespace convt_gemm::testing {
namespace {

/// Every input that reaches an output of the range, by trying all; the range between the first and the last of them.
Range brute_inputs(const Axis& axis, Range output) {
  Range inputs{axis.input, 0};
  for (std::int64_t i = 0; i < axis.input; ++i) {
    // Taps between the first and the last are not told apart: the range reads what any tap in between could.
    const std::int64_t first = i * axis.stride - axis.padding;
    const std::int64_t last = first + (axis.kernel - 1) * axis.dilation;
    if (last < output.begin || first >= output.end) continue;
    inputs.begin = std::min(inputs.begin, i);
    inputs.end = std::max(inputs.end, i + 1);
  }
  return inputs;
}

template <class Visit>
void for_each_axis(Visit visit) {
  for (std::int64_t input : {1, 2, 5, 9}) {
    for (std::int64_t kernel : {1, 2, 3, 7}) {
      for (std::int64_t stride : {1, 2, 3, 8}) {
        for (std::int64_t dilation : {1, 2, 5}) {
          for (std::int64_t padding : {0, 1, 4, 9}) {
            const Axis axis{input, kernel, stride, padding, std::max(stride, dilation) - 1, dilation};
            if (axis.output() > 0) visit(axis);
          }
        }
      }
    }
  }
}

TEST(InputsOf, IsWhatTheOutputsRead) {
  for_each_axis([](const Axis& axis) {
    for (std::int64_t begin = 0; begin < axis.output(); ++begin) {
      for (std::int64_t end = begin + 1; end <= axis.output(); ++end) {
        const Range expected = brute_inputs(axis, {begin, end}), got = inputs_of(axis, {begin, end});
        if (expected.begin >= expected.end) {
          ASSERT_EQ(got.size(), 0) << begin << ":" << end;
          ASSERT_TRUE(got.begin >= 0 && got.end <= axis.input);
        } else {
          ASSERT_EQ(got.begin, expected.begin) << begin << ":" << end;
          ASSERT_EQ(got.end, expected.end) << begin << ":" << end;
        }
      }
    }
  });
}

TEST(MaxInputs, BoundsEveryRangeOfThatManyOutputs) {
  for_each_axis([](const Axis& axis) {
    std::int64_t before = 0;
    for (std::int64_t outputs = 1; outputs <= axis.output(); ++outputs) {
      const std::int64_t bound = max_inputs(axis, outputs);
      ASSERT_GE(bound, before) << "more outputs read fewer inputs";
      ASSERT_LE(bound, axis.input);
      before = bound;
      for (std::int64_t begin = 0; begin + outputs <= axis.output(); ++begin) {
        ASSERT_LE(inputs_of(axis, {begin, begin + outputs}).size(), bound);
      }
    }
  });
}

void expect_sound_cut(const Problem& problem, std::int64_t limit) {
  SCOPED_TRACE(to_string(problem) + " limit " + std::to_string(limit));
  const Piece piece = cut(problem, limit);
  ASSERT_GE(piece.batch, 1);
  ASSERT_LE(piece.batch, std::max<std::int64_t>(problem.batch, 1));
  bool smallest = piece.batch == 1, whole = piece.batch == std::max<std::int64_t>(problem.batch, 1);
  std::int64_t count = ceil_div(problem.batch, piece.batch);
  Piece all;
  all.batch = std::max<std::int64_t>(problem.batch, 1);
  for (int a = 0; a < kMaxAxes; ++a) {
    const std::int64_t output = problem.axes[a].output();
    ASSERT_GE(piece.output[a], 1);
    ASSERT_LE(piece.output[a], output);
    smallest = smallest && piece.output[a] == 1;
    whole = whole && piece.output[a] == output;
    // Nearly equal sizes: no smaller extent would do with as few pieces.
    EXPECT_EQ(piece.output[a], ceil_div(output, ceil_div(output, piece.output[a])));
    count *= ceil_div(output, piece.output[a]);
    all.output[a] = output;
  }
  EXPECT_EQ(count_pieces(problem, piece), count);
  EXPECT_TRUE(smallest || column_elements(problem, piece) <= limit);
  if (column_elements(problem, all) <= limit) {
    EXPECT_TRUE(whole);
  } else {
    EXPECT_TRUE(!whole || smallest);
  }
  // A position axis is cut only if single samples do not fit, and each axis only if the ones outside it are single
  // positions.
  bool cut_inside = false;
  for (int a = kMaxAxes - 1; a >= 0; --a) {
    if (cut_inside) {
      EXPECT_EQ(piece.output[a], 1);
    }
    cut_inside = cut_inside || piece.output[a] != problem.axes[a].output();
  }
  if (cut_inside) {
    EXPECT_EQ(piece.batch, 1);
  }
}

TEST(Cut, CoversKeepsTheLimitAndEndsAtOneOutput) {
  for (const auto& list : {small_problems(), wide_index_problems()}) {
    for (const NamedProblem& named : list) {
      for (std::int64_t limit = 0; limit < 2000; limit += 1 + limit / 4) expect_sound_cut(named.problem, limit);
      for (std::int64_t limit : {10000, 100000, 1000000, 100000000}) expect_sound_cut(named.problem, limit);
    }
  }
}

TEST(Cut, HoldsTheLimitOnEveryCase) {
  for (const NamedProblem& named : cases()) {
    for (std::int64_t limit : {1 << 16, 1 << 20, 1 << 24, 1 << 27}) expect_sound_cut(named.problem, limit);
  }
}

TEST(Cut, TakesTheLargestBatchThatFits) {
  const Problem problem = make_problem(10, 2, 3, {{5, 4, 2}});
  const std::int64_t sample = 3 * 4 * 5;
  EXPECT_EQ(cut(problem, 10 * sample).batch, 10);
  EXPECT_EQ(cut(problem, 10 * sample - 1).batch, 5);  // nine fit, but two pieces of five are even
  EXPECT_EQ(cut(problem, 4 * sample).batch, 4);
  EXPECT_EQ(cut(problem, 3 * sample).batch, 3);
  EXPECT_EQ(cut(problem, sample).batch, 1);
  EXPECT_EQ(cut(problem, sample).output[2], problem.axes[2].output());
  EXPECT_LT(cut(problem, sample - 1).output[2], problem.axes[2].output());
}

TEST(Cut, SurvivesColumnCountsThatOverflow) {
  // 2^63 columns in all, 2^26 for one output.
  const Problem problem = make_problem(1 << 17, 1 << 10, 1 << 10, {{std::int64_t{1} << 28, 1 << 8}});
  ASSERT_TRUE(validate(problem).ok());
  const Piece piece = cut(problem, 1 << 27);
  EXPECT_EQ(piece.batch, 1);
  EXPECT_GT(piece.output[2], 1);
  EXPECT_LE(column_elements(problem, piece), 1 << 27);
}

TEST(Arithmetic, RoundsUp) {
  EXPECT_EQ(ceil_div(0, 4), 0);
  EXPECT_EQ(ceil_div(1, 4), 1);
  EXPECT_EQ(ceil_div(8, 4), 2);
  EXPECT_EQ(round_up(0, 256), 0);
  EXPECT_EQ(round_up(257, 256), 512);
}

}  // namespace
}  // namespace convt_gemm::testing

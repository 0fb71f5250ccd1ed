// The direct algorithm's column kernel, run step by step and thread by thread on the processor: bitwise against the oracle
// on small integers, with every load and store checked against the bounds of its tensor, every output written exactly once,
// and shared memory that is NaN until it is written and guarded on both sides.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "direct/columns_dispatch.h"
#include "support/cases.h"
#include "support/checked_access.h"
#include "support/dtype.h"
#include "support/problems.h"
#include "support/random_columns.h"
#include "support/values.h"
#include "support/with_type.h"

namespace convt_gemm::testing {
namespace {

using direct::ColumnShape;

constexpr DType kDTypes[] = {DType::float32, DType::float64, DType::bfloat16, DType::float16};

/// Memory of a block: all bits set is NaN, and NaN again between two uses.
class Shared {
 public:
  explicit Shared(std::int64_t bytes) : words_(std::size_t(bytes) / sizeof(direct::Words) + 1 + 2 * kGuard), bytes_(bytes) { forget(); }
  void forget() { std::memset(words_.data(), 0xff, words_.size() * sizeof(direct::Words)); }
  template <class T>
  T* as() {
    return reinterpret_cast<T*>(words_.data() + kGuard);
  }
  bool guards_intact() const {
    const auto* const all = reinterpret_cast<const unsigned char*>(words_.data());
    const std::size_t first = kGuard * sizeof(direct::Words), last = first + std::size_t(bytes_);
    const auto untouched = [](unsigned char byte) { return byte == 0xff; };
    return std::all_of(all, all + first, untouched) && std::all_of(all + last, all + words_.size() * sizeof(direct::Words), untouched);
  }

 private:
  static constexpr std::size_t kGuard = 64;
  std::vector<direct::Words> words_;
  std::int64_t bytes_;
};

template <class T>
Bytes run_as(const Problem& problem, const Operands& operands, const ColumnShape& shape) {
  CheckedTensors<T> tensors(problem, operands);
  const direct::ColumnGeometry g = direct::column_geometry(problem, shape);
  bool intact = true;
  direct::for_column_kernel<T>(problem, g, [&](auto kernel, const direct::ColumnParams& p) {
    using Kernel = decltype(kernel);
    Shared shared(g.shared_bytes);
    auto* const weights = shared.as<typename Kernel::Quad>();
    auto* const columns = shared.as<typename Kernel::Acc>();
    for (std::int64_t index = 0; index < g.blocks; ++index) {
      const typename Kernel::Block block = Kernel::block_of(p, typename Kernel::Int(index));
      if (!Kernel::has_outputs(block)) continue;
      shared.forget();
      std::vector<typename Kernel::Thread> threads(std::size_t(g.threads()));
      const auto every = [&](auto step) {
        for (std::size_t t = 0; t < threads.size(); ++t) step(typename Kernel::Int(t), threads[t]);
        intact = intact && shared.guards_intact();
      };
      every([&](auto t, auto& state) {
        Kernel::template start<CheckedAccess>(p, block, tensors.input(), tensors.weight(), weights, t, state);
      });
      every([&](auto t, auto& state) { Kernel::template multiply<CheckedAccess>(p, weights, t, state); });
      shared.forget();
      every([&](auto t, auto& state) { Kernel::put(p, columns, t, state); });
      every([&](auto t, auto& state) {
        Kernel::template finish<CheckedAccess>(p, block, columns, tensors.bias(), tensors.output(), t, state);
      });
    }
  });
  EXPECT_TRUE(intact) << to_string(problem) << ": wrote beside shared memory";
  return tensors.checked_output();
}

Bytes run(const Problem& problem, const Operands& operands, const ColumnShape& shape) {
  return with_type(problem.dtype, [&](auto type) { return run_as<decltype(type)>(problem, operands, shape); });
}

/// The planner's choice, one warp, and others that cut tiles and channels unevenly.
std::vector<ColumnShape> shapes_for(const Problem& problem) {
  return {direct::choose_column_shape(problem), {1, 1}, {3, 1}, {1, 3}, {2, 4}};
}

void expect_exact(const Problem& problem, const std::vector<ColumnShape>& shapes) {
  if (problem.batch == 0) return;  // the caller's
  const Operands operands = integer_operands(problem);
  const Bytes expected = encode(problem.dtype, reference(problem, operands));
  for (const ColumnShape& shape : shapes) {
    const Bytes got = run(problem, operands, shape);
    ASSERT_TRUE(got == expected) << to_string(problem) << " slices " << shape.slices << " splits " << shape.splits;
    ASSERT_FALSE(::testing::Test::HasFailure());
  }
}

void expect_exact_in_every_dtype(Problem problem) {
  for (DType dtype : kDTypes) {
    problem.dtype = dtype;
    if (!direct::columns_serve(problem)) continue;
    ASSERT_NO_FATAL_FAILURE(expect_exact(problem, shapes_for(problem)));
  }
}

std::vector<NamedProblem> served(std::vector<NamedProblem> all) {
  all.erase(std::remove_if(all.begin(), all.end(), [](const NamedProblem& named) { return !direct::columns_serve(named.problem); }),
            all.end());
  return all;
}

/// Every count of columns, with rows of every alignment, tiles of every fill, and taps that overlap, touch and leave gaps.
std::vector<NamedProblem> column_problems() {
  std::vector<NamedProblem> all;
  for (std::int64_t kernel : {1, 2, 3, 4, 7, 12, 16, 20, 32}) {
    for (std::int64_t stride : {1, 2, 5, 8}) {
      for (std::int64_t input : {1, 31, 127, 258}) {
        const Axis axis{input, kernel, stride, std::min(kernel / 3, input), std::min<std::int64_t>(stride, kernel) / 2};
        const std::string name = "k" + std::to_string(kernel) + "_s" + std::to_string(stride) + "_i" + std::to_string(input);
        all.push_back({name, make_problem(2, 11, 1, {axis})});
        if (2 * kernel <= 32) all.push_back({name + "_groups", make_problem(1, 9, 6, {axis}, 3, true)});
      }
    }
  }
  std::vector<NamedProblem> more = {
      {"conv_tasnet", make_problem(2, 70, 1, {{401, 16, 8, 8}})},
      {"conv_tasnet_even", make_problem(1, 64, 1, {{400, 16, 8, 8}}, 1, true)},
      {"kokoro", make_problem(1, 11, 1, {{1001, 20, 5}})},
      {"hifi_gan", make_problem(1, 16, 8, {{300, 4, 2, 1}}, 1, true)},
      {"channels_of_a_quad_and_more", make_problem(1, 7, 5, {{130, 6, 3, 1}}, 1, true)},
      {"dilated", make_problem(2, 13, 2, {{140, 5, 2, 3, 0, 3}}, 1, true)},
      {"dilated_gaps", make_problem(2, 13, 2, {{140, 5, 6, 3, 2, 4}}, 1, true)},
      {"dilated_far", make_problem(1, 4, 1, {{140, 3, 1, 0, 0, 8}})},
      {"stride_above_kernel", make_problem(1, 20, 2, {{133, 3, 11, 0, 7}}, 1, true)},
      {"long_output_padding", make_problem(1, 5, 1, {{129, 2, 3, 1, 8, 9}}, 1, true)},
      {"cropped", make_problem(1, 6, 2, {{300, 4, 1, 140}}, 1, true)},
      {"cropped_strided", make_problem(1, 6, 2, {{301, 4, 2, 199, 1}})},
      {"pixel_shuffle", make_problem(2, 19, 1, {{5, 2, 2}, {130, 2, 2}}, 1, true)},
      {"rectangle", make_problem(2, 6, 2, {{5, 2, 3, 1, 2}, {33, 5, 2, 1, 1}}, 2, true)},
      {"rectangle_dilated", make_problem(1, 6, 1, {{4, 2, 7, 2, 3, 3}, {40, 3, 2, 0, 0, 2}}, 1, true)},
      {"rectangle_cropped", make_problem(1, 3, 1, {{9, 2, 2, 5}, {40, 2, 2, 30}}, 1, true)},
      {"box", make_problem(2, 5, 3, {{3, 2, 2}, {4, 1, 1}, {35, 4, 4}}, 1, true)},
      {"flat_box", make_problem(1, 5, 1, {{3, 1, 3, 1, 2}, {4, 3, 3, 1}, {7, 3, 2, 1, 1}})},
  };
  all = served(all);  // a long kernel of stride 1 reaches too far
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

TEST(ColumnKernelProblems, RunEveryKernel) {
  std::set<std::tuple<DType, int, bool>> run;
  for (const NamedProblem& named : column_problems()) {
    EXPECT_TRUE(direct::columns_serve(named.problem)) << to_string(named.problem);
    for (DType dtype : kDTypes) {
      Problem problem = named.problem;
      problem.dtype = dtype;
      for (const ColumnShape& shape : shapes_for(problem)) {
        const direct::ColumnGeometry g = direct::column_geometry(problem, shape);
        run.insert({dtype, g.columns, g.parked});
      }
    }
  }
  EXPECT_EQ(run.size(), std::size(kDTypes) * std::size(direct::kColumnCounts) * 2);
}

class ColumnKernel : public ::testing::TestWithParam<NamedProblem> {};

TEST_P(ColumnKernel, IsExactOnIntegers) { expect_exact_in_every_dtype(GetParam().problem); }

INSTANTIATE_TEST_SUITE_P(Small, ColumnKernel, ::testing::ValuesIn(served(small_problems())), ProblemName());
INSTANTIATE_TEST_SUITE_P(WideIndex, ColumnKernel, ::testing::ValuesIn(served(wide_index_problems())), ProblemName());
INSTANTIATE_TEST_SUITE_P(Columns, ColumnKernel, ::testing::ValuesIn(column_problems()), ProblemName());
INSTANTIATE_TEST_SUITE_P(Cases, ColumnKernel, ::testing::ValuesIn(served(reduced_cases(2e6, 40000))), ProblemName());

Problem random_problem(std::mt19937_64* random) {
  return random_column_problem(random, {std::begin(kDTypes), std::end(kDTypes)}, {2, 3, 5, 8, 11, 17, 40}, direct::columns_serve);
}

TEST(ColumnKernelRandom, IsExactOnIntegers) {
  for (std::uint64_t seed = 0; seed < 1500; ++seed) {
    std::mt19937_64 random(seed);
    const Problem problem = random_problem(&random);
    const ColumnShape shape{int(1 + random() % 4), int(1 + random() % 4)};
    SCOPED_TRACE("seed " + std::to_string(seed));
    ASSERT_NO_FATAL_FAILURE(expect_exact(problem, {direct::choose_column_shape(problem), shape}));
  }
}

/// Tiles and slices only move work about; splits of the channels are part of the order of the sum.
TEST(ColumnKernelRandom, GivesTheSameBitsHoweverItsTilesAreCut) {
  for (std::uint64_t seed = 3000; seed < 3200; ++seed) {
    std::mt19937_64 random(seed);
    const Problem problem = random_problem(&random);
    SCOPED_TRACE("seed " + std::to_string(seed));
    const Operands operands = uniform_operands(problem);
    EXPECT_TRUE(run(problem, operands, {1, 2}) == run(problem, operands, {3, 2})) << to_string(problem);
  }
}

/// Inputs that are infinite or NaN reach the outputs that read them and no others, though columns are filled up with zeros.
TEST(ColumnKernelNan, ReachesOnlyTheOutputsThatReadIt) {
  for (const Problem& problem :
       {make_problem(1, 11, 1, {{300, 5, 2}}), make_problem(1, 13, 1, {{300, 7, 3, 2, 0, 2}}),
        make_problem(1, 40, 3, {{140, 3, 5, 1}}), make_problem(1, 6, 1, {{6, 2, 2}, {90, 3, 2}})}) {
    Operands operands = integer_operands(problem);
    for (double& value : operands.weight) value += value == 0;
    operands.input[200] = std::nan("");
    operands.input[operands.input.size() / 2] = HUGE_VAL;
    operands.input[operands.input.size() - 1] = -HUGE_VAL;
    const std::vector<double> expected = reference(problem, operands);
    for (const ColumnShape& shape : shapes_for(problem)) {
      const std::vector<double> got = decode(problem.dtype, run(problem, operands, shape));
      for (std::size_t i = 0; i < got.size(); ++i) {
        ASSERT_TRUE(got[i] == expected[i] || (std::isnan(got[i]) && std::isnan(expected[i])))
            << to_string(problem) << " output " << i << ": " << got[i] << " instead of " << expected[i];
      }
    }
  }
}

/// A long sum is a sum of the splits' sums: 512 channels with two taps, in float32, against one float32 sum after another.
TEST(ColumnKernelError, IsThatOfSumsOfSums) {
  const Problem problem = make_problem(1, 512, 1, {{140, 16, 8, 8}});
  const Operands exact = uniform_operands(problem);
  Operands operands = exact, magnitudes;
  for (std::vector<double> Operands::*part : {&Operands::input, &Operands::weight, &Operands::bias}) {
    operands.*part = decode(problem.dtype, encode(problem.dtype, exact.*part));
    for (double value : operands.*part) (magnitudes.*part).push_back(std::fabs(value));
  }
  const std::vector<double> expected = reference(problem, operands), magnitude = reference(problem, magnitudes);
  const ColumnShape shape = direct::choose_column_shape(problem);
  EXPECT_GE(shape.splits, 8);
  const auto worst = [&](const ColumnShape& way) {
    const std::vector<double> got = decode(problem.dtype, run(problem, operands, way));
    double largest = 0;
    for (std::size_t i = 0; i < got.size(); ++i) largest = std::max(largest, std::fabs(got[i] - expected[i]) / magnitude[i]);
    return largest;
  };
  EXPECT_LT(worst(shape), worst({1, 1}));
  EXPECT_LT(worst(shape), 0x1p-23);
}

TEST(ColumnGeometry, ServesWhatItIsFor) {
  EXPECT_TRUE(direct::columns_serve(make_problem(8, 512, 1, {{4001, 16, 8, 8}})));
  EXPECT_TRUE(direct::columns_serve(make_problem(1, 11, 1, {{48001, 20, 5}})));
  EXPECT_TRUE(direct::columns_serve(make_problem(1, 16, 8, {{110208, 4, 2, 1}}, 1, true)));
  EXPECT_TRUE(direct::columns_serve(make_problem(16, 64, 1, {{320, 2, 2}, {320, 2, 2}}, 1, true)));
  Problem last = make_problem(8, 512, 1, {{4001, 16, 8, 8}});
  last.layout = Layout::channels_last;
  EXPECT_FALSE(direct::columns_serve(last));
  EXPECT_FALSE(direct::columns_serve(make_problem(4, 24, 24, {{65546, 12, 2}}, 24))) << "depthwise";
  EXPECT_FALSE(direct::columns_serve(make_problem(1, 16, 9, {{300, 4, 2, 1}}))) << "36 columns";
  EXPECT_TRUE(direct::columns_serve(make_problem(1, 8, 1, {{300, 17, 1}})));
  EXPECT_FALSE(direct::columns_serve(make_problem(1, 8, 1, {{300, 18, 1}}))) << "reaches 17 positions";
  EXPECT_FALSE(direct::columns_serve(make_problem(1, 8, 1, {{9, 3, 2}, {9, 3, 2}}))) << "rows overlap";
  EXPECT_TRUE(direct::columns_serve(make_problem(1, 768, 1, {{300, 32, 16}})));
  EXPECT_FALSE(direct::columns_serve(make_problem(1, 769, 1, {{300, 32, 16}}))) << "weights";
  EXPECT_FALSE(direct::columns_serve(make_problem(1, std::int64_t{1} << 40, 1, {{1, 1}}))) << "weights";
  EXPECT_FALSE(direct::columns_serve(make_problem(1, 2, 1, {{(std::int64_t{1} << 31) + 1024, 2, 1}}))) << "a row of 2^31";
  // 2^37 elements in short rows, and more blocks than a grid takes.
  EXPECT_TRUE(direct::columns_serve(make_problem(1 << 10, 1 << 7, 1, {{1 << 20, 4, 2, 1}})));
  EXPECT_FALSE(direct::columns_serve(make_problem(std::int64_t{1} << 31, 8, 1, {{4, 4, 2, 1}})));
}

/// Each block of what is measured has work, threads and shared memory within limits, and the tiles cover their rows.
TEST(ColumnGeometry, FillsTheGpu) {
  for (const Problem& problem :
       {make_problem(8, 512, 1, {{4001, 16, 8, 8}}), make_problem(1, 11, 1, {{48001, 20, 5}}),
        make_problem(1, 16, 8, {{110208, 4, 2, 1}}), make_problem(16, 64, 1, {{320, 2, 2}, {320, 2, 2}})}) {
    const direct::ColumnGeometry g = direct::column_geometry(problem, direct::choose_column_shape(problem));
    EXPECT_LE(g.shape.slices * g.shape.splits, direct::kColumnWarps);
    EXPECT_LE(g.shared_bytes, 96 << 10);
    EXPECT_GE(g.blocks, 128) << to_string(problem);
    EXPECT_GE(g.tiles * g.own, problem.axes[2].input);
    EXPECT_LT((g.tiles - 1) * g.own, problem.axes[2].input);
    EXPECT_GE(g.shape.splits * g.split_channels, problem.group_in_channels());
  }
}

}  // namespace
}  // namespace convt_gemm::testing

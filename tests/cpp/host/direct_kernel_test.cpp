// The direct algorithm's kernels, run thread by thread on the processor: bitwise against the oracle on small integers,
// with every load and store checked against the bounds of its tensor and every output written exactly once.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "direct/direct_dispatch.h"
#include "support/cases.h"
#include "support/checked_access.h"
#include "support/dtype.h"
#include "support/problems.h"
#include "support/values.h"
#include "support/with_type.h"

namespace convt_gemm::testing {
namespace {

constexpr DType kDTypes[] = {DType::float32, DType::float64, DType::bfloat16, DType::float16};
constexpr Layout kLayouts[] = {Layout::channels_first, Layout::channels_last};

/// Runs all threads, and those that overhang the last block, on operands in the problem's dtype and layout.
template <class T>
Bytes run_as(const Problem& problem, const Operands& operands, std::int64_t enough_threads) {
  CheckedTensors<T> tensors(problem, operands);
  direct::for_direct_kernel<T>(
      problem,
      [&](auto kernel, const auto& p, std::int64_t threads) {
        using Kernel = decltype(kernel);
        if constexpr (direct::kStagesWeights<Kernel>) {
          using Int = typename Kernel::Int;
          for (std::int64_t block = 0; block < threads + 256; block += direct::kBlockThreads) {
            std::vector<typename Kernel::Weights> shared(std::size_t(Kernel::shared_bytes(p)) / sizeof(typename Kernel::Weights));
            for (Int i = 0; i < direct::kBlockThreads; ++i) Kernel::template stage<CheckedAccess>(p, tensors.weight(), Int(block) + i, shared.data());
            for (Int i = 0; i < direct::kBlockThreads; ++i) {
              Kernel::template run<CheckedAccess>(p, tensors.input(), shared.data(), tensors.bias(), tensors.output(), Int(block) + i);
            }
          }
        } else {
          for (std::int64_t thread = 0; thread < threads + 256; ++thread) {
            Kernel::template run<CheckedAccess>(p, tensors.input(), tensors.weight(), tensors.bias(), tensors.output(), typename Kernel::Int(thread));
          }
        }
      },
      enough_threads);
  return tensors.checked_output();
}

Bytes run(const Problem& problem, const Operands& operands, std::int64_t enough_threads) {
  return with_type(problem.dtype, [&](auto type) { return run_as<decltype(type)>(problem, operands, enough_threads); });
}

/// As a large problem, as a small one (one vector a thread), and as one between them (four of some depthwise layers).
std::vector<std::int64_t> ways_of(const Problem& problem) {
  return {0, direct::kEnoughThreads, problem.output_elements() * std::int64_t(size_of(problem.dtype)) / 64};
}

void expect_exact(const Problem& problem) {
  if (problem.batch == 0) return;  // the caller's
  const Operands operands = integer_operands(problem);
  const Bytes expected = encode(problem.dtype, reference(problem, operands));
  for (std::int64_t enough_threads : ways_of(problem)) {
    const Bytes got = run(problem, operands, enough_threads);
    ASSERT_TRUE(got == expected) << to_string(problem) << " " << name_of(problem.layout) << " enough "
                                 << enough_threads;
    ASSERT_FALSE(::testing::Test::HasFailure());
  }
}

void expect_exact_in_every_form(Problem problem) {
  for (DType dtype : kDTypes) {
    for (Layout layout : kLayouts) {
      problem.dtype = dtype, problem.layout = layout;
      ASSERT_NO_FATAL_FAILURE(expect_exact(problem));
    }
  }
}

class DirectKernel : public ::testing::TestWithParam<NamedProblem> {};

TEST_P(DirectKernel, IsExactOnIntegers) { expect_exact_in_every_form(GetParam().problem); }

INSTANTIATE_TEST_SUITE_P(Small, DirectKernel, ::testing::ValuesIn(small_problems()), ProblemName());
INSTANTIATE_TEST_SUITE_P(WideIndex, DirectKernel, ::testing::ValuesIn(wide_index_problems()), ProblemName());

/// What the kernels with fixed strides and kernel sizes are for, with rows of every alignment.
std::vector<NamedProblem> fixed_axes() {
  std::vector<NamedProblem> all;
  for (std::int64_t kernel : {1, 2, 3, 4, 5, 7, 12}) {
    for (std::int64_t stride : {1, 2, 3, 5}) {
      for (std::int64_t input : {9, 64, 301, 1026}) {
        const Axis axis{input, kernel, stride, kernel / 3, stride / 2};
        const std::string name =
            "k" + std::to_string(kernel) + "_s" + std::to_string(stride) + "_i" + std::to_string(input);
        all.push_back({name + "_depthwise", make_problem(3, 5, 5, {axis}, 5, true)});
        all.push_back({name + "_channels", make_problem(2, 6, 6, {axis}, 2)});
        if (input > 64) continue;
        all.push_back({name + "_square_depthwise", make_problem(2, 3, 3, {{5, 4, 2, 1}, axis}, 3)});
        all.push_back({name + "_square_channels", make_problem(1, 3, 3, {{6, 3, 2, 1, 1}, axis}, 1, true)});
      }
    }
  }
  // Blocks of channels: the last one partly filled, outputs and rows without taps, residues of the middle axis.
  all.push_back({"channel_blocks", make_problem(2, 6, 22, {{31, 5, 3, 2, 0, 1}}, 2, true)});
  all.push_back({"channel_blocks_gap", make_problem(2, 4, 16, {{7, 3, 5, 1, 0, 2}, {12, 3, 5, 1, 0, 2}}, 1, true)});
  all.push_back({"channel_blocks_common_factor", make_problem(1, 8, 16, {{6, 3, 2, 1, 0, 2}, {14, 5, 3, 2, 0, 1}}, 2)});
  all.push_back({"channel_blocks_cube", make_problem(1, 3, 9, {{3, 2, 2, 0, 1, 1}, {4, 3, 3}, {9, 4, 3, 1, 0, 2}}, 1, true)});
  // Long rows of more than one axis are taken in groups; axes that the groups do not divide.
  all.push_back({"grouped_rows", make_problem(2, 4, 4, {{7, 3, 2, 1}, {700, 4, 2, 1}}, 4)});
  all.push_back({"grouped_rows_channels", make_problem(1, 2, 3, {{3, 2}, {5, 4, 2, 1}, {601, 3, 2, 1, 1}}, 1, true)});
  return all;
}

class DirectKernelFixed : public ::testing::TestWithParam<NamedProblem> {};

TEST_P(DirectKernelFixed, IsExactOnIntegers) {
  Problem problem = GetParam().problem;
  for (DType dtype : {DType::float32, DType::bfloat16, DType::float64}) {
    problem.dtype = dtype;
    ASSERT_NO_FATAL_FAILURE(expect_exact(problem));
  }
}

INSTANTIATE_TEST_SUITE_P(Axes, DirectKernelFixed, ::testing::ValuesIn(fixed_axes()), ProblemName());

std::vector<NamedProblem> few_channel_cases() {
  std::vector<NamedProblem> all = reduced_cases(2e6, 40000);
  all.erase(std::remove_if(all.begin(), all.end(),
                           [](const NamedProblem& named) { return named.problem.weight_elements() > 50000; }),
            all.end());
  return all;
}

class DirectKernelCase : public ::testing::TestWithParam<NamedProblem> {};

TEST_P(DirectKernelCase, IsExactOnIntegers) { expect_exact_in_every_form(GetParam().problem); }

INSTANTIATE_TEST_SUITE_P(Cases, DirectKernelCase, ::testing::ValuesIn(few_channel_cases()), ProblemName());

Problem random_problem(std::mt19937_64* random) {
  const auto below = [&](std::int64_t end) { return std::int64_t((*random)() % std::uint64_t(end)); };
  const auto one_of = [&](std::initializer_list<std::int64_t> values) {
    return values.begin()[below(std::int64_t(values.size()))];
  };
  for (;;) {
    Problem problem;
    problem.rank = int(1 + below(3));
    problem.batch = one_of({1, 1, 2, 3});
    problem.groups = one_of({1, 1, 2, 3, 8});
    problem.in_channels = problem.groups * one_of({1, 1, 1, 2, 3, 5, 9});
    problem.out_channels = problem.groups * one_of({1, 1, 2, 3, 4, 8, 16});
    problem.bias = below(2) == 0;
    problem.layout = kLayouts[below(2)];
    problem.dtype = kDTypes[below(4)];
    const std::int64_t extent = problem.rank == 1 ? 600 : problem.rank == 2 ? 20 : 8;
    for (int i = 0; i < problem.rank; ++i) {
      Axis& axis = problem.axis(i);
      axis.input = one_of({1, 2, 1 + below(extent), 1 + below(extent)});
      axis.kernel = 1 + below(problem.rank == 1 ? 13 : problem.rank == 2 ? 6 : 4);
      axis.stride = one_of({1, 2, 2, 2, 3, 4, 5, 1 + below(16)});
      axis.dilation = one_of({1, 1, 1, 1, 2, 3, 4, 29});
      axis.output_padding = below(std::max(axis.stride, axis.dilation));
      axis.padding = one_of({0, 1, below(7), below(40)});
    }
    const double products = double(problem.batch * problem.input_positions()) * double(problem.weight_elements());
    if (validate(problem).ok() && problem.output_elements() < 30000 && products < 1e6) return problem;
  }
}

TEST(DirectKernelRandom, IsExactOnIntegers) {
  for (std::uint64_t seed = 0; seed < 2000; ++seed) {
    std::mt19937_64 random(seed);
    const Problem problem = random_problem(&random);
    SCOPED_TRACE("seed " + std::to_string(seed));
    ASSERT_NO_FATAL_FAILURE(expect_exact(problem));
  }
}

/// Rows of every alignment, with both residues of a vector's first output.
TEST(DirectKernelRandom, DepthwiseRowsAreExactOnIntegers) {
  for (std::uint64_t seed = 0; seed < 600; ++seed) {
    std::mt19937_64 random(seed);
    const auto below = [&](std::int64_t end) { return std::int64_t(random() % std::uint64_t(end)); };
    const std::int64_t channels = 1 + below(9), kernel = below(3) ? 3 + below(2) : 12, input = 1 + below(below(2) ? 12 : 500);
    Problem problem = make_problem(1 + below(3), channels, channels, {{input, kernel, 2, below(kernel), below(2)}}, channels, below(2) == 0);
    problem.dtype = kDTypes[below(std::int64_t(std::size(kDTypes)))];
    if (!validate(problem).ok()) continue;
    SCOPED_TRACE("seed " + std::to_string(seed));
    ASSERT_NO_FATAL_FAILURE(expect_exact(problem));
  }
}

/// However many vectors a thread has, an output's terms are added in the same order.
TEST(DirectKernelRandom, GivesTheSameBitsHoweverItIsCovered) {
  for (std::uint64_t seed = 3000; seed < 3200; ++seed) {
    std::mt19937_64 random(seed);
    const Problem problem = random_problem(&random);
    SCOPED_TRACE("seed " + std::to_string(seed));
    const Operands operands = uniform_operands(problem);
    const Bytes expected = run(problem, operands, 0);
    for (std::int64_t way : ways_of(problem)) EXPECT_TRUE(run(problem, operands, way) == expected) << to_string(problem) << " enough " << way;
  }
}

/// Inputs that are infinite or NaN, read beside taps that are not there.
TEST(DirectKernelNan, ReachesOnlyTheOutputsThatReadIt) {
  for (const Problem& base :
       {make_problem(1, 4, 4, {{300, 3, 2, 1, 1}}, 4), make_problem(1, 4, 4, {{300, 12, 2}}, 4),
        make_problem(1, 4, 4, {{300, 5, 2}}), make_problem(1, 4, 4, {{300, 5, 1}}, 4),
        make_problem(1, 4, 4, {{120, 7, 5, 2}}, 2), make_problem(1, 4, 4, {{6, 3, 2, 1}, {90, 4, 2, 1}}, 4)}) {
    for (Layout layout : kLayouts) {
      Problem problem = base;
      problem.layout = layout;
      Operands operands = integer_operands(problem);
      for (double& value : operands.weight) value += value == 0;
      operands.input[200] = std::nan("");
      operands.input[operands.input.size() / 2] = HUGE_VAL;
      operands.input[operands.input.size() - 1] = -HUGE_VAL;
      const std::vector<double> expected = reference(problem, operands);
      for (std::int64_t enough_threads : ways_of(problem)) {
        const std::vector<double> got = decode(problem.dtype, run(problem, operands, enough_threads));
        for (std::size_t i = 0; i < got.size(); ++i) {
          ASSERT_TRUE(got[i] == expected[i] || (std::isnan(got[i]) && std::isnan(expected[i])))
              << to_string(problem) << " output " << i << ": " << got[i] << " instead of " << expected[i];
        }
      }
    }
  }
}

/// Problems of more than 2^31 elements keep 32-bit indices as long as a channel's rows and the threads do.
TEST(DirectDispatch, CountsThreadsNotElements) {
  Problem large = make_problem(64, 64, 64, {{1 << 20, 4, 2, 1}}, 64);
  EXPECT_GT(large.output_elements(), std::int64_t{1} << 32);
  EXPECT_TRUE(direct::fits_int32(large));
  large.axis(0).input = std::int64_t{1} << 30;
  EXPECT_FALSE(direct::fits_int32(large));
  for (const NamedProblem& named : wide_index_problems()) EXPECT_FALSE(direct::fits_int32(named.problem)) << named.name;
}

}  // namespace
}  // namespace convt_gemm::testing

// forward() on the processor against the oracle: bitwise on small integers, which every dtype holds exactly, and within
// a proven bound on uniform values. Outputs and workspace are filled with NaN before each run and have guards behind
// them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "convt_gemm/convt_gemm.h"
#include "gemm_col2im/cpu.h"
#include "support/cases.h"
#include "support/dtype.h"
#include "support/layout.h"
#include "support/problems.h"
#include "support/values.h"

namespace convt_gemm::testing {
namespace {

constexpr DType kDTypes[] = {DType::float32, DType::float64, DType::bfloat16, DType::float16};
constexpr Layout kLayouts[] = {Layout::channels_first, Layout::channels_last};

using ParallelFor = decltype(CpuContext::parallel_for);
using Body = void (*)(void*, std::int64_t, std::int64_t, int);

/// One thread does everything, last range first.
void backwards(std::int64_t count, int threads, Body body, void* arg) {
  for (int t = threads - 1; t >= 0; --t) {
    const std::int64_t begin = count * t / threads, end = count * (t + 1) / threads;
    if (begin < end) body(arg, begin, end, t);
  }
}

/// The whole range as one, under the last thread number.
void at_once(std::int64_t count, int threads, Body body, void* arg) { body(arg, 0, count, threads - 1); }

struct Way {
  int threads = 1;
  std::int64_t workspace_limit = kDefaultWorkspaceLimit;
  ParallelFor parallel_for = nullptr;
  std::int64_t core_cache_bytes = DeviceTraits{}.core_cache_bytes;
};

/// Memory of NaNs (all bits set) with a guard behind it.
class Guarded {
 public:
  explicit Guarded(std::size_t bytes)
      : bytes_(bytes), data_(static_cast<unsigned char*>(std::aligned_alloc(256, (bytes + kGuard + 255) / 256 * 256))) {
    std::memset(data_.get(), 0xff, bytes);
    std::memset(data_.get() + bytes, kPattern, kGuard);
  }

  unsigned char* data() const { return data_.get(); }
  Bytes bytes() const { return Bytes(data(), data() + bytes_); }
  bool intact() const {
    return std::all_of(data() + bytes_, data() + bytes_ + kGuard, [](unsigned char byte) { return byte == kPattern; });
  }

 private:
  static constexpr std::size_t kGuard = 512;
  static constexpr unsigned char kPattern = 0xa5;
  struct Free {
    void operator()(unsigned char* data) const { std::free(data); }
  };
  std::size_t bytes_;
  std::unique_ptr<unsigned char, Free> data_;
};

/// Operands in the problem's dtype and layout.
struct Encoded {
  Bytes input, weight, bias;

  Encoded(const Problem& problem, const Operands& operands)
      : input(encode(problem.dtype,
                     arranged(operands.input, problem.layout, problem.in_channels, problem.input_positions()))),
        weight(encode(problem.dtype, operands.weight)),
        bias(encode(problem.dtype, operands.bias)) {}
};

Plan plan_for(const Problem& problem, const Way& way) {
  DeviceTraits traits;
  traits.device = Device::cpu;
  traits.threads = way.threads;
  traits.core_cache_bytes = way.core_cache_bytes;
  PlanOptions options;
  options.workspace_limit = way.workspace_limit;
  Plan plan;
  const Status status = choose_plan(problem, traits, options, &plan);
  EXPECT_TRUE(status.ok()) << status.message;
  return plan;
}

template <class Run>
Bytes run_with(const Problem& problem, const Encoded& operands, const Way& way, Run run) {
  const Plan plan = plan_for(problem, way);
  const Guarded workspace(plan.workspace_bytes);
  const Guarded output(std::size_t(problem.output_elements()) * size_of(problem.dtype));
  CpuContext context;
  context.workspace = workspace.data();
  context.workspace_bytes = plan.workspace_bytes;
  context.parallel_for = way.parallel_for;
  context.threads = way.threads;
  const Tensors tensors{operands.input.data(), operands.weight.data(), operands.bias.data(), output.data()};
  const Status status = run(plan, tensors, context);
  EXPECT_TRUE(status.ok()) << status.message;
  EXPECT_TRUE(workspace.intact()) << "written behind the workspace";
  EXPECT_TRUE(output.intact()) << "written behind the output";
  return output.bytes();
}

Bytes run(const Problem& problem, const Encoded& operands, const Way& way) {
  return run_with(problem, operands, way, [&](const Plan& plan, const Tensors& tensors, const CpuContext& context) {
    return forward(problem, plan, tensors, context);
  });
}

/// The oracle's output, in the problem's layout.
std::vector<double> reference(const Problem& problem, const Operands& operands) {
  std::vector<double> output(std::size_t(problem.output_elements()));
  const std::vector<double> input =
      arranged(operands.input, problem.layout, problem.in_channels, problem.input_positions());
  reference_forward(problem, input.data(), operands.weight.data(), operands.bias.data(), output.data());
  return output;
}

Problem with(Problem problem, DType dtype, Layout layout) {
  problem.dtype = dtype;
  problem.layout = layout;
  return problem;
}

/// Where two outputs differ first, for a person.
std::string difference(const Problem& problem, const Bytes& got, const Bytes& expected) {
  const std::vector<double> a = decode(problem.dtype, got), b = decode(problem.dtype, expected);
  const std::size_t size = size_of(problem.dtype);
  std::size_t count = 0, first = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::memcmp(&got[i * size], &expected[i * size], size) == 0) continue;
    if (count++ == 0) first = i;
  }
  return to_string(problem) + ": " + std::to_string(count) + " of " + std::to_string(a.size()) +
         " outputs differ, first " + std::to_string(first) + ": " + std::to_string(a[first]) + " instead of " +
         std::to_string(b[first]);
}

void expect_exact(const Problem& problem, const std::vector<Way>& ways) {
  const Operands operands = integer_operands(problem);
  const Encoded encoded(problem, operands);
  const Bytes expected = encode(problem.dtype, reference(problem, operands));
  for (const Way& way : ways) {
    const Bytes got = run(problem, encoded, way);
    ASSERT_TRUE(got == expected) << difference(problem, got, expected) << " (threads " << way.threads << ", limit "
                                 << way.workspace_limit << ")";
  }
}

const std::vector<Way>& ways() {
  static const std::vector<Way> all{
      {}, {2}, {3, 1 << 14}, {2, 1, backwards}, {4, 1 << 18, at_once}, {1, 0, nullptr, 1 << 12}};
  return all;
}

class CpuForward : public ::testing::TestWithParam<NamedProblem> {};

TEST_P(CpuForward, IsExactOnIntegers) {
  for (DType dtype : kDTypes) {
    for (Layout layout : kLayouts) {
      ASSERT_NO_FATAL_FAILURE(expect_exact(with(GetParam().problem, dtype, layout), ways()));
    }
  }
}

TEST_P(CpuForward, GivesTheSameBitsHoweverItIsCut) {
  for (DType dtype : {DType::float32, DType::float64}) {
    const Problem problem = with(GetParam().problem, dtype, Layout::channels_first);
    const Encoded operands(problem, uniform_operands(problem));
    const Bytes expected = run(problem, operands, {});
    for (const Way& way : ways()) {
      const Bytes got = run(problem, operands, way);
      ASSERT_TRUE(got == expected) << difference(problem, got, expected);
    }
  }
}

TEST_P(CpuForward, IsAsAccurateAsItsSums) {
  for (DType dtype : kDTypes) {
    const Problem problem = with(GetParam().problem, dtype, Layout::channels_first);
    Operands operands = uniform_operands(problem);
    for (auto* values : {&operands.input, &operands.weight, &operands.bias})
      *values = decode(dtype, encode(dtype, *values));
    Operands magnitudes = operands;
    for (auto* values : {&magnitudes.input, &magnitudes.weight, &magnitudes.bias}) {
      for (double& value : *values) value = std::fabs(value);
    }
    const std::vector<double> expected = reference(problem, operands), sums = reference(problem, magnitudes);
    const std::vector<double> got = decode(dtype, run(problem, Encoded(problem, operands), {2}));
    // A sum of n products in any order is within n roundings of the sum of magnitudes (Higham, section 3.1); then the
    // output is rounded to its dtype, whose subnormals have a fixed step.
    const double terms = double(problem.group_in_channels() * problem.taps() + 2);
    const double accumulate = terms * unit_roundoff(dtype == DType::float64 ? dtype : DType::float32);
    for (std::size_t i = 0; i < got.size(); ++i) {
      const double bound = accumulate * sums[i] + 2 * unit_roundoff(dtype) * std::fabs(expected[i]) +
                           1e-7 * sums[i] * (dtype == DType::float16);
      ASSERT_LE(std::fabs(got[i] - expected[i]), bound) << to_string(problem) << " output " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Small, CpuForward, ::testing::ValuesIn(small_problems()), ProblemName());

/// One dtype and layout: the oracle is slow on problems of this size.
class CpuForwardOnce : public ::testing::TestWithParam<NamedProblem> {};

TEST_P(CpuForwardOnce, IsExactOnIntegers) {
  expect_exact(with(GetParam().problem, DType::float32, Layout::channels_first), {{}, {2, 1}});
}

std::vector<NamedProblem> cases_of_few_weights() {
  std::vector<NamedProblem> all = reduced_cases(1e7, 60000);
  all.erase(std::remove_if(all.begin(), all.end(),
                           [](const NamedProblem& named) { return named.problem.weight_elements() > 1000000; }),
            all.end());
  return all;
}

INSTANTIATE_TEST_SUITE_P(Cases, CpuForwardOnce, ::testing::ValuesIn(cases_of_few_weights()), ProblemName());
INSTANTIATE_TEST_SUITE_P(WideIndex, CpuForwardOnce, ::testing::ValuesIn(wide_index_problems()), ProblemName());

/// A legal problem with up to some ten thousand outputs.
Problem random_problem(std::mt19937_64* random) {
  const auto below = [&](std::int64_t end) { return std::int64_t((*random)() % std::uint64_t(end)); };
  const auto one_of = [&](std::initializer_list<std::int64_t> values) {
    return values.begin()[below(std::int64_t(values.size()))];
  };
  for (;;) {
    Problem problem;
    problem.rank = int(1 + below(3));
    problem.batch = one_of({0, 1, 1, 1, 2, 3, 9});
    problem.groups = one_of({1, 1, 1, 2, 3, 7});
    problem.in_channels = problem.groups * one_of({1, 1, 2, 3, 5, 16, 70, 131});
    problem.out_channels = problem.groups * one_of({1, 1, 2, 3, 6, 7, 13, 33});
    problem.bias = below(2) == 0;
    problem.layout = kLayouts[below(2)];
    problem.dtype = kDTypes[below(4)];
    const std::int64_t extent = problem.rank == 1 ? 70 : problem.rank == 2 ? 14 : 6;
    for (int i = 0; i < problem.rank; ++i) {
      Axis& axis = problem.axis(i);
      axis.input = one_of({1, 2, 1 + below(extent), 1 + below(extent)});
      axis.kernel = 1 + below(problem.rank == 1 ? 12 : problem.rank == 2 ? 5 : 4);
      axis.stride = 1 + below(problem.rank == 1 ? 12 : 4);
      axis.dilation = one_of({1, 1, 2, 3, 4, 29});
      axis.output_padding = below(std::max(axis.stride, axis.dilation));
      axis.padding = one_of({0, 0, below(7), below(40)});
    }
    const double products = double(problem.batch * problem.input_positions()) * double(problem.weight_elements());
    if (validate(problem).ok() && problem.output_elements() < 60000 && products < 2e6) return problem;
  }
}

TEST(CpuForwardRandom, IsExactOnIntegers) {
  for (std::uint64_t seed = 0; seed < 800; ++seed) {
    std::mt19937_64 random(seed);
    const Problem problem = random_problem(&random);
    SCOPED_TRACE("seed " + std::to_string(seed));
    ASSERT_NO_FATAL_FAILURE(expect_exact(problem, {{}, {2, 1 << 15, backwards}, {2, 1}}));
  }
}

TEST(CpuForwardRandom, GivesTheSameBitsHoweverItIsCut) {
  for (std::uint64_t seed = 1000; seed < 1150; ++seed) {
    std::mt19937_64 random(seed);
    const Problem problem = random_problem(&random);
    SCOPED_TRACE("seed " + std::to_string(seed));
    const Encoded operands(problem, uniform_operands(problem));
    const Bytes expected = run(problem, operands, {});
    for (const Way& way : ways()) {
      const Bytes got = run(problem, operands, way);
      ASSERT_TRUE(got == expected) << difference(problem, got, expected);
    }
  }
}

TEST(CpuForwardInstructionSets, AreAllExact) {
  for (CpuIsa isa : {CpuIsa::baseline, CpuIsa::avx2, CpuIsa::avx512}) {
    if (isa > cpu_isa()) continue;
    for (std::uint64_t seed = 2000; seed < 2120; ++seed) {
      std::mt19937_64 random(seed);
      const Problem problem = random_problem(&random);
      if (problem.batch == 0) continue;
      SCOPED_TRACE("instruction set " + std::to_string(int(isa)) + " seed " + std::to_string(seed));
      const Operands operands = integer_operands(problem);
      const Bytes expected = encode(problem.dtype, reference(problem, operands));
      const Bytes got = run_with(problem, Encoded(problem, operands), {2, 1 << 16, backwards},
                                 [&](const Plan& plan, const Tensors& tensors, const CpuContext& context) {
                                   return gemm_col2im_cpu(problem, plan, tensors, context, isa);
                                 });
      ASSERT_TRUE(got == expected) << difference(problem, got, expected);
    }
  }
}

TEST(CpuForwardThreads, LargeProblemsUseThoseOfTheCaller) {
  // Large enough for every cut: several position tiles, or several blocks of output channels of one tile.
  for (const Problem& problem : {make_problem(1, 40, 64, {{3000, 4, 2, 1}}), make_problem(1, 300, 256, {{6, 8, 4}})}) {
    static int most_threads;
    most_threads = 0;
    const auto count_threads = [](std::int64_t count, int threads, Body body, void* arg) {
      most_threads = std::max(most_threads, threads);
      backwards(count, threads, body, arg);
    };
    ASSERT_NO_FATAL_FAILURE(expect_exact(problem, {{2, kDefaultWorkspaceLimit, count_threads}, {2}, {7}}));
    EXPECT_EQ(most_threads, 2);
  }
}

TEST(CpuForwardThreads, MayDifferFromThePlans) {
  const Problem problem = make_problem(2, 24, 40, {{500, 5, 3, 1}}, 1, true);
  const Operands operands = integer_operands(problem);
  const Encoded encoded(problem, operands);
  const Bytes expected = encode(problem.dtype, reference(problem, operands));
  for (int planned : {1, 4}) {
    for (int given : {1, 2, 16}) {
      const Bytes got =
          run_with(problem, encoded, {planned}, [&](const Plan& plan, const Tensors& tensors, CpuContext context) {
            context.threads = given;
            return forward(problem, plan, tensors, context);
          });
      EXPECT_TRUE(got == expected) << planned << " planned, " << given << " given";
    }
  }
}

TEST(CpuForwardNan, ReachesTheOutputsThatReadIt) {
  const Problem problem = make_problem(1, 3, 2, {{6, 3, 2, 1, 0, 2}, {9, 4, 2, 1}});
  Operands operands = integer_operands(problem);
  operands.input[problem.input_positions() + 20] = std::nan("");
  const std::vector<double> expected = reference(problem, operands);
  const std::vector<double> got = decode(problem.dtype, run(problem, Encoded(problem, operands), {}));
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_EQ(std::isnan(got[i]), std::isnan(expected[i])) << "output " << i;
}

TEST(CpuWorkspace, ShrinksWithItsLimit) {
  for (const NamedProblem& named : reduced_cases(1e9, 4000000)) {
    SCOPED_TRACE(named.name);
    const std::size_t least = plan_for(named.problem, {2, 0}).workspace_bytes;
    for (std::int64_t limit :
         {std::int64_t{1} << 12, std::int64_t{1} << 16, std::int64_t{1} << 20, std::int64_t{1} << 26}) {
      EXPECT_LE(plan_for(named.problem, {2, limit}).workspace_bytes, std::max(least, std::size_t(limit)));
    }
  }
}

class CpuForwardErrors : public ::testing::Test {
 protected:
  CpuForwardErrors() {
    tensors_ = {operands_.input.data(), operands_.weight.data(), operands_.bias.data(), output_.data()};
    context_.workspace = workspace_.data();
    context_.workspace_bytes = plan_.workspace_bytes;
  }

  /// Every part of the message names something that helps.
  void expect_refused(const std::vector<std::string>& parts) {
    const Status status = forward(problem_, plan_, tensors_, context_);
    EXPECT_EQ(status.code, StatusCode::invalid_argument);
    for (const std::string& part : parts) EXPECT_NE(status.message.find(part), std::string::npos) << status.message;
    const Bytes output = output_.bytes();
    EXPECT_TRUE(std::all_of(output.begin(), output.end(), [](unsigned char byte) { return byte == 0xff; }));
  }

  Problem problem_ = make_problem(2, 3, 4, {{9, 3, 2, 1}}, 1, true);
  Plan plan_ = plan_for(problem_, {});
  Encoded operands_{problem_, integer_operands(problem_)};
  Guarded workspace_{plan_.workspace_bytes};
  Guarded output_{std::size_t(problem_.output_elements()) * sizeof(float)};
  Tensors tensors_;
  CpuContext context_;
};

TEST_F(CpuForwardErrors, WorkspaceTooSmall) {
  --context_.workspace_bytes;
  expect_refused({"workspace_bytes", std::to_string(plan_.workspace_bytes), std::to_string(plan_.workspace_bytes - 1)});
}

TEST_F(CpuForwardErrors, WorkspaceMissing) {
  context_.workspace = nullptr;
  expect_refused({"context.workspace", "nullptr"});
}

TEST_F(CpuForwardErrors, WorkspaceUnaligned) {
  context_.workspace = workspace_.data() + 32;
  expect_refused({"context.workspace", "64", "32"});
}

TEST_F(CpuForwardErrors, NoThreads) {
  context_.threads = 0;
  expect_refused({"context.threads", "0"});
}

TEST_F(CpuForwardErrors, NullTensors) {
  const Tensors all = tensors_;
  tensors_.input = nullptr;
  expect_refused({"tensors.input", "nullptr"});
  tensors_ = all;
  tensors_.weight = nullptr;
  expect_refused({"tensors.weight", "nullptr"});
  tensors_ = all;
  tensors_.bias = nullptr;
  expect_refused({"tensors.bias", "nullptr"});
  tensors_ = all;
  tensors_.output = nullptr;
  expect_refused({"tensors.output", "nullptr"});
}

TEST_F(CpuForwardErrors, BiasMayBeNullWithoutOne) {
  problem_.bias = false;
  tensors_.bias = nullptr;
  EXPECT_TRUE(forward(problem_, plan_, tensors_, context_).ok());
}

TEST_F(CpuForwardErrors, EmptyBatchNeedsNoMemory) {
  problem_.batch = 0;
  plan_ = plan_for(problem_, {});
  EXPECT_TRUE(forward(problem_, plan_, Tensors{}, CpuContext{}).ok());
}

TEST_F(CpuForwardErrors, PlanOfAnotherDevice) {
  plan_.device = Device::cuda;
  expect_refused({"cpu", "cuda"});
}

TEST_F(CpuForwardErrors, PlanOfAnotherDtype) {
  plan_.dtype = DType::float64;
  expect_refused({"float32", "float64"});
}

TEST_F(CpuForwardErrors, PlanOfAnotherProblem) {
  plan_ = plan_for(make_problem(1, 1, 1, {{2, 1}}), {});
  expect_refused({"plan"});
}

TEST_F(CpuForwardErrors, IllegalProblem) {
  problem_.axis(0).stride = 0;
  expect_refused({"stride", "0"});
}

}  // namespace
}  // namespace convt_gemm::testing

// The fused kernels, run by the emulator: every instance of the library, bit for bit against float64 on small integers,
// with outputs NaN before, operands between inaccessible pages, and threads interleaved in many ways.
#include "kernels/implicit_kernel.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "plan/implicit_table.h"
#include "support/problems.h"

namespace convt_gemm::testing {
namespace {

using implicit::Kind;

const std::vector<ImplicitKernel>& kernels() {
  static const std::vector<ImplicitKernel> all{
#define CONVT_IMPLICIT_GEMM(family, kind, layout, rows, columns, words, row_blocks, loaders)                \
  implicit_kernel<Family::family, Kind::kind, Layout::layout, rows, columns, words, row_blocks, loaders>( \
      #family "_" #kind "_" #layout "_loaders" #loaders "_" #rows "x" #columns "x" #words),
#include "implicit/instances.def"
#undef CONVT_IMPLICIT_GEMM
  };
  return all;
}

Problem in(Problem problem, const ImplicitKernel& kernel) {
  problem.dtype = kernel.dtype;
  problem.layout = kernel.layout;
  return problem;
}

/// Runs the kernel on the problem if its tile can serve it; whether it could.
bool expect_exact(const Problem& base, const ImplicitKernel& kernel, int multiprocessors, bool packed,
                  const std::vector<emulator::Options>& every_options) {
  const Problem problem = in(base, kernel);
  ImplicitGeometry geometry;
  if (!make_implicit_geometry(problem, kernel.precision, kernel.tile, emulated_traits(kernel, multiprocessors), &geometry)) return false;
  packed = packed || needs_packing(kernel.tile, geometry);
  const Operands operands = integer_operands(problem);
  std::vector<double> expected(std::size_t(problem.output_elements()));
  Problem plain = problem;
  plain.layout = Layout::channels_first;
  reference_forward(plain, operands.input.data(), operands.weight.data(), operands.bias.data(), expected.data());
  // Sums are exact; an output is their one rounding to its dtype.
  const std::vector<double> want =
      decode(problem.dtype, encode(problem.dtype, arranged(expected, problem.layout, problem.out_channels, problem.output_positions())));
  const EmulatedRun run(problem, operands);
  for (const emulator::Options& options : every_options) {
    const std::vector<double> got = decode(problem.dtype, run.run(kernel, geometry, packed, options));
    for (std::size_t i = 0; i < want.size(); ++i) {
      if (got[i] == want[i]) continue;
      ADD_FAILURE() << kernel.name << (packed ? " packed" : "") << " with " << multiprocessors << " multiprocessors, " << options
                    << ", on " << to_string(problem) << ": element " << i << " is " << got[i] << ", expected " << want[i];
      return true;
    }
  }
  return true;
}

std::vector<NamedProblem> one_axis_problems() {
  std::vector<NamedProblem> problems;
  for (const NamedProblem& named : small_problems()) {
    if (named.problem.rank == 1 && named.problem.batch > 0) problems.push_back(named);
  }
  return problems;
}

class ImplicitKernels : public ::testing::TestWithParam<ImplicitKernel> {};

TEST_P(ImplicitKernels, GiveTheReference) {
  const ImplicitKernel& kernel = GetParam();
  bool packed = false;  // every other problem
  for (const NamedProblem& named : one_axis_problems()) {
    EXPECT_TRUE(expect_exact(named.problem, kernel, 2, packed, {{}})) << named.name << ": no geometry for " << kernel.name;
    packed = !packed;
  }
}

/// Rows of several tiles, cut where sectors of memory begin; aligned rows of x and others, samples that start at different places of a
/// sector, outputs without taps, and more columns than one block has.
TEST_P(ImplicitKernels, CutLongRows) {
  const ImplicitKernel& kernel = GetParam();
  for (const Problem& problem :
       {make_problem(2, 5, 37, {{1100, 3, 1}}, 1, true), make_problem(3, 9, 5, {{701, 4, 2, 1}}), make_problem(2, 3, 66, {{600, 3, 2, 1, 0, 2}}, 1, true),
        make_problem(2, 6, 33, {{1028, 5, 3, 2, 1}}, 1, true), make_problem(1, 4, 7, {{900, 16, 8, 4}}), make_problem(2, 4, 6, {{577, 7, 3, 9, 2}}, 2, true),
        make_problem(2, 2, 3, {{640, 2, 4, 1, 3}}, 1, true)}) {
    EXPECT_TRUE(expect_exact(problem, kernel, 2, false, {{emulator::Order::starve, emulator::Completion::late, 5}})) << to_string(problem);
    EXPECT_TRUE(expect_exact(problem, kernel, 2, true, {{}})) << to_string(problem);
  }
}

/// Rows of several tiles, and short ones, of which a thread stores one, two, four or eight outputs at a time where it stores its sums itself.
TEST_P(ImplicitKernels, StoreConsecutiveOutputsTogether) {
  const ImplicitKernel& kernel = GetParam();
  for (const Axis& axis : {Axis{560, 4, 2, 0}, Axis{530, 8, 4, 2}, Axis{520, 16, 8, 4}, Axis{536, 8, 8, 0}, Axis{21, 16, 8, 0}, Axis{24, 32, 16, 8}, Axis{40, 3, 1, 0},
                           Axis{640, 3, 1, 0}, Axis{701, 4, 1, 1}, Axis{31, 4, 1, 0}}) {
    EXPECT_TRUE(expect_exact(make_problem(2, 5, 19, {axis}, 1, true), kernel, 2, false, {{}}));
    EXPECT_TRUE(expect_exact(make_problem(1, 4, 66, {axis}, 2), kernel, 1, true, {{emulator::Order::starve, emulator::Completion::late, 5}}));
  }
}

/// Residues numbered by the output: half of the columns read x one position further. Short rows and long ones, kernels that are no multiple of the
/// stride, more taps than a chunk has, more padding than a stride, more than one chunk, samples that share their zeros.
TEST_P(ImplicitKernels, HaveTwoSetsOfColumns) {
  const ImplicitKernel& kernel = GetParam();
  for (const Axis& axis : {Axis{563, 4, 2, 1}, Axis{530, 8, 4, 2}, Axis{17, 16, 8, 4}, Axis{300, 3, 2, 1, 1}, Axis{61, 19, 4, 2, 1}, Axis{90, 12, 4, 6}, Axis{34, 2, 2, 1}}) {
    EXPECT_TRUE(expect_exact(make_problem(3, 5, 19, {axis}, 1, true), kernel, 2, false, {{}}));
    EXPECT_TRUE(expect_exact(make_problem(1, 70, 33, {axis}, 1), kernel, 1, true, {{emulator::Order::starve, emulator::Completion::late, 5}}));
  }
}

/// Two tiles of rows and columns, odd lengths and more than one chunk, so that stages are filled again while others are read.
TEST_P(ImplicitKernels, DoNotDependOnTheOrderOfThreads) {
  const ImplicitKernel& kernel = GetParam();
  const int depth = 3 * kernel.tile.words * int(4 / size_of(kernel.dtype));
  for (const Problem& problem : {make_problem(2, depth, 37, {{131, 4, 2, 1}}, 1, true), make_problem(3, depth + 4, 24, {{200, 5, 1, 0, 0, 3}})}) {
    EXPECT_TRUE(expect_exact(problem, kernel, 1, false, emulator::many_options(1)));
    EXPECT_TRUE(expect_exact(problem, kernel, 1, true, {{emulator::Order::starve, emulator::Completion::random, 7}}));
  }
}

/// Enough depth that teams with resident weights begin in turn, with a team that has no tile, and so much that weights stream; chunks of one to
/// three taps.
TEST_P(ImplicitKernels, BeginInTurn) {
  const ImplicitKernel& kernel = GetParam();
  for (const Problem& problem : {make_problem(1, 88, 30, {{700, 3, 1}}, 1, true), make_problem(2, 256, 33, {{150, 1, 1}}), make_problem(1, 130, 9, {{515, 4, 2, 1}}, 1, true),
                                 make_problem(1, 460, 5, {{140, 1, 1}}), make_problem(1, 220, 6, {{190, 3, 1, 1}}, 1, true)}) {
    EXPECT_TRUE(expect_exact(problem, kernel, 1, false, {{emulator::Order::starve, emulator::Completion::late, 3}}));
    EXPECT_TRUE(expect_exact(problem, kernel, 2, false, {{}}));
  }
}

/// The largest error of sums in plain float32, one term after the other, on one axis and sample.
double float32_error(const Problem& p, const Operands& operands, const std::vector<double>& expected) {
  const Axis& axis = p.axis(0);
  double worst = 0;
  for (std::int64_t channel = 0; channel < p.out_channels; ++channel) {
    for (std::int64_t o = 0; o < axis.output(); ++o) {
      float sum = 0;
      for (std::int64_t c = 0; c < p.in_channels; ++c) {
        for (std::int64_t k = 0; k < axis.kernel; ++k) {
          const std::int64_t scaled = o + axis.padding - k * axis.dilation;
          if (scaled < 0 || scaled % axis.stride != 0 || scaled / axis.stride >= axis.input) continue;
          sum += float(operands.input[std::size_t(c * axis.input + scaled / axis.stride)]) *
                 float(operands.weight[std::size_t((c * p.out_channels + channel) * axis.kernel + k)]);
        }
      }
      sum += float(operands.bias[std::size_t(channel)]);
      worst = std::max(worst, std::fabs(sum - expected[std::size_t(channel * axis.output() + o)]));
    }
  }
  return worst;
}

/// Real values: the error is the arithmetic's, not more. A depth of 1024 terms shows sums that lose places.
TEST_P(ImplicitKernels, HaveTheErrorOfTheirArithmetic) {
  const ImplicitKernel& kernel = GetParam();
  const Problem problem = in(make_problem(1, 512, 8, {{30, 4, 2, 1}}, 1, true), kernel);
  ImplicitGeometry geometry;
  ASSERT_TRUE(make_implicit_geometry(problem, kernel.precision, kernel.tile, emulated_traits(kernel, 2), &geometry));
  Operands operands = uniform_operands(problem);
  for (std::vector<double>* values : {&operands.input, &operands.weight, &operands.bias}) {
    *values = decode(problem.dtype, encode(problem.dtype, *values));
  }
  Problem plain = problem;
  plain.layout = Layout::channels_first;
  std::vector<double> expected(std::size_t(problem.output_elements()));
  reference_forward(plain, operands.input.data(), operands.weight.data(), operands.bias.data(), expected.data());
  const std::vector<double> want = arranged(expected, problem.layout, problem.out_channels, problem.output_positions());
  const std::vector<double> got = decode(problem.dtype, EmulatedRun(problem, operands).run(kernel, geometry, needs_packing(kernel.tile, geometry), {}));
  double worst = 0, largest = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    worst = std::max(worst, std::fabs(got[i] - want[i]));
    largest = std::max(largest, std::fabs(want[i]));
  }
  const double tf32 = std::sqrt(1024.0) * 0x1p-11;  // both operands of each of 1024 products are rounded to 11 bits
  const double bound = kernel.dtype != DType::float32            ? largest * unit_roundoff(kernel.dtype) + 1e-4
                       : kernel.precision == Precision::tf32x3 ? 2 * float32_error(plain, operands, expected)
                                                                : tf32;
  EXPECT_LE(worst, bound);
  if (kernel.precision == Precision::tf32) {
    EXPECT_GE(worst, tf32 / 16) << "too good for TF32";
  }
}

/// NaN reaches the outputs that its position reaches, and no other. (kernel = 2 stride: every residue has all taps.)
TEST_P(ImplicitKernels, KeepNaN) {
  const ImplicitKernel& kernel = GetParam();
  const Problem problem = in(make_problem(1, 9, 3, {{40, 4, 2, 1}}), kernel);
  ImplicitGeometry geometry;
  ASSERT_TRUE(make_implicit_geometry(problem, kernel.precision, kernel.tile, emulated_traits(kernel, 2), &geometry));
  Operands operands = integer_operands(problem);
  for (double& weight : operands.weight) weight = 1;
  const std::int64_t position = 17;
  for (const double nan : {double(__uint_as_float(0x7fffffffu)), -double(__uint_as_float(0x7fffffffu))}) {
    operands.input[std::size_t(5 * problem.axis(0).input + position)] = nan;
    const std::vector<double> got = decode(problem.dtype, EmulatedRun(problem, operands).run(kernel, geometry, needs_packing(kernel.tile, geometry), {}));
    for (std::int64_t o = 0; o < problem.output_positions(); ++o) {
      const std::int64_t tap = o + 1 - 2 * position;
      for (std::int64_t channel = 0; channel < 3; ++channel) {
        const std::int64_t at = problem.layout == Layout::channels_first ? channel * problem.output_positions() + o : o * 3 + channel;
        EXPECT_EQ(std::isnan(got[std::size_t(at)]), tap >= 0 && tap < 4) << "output " << o;
      }
    }
  }
}

struct InstanceName {
  template <class Info>
  std::string operator()(const Info& info) const {
    return info.param.name;
  }
};
INSTANTIATE_TEST_SUITE_P(Instance, ImplicitKernels, ::testing::ValuesIn(kernels()), InstanceName());

/// Rows of the list are the planner's and the kernels'.
TEST(ImplicitInstances, HaveTheSameNamesEverywhere) {
  ASSERT_EQ(kernels().size(), kImplicitInstances);
  for (std::size_t i = 0; i < kImplicitInstances; ++i) {
    EXPECT_EQ(kernels()[i].name.rfind(implicit_instances()[i].name, 0), 0u) << kernels()[i].name;
    EXPECT_EQ(kernels()[i].dtype, implicit_instances()[i].dtype);
    EXPECT_EQ(kernels()[i].precision, implicit_instances()[i].precision);
  }
}

/// Random problems with random instances; a failure's line names the problem.
TEST(ImplicitKernelsFuzz, GiveTheReference) {
  const std::uint64_t seed = ::testing::GTEST_FLAG(random_seed) ? std::uint64_t(::testing::GTEST_FLAG(random_seed)) : 20260727;
  std::mt19937_64 random(seed);
  const auto pick = [&](std::int64_t low, std::int64_t high) { return low + std::int64_t(random() % std::uint64_t(high - low + 1)); };
  int served = 0;
  for (int trial = 0; trial < 150; ++trial) {
    Axis axis;
    axis.input = pick(1, pick(0, 3) == 0 ? 700 : 60), axis.kernel = pick(1, pick(0, 5) == 0 ? 70 : 9), axis.stride = pick(1, pick(0, 5) == 0 ? 40 : 8);
    axis.dilation = pick(0, 2) == 0 ? pick(1, 7) : 1;
    axis.padding = pick(0, axis.dilation * (axis.kernel - 1) + 2);
    axis.output_padding = pick(0, std::max(axis.stride, axis.dilation) - 1);
    const std::int64_t groups = pick(0, 3) == 0 ? pick(2, 3) : 1;
    const Problem problem = make_problem(pick(1, 5), groups * pick(1, 40), groups * pick(1, 40), {axis}, groups, pick(0, 1) == 1);
    if (!validate(problem).ok() || problem.output_elements() > 60000) continue;
    const ImplicitKernel& kernel = kernels()[random() % kernels().size()];
    const emulator::Options options{emulator::Order(pick(0, 2)), emulator::Completion(pick(0, 2)), random()};
    SCOPED_TRACE("--gtest_random_seed=" + std::to_string(seed) + ", trial " + std::to_string(trial));
    served += expect_exact(problem, kernel, int(pick(1, 9)), pick(0, 1) == 1, {options});
  }
  EXPECT_GT(served, 80);
}

}  // namespace
}  // namespace convt_gemm::testing

// The column kernel that multiplies with tensor cores, run by the emulator: bit for bit against float64 on small integers, with operands between inaccessible pages and
// every output written once.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "convt_gemm/reference.h"
#include "direct/mma_columns_kernel.cuh"
#include "emulator/emulator.h"
#include "kernels/emulated.h"
#include "plan/mma_columns.h"
#include "support/cases.h"
#include "support/dtype.h"
#include "support/problems.h"
#include "support/random_columns.h"
#include "support/values.h"

namespace convt_gemm::testing {
namespace {

using direct::ColumnShape;
using direct::MmaColumnGeometry;

constexpr DType kDTypes[] = {DType::float32, DType::bfloat16, DType::float16};

/// Outputs are NaN of all bits until they are written.
struct GlobalMemory {
  static inline int written_twice = 0;
  template <class T>
  static T load(const T* from) {
    return *from;
  }
  template <class T>
  static void store(T* to, T value) {
    const std::uint32_t unwritten = 0xffffffffu;
    written_twice += std::memcmp(to, &unwritten, sizeof(T)) != 0;
    *to = value;
  }
};

/// How a problem is run.
struct Way {
  ColumnShape shape;
  std::int64_t most_stages = direct::kMostMmaStages;
  emulator::Options options = {};
};

template <class T>
Bytes run_as(const Problem& problem, const Operands& operands, const Way& way) {
  const auto x = guarded(encode(problem.dtype, operands.input)), weight = guarded(encode(problem.dtype, operands.weight)), bias = guarded(encode(problem.dtype, operands.bias));
  const emulator::GuardedMemory y(std::size_t(problem.output_elements()) * sizeof(T));
  const MmaColumnGeometry g = direct::mma_column_geometry(problem, way.shape, way.most_stages);
  Tensors tensors;
  tensors.input = x->data(), tensors.weight = weight->data(), tensors.bias = bias->data(), tensors.output = y.data();
  const direct::MmaColumnParams params = direct::mma_column_params(problem, g, tensors);
  GlobalMemory::written_twice = 0;
  emulator::GuardedMemory::hold({x.get(), weight.get(), bias.get(), &y});
  emulator::launch({unsigned(g.columns.blocks)}, {unsigned(g.threads())}, std::size_t(g.shared_bytes), way.options, [&] {
    g.columns.columns == direct::kMmaColumns ? direct::MmaColumns<T, 1>::template run<GlobalMemory>(params) : direct::MmaColumns<T, 2>::template run<GlobalMemory>(params);
  });
  EXPECT_EQ(GlobalMemory::written_twice, 0) << to_string(problem);
  return Bytes(y.data(), y.data() + y.bytes());
}

Bytes run(const Problem& problem, const Operands& operands, const Way& way) {
  if (problem.dtype == DType::float32) return run_as<float>(problem, operands, way);
  return problem.dtype == DType::bfloat16 ? run_as<BFloat16>(problem, operands, way) : run_as<Float16>(problem, operands, way);
}

std::vector<double> expected_of(const Problem& problem, const Operands& operands) {
  std::vector<double> expected(std::size_t(problem.output_elements()));
  reference_forward(problem, operands.input.data(), operands.weight.data(), operands.bias.data(), expected.data());
  return expected;
}

/// The planner's choice, and shapes that cut tiles and chunks unevenly, with rings that go round.
std::vector<Way> ways_for(const Problem& problem) {
  const emulator::Options late{emulator::Order::starve, emulator::Completion::late, 5};
  return {{direct::choose_mma_column_shape(problem)}, {{1, 1}, 1, late}, {{3, 1}, 2}, {{1, 3}, 3, late}, {{2, 4}}};
}

void expect_exact(const Problem& problem, const std::vector<Way>& ways) {
  const Operands operands = integer_operands(problem);
  const Bytes expected = encode(problem.dtype, expected_of(problem, operands));
  for (const Way& way : ways) {
    ASSERT_TRUE(run(problem, operands, way) == expected) << to_string(problem) << " slices " << way.shape.slices << " splits " << way.shape.splits << " stages "
                                                         << way.most_stages << " " << way.options;
    ASSERT_FALSE(::testing::Test::HasFailure());
  }
}

std::vector<NamedProblem> served(std::vector<NamedProblem> all) {
  const auto refused = [](const NamedProblem& named) {
    Problem problem = named.problem;
    problem.dtype = DType::bfloat16;
    return problem.batch == 0 || !direct::mma_columns_serve(problem, Precision::tf32);
  };
  all.erase(std::remove_if(all.begin(), all.end(), refused), all.end());
  return all;
}

/// Rows of every length after a whole number of 16 bytes, tiles of every fill, chunks that are full and not, one block of columns and two.
std::vector<NamedProblem> column_problems() {
  std::vector<NamedProblem> all;
  for (std::int64_t rest = 0; rest < 8; ++rest) {
    for (std::int64_t input : {rest, 24 + rest, 120 + rest, 248 + rest}) {
      if (input == 0) continue;
      const std::int64_t channels = 9 + 8 * rest, kernel = 3 + 2 * rest;
      const Axis axis{input, kernel, 1 + rest, std::min(kernel / 3, input)};
      all.push_back({"rows_of_" + std::to_string(input), make_problem(2, channels, 1, {axis}, 1, rest % 2 == 0)});
      all.push_back({"groups_of_rows_of_" + std::to_string(input),
                     make_problem(2, 2 * (channels + 1), 4, {{input, std::min<std::int64_t>(kernel, 16), 1 + rest, std::min(kernel / 2, input)}}, 2, true)});
    }
  }
  const std::vector<NamedProblem> more = {
      {"conv_tasnet", make_problem(2, 70, 1, {{401, 16, 8, 8}})},
      {"conv_tasnet_even", make_problem(1, 64, 1, {{400, 16, 8, 8}}, 1, true)},
      {"many_channels", make_problem(1, 530, 1, {{67, 16, 8, 8}})},
      {"hifi_gan", make_problem(1, 16, 8, {{300, 4, 2, 1}}, 1, true)},
      {"kernel_1", make_problem(1, 33, 5, {{77, 1, 1}}, 1, true)},
      {"columns_32", make_problem(2, 48, 1, {{93, 32, 16, 9}}, 1, true)},
      {"columns_17", make_problem(2, 21, 1, {{93, 17, 5}}, 1, true)},
      {"two_channels", make_problem(3, 2, 1, {{35, 4, 2, 1}}, 1, true)},
      {"dilated", make_problem(2, 13, 2, {{140, 5, 2, 3, 0, 3}}, 1, true)},
      {"dilated_gaps", make_problem(2, 13, 2, {{140, 5, 6, 3, 2, 4}}, 1, true)},
      {"dilated_far", make_problem(1, 17, 1, {{140, 3, 1, 0, 0, 8}})},
      {"stride_above_kernel", make_problem(1, 20, 2, {{133, 3, 11, 0, 7}}, 1, true)},
      {"long_output_padding", make_problem(1, 5, 1, {{129, 2, 3, 1, 8, 9}}, 1, true)},
      {"cropped", make_problem(1, 6, 2, {{300, 4, 1, 140}}, 1, true)},
      {"cropped_strided", make_problem(1, 36, 2, {{301, 4, 2, 199, 1}})},
      {"pixel_shuffle", make_problem(2, 19, 1, {{5, 2, 2}, {131, 2, 2}}, 1, true)},
      {"rectangle", make_problem(2, 40, 2, {{5, 2, 3, 1, 2}, {33, 5, 2, 1, 1}}, 2, true)},
      {"rectangle_cropped", make_problem(1, 3, 1, {{9, 2, 2, 5}, {40, 2, 2, 30}}, 1, true)},
      {"box", make_problem(2, 25, 3, {{3, 2, 2}, {4, 1, 1}, {35, 4, 4}}, 1, true)},
      {"flat_box", make_problem(1, 5, 1, {{3, 1, 3, 1, 2}, {4, 3, 3, 1}, {7, 3, 2, 1, 1}})},
  };
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

TEST(MmaColumnProblems, AreServed) {
  for (const NamedProblem& named : column_problems()) {
    Problem problem = named.problem;
    for (DType dtype : kDTypes) {
      problem.dtype = dtype;
      EXPECT_TRUE(direct::mma_columns_serve(problem, Precision::tf32)) << named.name << ": " << to_string(problem);
    }
  }
}

class MmaColumnKernel : public ::testing::TestWithParam<NamedProblem> {};

TEST_P(MmaColumnKernel, IsExactOnIntegers) {
  Problem problem = GetParam().problem;
  for (DType dtype : kDTypes) {
    problem.dtype = dtype;
    ASSERT_NO_FATAL_FAILURE(expect_exact(problem, ways_for(problem)));
  }
}

INSTANTIATE_TEST_SUITE_P(Small, MmaColumnKernel, ::testing::ValuesIn(served(small_problems())), ProblemName());
INSTANTIATE_TEST_SUITE_P(Columns, MmaColumnKernel, ::testing::ValuesIn(served(column_problems())), ProblemName());
INSTANTIATE_TEST_SUITE_P(Cases, MmaColumnKernel, ::testing::ValuesIn(served(reduced_cases(1e6, 20000))), ProblemName());

/// Of few blocks, for the emulator's sake.
Problem random_problem(std::mt19937_64* random) {
  return random_column_problem(random, {std::begin(kDTypes), std::end(kDTypes)}, {2, 3, 8, 11, 16, 17, 40, 64, 100}, [](const Problem& problem) {
    return problem.batch * problem.groups * problem.axes[0].input * problem.axes[1].input < 30 && direct::mma_columns_serve(problem, Precision::tf32);
  });
}

Way random_way(const Problem& problem, std::mt19937_64* random) {
  const auto below = [&](int end) { return int((*random)() % unsigned(end)); };
  const int slices = 1 + below(4), splits = 1 + below(direct::kMmaWarps / slices);
  if (below(3) == 0) return {direct::choose_mma_column_shape(problem)};
  return {{slices, splits}, splits * (1 + below(3)), {emulator::Order(below(3)), emulator::Completion(below(3)), (*random)()}};
}

TEST(MmaColumnKernelRandom, IsExactOnIntegers) {
  for (std::uint64_t seed = 0; seed < 250; ++seed) {
    std::mt19937_64 random(seed);
    const Problem problem = random_problem(&random);
    SCOPED_TRACE("seed " + std::to_string(seed));
    ASSERT_NO_FATAL_FAILURE(expect_exact(problem, {random_way(problem, &random)}));
  }
}

TEST(MmaColumnKernelRandom, DoesNotDependOnTheOrderOfThreads) {
  Problem problem = make_problem(1, 83, 1, {{115, 16, 8, 8}}, 1, true);
  problem.dtype = DType::bfloat16;
  for (const emulator::Options& options : emulator::many_options(2)) {
    ASSERT_NO_FATAL_FAILURE(expect_exact(problem, {{{2, 2}, 4, options}, {{3, 1}, 2, options}, {{1, 3}, 3, options}}));
  }
}

/// Tiles and slices only move work about; splits of the chunks are part of the order of the sum.
TEST(MmaColumnKernelRandom, GivesTheSameBitsHoweverItsTilesAreCut) {
  for (std::uint64_t seed = 3000; seed < 3040; ++seed) {
    std::mt19937_64 random(seed);
    const Problem problem = random_problem(&random);
    SCOPED_TRACE("seed " + std::to_string(seed));
    const Operands operands = uniform_operands(problem);
    EXPECT_TRUE(run(problem, operands, {{1, 2}}) == run(problem, operands, {{3, 2}, 2})) << to_string(problem);
  }
}

/// Inputs that are infinite or NaN reach the outputs that read them and no others, though rows bring their neighbours' elements along and chunks are filled up.
TEST(MmaColumnKernelNan, ReachesOnlyTheOutputsThatReadIt) {
  for (Problem problem : {make_problem(1, 11, 1, {{301, 5, 2}}), make_problem(1, 29, 1, {{303, 7, 3, 2, 0, 2}}), make_problem(2, 40, 3, {{141, 3, 5, 1}}),
                          make_problem(1, 6, 1, {{6, 2, 2}, {91, 3, 2}}), make_problem(1, 60, 2, {{35, 2, 2}}, 2)}) {
    problem.dtype = DType::bfloat16;
    Operands operands = integer_operands(problem);
    for (double& value : operands.weight) value += value == 0;
    operands.input[200] = std::nan("");
    operands.input[operands.input.size() / 2] = HUGE_VAL;
    operands.input[operands.input.size() - 1] = -HUGE_VAL;
    const std::vector<double> expected = decode(problem.dtype, encode(problem.dtype, expected_of(problem, operands)));
    for (const Way& way : ways_for(problem)) {
      const std::vector<double> got = decode(problem.dtype, run(problem, operands, way));
      for (std::size_t i = 0; i < got.size(); ++i) {
        ASSERT_TRUE(got[i] == expected[i] || (std::isnan(got[i]) && std::isnan(expected[i])))
            << to_string(problem) << " output " << i << ": " << got[i] << " instead of " << expected[i];
      }
    }
  }
}

}  // namespace
}  // namespace convt_gemm::testing

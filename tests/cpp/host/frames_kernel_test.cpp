// The direct algorithm's kernel of overlapping frames, run step by step and thread by thread on the processor: bitwise against the
// oracle on small integers, with every load and store checked against the bounds of its tensor, every output written exactly once,
// and shared memory that is NaN until it is written.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "direct/columns_dispatch.h"
#include "support/checked_access.h"
#include "support/dtype.h"
#include "support/problems.h"
#include "support/values.h"
#include "support/with_type.h"

namespace convt_gemm::testing {
namespace {

constexpr DType kDTypes[] = {DType::float32, DType::float64, DType::bfloat16, DType::float16};

template <class T>
Bytes run_as(const Problem& problem, const Operands& operands) {
  CheckedTensors<T> tensors(problem, operands);
  direct::for_frame_kernel<T>(problem, [&](auto kernel, const direct::FrameParams& p, std::int64_t blocks) {
    using Kernel = decltype(kernel);
    const auto shared = std::make_unique<typename Kernel::Shared>();
    for (std::int64_t index = 0; index < blocks; ++index) {
      std::memset(static_cast<void*>(shared.get()), 0xff, sizeof *shared);
      const typename Kernel::Block block = Kernel::block_of(p, typename Kernel::Int(index));
      std::vector<typename Kernel::Thread> threads(direct::kFrameThreads);
      const auto every = [&](auto step) {
        for (std::size_t t = 0; t < threads.size(); ++t) step(typename Kernel::Int(t), threads[t]);
      };
      every([&](auto t, auto& state) {
        Kernel::template ask<CheckedAccess>(p, block, tensors.input(), tensors.weight(), *shared, t, state);
      });
      every([&](auto, auto& state) { Kernel::template park<CheckedAccess>(*shared, state); });
      every([&](auto, auto& state) { Kernel::multiply(*shared, state); });
      every([&](auto, auto& state) { Kernel::put(*shared, state); });
      every([&](auto t, auto&) { Kernel::template store<CheckedAccess>(p, block, *shared, tensors.bias(), tensors.output(), t); });
    }
  });
  return tensors.checked_output();
}

Bytes run(const Problem& problem, const Operands& operands) {
  return with_type(problem.dtype, [&](auto type) { return run_as<decltype(type)>(problem, operands); });
}

Problem random_problem(std::mt19937_64* random) {
  const auto below = [&](std::int64_t end) { return std::int64_t((*random)() % std::uint64_t(end)); };
  const std::int64_t stride = 4 + below(2), groups = 1 + below(3), input = below(2) ? 1 + below(20) : 1 + below(800);
  for (;;) {
    const Axis axis{input, 4 * stride, stride, below(3) ? below(2 * stride + 2) : below(input * stride), below(stride)};
    Problem problem = make_problem(1 + below(3), groups * (2 + below(11)), groups, {axis}, groups, below(2) == 0);
    problem.dtype = kDTypes[below(4)];
    if (validate(problem).ok() && problem.output_elements() > 0) return problem;
  }
}

TEST(FramesKernel, IsExactOnIntegers) {
  for (std::uint64_t seed = 0; seed < 600; ++seed) {
    std::mt19937_64 random(seed);
    const Problem problem = random_problem(&random);
    SCOPED_TRACE("seed " + std::to_string(seed) + " " + to_string(problem));
    ASSERT_TRUE(direct::frames_serve(problem));
    const Operands operands = integer_operands(problem);
    ASSERT_TRUE(run(problem, operands) == encode(problem.dtype, reference(problem, operands)));
    ASSERT_FALSE(::testing::Test::HasFailure());
  }
}

TEST(FramesKernel, ServesShortKernelsOfFewChannelsAndOneAxis) {
  EXPECT_TRUE(direct::frames_serve(make_problem(1, 11, 1, {{48001, 20, 5}})));
  EXPECT_TRUE(direct::frames_serve(make_problem(2, 18, 2, {{1000, 16, 4, 6}}, 2)));
  EXPECT_FALSE(direct::frames_serve(make_problem(1, 11, 1, {{48001, 19, 5}})));
  EXPECT_FALSE(direct::frames_serve(make_problem(1, 11, 1, {{48001, 24, 6}})));
  EXPECT_FALSE(direct::frames_serve(make_problem(1, 13, 1, {{48001, 20, 5}})));
  EXPECT_FALSE(direct::frames_serve(make_problem(1, 8, 2, {{48001, 16, 4}})));
  EXPECT_FALSE(direct::frames_serve(make_problem(1, 8, 1, {{2, 2, 2}, {4800, 16, 4}})));
}

/// Inputs that are infinite or NaN reach the outputs that read them and no others.
TEST(FramesKernel, NanReachesOnlyTheOutputsThatReadIt) {
  const Problem problem = make_problem(1, 11, 1, {{300, 20, 5, 3}});
  Operands operands = integer_operands(problem);
  for (double& value : operands.weight) value += value == 0;
  operands.input[200] = std::nan("");
  operands.input[operands.input.size() / 2] = std::numeric_limits<double>::infinity();
  operands.input[operands.input.size() - 1] = -std::numeric_limits<double>::infinity();
  const std::vector<double> expected = reference(problem, operands), got = decode(problem.dtype, run(problem, operands));
  for (std::size_t i = 0; i < got.size(); ++i) {
    ASSERT_TRUE(got[i] == expected[i] || (std::isnan(got[i]) && std::isnan(expected[i]))) << "output " << i << ": " << got[i];
  }
}

}  // namespace
}  // namespace convt_gemm::testing

// The direct algorithm's kernel of streamed weights, run step by step and thread by thread on the processor: bitwise against the oracle on small integers,
// with every load and store checked against the bounds of its tensor, every output written exactly once, and shared memory that is NaN until it is written.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "direct/streamed_dispatch.h"
#include "plan/direct_plans.h"
#include "support/cases.h"
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
  const direct::StreamedGeometry g = direct::streamed_geometry(problem);
  direct::for_streamed_kernel<T>(problem, g, [&](auto kernel, const direct::StreamedParams& p) {
    using Kernel = decltype(kernel);
    using Int = typename Kernel::Int;
    const Int count = Int(g.threads());
    EXPECT_LE(count, Kernel::kMostThreads);
    std::vector<direct::Words> shared(std::size_t(g.shared_bytes) / sizeof(direct::Words) + 1);
    const auto inputs = reinterpret_cast<typename Kernel::Inputs*>(shared.data());
    const auto columns = reinterpret_cast<typename Kernel::Acc*>(shared.data());
    const auto nan = [&] { std::memset(static_cast<void*>(shared.data()), 0xff, shared.size() * sizeof(direct::Words)); };
    for (std::int64_t index = 0; index < g.blocks; ++index) {
      nan();
      const typename Kernel::Block block = Kernel::block_of(p, Int(index));
      std::vector<typename Kernel::Thread> threads{std::size_t(count)};
      const auto every = [&](auto step) {
        for (Int t = 0; t < count; ++t) step(t, threads[std::size_t(t)]);
      };
      every([&](Int t, auto& state) { Kernel::template ask<CheckedAccess>(p, block, tensors.weight(), tensors.input(), t, state); });
      every([&](Int t, auto&) { Kernel::template stage<CheckedAccess>(p, block, tensors.input(), t, count, inputs); });
      every([&](Int, auto& state) { Kernel::template multiply<CheckedAccess>(p, inputs, state); });
      nan();
      every([&](Int, auto& state) { Kernel::put(p, reinterpret_cast<typename Kernel::Sums*>(shared.data()), state); });
      every([&](Int t, auto&) { Kernel::sum(p, columns, t, count); });
      every([&](Int t, auto&) { Kernel::template store<CheckedAccess>(p, block, columns, tensors.bias(), tensors.output(), t, count); });
    }
  });
  return tensors.checked_output();
}

Bytes run(const Problem& problem, const Operands& operands) {
  return with_type(problem.dtype, [&](auto type) { return run_as<decltype(type)>(problem, operands); });
}

/// One to three axes with eight positions at most, in any layout.
Problem random_problem(std::mt19937_64* random) {
  const auto below = [&](std::int64_t end) { return std::int64_t((*random)() % std::uint64_t(end)); };
  for (;;) {
    std::vector<Axis> axes;
    const std::int64_t rank = 1 + (below(3) == 0 ? 1 + below(2) : 0);
    for (std::int64_t a = 0; a < rank; ++a) {
      const std::int64_t stride = 1 + below(rank == 1 ? 10 : 3), dilation = below(3) ? 1 : 1 + below(4);
      axes.push_back({1 + below(rank == 1 ? 8 : 3), 1 + below(rank == 1 ? 24 : 4), stride, below(4), below(std::max(stride, dilation)), dilation});
    }
    const std::int64_t groups = below(3) ? 1 : 1 + below(3);
    const std::int64_t in = below(3) ? 8 + below(20) : 40 + below(600), out = below(4) ? 1 + below(24) : 1 + below(300);
    Problem problem = make_problem(below(4) ? 1 + below(4) : 1 + below(20), groups * in, groups * out, axes, groups, below(2) == 0);
    problem.dtype = kDTypes[below(4)];
    problem.layout = below(3) ? Layout::channels_first : Layout::channels_last;
    if (validate(problem).ok() && problem.output_elements() > 0 && problem.input_positions() <= direct::kMostStreamedPositions) return problem;
  }
}

TEST(StreamedKernel, IsExactOnIntegers) {
  int served = 0;
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    std::mt19937_64 random(seed);
    const Problem problem = random_problem(&random);
    if (!direct::streamed_serve(problem)) continue;
    ++served;
    SCOPED_TRACE("seed " + std::to_string(seed) + " " + to_string(problem));
    const Operands operands = integer_operands(problem);
    ASSERT_TRUE(run(problem, operands) == encode(problem.dtype, reference(problem, operands)));
    ASSERT_FALSE(::testing::Test::HasFailure());
  }
  EXPECT_GE(served, 400);
}

TEST(StreamedKernel, ServesFewPositionsOfSeveralChannels) {
  EXPECT_TRUE(direct::streamed_serve(make_problem(1, 1024, 512, {{2, 16, 8}})));
  EXPECT_TRUE(direct::streamed_serve(make_problem(4, 1024, 512, {{2, 16, 8}})));
  EXPECT_TRUE(direct::streamed_serve(make_problem(1000, 1024, 512, {{8, 16, 8}})));
  EXPECT_TRUE(direct::streamed_serve(make_problem(1, 512, 7, {{2, 3, 2}, {2, 5, 3}, {2, 2, 2}})));
  EXPECT_FALSE(direct::streamed_serve(make_problem(1, 1024, 512, {{9, 16, 8}})));
  EXPECT_FALSE(direct::streamed_serve(make_problem(1, 7, 512, {{2, 16, 8}})));
  EXPECT_FALSE(direct::streamed_serve(make_problem(1, 1024, 512, {{2, 129, 8}})));
  EXPECT_FALSE(direct::streamed_serve(make_problem(1, 1 << 20, 1, {{2, 16, 8}}))) << "inputs that shared memory does not hold";
  EXPECT_FALSE(direct::streamed_serve(make_problem(std::int64_t{1} << 31, 8, 1, {{1, 1}}))) << "samples that are counted in 32 bits";
  EXPECT_FALSE(direct::streamed_serve(make_problem(1, 8, 1 << 30, {{2, 16, 8}})));
}

/// Every multiprocessor has a part of all weights, and rows of weights are read 16 bytes at a time.
TEST(StreamedKernel, SharesWeightsOut) {
  Problem problem = case_named("mimi.decoder.convtr0-stream");
  direct::StreamedGeometry g = direct::streamed_geometry(problem);
  EXPECT_EQ(g.positions, 2);
  EXPECT_EQ(g.vector, 4);
  EXPECT_EQ(g.blocks, 128);
  EXPECT_EQ(g.threads(), 512);
  problem.out_channels = 511;
  problem.axes[2].kernel = 15;
  EXPECT_EQ(direct::streamed_geometry(problem).vector, 1);
}

/// Samples are shared out evenly over as few blocks as can be.
TEST(StreamedKernel, SharesSamplesOut) {
  const direct::StreamedGeometry g = direct::streamed_geometry(make_problem(5, 100, 512, {{3, 4, 2}}));
  EXPECT_EQ(g.sample_blocks, 3);
  EXPECT_EQ(g.samples, 2);
  EXPECT_EQ(g.positions, 8);
  EXPECT_EQ(g.blocks, 3 * g.tiles);
}

TEST(StreamedKernel, IsPredictedToWinWhereWeightsAreMost) {
  for (DType dtype : {DType::float32, DType::bfloat16}) {
    for (Precision precision : {Precision::ieee, Precision::tf32, Precision::tf32x3}) {
      Problem problem = case_named("mimi.decoder.convtr0-stream");
      problem.dtype = dtype;
      PlanOptions options;
      options.precision = precision;
      Plan best;
      ASSERT_TRUE(choose_plan(problem, DeviceTraits{Device::cuda}, options, &best).ok());
      EXPECT_EQ(best.name(), std::string("direct_streamed_") + name_of(dtype));
      EXPECT_GE(best.predicted_seconds, best.bytes / 4.28e12);
    }
  }
}

/// Inputs that are infinite or NaN reach the outputs that read them and no others.
TEST(StreamedKernel, NanReachesOnlyTheOutputsThatReadIt) {
  const Problem problem = make_problem(1, 70, 9, {{3, 4, 3, 1}});
  Operands operands = integer_operands(problem);
  for (double& value : operands.weight) value += value == 0;
  operands.input[5] = std::nan("");
  operands.input[7] = std::numeric_limits<double>::infinity();
  const std::vector<double> expected = reference(problem, operands), got = decode(problem.dtype, run(problem, operands));
  for (std::size_t i = 0; i < got.size(); ++i) {
    ASSERT_TRUE(got[i] == expected[i] || (std::isnan(got[i]) && std::isnan(expected[i]))) << "output " << i << ": " << got[i];
  }
}

}  // namespace
}  // namespace convt_gemm::testing

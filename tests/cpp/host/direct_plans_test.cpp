// Plans of the direct algorithm: which problems it takes, what it says of itself, and where it is predicted to win.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "convt_gemm/plan.h"
#include "plan/direct_plans.h"
#include "support/cases.h"
#include "support/problems.h"

namespace convt_gemm::testing {
namespace {

constexpr DType kDTypes[] = {DType::float32, DType::float64, DType::bfloat16, DType::float16};
constexpr Layout kLayouts[] = {Layout::channels_first, Layout::channels_last};
constexpr Precision kPrecisions[] = {Precision::ieee, Precision::tf32, Precision::tf32x3};

DeviceTraits cuda() {
  DeviceTraits traits;
  traits.device = Device::cuda;
  return traits;
}

std::vector<Plan> direct_plans(const Problem& problem, Precision precision = Precision::ieee,
                               const DeviceTraits& traits = cuda()) {
  PlanOptions options;
  options.precision = precision;
  std::vector<Plan> plans;
  append_direct_plans(problem, traits, options, &plans);
  return plans;
}

Problem depthwise() { return make_problem(4, 24, 24, {{65546, 12, 2}}, 24); }

Problem few_outputs() { return make_problem(8, 512, 1, {{4001, 16, 8, 8}}); }

TEST(DirectPlans, SayWhatTheyAre) {
  for (DType dtype : kDTypes) {
    for (Layout layout : kLayouts) {
      for (Precision precision : kPrecisions) {
        Problem problem = depthwise();
        problem.dtype = dtype, problem.layout = layout;
        const std::vector<Plan> plans = direct_plans(problem, precision);
        ASSERT_EQ(plans.size(), 1u);
        const Plan& plan = plans[0];
        EXPECT_EQ(plan.instance, kGatherInstance);
        EXPECT_EQ(plan.name(), std::string("direct_") + name_of(dtype));
        EXPECT_EQ(plan.device, Device::cuda);
        EXPECT_EQ(plan.algorithm, Algorithm::direct);
        EXPECT_EQ(plan.dtype, dtype);
        EXPECT_EQ(plan.precision, dtype == DType::float32 ? precision : Precision::ieee);
        EXPECT_EQ(plan.tile(), "");
        EXPECT_EQ(plan.workspace_bytes, 0u);
        EXPECT_EQ(plan.piece.batch, problem.batch);
        EXPECT_EQ(plan.piece.output[2], problem.axes[2].output());
        EXPECT_TRUE(check_direct_plan(problem, plan).ok());
      }
    }
  }
}

/// Few output channels: the gathering kernel, if its sums are short, and the one that sums columns.
TEST(DirectPlans, NameTheirKernel) {
  for (DType dtype : kDTypes) {
    for (Precision precision : kPrecisions) {
      Problem problem = few_outputs();
      problem.dtype = dtype;
      const std::vector<Plan> plans = direct_plans(problem, precision);
      const std::size_t of_tensor_cores = size_of(dtype) == 2 || (dtype == DType::float32 && precision == Precision::tf32);
      ASSERT_EQ(plans.size(), 1u + of_tensor_cores) << "1024 terms";
      const Plan& plan = plans[0];
      EXPECT_EQ(plan.instance, kColumnsInstance);
      EXPECT_EQ(plan.name(), std::string("direct_columns_") + name_of(dtype));
      EXPECT_EQ(plan.precision, dtype == DType::float32 ? precision : Precision::ieee);
      EXPECT_EQ(plan.workspace_bytes, 0u);
      EXPECT_EQ(plan.piece.batch, problem.batch);
      EXPECT_TRUE(check_direct_plan(problem, plan).ok());
      EXPECT_NE(describe(problem, plan).find("direct_columns"), std::string::npos);

      problem.in_channels = 64;
      EXPECT_EQ(direct_plans(problem, precision).size(), 2u + of_tensor_cores);
      problem.layout = Layout::channels_last;
      ASSERT_EQ(direct_plans(problem, precision).size(), 1u);
      EXPECT_EQ(direct_plans(problem, precision)[0].instance, kGatherInstance);
    }
  }
}

/// Columns by tensor cores are a plan of its own, for 16-bit types and TF32 on the GPUs that have its copies.
TEST(DirectPlans, MultiplyColumnsByTensorCores) {
  for (DType dtype : {DType::bfloat16, DType::float16, DType::float32}) {
    Problem problem = few_outputs();
    problem.dtype = dtype;
    const Precision precision = dtype == DType::float32 ? Precision::tf32 : Precision::ieee;
    const Plan plan = direct_plans(problem, precision).back();
    EXPECT_EQ(plan.instance, kMmaColumnsInstance);
    EXPECT_EQ(plan.name(), std::string("direct_columns_mma_") + (dtype == DType::float32 ? "tf32" : name_of(dtype)));
    EXPECT_EQ(plan.dtype, dtype);
    EXPECT_EQ(plan.workspace_bytes, 0u);
    EXPECT_EQ(plan.piece.batch, problem.batch);
    EXPECT_TRUE(check_direct_plan(problem, plan).ok());
    for (int compute_capability : {80, 89, 100}) {
      DeviceTraits traits = cuda();
      traits.compute_capability = compute_capability;
      const std::vector<Plan> others = direct_plans(problem, precision, traits);
      ASSERT_EQ(others.size(), 1u) << compute_capability;
      EXPECT_EQ(others[0].instance, kColumnsInstance);
    }
    problem.dtype = DType::float64;
    EXPECT_FALSE(check_direct_plan(problem, plan).ok());
    Plan exact = plan;
    exact.dtype = problem.dtype = DType::float32;
    exact.precision = Precision::ieee;
    EXPECT_FALSE(check_direct_plan(problem, exact).ok()) << "not what float32 means";
    problem = make_problem(1, 11, 1, {{48001, 20, 5}});
    problem.dtype = dtype;
    EXPECT_FALSE(check_direct_plan(problem, plan).ok()) << "frames";
  }
}

TEST(DirectPlans, AreSelectedByName) {
  const Problem problem = make_problem(1, 11, 1, {{48001, 20, 5}});
  const auto count = [&](const char* algorithm) {
    PlanOptions options;
    options.algorithm = algorithm;
    return enumerate_plans(problem, cuda(), options).size();
  };
  EXPECT_EQ(count("direct"), 2u);
  EXPECT_EQ(count("direct_columns"), 1u);
  EXPECT_EQ(count("direct_float32"), 1u);

  Problem half = few_outputs();
  half.dtype = DType::bfloat16;
  for (const char* algorithm : {"direct_columns_bfloat16", "direct_columns_mma"}) {
    PlanOptions options;
    options.algorithm = algorithm;
    const std::vector<Plan> plans = enumerate_plans(half, cuda(), options);
    ASSERT_EQ(plans.size(), 1u) << algorithm;
    EXPECT_EQ(plans[0].name().rfind(algorithm, 0), 0u);
  }
}

TEST(DirectPlans, CountBytesAndFlops) {
  const Problem problem = depthwise();
  const Plan plan = direct_plans(problem)[0];
  EXPECT_EQ(plan.bytes, 4.0 * (4 * 24 * 65546.0 + 24 * 12 + 4 * 24 * 131102.0));
  EXPECT_EQ(plan.flops, 2.0 * 4 * 24 * 65546 * 12);
  EXPECT_GE(plan.predicted_seconds, plan.bytes / 4.28e12);
}

TEST(DirectPlans, NeedAGpuOfTheRightAge) {
  DeviceTraits traits = cuda();
  traits.compute_capability = 75;
  EXPECT_TRUE(direct_plans(depthwise(), Precision::ieee, traits).empty());
  EXPECT_TRUE(direct_plans(depthwise(), Precision::ieee, DeviceTraits{}).empty());
}

TEST(DirectPlans, TakeShortSumsOnly) {
  EXPECT_TRUE(direct_serves(make_problem(1, 512, 512, {{125, 4, 2}}, 512)));
  EXPECT_TRUE(direct_serves(make_problem(1, 256, 1, {{125, 4, 2}})));
  EXPECT_FALSE(direct_serves(make_problem(1, 257, 1, {{125, 4, 2}})));
  EXPECT_FALSE(direct_serves(make_problem(1, 64, 64, {{125, 4, 2}})));
  EXPECT_FALSE(direct_serves(make_problem(1, 1, 1, {{125, 1024, 1}})));
  EXPECT_TRUE(direct_serves(make_problem(1, 1, 1, {{125, 1024, 256}})));
  // Gaps of a common divisor of stride and dilation take nothing off the sums of the other outputs.
  EXPECT_FALSE(direct_serves(make_problem(1, 1, 1, {{125, 1024, 2, 0, 0, 2}})));
  EXPECT_TRUE(direct_plans(make_problem(1, 64, 64, {{125, 4, 2}})).empty());
}

TEST(DirectPlans, TakeMoreThanTwoToThe31Elements) {
  EXPECT_EQ(direct_plans(make_problem(1 << 20, 64, 64, {{1 << 20, 4, 2, 1}}, 64)).size(), 1u);
}

TEST(CheckDirectPlan, RefusesPlansOfOtherProblems) {
  const Problem problem = depthwise();
  const Plan plan = direct_plans(problem)[0];
  const auto refused = [](const Problem& other, const Plan& wrong, const std::string& part) {
    const Status status = check_direct_plan(other, wrong);
    EXPECT_EQ(status.code, StatusCode::invalid_argument);
    EXPECT_NE(status.message.find(part), std::string::npos) << status.message;
  };
  Problem half = problem;
  half.dtype = DType::bfloat16;
  refused(half, plan, "bfloat16");
  refused(make_problem(1, 64, 64, {{125, 4, 2}}), plan, "of another problem");
  refused(make_problem(1, 769, 1, {{300, 32, 16}}), direct_plans(few_outputs())[0], "of another problem");
  Plan other_kernel = plan;
  other_kernel.instance = kColumnsInstance;
  refused(problem, other_kernel, "of another problem");
  other_kernel.instance = kMmaColumnsInstance;
  refused(problem, other_kernel, "of another problem");
  Plan no_kernel = plan;
  no_kernel.instance = 99;
  refused(problem, no_kernel, "plan.instance");
  Plan cpu = plan;
  cpu.device = Device::cpu;
  refused(problem, cpu, "CUDA plan");
}

/// Best of all plans, as measured: what has no matrix product in it.
TEST(DirectPlans, ArePredictedToWinWhereThereIsNoProduct) {
  for (const char* name : {"mimi.upsample", "pool-infer", "amp-activation1d", "centernet"}) {
    const Problem problem = case_named(name);
    for (Precision precision : kPrecisions) {
      PlanOptions options;
      options.precision = precision;
      const std::vector<Plan> direct = direct_plans(problem, precision);
      ASSERT_EQ(direct.size(), 1u) << name;
      options.algorithm = "gemm_col2im";
      for (const Plan& other : enumerate_plans(problem, cuda(), options)) {
        EXPECT_LT(direct[0].predicted_seconds, other.predicted_seconds) << name << " " << other.name();
      }
    }
  }
}

/// Few output channels: what reads x once and needs no second kernel is predicted to beat all others, the gathering
/// kernel included.
TEST(DirectPlans, SumColumnsOfFewOutputChannels) {
  for (const char* name : {"conv-tasnet", "customstft", "dbnet"}) {
    for (DType dtype : {DType::float32, DType::bfloat16}) {
      Problem problem = case_named(name);
      problem.dtype = dtype;
      PlanOptions options;
      options.precision = dtype == DType::float32 ? Precision::tf32 : Precision::ieee;
      Plan best;
      ASSERT_TRUE(choose_plan(problem, cuda(), options, &best).ok());
      // Many channels and few blocks are what tensor cores are for.
      const bool tensor_cores = problem.in_channels > 64;
      const std::string expected = tensor_cores ? std::string("direct_columns_mma_") + (dtype == DType::float32 ? "tf32" : name_of(dtype)) : std::string("direct_columns_") + name_of(dtype);
      EXPECT_EQ(best.name(), expected) << name;
      EXPECT_GE(best.predicted_seconds, best.bytes / 4.28e12);
    }
  }
}

/// With 32 columns windows were measured to be faster.
TEST(DirectPlans, LeaveManyColumnsToWindows) {
  for (DType dtype : {DType::float32, DType::bfloat16}) {
    Problem problem = case_named("hifi-gan-v2.ups.3");
    problem.dtype = dtype;
    const std::vector<Plan> plans = direct_plans(problem, dtype == DType::float32 ? Precision::tf32 : Precision::ieee);
    ASSERT_FALSE(plans.empty());
    const auto faster = [](const Plan& a, const Plan& b) { return a.predicted_seconds < b.predicted_seconds; };
    EXPECT_EQ(std::min_element(plans.begin(), plans.end(), faster)->name(), std::string("direct_") + name_of(dtype));
  }
}

TEST(DirectPlans, LeaveMatrixProductsToTheOthers) {
  for (const char* name : {"kernelbench-l1-57", "kernelbench-l1-79", "dac-44.1k.decoder.block1", "u-net.up-128->64",
                           "nnu-net-3d_fullres", "stylegan2", "encodec-24k"}) {
    const Problem problem = case_named(name);
    PlanOptions options;
    options.precision = Precision::tf32;
    const std::vector<Plan> direct = direct_plans(problem, Precision::tf32);
    if (direct.empty()) continue;
    Plan best;
    ASSERT_TRUE(choose_plan(problem, cuda(), options, &best).ok());
    EXPECT_NE(best.algorithm, Algorithm::direct) << name;
  }
}

}  // namespace
}  // namespace convt_gemm::testing

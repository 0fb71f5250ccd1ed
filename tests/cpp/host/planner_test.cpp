// enumerate_plans() and choose_plan(): what is legal, what it is called, what it costs.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "convt_gemm/plan.h"
#include "plan/arithmetic.h"
#include "plan/cuda_plans.h"
#include "plan/cutlass_table.h"
#include "plan/pieces.h"
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

DeviceTraits cpu(int threads = 8) {
  DeviceTraits traits;
  traits.threads = threads;
  return traits;
}

PlanOptions options(Precision precision = Precision::ieee, std::string_view algorithm = "auto",
                    std::int64_t workspace_limit = kDefaultWorkspaceLimit) {
  PlanOptions result;
  result.precision = precision;
  result.algorithm = algorithm;
  result.workspace_limit = workspace_limit;
  return result;
}

Problem with(Problem problem, DType dtype, Layout layout = Layout::channels_first) {
  problem.dtype = dtype;
  problem.layout = layout;
  return problem;
}

/// 16-byte aligned in every dtype.
Problem aligned_problem() { return make_problem(4, 64, 64, {{256, 4, 2, 1}}); }

std::vector<std::string> names(const std::vector<Plan>& plans) {
  std::vector<std::string> result;
  for (const Plan& plan : plans) result.push_back(plan.name());
  return result;
}

bool any_starts_with(const std::vector<Plan>& plans, const std::string& prefix) {
  return std::any_of(plans.begin(), plans.end(), [&](const Plan& plan) { return plan.name().rfind(prefix, 0) == 0; });
}

std::vector<NamedProblem> all_problems() {
  std::vector<NamedProblem> all = small_problems();
  for (const auto& list : {wide_index_problems(), cases()}) all.insert(all.end(), list.begin(), list.end());
  return all;
}

/// Calls visit(problem, precision) for every problem, dtype, layout and precision.
template <class Visit>
void for_each_setting(const std::vector<NamedProblem>& problems, Visit visit) {
  for (const NamedProblem& named : problems) {
    for (DType dtype : kDTypes) {
      for (Layout layout : kLayouts) {
        for (Precision precision : kPrecisions) {
          const Problem problem = with(named.problem, dtype, layout);
          SCOPED_TRACE(named.name + ": " + to_string(problem) + " " + name_of(precision));
          visit(problem, precision);
        }
      }
    }
  }
}

std::size_t column_bytes(const Problem& problem, const Piece& piece) {
  return std::size_t(column_elements(problem, piece)) * (problem.dtype == DType::float64 ? 8 : 4);
}

TEST(CudaPlans, ServeEveryProblem) {
  for_each_setting(all_problems(), [](const Problem& problem, Precision precision) {
    const std::vector<Plan> plans = enumerate_plans(problem, cuda(), options(precision));
    EXPECT_FALSE(plans.empty());
    Plan chosen;
    ASSERT_TRUE(choose_plan(problem, cuda(), options(precision), &chosen).ok());
    EXPECT_EQ(chosen.name(), plans.front().name());
    const std::vector<std::string> all = names(plans);
    EXPECT_EQ(std::set<std::string>(all.begin(), all.end()).size(), all.size()) << "a name occurs twice";
  });
}

TEST(CudaPlans, AreConsistent) {
  for_each_setting(all_problems(), [](const Problem& problem, Precision precision) {
    double before = 0;  // plans are in the order of predicted time
    for (const Plan& plan : enumerate_plans(problem, cuda(), options(precision))) {
      const bool columns = plan.algorithm == Algorithm::gemm_col2im;
      EXPECT_EQ(plan.device, Device::cuda);
      EXPECT_EQ(plan.dtype, problem.dtype);
      EXPECT_EQ(plan.precision, problem.dtype == DType::float32 ? precision : Precision::ieee);
      EXPECT_NE(plan.backend, GemmBackend::cpu);
      EXPECT_GT(plan.piece.batch, 0) << "describe() counts pieces, of an empty batch too";
      EXPECT_EQ(count_pieces(problem, plan.piece) > 0, problem.batch > 0);
      if (columns) {
        EXPECT_EQ(plan.backend == GemmBackend::cutlass, plan.instance >= 0);
        EXPECT_GE(plan.workspace_bytes, column_bytes(problem, plan.piece));
        EXPECT_EQ(plan.workspace_bytes % 256, 0u);
      } else {
        EXPECT_EQ(plan.backend, GemmBackend::native);
      }
      EXPECT_GE(plan.predicted_seconds, before) << "not in the order of predicted time";
      before = plan.predicted_seconds;
      EXPECT_DOUBLE_EQ(plan.flops, 2.0 * double(problem.batch) * double(problem.input_positions()) *
                                       double(problem.weight_elements()));
      if (problem.batch > 0) {
        EXPECT_GT(plan.predicted_seconds, 0);
        EXPECT_GT(plan.bytes, 0);
      }
    }
  });
}

/// What a CUTLASS instance asks of pointers, extents and leading dimensions, worked out from every piece that the plan
/// makes.
void expect_aligned(const Problem& problem, const Plan& plan, const CutlassInstance& instance) {
  if (instance.align == 1) return;
  const std::int64_t align = instance.align, column_align = 16 / (problem.dtype == DType::float64 ? 8 : 4);
  EXPECT_EQ(problem.group_out_channels() * problem.taps() % align, 0) << "leading dimension of the weight";
  if (problem.layout == Layout::channels_first) {
    EXPECT_EQ(problem.input_positions() % align, 0) << "leading dimension of x";
  } else {
    EXPECT_EQ(problem.group_in_channels() % align, 0)
        << "leading dimension of x, first channel of a group, and the depth";
  }
  EXPECT_EQ(problem.input_positions() % column_align, 0) << "leading dimension of the columns of a whole sample";
  // A product is over a run of positions: a range of one axis times all of the axes inside it.
  std::int64_t inside = 1;
  for (std::size_t a = kMaxAxes; a-- > 0;) {
    const Axis& axis = problem.axes[a];
    for (std::int64_t begin = 0; begin < axis.output(); begin += plan.piece.output[a]) {
      const Range inputs = inputs_of(axis, {begin, std::min(begin + plan.piece.output[a], axis.output())});
      if (inputs.size() == axis.input || inputs.size() == 0) continue;
      ASSERT_EQ(inputs.begin * inside % align, 0) << "first position of a run, axis " << a;
      ASSERT_EQ(inputs.size() * inside % std::max(align, column_align), 0) << "positions of a run, axis " << a;
    }
    inside *= axis.input;
  }
}

/// Plans are listed as JSON, which has no infinity.
TEST(CudaPlans, HaveFiniteTimesWithoutSamplesToo) {
  for_each_setting(all_problems(), [](Problem problem, Precision precision) {
    for (const std::int64_t batch : {problem.batch, std::int64_t{0}}) {
      problem.batch = batch;
      for (const Plan& plan : enumerate_plans(problem, cuda(), options(precision))) {
        EXPECT_TRUE(std::isfinite(plan.predicted_seconds)) << plan.name() << " on " << to_string(problem);
      }
    }
  });
}

TEST(CudaPlans, CutlassInstancesSuitTheProblem) {
  for (std::int64_t limit : {kDefaultWorkspaceLimit, std::int64_t{1} << 16, std::int64_t{0}}) {
    for_each_setting(all_problems(), [&](const Problem& problem, Precision precision) {
      for (const Plan& plan : enumerate_plans(problem, cuda(), options(precision, "gemm_col2im", limit))) {
        if (plan.instance < 0) continue;
        SCOPED_TRACE(plan.name());
        ASSERT_LT(std::size_t(plan.instance), kCutlassInstances);
        const CutlassInstance& instance = cutlass_instances()[plan.instance];
        EXPECT_EQ(instance.dtype, plan.dtype);
        EXPECT_EQ(instance.precision, plan.precision);
        EXPECT_EQ(instance.layout, problem.layout);
        expect_aligned(problem, plan, instance);
      }
    });
  }
}

TEST(CudaPlans, OfferEveryCutlassInstanceToAnAlignedProblem) {
  std::set<int> seen;
  for_each_setting({{"aligned", aligned_problem()}}, [&](const Problem& problem, Precision precision) {
    for (const Plan& plan : enumerate_plans(problem, cuda(), options(precision, "gemm_col2im"))) seen.insert(plan.instance);
  });
  for (std::size_t row = 0; row < kCutlassInstances; ++row) {
    EXPECT_TRUE(seen.count(int(row))) << cutlass_instances()[row].name;
  }
}

TEST(CudaPlans, OfferOnlyUnalignedInstancesToCroppedInputs) {
  // 16 inputs of which the middle 14 are read: they begin one element after an aligned address.
  const Problem problem = make_problem(2, 8, 8, {{16, 1, 1, 1}});
  for (DType dtype : kDTypes) {
    for (const Plan& plan : enumerate_plans(with(problem, dtype), cuda(), options(Precision::tf32, "gemm_col2im"))) {
      if (plan.instance >= 0) {
        EXPECT_EQ(cutlass_instances()[plan.instance].align, 1) << plan.name();
      }
    }
  }
}

TEST(CudaPlans, BothBackEndsServeEveryDtypeAndPrecision) {
  for_each_setting({{"aligned", aligned_problem()}}, [](const Problem& problem, Precision precision) {
    const std::vector<Plan> plans = enumerate_plans(problem, cuda(), options(precision));
    const bool compensated = problem.dtype == DType::float32 && precision == Precision::tf32x3;
    EXPECT_EQ(any_starts_with(plans, "gemm_col2im_cublas_"), !compensated) << "cuBLAS has no tf32x3";
    if (problem.layout == Layout::channels_first || compensated) {
      EXPECT_TRUE(any_starts_with(plans, "gemm_col2im_cutlass_"));
    }
  });
}

TEST(CudaPlans, TheNativeBackEndServesFloat32InChannelsFirstOnly) {
  for_each_setting({{"aligned", aligned_problem()}}, [](const Problem& problem, Precision precision) {
    const bool served =
        problem.dtype == DType::float32 && problem.layout == Layout::channels_first && precision != Precision::tf32;
    const std::vector<Plan> plans = enumerate_plans(problem, cuda(), options(precision, "gemm_col2im_native"));
    ASSERT_EQ(plans.size(), served ? 1u : 0u);
    if (!served) return;
    EXPECT_EQ(plans[0].name(),
              std::string("gemm_col2im_native_") + (precision == Precision::ieee ? "float32" : "tf32x3"));
    EXPECT_EQ(plans[0].tile(), "64x128x16");
    EXPECT_FALSE(check_cuda_plan(with(problem, DType::float32, Layout::channels_last), plans[0]).ok());
  });
}

/// The products that the constants of the model were measured on.
TEST(CudaPlans, TheNativeBackEndIsForSmallDepth) {
  for (Precision precision : {Precision::ieee, Precision::tf32x3}) {
    Plan plan;
    ASSERT_TRUE(choose_plan(make_problem(4, 32, 64, {{131072, 3, 2, 1}}), cuda(), options(precision, "gemm_col2im"), &plan).ok());
    EXPECT_EQ(plan.backend, GemmBackend::native) << plan.name();
    ASSERT_TRUE(choose_plan(make_problem(4, 512, 128, {{65536, 3, 2, 1}}), cuda(), options(precision, "gemm_col2im"), &plan).ok());
    EXPECT_NE(plan.backend, GemmBackend::native) << plan.name();
  }
}

TEST(CudaPlans, PrecisionIsForFloat32Only) {
  for (DType dtype : {DType::float64, DType::bfloat16, DType::float16}) {
    const Problem problem = with(aligned_problem(), dtype);
    const std::vector<std::string> expected = names(enumerate_plans(problem, cuda(), options(Precision::ieee)));
    EXPECT_EQ(names(enumerate_plans(problem, cuda(), options(Precision::tf32))), expected);
    EXPECT_EQ(names(enumerate_plans(problem, cuda(), options(Precision::tf32x3))), expected);
  }
}

TEST(CudaPlans, NamesSpellTheChoice) {
  const auto first = [](Precision precision, DType dtype) {
    return names(enumerate_plans(with(aligned_problem(), dtype), cuda(), options(precision, "gemm_col2im_cublas")));
  };
  EXPECT_EQ(first(Precision::tf32, DType::float32), (std::vector<std::string>{"gemm_col2im_cublas_tf32", "gemm_col2im_cublas_joined_tf32"}));
  EXPECT_EQ(first(Precision::ieee, DType::float32), (std::vector<std::string>{"gemm_col2im_cublas_float32", "gemm_col2im_cublas_joined_float32"}));
  EXPECT_EQ(first(Precision::ieee, DType::bfloat16), (std::vector<std::string>{"gemm_col2im_cublas_bfloat16", "gemm_col2im_cublas_joined_bfloat16"}));
  for (const Plan& plan : enumerate_plans(aligned_problem(), cuda(), options(Precision::tf32x3, "gemm_col2im"))) {
    if (plan.backend == GemmBackend::native) {
      EXPECT_EQ(plan.name(), "gemm_col2im_native_tf32x3");
      continue;
    }
    EXPECT_EQ(plan.name().rfind("gemm_col2im_cutlass_tf32x3_", 0), 0u) << plan.name();
    EXPECT_NE(plan.name().find(plan.tile()), std::string::npos) << plan.name();
  }
}

TEST(CudaPlans, NeedComputeCapability80) {
  for (int capability : {70, 75}) {
    DeviceTraits traits = cuda();
    traits.compute_capability = capability;
    EXPECT_TRUE(enumerate_plans(aligned_problem(), traits, options()).empty());
    Plan plan;
    const Status status = choose_plan(aligned_problem(), traits, options(), &plan);
    EXPECT_FALSE(status.ok());
    EXPECT_NE(status.message.find("8.0"), std::string::npos) << status.message;
    EXPECT_NE(status.message.find("7."), std::string::npos) << status.message;
  }
  DeviceTraits traits = cuda();
  for (int capability : {80, 86, 89, 90, 100, 120}) {
    traits.compute_capability = capability;
    EXPECT_FALSE(enumerate_plans(aligned_problem(), traits, options()).empty());
  }
}

TEST(CudaPlans, TakeMoreThanTwoToThe31Elements) {
  const std::int64_t huge = std::int64_t{1} << 32;
  for (const Problem& problem :
       {make_problem(1, 1, 1, {{huge, 3, 2, 1}}), make_problem(huge, 2, 2, {{4, 4, 2, 1}}),
        make_problem(16, 64, 64, {{1 << 10, 3, 2, 1, 1}, {1 << 10, 3, 2, 1, 1}, {1 << 10, 3, 2, 1, 1}})}) {
    ASSERT_TRUE(validate(problem).ok());
    for (Precision precision : kPrecisions) {
      SCOPED_TRACE(to_string(problem) + " " + name_of(precision));
      Plan plan;
      const Status status = choose_plan(problem, cuda(), options(precision), &plan);
      ASSERT_TRUE(status.ok()) << status.message;
      EXPECT_LE(plan.workspace_bytes, std::size_t(kDefaultWorkspaceLimit));
      if (plan.algorithm == Algorithm::gemm_col2im) {
        EXPECT_GE(plan.workspace_bytes, column_bytes(problem, plan.piece));
      }
      EXPECT_GT(plan.flops, 0);
    }
  }
}

TEST(CudaPlans, KeepTheWorkspaceLimitOnEveryCase) {
  for (std::int64_t limit : {std::int64_t{1} << 20, std::int64_t{50'000'001}, kDefaultWorkspaceLimit}) {
    for_each_setting(cases(), [&](const Problem& problem, Precision precision) {
      for (const Plan& plan : enumerate_plans(problem, cuda(), options(precision, "auto", limit))) {
        if (count_pieces(problem, plan.piece) == problem.output_positions() * problem.batch)
          continue;  // single outputs
        EXPECT_LE(plan.workspace_bytes, std::size_t(limit)) << plan.name();
      }
    });
  }
}

TEST(CudaPlans, TakeOneOutputWithoutAnyWorkspaceLimit) {
  for (const NamedProblem& named : all_problems()) {
    SCOPED_TRACE(named.name);
    Plan plan;
    ASSERT_TRUE(choose_plan(named.problem, cuda(), options(Precision::ieee, "gemm_col2im", 0), &plan).ok());
    EXPECT_EQ(plan.piece.batch, 1);
    for (std::int64_t outputs : plan.piece.output) EXPECT_EQ(outputs, 1);
    EXPECT_EQ(plan.workspace_bytes, std::size_t(round_up(std::int64_t(column_bytes(named.problem, plan.piece)), 256)));
  }
}

TEST(CheckCudaPlan, AcceptsEveryPlanOfTheProblem) {
  for_each_setting(all_problems(), [](const Problem& problem, Precision precision) {
    for (const Plan& plan : enumerate_plans(problem, cuda(), options(precision))) {
      const Status status = check_cuda_plan(problem, plan);
      EXPECT_TRUE(status.ok()) << status.message;
    }
  });
}

TEST(CheckCudaPlan, RefusesPlansOfOtherProblems) {
  const Problem problem = aligned_problem();
  const auto refused = [](const Problem& other, const Plan& plan, const std::string& part) {
    const Status status = check_cuda_plan(other, plan);
    EXPECT_EQ(status.code, StatusCode::invalid_argument);
    EXPECT_NE(status.message.find(part), std::string::npos) << "no '" << part << "' in: " << status.message;
  };
  Plan plan;
  ASSERT_TRUE(choose_plan(problem, cpu(), options(), &plan).ok());
  refused(problem, plan, "expected a CUDA plan for float32, but got gemm_col2im_cpu_float32");
  ASSERT_TRUE(choose_plan(problem, cuda(), options(Precision::tf32, "gemm_col2im_cublas"), &plan).ok());
  refused(with(problem, DType::bfloat16), plan, "expected a CUDA plan for bfloat16, but got gemm_col2im_cublas_tf32");
  Problem larger = problem;
  larger.axis(0).kernel = 5;
  refused(larger, plan, "gemm_col2im_cublas_tf32 of another problem");
  Plan empty = plan;
  empty.piece.output[2] = 0;
  refused(problem, empty, "of another problem");

  for (const Plan& cutlass : enumerate_plans(problem, cuda(), options(Precision::tf32, "gemm_col2im_cutlass"))) {
    refused(with(problem, DType::float32, Layout::channels_last), cutlass, "of another problem");
    Problem odd = problem;
    odd.axis(0).input -= 1;
    EXPECT_EQ(check_cuda_plan(odd, cutlass).ok(), cutlass_instances()[cutlass.instance].align == 1) << cutlass.name();
    Plan unknown = cutlass;
    unknown.instance = 1000;
    refused(problem, unknown, "plan.instance");
    unknown.instance = -1;
    refused(problem, unknown, "of another problem");
  }
}

TEST(CpuPlans, ServeEveryProblem) {
  for (const NamedProblem& named : all_problems()) {
    for (DType dtype : {DType::float32, DType::float64, DType::bfloat16}) {
      for (Layout layout : kLayouts) {
        const Problem problem = with(named.problem, dtype, layout);
        SCOPED_TRACE(named.name + ": " + to_string(problem));
        const std::vector<Plan> plans = enumerate_plans(problem, cpu(), options());
        ASSERT_FALSE(plans.empty());
        EXPECT_EQ(plans[0].name(), std::string("gemm_col2im_cpu_") + name_of(dtype));
        for (const Plan& plan : plans) {
          EXPECT_EQ(plan.device, Device::cpu);
          EXPECT_EQ(plan.dtype, dtype);
          EXPECT_EQ(plan.backend, GemmBackend::cpu);
          EXPECT_EQ(plan.instance, -1);
          EXPECT_EQ(plan.workspace_bytes % 256, 0u);
        }
      }
    }
  }
}

TEST(CpuPlans, KeepTheWorkspaceLimitOnEveryCase) {
  for (int threads : {1, 4, 64}) {
    for (std::int64_t limit : {std::int64_t{64} << 20, kDefaultWorkspaceLimit}) {
      for (const NamedProblem& named : cases()) {
        SCOPED_TRACE(named.name + " threads " + std::to_string(threads) + " limit " + std::to_string(limit));
        Plan plan;
        ASSERT_TRUE(choose_plan(named.problem, cpu(threads), options(Precision::ieee, "auto", limit), &plan).ok());
        EXPECT_LE(plan.workspace_bytes, std::size_t(limit));
      }
    }
  }
}

TEST(CpuPlans, TakeMoreThanTwoToThe31Elements) {
  Plan plan;
  const Problem problem = make_problem(8, 64, 64, {{std::int64_t{1} << 31, 4, 2, 1}});
  ASSERT_TRUE(choose_plan(problem, cpu(), options(), &plan).ok());
  EXPECT_LE(plan.workspace_bytes, std::size_t(kDefaultWorkspaceLimit));
}

TEST(CpuPlans, RefuseTf32AndNameWhatIsThere) {
  for (Precision precision : {Precision::tf32, Precision::tf32x3}) {
    Plan plan;
    const Status status = choose_plan(aligned_problem(), cpu(), options(precision), &plan);
    EXPECT_EQ(status.code, StatusCode::invalid_argument);
    for (const char* part : {name_of(precision), "float32", "cpu", "'ieee'"}) {
      EXPECT_NE(status.message.find(part), std::string::npos) << "no " << part << " in: " << status.message;
    }
  }
}

TEST(Algorithm, ANameSelectsItsPlanAlone) {
  for_each_setting({{"aligned", aligned_problem()}}, [](const Problem& problem, Precision precision) {
    for (const Plan& plan : enumerate_plans(problem, cuda(), options(precision))) {
      const std::string name = plan.name();
      EXPECT_EQ(names(enumerate_plans(problem, cuda(), options(precision, name))), std::vector<std::string>{name});
      Plan chosen;
      ASSERT_TRUE(choose_plan(problem, cuda(), options(precision, name), &chosen).ok());
      EXPECT_EQ(chosen.name(), name);
      EXPECT_EQ(chosen.instance, plan.instance);
    }
  });
}

TEST(CudaPlans, JoinSamplesOfFewPositions) {
  const auto joined = [](const Problem& problem, std::int64_t limit = kDefaultWorkspaceLimit) {
    return enumerate_plans(problem, cuda(), options(Precision::tf32, "gemm_col2im_cublas_joined", limit));
  };
  const Problem problem = make_problem(64, 2048, 256, {{8, 4, 2, 1}, {6, 4, 2, 1}});
  std::vector<Plan> plans = joined(problem);
  ASSERT_EQ(plans.size(), 1u);
  EXPECT_EQ(plans[0].workspace_bytes, std::size_t(64 * 48 * (256 * 16 + 2048) * 4));
  EXPECT_TRUE(check_cuda_plan(problem, plans[0]).ok());
  Plan chosen;
  ASSERT_TRUE(choose_plan(problem, cuda(), options(Precision::tf32, "gemm_col2im"), &chosen).ok());
  EXPECT_EQ(chosen.name(), "gemm_col2im_cublas_joined_tf32");
  // Where there is less room, fewer samples at a time.
  plans = joined(problem, 48 << 20);
  ASSERT_EQ(plans.size(), 1u);
  EXPECT_LT(plans[0].piece.batch, 64);
  EXPECT_LE(plans[0].workspace_bytes, std::size_t(48 << 20));
  EXPECT_TRUE(check_cuda_plan(problem, plans[0]).ok());
  plans[0].piece.batch = 64;
  EXPECT_FALSE(check_cuda_plan(problem, plans[0]).ok());
  EXPECT_TRUE(joined(problem, 1 << 20).empty());
  EXPECT_TRUE(joined(make_problem(1, 2048, 256, {{8, 4, 2, 1}, {6, 4, 2, 1}})).empty());
  EXPECT_TRUE(joined(make_problem(64, 100, 512, {{1, 4}, {1, 4}})).empty());                  // one product as they lie
  EXPECT_TRUE(joined(make_problem(64, 2048, 256, {{32, 4, 2, 1}, {32, 4, 2, 1}})).empty());   // enough positions of their own
  EXPECT_TRUE(joined(make_problem(64, 2048, 256, {{8, 4, 2, 1}, {6, 4, 2, 6}})).empty());     // inputs that no output reads
  Problem last = problem;
  last.layout = Layout::channels_last;
  EXPECT_TRUE(joined(last).empty());
}

TEST(Algorithm, ALeadingPartSelectsEveryPlanUnderIt) {
  const auto count = [](std::string_view algorithm) {
    return enumerate_plans(aligned_problem(), cuda(), options(Precision::tf32, algorithm)).size();
  };
  const std::size_t all = count("auto");
  EXPECT_GE(all, 3u);
  const std::size_t columns = count("gemm_col2im"), fused = count("implicit_gemm");
  EXPECT_GE(columns, 3u);
  EXPECT_GE(fused, 4u);
  EXPECT_EQ(columns + fused, all);
  EXPECT_EQ(count("gemm"), columns);
  EXPECT_EQ(count("gemm_col2im_cublas"), 2u);
  EXPECT_EQ(count("gemm_col2im_cutlass"), columns - 2);
  EXPECT_EQ(count("gemm_col2im_cutlass_tf32"), columns - 2);
  EXPECT_EQ(count("implicit_gemm_sm90") + count("implicit_gemm_sm80"), fused);
}

TEST(Algorithm, APartThatEndsElsewhereSelectsNothing) {
  for (const char* wrong : {"", "gemm_col2im_", "gemm_col2im_cub", "gemm_col2im_cublas_tf", "col2im", "Auto",
                            "winograd", "gemm_col2im_cpu", "gemm_col2im_cublas_tf32_"}) {
    SCOPED_TRACE(wrong);
    EXPECT_TRUE(enumerate_plans(aligned_problem(), cuda(), options(Precision::tf32, wrong)).empty());
    Plan plan;
    const Status status = choose_plan(aligned_problem(), cuda(), options(Precision::tf32, wrong), &plan);
    EXPECT_EQ(status.code, StatusCode::invalid_argument);
    for (const char* part : {"algorithm", "'auto'", "'gemm_col2im_cublas_tf32'", "but got '"}) {
      EXPECT_NE(status.message.find(part), std::string::npos) << "no " << part << " in: " << status.message;
    }
    EXPECT_NE(status.message.find("'" + std::string(wrong) + "'"), std::string::npos) << status.message;
  }
}

TEST(ChoosePlan, RefusesAnInvalidProblem) {
  convt_gemm::Plan plan;
  const convt_gemm::Status status = convt_gemm::choose_plan(make_problem(1, 192, 8, {{1, 2, 2, 1}}), {}, {}, &plan);  // an output size of 0
  EXPECT_NE(status.message.find("expected a positive output size"), std::string::npos) << status.message;
}

TEST(WorkspaceLimit, MustNotBeNegative) {
  Plan plan;
  const Status status = choose_plan(aligned_problem(), cuda(), options(Precision::ieee, "auto", -1), &plan);
  EXPECT_EQ(status.code, StatusCode::invalid_argument);
  EXPECT_NE(status.message.find("workspace_limit to be non-negative, but got -1"), std::string::npos) << status.message;
}

TEST(ParsePrecision, KnowsItsNames) {
  for (Precision precision : kPrecisions) {
    Precision parsed = precision == Precision::ieee ? Precision::tf32 : Precision::ieee;
    ASSERT_TRUE(parse_precision(name_of(precision), &parsed).ok());
    EXPECT_EQ(parsed, precision);
  }
}

TEST(ParsePrecision, RefusesOthersByName) {
  for (const char* wrong : {"", "auto", "IEEE", "tf32 ", "bf16"}) {
    Precision precision = Precision::tf32;
    const Status status = parse_precision(wrong, &precision);
    EXPECT_EQ(status.code, StatusCode::invalid_argument);
    EXPECT_EQ(status.message,
              "expected precision to be 'ieee', 'tf32' or 'tf32x3', but got '" + std::string(wrong) + "'");
    EXPECT_EQ(precision, Precision::tf32) << "a refused name must not change the result";
  }
}

TEST(Describe, TellsNamePiecesWorkspaceAndTime) {
  for (const NamedProblem& named : all_problems()) {
    for (const Plan& plan : enumerate_plans(named.problem, cuda(), options(Precision::tf32))) {
      const std::string text = describe(named.problem, plan);
      for (const std::string& part : {plan.name(), to_string(named.problem), std::string("pieces"),
                                      std::string("workspace"), std::string("FLOP"), std::string("predicted")}) {
        EXPECT_NE(text.find(part), std::string::npos) << "no " << part << " in: " << text;
      }
    }
  }
}

/// A problem of the random ones that the constants of small problems were fitted to (plan/PERFORMANCE.md), one H100, in graphs.
struct Measured {
  Problem problem;
  DType dtype;
  Precision precision;
  std::string family;        // of the fastest plan: how its name begins
  double fastest, next;      // microseconds: of it, and of the fastest of all other families
};

/// Where families are far apart. Small problems wait for latencies, not for bytes or arithmetic: of one thread's loads, of one tile's steps.
TEST(ChoosePlan, TakesTheFamilyThatWasMeasuredFastest) {
  const auto f32 = DType::float32, bf16 = DType::bfloat16;
  const auto tf32 = Precision::tf32, tf32x3 = Precision::tf32x3, ieee = Precision::ieee;
  const std::vector<Measured> all = {
      {make_problem(1, 1024, 1024, {{233, 4, 2, 1}}, 1024), f32, tf32, "direct_float32", 1.9, 29.5},
      {make_problem(1, 128, 128, {{105, 2, 2}, {105, 2, 2}}, 128), bf16, ieee, "direct_bfloat16", 11.7, 105.0},
      {make_problem(1, 512, 1, {{18, 2, 2}}), f32, tf32x3, "direct_columns", 4.3, 32.1},
      {make_problem(16, 64, 1, {{1946, 3, 1, 1}}), f32, tf32, "direct_columns", 4.0, 11.7},
      {make_problem(2, 1024, 8, {{1521, 3, 1, 1}}, 4), bf16, ieee, "direct_columns", 6.3, 16.3},
      {make_problem(16, 256, 128, {{1, 8, 4}}), f32, tf32, "direct_streamed", 5.7, 9.1},
      {make_problem(64, 100, 512, {{1, 4}, {1, 4}}), f32, tf32x3, "direct_streamed", 15.6, 179.4},
      {make_problem(64, 100, 512, {{1, 4}, {1, 4}}), bf16, ieee, "gemm_col2im_cublas", 12.1, 20.7},
      {make_problem(1, 768, 64, {{146, 1}}), f32, tf32, "gemm_col2im_cublas", 8.4, 21.7},
      {make_problem(16, 1024, 128, {{5, 8, 4, 2}}), bf16, ieee, "gemm_col2im_cublas_joined", 11.2, 30.3},
      {make_problem(64, 1024, 32, {{6, 5, 2, 2}}), f32, tf32, "gemm_col2im_cublas_joined", 14.4, 35.7},
      {make_problem(16, 512, 64, {{65, 1}}), f32, tf32x3, "gemm_col2im_cutlass", 17.9, 34.0},
      {make_problem(1, 48, 32, {{185, 3, 1, 1}}), bf16, ieee, "gemm_col2im_cutlass", 6.8, 9.5},
      {make_problem(1, 512, 64, {{8, 20, 10, 5}}), f32, tf32, "direct_streamed", 4.9, 6.7},
      {make_problem(1, 1024, 512, {{2, 16, 8}}), bf16, ieee, "direct_streamed", 7.2, 11.5},
      {make_problem(1, 1024, 512, {{1, 16, 8}}), f32, tf32, "direct_streamed", 10.7, 14.5},
      {make_problem(1, 511, 77, {{3, 5, 3}}), bf16, ieee, "direct_streamed", 3.8, 9.0},
      {make_problem(1, 256, 256, {{347, 20, 10, 5}}), bf16, ieee, "implicit_gemm_sm90_transposed", 8.6, 22.4},
      {make_problem(16, 16, 128, {{3, 16, 8, 4}, {3, 16, 8, 4}}), f32, tf32, "implicit_gemm_sm90_transposed_planes", 9.9, 49.8},
      {make_problem(64, 256, 64, {{5, 2, 2}, {5, 2, 2}, {5, 2, 2}}, 4), f32, tf32x3, "implicit_gemm_sm90_transposed_planes", 26.2, 55.8},
      {make_problem(1, 32, 256, {{40, 4, 2, 1}}), bf16, ieee, "implicit_gemm_sm90_windows", 3.0, 5.3},
      {make_problem(2, 256, 32, {{300, 4, 2, 1}}, 4), f32, tf32, "implicit_gemm_sm90_windows", 4.4, 7.7},
      {make_problem(4, 16, 16, {{50, 2, 2}, {50, 2, 2}}), f32, tf32, "implicit_gemm_sm90_windows", 4.0, 7.2},
      {make_problem(1, 64, 32, {{7516, 16, 8, 4}}), bf16, ieee, "implicit_gemm_sm90_bfloat16", 8.7, 17.2},
      {make_problem(2, 128, 512, {{3556, 3, 1, 1}}), f32, tf32x3, "implicit_gemm_sm90_tf32x3", 39.9, 70.2},
      {make_problem(64, 128, 128, {{3, 12, 6, 3}}), f32, tf32x3, "direct_streamed", 9.6, 22.8},
  };
  for (const Measured& measured : all) {
    const Problem problem = with(measured.problem, measured.dtype);
    Plan plan;
    const Status status = choose_plan(problem, cuda(), options(measured.precision), &plan);
    ASSERT_TRUE(status.ok()) << status.message;
    EXPECT_EQ(plan.name().rfind(measured.family, 0), 0u)
        << to_string(problem) << ": expected " << measured.family << ", " << measured.fastest << " us where others take " << measured.next << ", but got " << plan.name();
  }
}

}  // namespace
}  // namespace convt_gemm::testing

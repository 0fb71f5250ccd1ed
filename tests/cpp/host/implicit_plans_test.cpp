// The fused kernels' geometry and plans: pure host functions.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "convt_gemm/reference.h"
#include "plan/cuda_plans.h"
#include "plan/implicit_plans.h"
#include "plan/implicit_table.h"
#include "support/cases.h"
#include "support/problems.h"
#include "support/values.h"

namespace convt_gemm::testing {
namespace {

DeviceTraits gpu(int compute_capability, int multiprocessors = 132) {
  DeviceTraits traits;
  traits.device = Device::cuda;
  traits.compute_capability = compute_capability;
  traits.multiprocessors = multiprocessors;
  return traits;
}

struct Planned {
  Problem problem;
  Plan plan;
  ImplicitGeometry geometry;
};

std::vector<Planned> planned(Problem problem, const DeviceTraits& traits) {
  std::vector<Planned> all;
  for (DType dtype : {DType::float32, DType::bfloat16, DType::float16}) {
    for (Layout layout : {Layout::channels_first, Layout::channels_last}) {
      for (Precision precision : {Precision::tf32, Precision::tf32x3}) {
        if (dtype != DType::float32 && precision != Precision::tf32) continue;
        problem.dtype = dtype;
        problem.layout = layout;
        PlanOptions options;
        options.precision = precision;
        std::vector<Plan> plans;
        append_implicit_plans(problem, traits, options, &plans);
        for (const Plan& plan : plans) {
          ImplicitGeometry geometry{};
          EXPECT_TRUE(implicit_geometry_of(problem, plan, &geometry).ok()) << plan.name();
          all.push_back({problem, plan, geometry});
        }
      }
    }
  }
  return all;
}

std::vector<NamedProblem> one_axis_problems() {
  std::vector<NamedProblem> problems;
  for (const NamedProblem& named : small_problems()) {
    if (named.problem.rank == 1) problems.push_back(named);
  }
  for (const NamedProblem& named : cases()) {
    if (named.problem.rank == 1) problems.push_back(named);
  }
  return problems;
}

/// The formula of implicit_geometry.h, term by term.
TEST(ResidueForm, IsTheDefinition) {
  for (const NamedProblem& named : small_problems()) {
    const Problem& p = named.problem;
    if (p.rank != 1 || p.batch == 0) continue;
    ImplicitGeometry g{};
    ASSERT_TRUE(make_implicit_geometry(p, Precision::tf32, implicit_instances()[0].tile, gpu(90), &g)) << named.name;
    const Operands operands = integer_operands(p);
    std::vector<double> expected(std::size_t(p.output_elements())), got(expected.size(), NAN);
    reference_forward(p, operands.input.data(), operands.weight.data(), operands.bias.data(), expected.data());
    const auto write = [&](std::int64_t n, std::int64_t channel, std::int64_t q, double value) {
      const std::int64_t output = q - g.padding;
      if (output < 0 || output >= g.output) return;
      double& y = got[std::size_t((n * p.out_channels + channel) * g.output + output)];
      EXPECT_TRUE(std::isnan(y)) << named.name << ": output " << output << " has two sources";
      y = value;
    };
    const std::int64_t lines = g.lines_of_sample.divisor();
    for (std::int64_t n = 0; n < p.batch; ++n) {
      for (std::int64_t channel = 0; channel < p.out_channels; ++channel) {
        const double bias = p.bias ? operands.bias[std::size_t(channel)] : 0;
        const std::int64_t group = channel / g.out_channels;
        for (std::int64_t u = g.first_position; u < g.first_position + lines * g.line; ++u) {
          std::set<std::int64_t> offsets;  // with taps
          for (int r = 0; r < g.residues; ++r) {
            double sum = bias;
            for (int j = 0; j < g.taps && r + j * g.tap_step < g.kernel; ++j) {
              const std::int64_t i = u - std::int64_t{j} * g.input_step;
              if (i < 0 || i >= g.input) continue;
              for (int c = 0; c < g.in_channels; ++c) {
                const std::int64_t in = group * g.in_channels + c;
                sum += operands.input[std::size_t((n * p.in_channels + in) * g.input + i)] *
                       operands.weight[std::size_t((in * g.out_channels + channel % g.out_channels) * g.kernel + r + j * g.tap_step)];
              }
            }
            write(n, channel, u * g.stride + std::int64_t{r} * g.dilation, sum);
            offsets.insert(std::int64_t{r} * g.dilation % g.stride);
          }
          for (int offset = 0; offset < g.stride; ++offset) {
            const bool has_taps =
                offset % g.gcd == 0 && std::int64_t{offset / g.gcd} * g.inverse % g.tap_step < g.residues;
            EXPECT_EQ(has_taps, offsets.count(offset) == 1) << named.name << " offset " << offset;
            if (!has_taps) write(n, channel, u * g.stride + offset, bias);
          }
        }
      }
    }
    EXPECT_EQ(got, expected) << named.name;
  }
}

TEST(ImplicitGeometry, CoversTheProblemWithinTheMachine) {
  for (const NamedProblem& named : one_axis_problems()) {
    for (const DeviceTraits& traits : {gpu(90), gpu(80, 108), gpu(90, 3)}) {
      for (const auto& [problem, plan, g] : planned(named.problem, traits)) {
        SCOPED_TRACE(named.name + " " + plan.name());
        const ImplicitTile& tile = implicit_instances()[plan.instance].tile;
        EXPECT_LE(g.shared_bytes, traits.compute_capability >= 90 ? 227 << 10 : 163 << 10);
        EXPECT_GE(g.stages, 2);
        EXPECT_LE(g.stages, kMostStages);
        EXPECT_LE(g.teams * 2 * kMostStages * 8, kBarrierBytes);
        EXPECT_EQ(g.line * g.lines, g.team_rows);
        EXPECT_EQ(g.team_rows * g.teams, tile.rows);
        EXPECT_GE(std::int64_t{g.row_tiles} * g.lines, g.total_lines);
        EXPECT_EQ(g.total_lines, g.lines_of_sample.divisor() * g.batch);
        // Every output lies in a cell of a position that is covered.
        const std::int64_t end = g.first_position + std::int64_t{g.lines_of_sample.divisor()} * g.line;
        EXPECT_LE(g.first_position * g.stride, g.padding);
        EXPECT_GE(end * g.stride, g.padding + g.output);
        EXPECT_GE(std::int64_t{g.chunk_taps} * g.tap_blocks, g.taps);
        EXPECT_GE(std::int64_t{g.channel_blocks} * tile.words * std::int64_t(4 / size_of(problem.dtype)), g.in_channels);
        EXPECT_GE(std::int64_t{g.column_tiles.divisor()} * tile.columns / kColumnBlock, g.column_blocks);
        for (int bytes : {g.x_bytes, g.weight_bytes, g.staging_bytes, g.shared_bytes}) EXPECT_EQ(bytes % 16, 0);
        EXPECT_EQ(g.x_pitch * (problem.layout == Layout::channels_last ? 4 : int(size_of(problem.dtype))) % 16, 0);
        EXPECT_LE(g.blocks, traits.multiprocessors);
        EXPECT_GT(g.blocks, 0);
        if (g.resident) {
          EXPECT_EQ(g.blocks % g.all_column_tiles, 0);
        }
        EXPECT_EQ(plan.workspace_bytes, plan.packed_weight ? std::size_t(packed_weight_bytes(g)) : 0u);
        EXPECT_GT(plan.predicted_seconds, 0);
        EXPECT_TRUE(check_cuda_plan(problem, plan).ok());
      }
    }
  }
}

TEST(ImplicitPlans, AreOfTheDevicesFamily) {
  const Problem problem = make_problem(2, 64, 64, {{1024, 4, 2, 1}});
  const auto families = [&](int compute_capability) {
    std::set<Family> result;
    for (const Planned& p : planned(problem, gpu(compute_capability))) result.insert(implicit_instances()[p.plan.instance].tile.family);
    return result;
  };
  EXPECT_EQ(families(75), std::set<Family>{});
  EXPECT_EQ(families(80), std::set<Family>{Family::sm80});
  EXPECT_EQ(families(86), std::set<Family>{Family::sm80});
  EXPECT_EQ(families(90), (std::set<Family>{Family::sm80, Family::sm90}));
  EXPECT_EQ(families(100), std::set<Family>{Family::sm80}) << "wgmma is of sm_90a alone";
}

TEST(ImplicitPlans, HaveOneAxisAndTensorCoreTypes) {
  Problem problem = make_problem(2, 8, 8, {{16, 3, 2}, {16, 3, 2}});
  EXPECT_TRUE(planned(problem, gpu(90)).empty());
  problem = make_problem(2, 8, 8, {{1, 1}, {16, 3, 2}});
  EXPECT_FALSE(planned(problem, gpu(90)).empty()) << "a first axis of one position is no second axis";
  PlanOptions options;
  std::vector<Plan> plans;
  append_implicit_plans(make_problem(1, 8, 8, {{16, 3}}), gpu(90), options, &plans);
  EXPECT_TRUE(plans.empty()) << "precision 'ieee' is not theirs";
}

TEST(ImplicitPlans, TakeTensorsOfMoreThanTwoToThe31Elements) {
  const Problem problem = make_problem(40, 64, 64, {{2'000'000, 4, 2, 1}});
  ASSERT_GT(problem.input_elements(), std::int64_t{1} << 31);
  EXPECT_FALSE(planned(problem, gpu(90)).empty());
}

TEST(ImplicitPlans, NeedNoWorkspaceUnlessTheyPackWeights) {
  const Problem problem = make_problem(16, 512, 256, {{320, 16, 8, 4}}, 1, true);
  const std::int64_t weight_bytes = 4 * problem.weight_elements();
  bool packed = false;
  for (const Planned& p : planned(problem, gpu(90))) {
    if (p.problem.dtype != DType::float32 || p.plan.precision != Precision::tf32) continue;
    EXPECT_LE(std::int64_t(p.plan.workspace_bytes), p.plan.packed_weight ? weight_bytes : 0) << p.plan.name();
    packed = packed || p.plan.packed_weight;
  }
  EXPECT_TRUE(packed);
  PlanOptions options;
  options.precision = Precision::tf32;
  options.workspace_limit = weight_bytes - 1;
  std::vector<Plan> plans;
  append_implicit_plans(problem, gpu(90), options, &plans);
  for (const Plan& plan : plans) EXPECT_FALSE(plan.packed_weight) << plan.name();
  EXPECT_FALSE(plans.empty());
}

TEST(ImplicitPlans, AreRefusedForAnotherProblem) {
  Problem problem = make_problem(2, 64, 64, {{1024, 4, 2, 1}});
  const std::vector<Planned> all = planned(problem, gpu(90));
  ASSERT_FALSE(all.empty());
  Plan plan = all[0].plan;
  problem.dtype = plan.dtype;
  EXPECT_TRUE(check_cuda_plan(problem, plan).ok());
  Problem other = problem;
  other.dtype = DType::float64;
  EXPECT_FALSE(check_cuda_plan(other, plan).ok());
  other = problem;
  other.layout = Layout::channels_last;
  EXPECT_FALSE(check_cuda_plan(other, plan).ok());
  plan.instance = int(kImplicitInstances);
  EXPECT_FALSE(check_cuda_plan(problem, plan).ok());
}

TEST(ImplicitPlans, AreChosenByName) {
  Problem problem = make_problem(2, 64, 64, {{1024, 4, 2, 1}});
  PlanOptions options;
  options.precision = Precision::tf32;
  Plan plan;
  for (const char* name : {"implicit_gemm", "implicit_gemm_sm90", "implicit_gemm_sm90_tf32_channels_first_loaders1_128x64x32",
                           "implicit_gemm_sm80_tf32_channels_first_loaders1_packed_128x64x16"}) {
    options.algorithm = name;
    ASSERT_TRUE(choose_plan(problem, gpu(90), options, &plan).ok()) << name;
    EXPECT_EQ(plan.name().rfind(name, 0), 0u) << plan.name();
  }
}

}  // namespace
}  // namespace convt_gemm::testing

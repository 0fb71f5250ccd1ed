// The transposed product's geometry and plans: pure host functions.
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "plan/cuda_plans.h"
#include "plan/transposed_plans.h"
#include "plan/window_table.h"
#include "support/cases.h"
#include "support/problems.h"

namespace convt_gemm::testing {
namespace {

DeviceTraits gpu(int compute_capability = 90) {
  DeviceTraits traits;
  traits.device = Device::cuda;
  traits.compute_capability = compute_capability;
  return traits;
}

std::vector<Plan> plans_of(const Problem& problem, const DeviceTraits& traits = gpu(), std::int64_t limit = kDefaultWorkspaceLimit) {
  PlanOptions options;
  options.precision = Precision::tf32;
  options.workspace_limit = limit;
  std::vector<Plan> plans;
  append_transposed_plans(problem, traits, options, &plans);
  return plans;
}

std::vector<NamedProblem> one_axis_cases() {
  std::vector<NamedProblem> problems;
  for (const NamedProblem& named : cases()) {
    if (named.problem.rank == 1) problems.push_back(named);
  }
  problems.push_back({"groups", make_problem(2, 96, 64, {{20, 8, 4, 2}}, 2, true)});
  problems.push_back({"lacking_taps", make_problem(1, 130, 64, {{30, 7, 3, 2}})});
  problems.push_back({"residues_of_two_tiles", make_problem(1, 64, 20, {{4, 640, 160, 5}}, 1, true)});
  problems.push_back({"taps_of_three_chunks", make_problem(1, 64, 8, {{5, 2304, 256, 0, 3}})});
  return problems;
}

TEST(TransposedGeometry, HasEveryColumnOnceAndEveryPositionInReach) {
  int served = 0;
  for (const NamedProblem& named : one_axis_cases()) {
    for (DType dtype : {DType::float32, DType::bfloat16}) {
      Problem problem = named.problem;
      problem.dtype = dtype;
      for (const Plan& plan : plans_of(problem)) {
        SCOPED_TRACE(named.name + " " + plan.name());
        TransposedGeometry t{};
        ASSERT_TRUE(transposed_geometry_of(problem, plan, &t).ok());
        const ImplicitGeometry& g = t.g;
        ++served;
        // Column i of tile n: as the kernel finds it.
        std::vector<int> seen(std::size_t(g.out_channels) * std::size_t(g.residues));
        for (int tile = 0; tile < g.column_tiles.divisor(); ++tile) {
          const int first = tile / t.w.parts.divisor(), part = tile % t.w.parts.divisor();
          const int columns = transposed_instance(plan.instance).tile.columns;
          for (int i = 0; i < columns; ++i) {
            const int group = t.w.group_channels > 0 ? i / kGroupColumns : 0, in_group = i - group * kGroupColumns;
            const int channel = first * t.w.channels + group * t.w.group_channels + in_group / t.w.residues.divisor();
            const int residue = part * columns + in_group % t.w.residues.divisor();
            if (in_group >= t.w.columns || channel >= g.out_channels || residue >= g.residues) continue;
            ++seen[std::size_t(channel) * std::size_t(g.residues) + std::size_t(residue)];
          }
        }
        EXPECT_EQ(std::set<int>(seen.begin(), seen.end()), std::set<int>{1});
        // Slots that tiles copy are in the workspace.
        for (int tap_block : {0, g.tap_blocks - 1}) {
          const int before_first = g.halo - ((tap_block + 1) * g.chunk_taps - 1) * g.input_step + t.w.slots_before;
          EXPECT_GE(before_first, 0);
          EXPECT_LE(before_first + std::int64_t{range_of(t, 0).g.row_tiles} * g.tile_rows + (g.chunk_taps - 1) * g.input_step, t.w.packed_slots);
        }
        int row_tiles = 0, tiles = 0;  // of the ranges
        for (int range = 0; range < t.w.ranges; ++range) {
          const TransposedGeometry part = range_of(t, range);
          EXPECT_EQ(part.w.first_row, row_tiles * g.tile_rows);
          EXPECT_LE(part.g.row_tiles, range_of(t, 0).g.row_tiles);
          row_tiles += part.g.row_tiles, tiles += part.g.tiles;
        }
        EXPECT_EQ(row_tiles, g.row_tiles);
        EXPECT_EQ(tiles, g.tiles);
        EXPECT_GE(std::int64_t{g.row_tiles} * g.tile_rows, g.batch * g.sample_rows.divisor());
        // Shared memory: a column's last tap is in its channel's piece of the stage, or a zero is behind it, and everything is in the block's.
        EXPECT_GE(t.w.pitch, t.w.length + (t.w.all_taps ? 0 : 1));
        if (t.w.parts.divisor() == 1 && t.w.all_taps) {
          EXPECT_GE(t.w.length, (t.w.channels - 1) * g.kernel + (g.taps - 1) * g.tap_step + g.residues);
        }
        EXPECT_LE(g.shared_bytes, 227 << 10);
        EXPECT_GE(g.stages, 3);
        EXPECT_EQ(g.weight_bytes % 16, 0);
        EXPECT_EQ(g.x_bytes % 16, 0);
        EXPECT_TRUE(plan.splits == 1 || g.blocks == g.tiles * plan.splits) << "a cluster has one tile";
        EXPECT_LE(std::int64_t(plan.workspace_bytes), std::int64_t(size_of(dtype)) * problem.weight_elements());
        EXPECT_TRUE(check_cuda_plan(problem, plan).ok());
        EXPECT_GT(plan.predicted_seconds, 0);
      }
    }
  }
  EXPECT_GT(served, 100);
}

/// Several axes, as kernels find their way: slots of a tap are so far from those of a position that it reads the input that the formula says, or a zero.
TEST(PlaneGeometry, ReadsWhatTheFormulaSays) {
  int served = 0;
  for (const Problem& problem : {
           make_problem(2, 32, 16, {{5, 4, 2, 1}, {7, 4, 2, 1}}), make_problem(1, 32, 24, {{4, 4, 2, 3}, {9, 4, 2, 3}, {21, 4, 2, 3}}),
           make_problem(3, 32, 24, {{12, 3, 2, 1, 1}, {20, 3, 2, 1, 1}}), make_problem(2, 32, 16, {{6, 5, 3, 2, 1, 2}, {20, 3, 1, 1, 0, 3}}),
           make_problem(2, 32, 16, {{3, 8, 4}, {50, 1, 1}}), make_problem(1, 32, 16, {{40, 3, 1, 12}, {60, 2, 2}}), make_problem(2, 32, 8, {{2, 1, 1}, {4, 4, 1, 0}}),
           make_problem(1, 32, 16, {{5, 4, 2, 1}, {240, 4, 2, 1}}), make_problem(1, 32, 16, {{2, 2, 1}, {4, 3, 1, 1}, {236, 2, 2}})}) {
    for (const Plan& plan : plans_of(problem)) {
      SCOPED_TRACE(to_string(problem) + " " + plan.name());
      TransposedGeometry t{};
      ASSERT_TRUE(transposed_geometry_of(problem, plan, &t).ok());
      if (plan.splits > 1) continue;
      ++served;
      const PlaneTiles& planes = t.planes;
      // What slot `number` holds: an input of each axis, or false.
      const auto input_of = [&](std::int64_t number, std::int64_t (&input)[kAllAxes], std::int64_t* sample) {
        bool exists = number >= 0;
        for (int a = kAllAxes - 1; a >= 0; --a) {
          const PlaneAxis& axis = planes.axis[a];
          input[a] = number % axis.slots.divisor() + axis.first_input, number /= axis.slots.divisor();
          exists = exists && input[a] >= 0 && input[a] < axis.input;
        }
        *sample = number;
        return exists && number < problem.batch;
      };
      std::int64_t outputs = 0;
      for (std::int64_t row = 0; row < std::int64_t{t.g.row_tiles} * t.g.tile_rows; ++row) {
        std::int64_t place[kAllAxes], rest = row;
        for (int a = kAllAxes - 1; a >= 0; --a) place[a] = rest % planes.axis[a].slots.divisor(), rest /= planes.axis[a].slots.divisor();
        if (rest >= problem.batch) break;
        // Residue 0 of each axis, and tap j of each.
        std::int64_t first[kAllAxes];
        bool exists = true;
        for (int a = 0; a < kAllAxes; ++a) {
          first[a] = place[a] * planes.axis[a].stride.divisor() + planes.axis[a].first_output;
          exists = exists && first[a] >= 0 && first[a] < planes.axis[a].output;
        }
        if (!exists) continue;
        ++outputs;
        int tap = 0, j[kAllAxes];
        for (j[0] = 0; j[0] < planes.axis[0].most_taps; ++j[0]) {
          for (j[1] = 0; j[1] < planes.axis[1].most_taps; ++j[1]) {
            for (j[2] = 0; j[2] < planes.axis[2].most_taps; ++j[2], ++tap) {
              const int run = planes.tap_slots[tap] / planes.run_slots, within = planes.tap_slots[tap] % planes.run_slots;
              ASSERT_LT(run, planes.runs);
              ASSERT_LE(within + t.g.tile_rows, planes.run_slots);
              std::int64_t input[kAllAxes], sample = 0;
              const bool there = input_of(row + t.g.halo - planes.run_before[run] + within, input, &sample);
              bool wanted = true;
              for (int a = 0; a < kAllAxes; ++a) {
                const Axis& axis = problem.axes[a];
                const std::int64_t q = first[a] + axis.padding - j[a] * axis.stride * axis.dilation;  // residue 0: tap j * stride
                wanted = wanted && q >= 0 && q / axis.stride < axis.input;
                if (!there) continue;
                EXPECT_EQ(input[a] * axis.stride, q);
              }
              EXPECT_EQ(there, wanted) << "row " << row << ", tap " << tap;
              EXPECT_TRUE(!there || sample == rest);
            }
          }
        }
      }
      // Each output of residue 0 once.
      std::int64_t wanted = problem.batch;
      for (const Axis& axis : problem.axes) {
        std::int64_t of_axis = 0;
        for (std::int64_t o = 0; o < axis.output(); ++o) of_axis += (o + axis.padding) % axis.stride == 0;
        wanted *= of_axis;
      }
      EXPECT_EQ(outputs, wanted);
    }
  }
  EXPECT_GT(served, 20);
}

/// dac-24k block1: x is larger than the weights.
TEST(TransposedPlans, DoRowsInRangesWhereMemoryIsLess) {
  const Problem problem = make_problem(1, 768, 384, {{6000, 10, 5, 3, 1}}, 1, true);
  for (const Plan& plan : plans_of(problem)) {
    TransposedGeometry t{};
    ASSERT_TRUE(transposed_geometry_of(problem, plan, &t).ok());
    EXPECT_EQ(t.w.ranges, 2) << plan.name();
    EXPECT_EQ(plan.splits, 1);
    EXPECT_LE(plan.workspace_bytes, 4u * 768 * 384 * 10);
  }
  Plan chosen;
  PlanOptions options;
  options.precision = Precision::tf32;
  ASSERT_TRUE(choose_plan(problem, gpu(), options, &chosen).ok());
  EXPECT_NE(chosen.name().find("_transposed_"), std::string::npos) << chosen.name();
}

TEST(TransposedPlans, RefuseWhatTheyDoNotServe) {
  const Problem problem = make_problem(1, 512, 256, {{800, 20, 10, 5}}, 1, true);
  EXPECT_FALSE(plans_of(problem).empty());
  EXPECT_TRUE(plans_of(problem, gpu(80)).empty());
  EXPECT_TRUE(plans_of(problem, gpu(), 1024).empty()) << "x does not fit the workspace";
  Problem other = problem;
  other.layout = Layout::channels_last;
  EXPECT_TRUE(plans_of(other).empty());
  other = problem;
  other.dtype = DType::float64;
  EXPECT_TRUE(plans_of(other).empty());
  EXPECT_TRUE(plans_of(make_problem(1, 512, 256, {{80000, 20, 10, 5}})).empty()) << "much more of x than of weights";
  EXPECT_TRUE(plans_of(make_problem(1, 512, 255, {{80, 19, 10, 5}})).empty()) << "rows of weights that are not aligned";
  EXPECT_TRUE(plans_of(make_problem(1, 512, 256, {{80, 3, 4}})).empty()) << "outputs without taps";
  EXPECT_FALSE(plans_of(make_problem(1, 512, 256, {{8, 4, 2, 1}, {8, 4, 2, 1}})).empty());
  EXPECT_TRUE(plans_of(make_problem(1, 512, 256, {{8, 4, 2, 1}, {8, 4, 2, 1, 0, 3}})).empty()) << "residues that are neighbours have outputs that are not";
  EXPECT_TRUE(plans_of(make_problem(1, 512, 256, {{8, 4, 2, 1, 0, 2}, {8, 4, 2, 1}})).empty()) << "stride and dilation have a divisor";
  EXPECT_TRUE(plans_of(make_problem(1, 512, 256, {{8, 16, 16}, {8, 16, 16}})).empty()) << "256 residues";
  EXPECT_TRUE(plans_of(make_problem(1, 512, 256, {{8, 2, 3}, {8, 4, 2, 1}})).empty()) << "outputs without taps";
  EXPECT_FALSE(plans_of(make_problem(1, 32 * 65535, 65535, {{1, 64, 4}}, 65535)).empty());
  EXPECT_TRUE(plans_of(make_problem(1, 32 * 65536, 65536, {{1, 64, 4}}, 65536)).empty()) << "more groups than a grid has blocks along an axis";
}

TEST(TransposedPlans, AreRefusedForAnotherProblem) {
  const Problem problem = make_problem(1, 512, 256, {{800, 20, 10, 5}}, 1, true);
  const std::vector<Plan> plans = plans_of(problem);
  ASSERT_FALSE(plans.empty());
  const auto refused = [&](Plan wrong) { return check_cuda_plan(problem, wrong).code == StatusCode::invalid_argument; };
  Plan wrong = plans[0];
  EXPECT_FALSE(refused(wrong));
  wrong.splits = 0;
  EXPECT_TRUE(refused(wrong));
  wrong = plans[0];
  wrong.workspace_bytes = 0;
  EXPECT_TRUE(refused(wrong));
  wrong = plans[0];
  wrong.instance = kFusedInstances;
  EXPECT_TRUE(refused(wrong));
  wrong = plans[0];
  wrong.dtype = DType::bfloat16;
  EXPECT_TRUE(refused(wrong));
}

TEST(TransposedPlans, HaveNamesOfTheirOwn) {
  std::set<std::string> names;
  for (const Plan& plan : plans_of(make_problem(16, 512, 256, {{32, 16, 8, 4}}, 1, true))) {
    EXPECT_EQ(plan.name().rfind("implicit_gemm_sm90_transposed_tf32_channels_first_", 0), 0u) << plan.name();
    EXPECT_NE(plan.name().find(plan.tile()), std::string::npos);
    EXPECT_TRUE(names.insert(plan.name()).second) << plan.name();
  }
  EXPECT_TRUE(names.count("implicit_gemm_sm90_transposed_tf32_channels_first_136x128x32_splits2"));
}

/// Where they were measured to be fastest.
TEST(TransposedPlans, AreChosenForLayersOfManyWeights) {
  for (const char* name : {"videogpt-vq-vae.decoder.convts.0-train", "pix2pix-unet_256.up.mid-train", "cyclegan-resnet_9blocks.up-256->128-train", "pointpillars-kitti.deblocks.2-train",
                           "simplebaseline-r50.deconv_layers.0-train", "hifi-gan-v1.ups.0-train", "bigvgan-v2-44k-512x.ups.0-train", "dac-44.1k.decoder.block1-train", "mimi.decoder.convtr1-infer",
                           "waveglow.upsample-infer", "kokoro-82m.generator.ups.0-infer"}) {
    for (const NamedProblem& named : cases()) {
      if (named.name != name) continue;
      PlanOptions options;
      options.precision = Precision::tf32;
      Plan plan;
      ASSERT_TRUE(choose_plan(named.problem, gpu(), options, &plan).ok());
      EXPECT_TRUE(plan.algorithm == Algorithm::implicit_gemm && is_transposed(plan.instance)) << name << ": " << plan.name();
    }
  }
}

}  // namespace
}  // namespace convt_gemm::testing

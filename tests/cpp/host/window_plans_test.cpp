// Geometry and plans of the kernels of windows: where stores begin, which problems are served, and what the planner makes of them.
#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "plan/cuda_plans.h"
#include "plan/window_plans.h"
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

PlanOptions options_of(const Problem& problem, Precision precision) {
  PlanOptions options;
  options.precision = problem.dtype == DType::float32 ? precision : Precision::ieee;
  return options;
}

std::vector<Plan> plans_of(const Problem& problem, Precision precision = Precision::tf32, const DeviceTraits& traits = gpu()) {
  std::vector<Plan> plans;
  append_window_plans(problem, traits, options_of(problem, precision), &plans);
  return plans;
}

std::vector<NamedProblem> served_problems() {
  std::vector<NamedProblem> problems;
  for (const NamedProblem& named : cases()) {
    if (named.problem.rank == 1 && !plans_of(named.problem).empty()) problems.push_back(named);
  }
  problems.push_back({"groups", make_problem(3, 32, 64, {{400, 4, 2, 1}}, 2, true)});
  problems.push_back({"gaps_of_even_rows", make_problem(2, 16, 8, {{512, 3, 2, 1, 1, 2}}, 1, true)});
  problems.push_back({"lacking_tap", make_problem(2, 16, 8, {{512, 3, 2, 1, 1}}, 1, true)});
  problems.push_back({"thirds", make_problem(2, 16, 10, {{512, 6, 3, 6, 1}}, 2, true)});
  problems.push_back({"thirds_lacking_tap", make_problem(3, 16, 9, {{520, 5, 3, 2, 2}}, 1, true)});
  return problems;
}

TEST(WindowGeometry, ServesTheLongRowsOfTheCases) {
  std::set<std::string> names;
  for (const NamedProblem& named : served_problems()) names.insert(named.name);
  for (const char* name : {"kernelbench-l1-64", "kernelbench-l1-74", "kernelbench-l1-79", "bigvgan-v2-44k-512x.ups.5-infer", "encodec-24k.decoder.convtr3-infer",
                           "dac-44.1k.decoder.block3-train", "stable-audio-2-oobleck.decoder.layers.5-train", "hifi-gan-v2.ups.3-infer", "snac-44k.decoder.block3-infer"}) {
    EXPECT_TRUE(names.count(name)) << name;
  }
}

/// From the definition: which output a thread's first sum is, and where that lies in y.
TEST(WindowGeometry, BeginsEveryStoreAtAMultipleOfWhatIsStored) {
  int served = 0;
  for (const NamedProblem& named : served_problems()) {
    for (const DType dtype : {DType::float32, DType::bfloat16}) {
      Problem problem = named.problem;
      problem.dtype = dtype;
      for (const Plan& plan : plans_of(problem)) {
        SCOPED_TRACE(named.name + " " + plan.name());
        ImplicitGeometry g{};
        ASSERT_TRUE(window_geometry_of(problem, plan, &g).ok());
        if (g.any_place) continue;
        ++served;
        const Axis& axis = problem.axis(0);
        const Window& window = implicit_instance(plan.instance).tile.window;
        const bool by_channel = window.form != Form::halves;
        const int sets = by_channel ? window.sets : 1, of_set = g.classes / sets;
        const std::int64_t unit = by_channel && sets > 1 ? std::max<std::int64_t>(4, sets * window.set_step * axis.stride) : 4;
        std::set<int> channels;
        for (int place = 0; place < g.classes; ++place) {
          const int set = place / of_set, channel = g.class_channel[place];
          EXPECT_TRUE(channel >= 0 && channel < g.classes && channels.insert(channel).second);
          const bool late = window.form == Form::gaps && g.late[place % of_set];
          // u stride - padding is what residue 0 of position u gives; with halves, position m gives m stride and what follows.
          const std::int64_t first = g.first_position + set * window.set_step;
          const std::int64_t output = window.form == Form::halves ? axis.stride * (first - axis.padding / axis.stride) : axis.stride * first - axis.padding - late;
          const std::int64_t row = channel * axis.output();
          EXPECT_EQ(((row + output) % unit + unit) % unit, 0) << "channel " << channel;
          EXPECT_LE(output, 0);  // nothing lies before the first tile
        }
        EXPECT_EQ(g.out_channels * axis.output() % unit, 0);
        // What a tile reads of x begins at a sector where sets bring outputs to sectors, else at whole vectors.
        const int vector = 16 / int(size_of(dtype));
        const bool reads_sectors = window.form == Form::neighbours && window.sets > 1;
        EXPECT_EQ((g.first_position + window.lag() - window.before(vector)) % (reads_sectors ? 2 * vector : vector), 0);
        EXPECT_TRUE(reads_sectors || window.form == Form::thirds || g.first_position % 8 == 0);
        EXPECT_TRUE(window.form != Form::thirds || g.first_output % (dtype == DType::float32 || axis.padding == 2 ? 16 : 4) == 0);  // a sector, if x lets it
        EXPECT_GE(g.first_output + (std::int64_t{g.sample_tiles.divisor()} * g.tile_rows) * axis.stride, axis.output());  // nor after the last one
        EXPECT_LE(g.shared_bytes, 227 << 10);
        EXPECT_EQ(g.x_bytes % 128, 0);
        EXPECT_GE(g.stages, std::min(3, g.chunks + 1));  // the last one tells that there are no more tiles
        EXPECT_LE(g.stages, most_window_stages(g.teams));
        EXPECT_LE(g.blocks, plan.multiprocessors);
        EXPECT_EQ(g.blocks % g.all_column_tiles, 0);
        EXPECT_LE(plan.workspace_bytes, std::size_t(g.all_column_tiles) * sizeof(int));  // counters
      }
    }
  }
  EXPECT_GT(served, 20);
}

TEST(WindowGeometry, RefusesWhatItHasNoWindowFor) {
  const auto serves = [](const Problem& problem) { return !plans_of(problem).empty(); };
  EXPECT_TRUE(serves(make_problem(4, 64, 32, {{32768, 4, 2, 1}})));
  EXPECT_TRUE(serves(make_problem(4, 64, 32, {{32767, 4, 2, 1}})));           // rows of x that are not whole 16 bytes
  EXPECT_FALSE(serves(make_problem(4, 64, 32, {{8, 3, 1, 1}, {4095, 4, 2, 1}})));  // those of several axes are to be
  EXPECT_FALSE(serves(make_problem(4, 64, 32, {{32768, 6, 2, 1}})));          // three taps
  EXPECT_TRUE(serves(make_problem(4, 64, 32, {{32768, 6, 3, 2, 1}})));
  EXPECT_TRUE(serves(make_problem(4, 64, 32, {{32768, 5, 3, 1}})));           // stride 3 and a padding that is not 2 modulo 4
  EXPECT_TRUE(serves(make_problem(4, 64, 32, {{32768, 6, 3, 2}})));           // or rows of y that are not whole fours
  EXPECT_TRUE(serves(make_problem(4, 64, 32, {{32767, 6, 3, 2, 1}})));
  EXPECT_FALSE(serves(make_problem(4, 64, 32, {{8, 3, 1, 1}, {32768, 6, 3, 2, 1}})));  // of several axes
  EXPECT_FALSE(serves(make_problem(4, 64, 32, {{32768, 8, 4, 2}})));          // stride 4
  EXPECT_TRUE(serves(make_problem(4, 64, 32, {{32768, 4, 2, 1, 1}})));        // rows of y of odd length, where channels have no sets
  EXPECT_FALSE(serves(make_problem(4, 1024, 512, {{32768, 4, 2, 1}})));       // weights that shared memory does not hold
  EXPECT_TRUE(serves(make_problem(4, 64, 33, {{32768, 4, 2}})));              // a channel without another that begins elsewhere: likewise
  EXPECT_FALSE(serves(make_problem(4, 32, 63, {{32768, 5, 1, 0, 0, 3}})));    // where they have
  Problem problem = make_problem(4, 64, 32, {{32768, 4, 2, 1}});
  EXPECT_TRUE(plans_of(problem, Precision::ieee).empty());
  EXPECT_TRUE(plans_of(problem, Precision::tf32, gpu(80)).empty());
  EXPECT_TRUE(plans_of(problem, Precision::tf32, gpu(100)).empty());
  problem.layout = Layout::channels_last;
  EXPECT_FALSE(serves(problem));
  problem.layout = Layout::channels_first;
  problem.dtype = DType::bfloat16;
  problem.axis(0).input = 32772;
  EXPECT_TRUE(serves(problem));
}

/// Rows of y that threads store wherever they begin: x is read from whole vectors on, shared memory has the heads, tiles follow one another without a gap.
TEST(WindowGeometry, StoresRowsThatBeginAnywhere) {
  std::set<Form> forms;
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    for (const Precision precision : {Precision::tf32, Precision::tf32x3}) {
      for (std::int64_t padding = 0; padding < 9; ++padding) {
        for (const std::int64_t stride : {1, 2, 3}) {
          for (const std::int64_t input : {32768, 32767}) {
            Problem problem = make_problem(2, stride == 1 ? 128 : 192, 96, {{input, stride == 1 ? 3 : 2 * stride, stride, padding}}, 1, true);
            problem.dtype = dtype;
            if (dtype != DType::float32 && precision == Precision::tf32x3) continue;
            for (const Plan& plan : plans_of(problem, precision)) {
              ImplicitGeometry g{};
              ASSERT_TRUE(window_geometry_of(problem, plan, &g).ok());
              if (!g.shifted_store) continue;
              SCOPED_TRACE(plan.name() + " " + to_string(problem));
              const ImplicitTile& tile = implicit_instance(plan.instance).tile;
              const int vector = 16 / int(size_of(dtype));
              forms.insert(tile.window.form);
              EXPECT_TRUE(g.any_place);
              EXPECT_EQ((g.first_position + tile.window.lag()) % vector, 0);
              EXPECT_LE(g.first_output, 0);
              EXPECT_GT(g.first_output, -2 * vector * stride);
              EXPECT_EQ(g.tile_rows, tile.warpgroup_rows());
              EXPECT_GE(g.first_output + std::int64_t{g.sample_tiles.divisor()} * g.tile_rows * stride, problem.axis(0).output());
              EXPECT_EQ(g.team_runs_bytes, 3 * tile.columns / tile.window.channel_columns() * 16);
              EXPECT_LE(g.shared_bytes, 227 << 10);
            }
          }
        }
      }
    }
  }
  EXPECT_EQ(forms, (std::set<Form>{Form::halves, Form::thirds}));
}

TEST(WindowGeometry, ServesOuterAxes) {
  const auto geometry = [](const Problem& problem, const char* tile) {
    ImplicitGeometry g{};
    for (const Plan& plan : plans_of(problem)) {
      if (plan.name().find(tile) != std::string::npos && window_geometry_of(problem, plan, &g).ok()) return g;
    }
    return ImplicitGeometry{};
  };
  // Nine taps are three of the row, of each of three rows; rows of 1026 outputs begin anywhere.
  ImplicitGeometry g = geometry(make_problem(8, 64, 64, {{1024, 3, 1}, {1024, 3, 1}}), "neighbours_taps3_step1_sets1x0_384x64x8");
  EXPECT_TRUE(g.planes && g.any_place && !g.flat);
  EXPECT_EQ(g.chunks, 3 * 64 / 8);
  EXPECT_EQ(g.row_tiles, 8 * 1026 * g.sample_tiles.divisor());
  EXPECT_EQ(g.all_column_tiles, 1);
  // Two lines a tile: 66 of them.
  g = geometry(make_problem(8, 48, 48, {{64, 3, 1}, {64, 3, 1}, {64, 3, 1}}), "neighbours_taps3_step1_sets1x0_lines2_256x24x16");
  EXPECT_TRUE(g.planes && g.any_place);
  EXPECT_EQ(g.chunks, 9 * 48 / 16);
  EXPECT_EQ(g.row_tiles, 8 * 66 * 33 * g.sample_tiles.divisor());
  EXPECT_EQ(geometry(make_problem(8, 48, 24, {{64, 3, 2}, {64, 3, 1}}), "lines2").row_tiles, 0);  // lines that do not share what they read
  // Two residues of rows, each with two taps: 63 or 62 outputs.
  g = geometry(make_problem(2, 16, 32, {{31, 4, 2, 0, 1}, {256, 4, 2, 1}}), "halves_taps2_step1_sets2x1_256x64x16");
  EXPECT_TRUE(g.planes && !g.any_place && !g.flat);
  EXPECT_EQ(g.all_column_tiles, 2);
  EXPECT_EQ(g.chunks, 2);
  EXPECT_EQ(g.row_tiles, 2 * 33 * 2);
  EXPECT_EQ(g.plane, 65 * 512);
  // No taps that share an output: all positions in one row, four residues of outer axes.
  g = geometry(make_problem(2, 64, 32, {{8, 2, 2}, {7, 2, 2}, {9, 2, 2}}), "pairs_taps1_step1_sets1x0_256x64x16");
  EXPECT_TRUE(g.planes && g.flat);
  EXPECT_EQ(g.row_tiles, 2 * 4);  // of 504 positions
  EXPECT_EQ(g.all_column_tiles, 4);
  EXPECT_EQ(g.chunks, 4);
  const auto serves = [](const Problem& problem) { return !plans_of(problem).empty(); };
  EXPECT_FALSE(serves(make_problem(2, 16, 32, {{32, 3, 2, 1, 0, 2}, {256, 4, 2, 1}})));   // outputs of the outer axis without taps
  EXPECT_FALSE(serves(make_problem(2, 16, 32, {{32, 4, 2, 1}, {255, 4, 2, 1}})));         // rows of x that are not whole 16 bytes
  EXPECT_FALSE(serves(make_problem(2, 256, 64, {{32, 31, 1, 15}, {256, 3, 1}})));         // weights that shared memory does not hold
  EXPECT_FALSE(serves(make_problem(2, 16, 32, {{32, 1, 200, 0}, {256, 4, 2, 1}})));       // more residues than multiprocessors
}

TEST(WindowPlans, AreChosenForPlanes) {
  std::set<std::string> names;
  for (const NamedProblem& named : cases()) {
    if (named.problem.rank == 1) continue;
    Plan plan;
    ASSERT_TRUE(choose_plan(named.problem, gpu(), options_of(named.problem, Precision::tf32), &plan).ok());
    if (plan.name().find("_windows_") != std::string::npos) names.insert(named.name.substr(0, named.name.find('.')));
  }
  for (const char* name : {"kernelbench-l1-57", "kernelbench-l1-61", "kernelbench-l1-70", "u-net", "sam-mask-decoder", "stylegan2", "mask-r-cnn", "second-kitti", "nnu-net-3d_fullres", "v-net"}) {
    EXPECT_TRUE(names.count(name)) << name;
  }
}

TEST(WindowPlans, AreChosenForLongRows) {
  for (const NamedProblem& named : served_problems()) {
    const bool small = named.name.find('-') == std::string::npos;
    if (small) continue;
    for (const Precision precision : {Precision::tf32, Precision::tf32x3}) {
      Plan plan;
      ASSERT_TRUE(choose_plan(named.problem, gpu(), options_of(named.problem, precision), &plan).ok());
      EXPECT_NE(plan.name().find("_windows_"), std::string::npos) << named.name << ": " << plan.name();
    }
    Problem problem = named.problem;
    problem.dtype = DType::float16;
    Plan plan;
    ASSERT_TRUE(choose_plan(problem, gpu(), options_of(problem, Precision::ieee), &plan).ok());
    EXPECT_NE(plan.name().find("_windows_"), std::string::npos) << named.name << ": " << plan.name();
  }
}

TEST(WindowPlans, AreChosenForLongRowsOfOddLength) {
  for (const NamedProblem& named : cases()) {
    const char* const prefixes[] = {"snac-44k.decoder.block3", "dac-44.1k.decoder.block3", "stable-audio-2-oobleck.decoder.layers.5", "bigvgan-v2-44k-512x.ups.5", "hifi-gan-v2.ups.3"};
    if (std::none_of(std::begin(prefixes), std::end(prefixes), [&](const char* prefix) { return named.name.rfind(prefix, 0) == 0; })) continue;
    for (const DType dtype : {DType::float32, DType::bfloat16, DType::float16}) {
      for (const Precision precision : {Precision::tf32, Precision::tf32x3}) {
        Problem problem = named.problem;
        problem.dtype = dtype, problem.axis(0).input -= 1;
        Plan plan;
        ASSERT_TRUE(choose_plan(problem, gpu(), options_of(problem, precision), &plan).ok());
        EXPECT_NE(plan.name().find("_windows_"), std::string::npos) << named.name << ": " << plan.name();
      }
    }
  }
}

TEST(WindowPlans, HaveTilesThatFewChannelsFill) {
  int few = 0;
  for (const NamedProblem& named : served_problems()) {
    for (const DType dtype : {DType::float32, DType::bfloat16, DType::float16}) {
      for (const Precision precision : {Precision::tf32, Precision::tf32x3}) {
        Problem problem = named.problem;
        problem.dtype = dtype;
        Plan plan;
        ASSERT_TRUE(choose_plan(problem, gpu(), options_of(problem, precision), &plan).ok());
        const bool narrow = plan.name().find("_512x16x") != std::string::npos, is_narrow = named.name == "hifi-gan-v2.ups.3-infer";
        few += is_narrow;
        EXPECT_TRUE(narrow == is_narrow || (narrow && problem.out_channels / problem.groups <= 16)) << named.name << ": " << plan.name();
      }
    }
  }
  EXPECT_EQ(few, 6);
}

TEST(WindowPlans, HaveNamesOfTheirOwn) {
  std::set<std::string> names;
  for (const Plan& plan : plans_of(make_problem(4, 128, 128, {{32768, 4, 2, 1}}))) {
    EXPECT_NE(plan.name().find(plan.tile()), std::string::npos);
    EXPECT_TRUE(names.insert(plan.name()).second) << plan.name();
  }
  EXPECT_TRUE(names.count("implicit_gemm_sm90_windows_tf32_channels_first_halves_taps2_step1_sets2x1_256x128x16"));
}

TEST(WindowPlans, AreRefusedForAnotherProblem) {
  const Problem problem = make_problem(4, 64, 32, {{32768, 4, 2, 1}});
  const std::vector<Plan> plans = plans_of(problem);
  ASSERT_FALSE(plans.empty());
  EXPECT_TRUE(check_cuda_plan(problem, plans[0]).ok());
  const auto refused = [](const Problem& other, const Plan& plan) { return check_cuda_plan(other, plan).code == StatusCode::invalid_argument; };
  Plan wrong = plans[0];
  wrong.instance = kFusedInstances;
  EXPECT_TRUE(refused(problem, wrong));
  wrong = plans[0];
  wrong.dtype = DType::bfloat16;
  EXPECT_TRUE(refused(problem, wrong));
  wrong = plans[0];
  wrong.multiprocessors = 0;
  EXPECT_TRUE(refused(problem, wrong));
  Problem other = problem;
  other.axis(0).kernel = 6;  // three taps
  EXPECT_TRUE(refused(other, plans[0]));
}

}  // namespace
}  // namespace convt_gemm::testing

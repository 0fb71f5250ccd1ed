// The fused kernels' geometry and plans: pure host functions.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

#include "convt_gemm/reference.h"
#include "plan/cuda_plans.h"
#include "plan/implicit_plans.h"
#include "plan/implicit_table.h"
#include "plan/pieces.h"
#include "plan/window_table.h"
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

std::vector<NamedProblem> small_one_axis_problems() {
  // The zeros that samples share end where fewer are before a sample than after it.
  std::vector<NamedProblem> problems{{"fewer_zeros_before", make_problem(3, 4, 5, {{9, 16, 4, 4, 1}}, 1, true)},
                                     {"fewer_zeros_after", make_problem(3, 4, 5, {{9, 13, 4, 2}}, 1, true)}};
  for (const NamedProblem& named : small_problems()) {
    if (named.problem.rank == 1) problems.push_back(named);
  }
  return problems;
}

std::vector<NamedProblem> one_axis_problems() {
  std::vector<NamedProblem> problems = small_one_axis_problems();
  for (const NamedProblem& named : cases()) {
    if (named.problem.rank == 1) problems.push_back(named);
  }
  return problems;
}

/// A column of the product, as the kernels find it.
struct Column {
  int channel, residue;
  bool exists;
};

/// Column `n` of a group's.
Column column_at(const ImplicitGeometry& g, const ImplicitTile& tile, int n) {
  if (g.store == Store::direct) {  // by the thread of four that has it, and which of the thread's it is
    const int i = n % tile.columns, of_set = tile.columns / g.sets, set = i / of_set, lane = i % 8 / 2, of_thread = i % of_set / 8 * 2 + i % 2;
    const int together = g.direct_outputs / g.sets;  // of a set
    const int number = n / tile.columns * tile.columns + (of_thread / together * 4 + lane) * g.direct_outputs + set * together + of_thread % together;
    return {number / g.residues, number % g.residues, number < g.residues * g.out_channels};
  }
  const int block = n / kColumnBlock, i = n % kColumnBlock;
  const int first = block / g.minor_blocks.divisor(), part = block % g.minor_blocks.divisor();
  const int local = i / g.minors_of_block.divisor();
  const int major = first * g.block_majors + local;
  const int minor = part * kColumnBlock + i % g.minors_of_block.divisor();
  const bool exists = block < g.column_blocks && local < g.block_majors && major < g.majors && minor < g.minors;
  return {g.channels_last ? minor : major, g.channels_last ? major : minor, exists};
}

/// What x has in a slot of all samples' slots.
struct Slot {
  std::int64_t sample, index;
  bool inside;  ///< of x; else the slot is zero
};

Slot slot_at(const ImplicitGeometry& g, std::int64_t slot) {
  if (slot < 0) return {0, 0, false};
  const std::int64_t sample = slot / g.sample_rows.divisor();
  const std::int64_t index = g.first_position - g.halo + slot % g.sample_rows.divisor();
  return {sample, index, sample < g.batch && index >= 0 && index < g.input};
}

/// The formula of implicit_geometry.h, term by term, row by row and column by column: every output has one source, which is its sum.
TEST(ResidueForm, IsTheDefinition) {
  int in_two_sets = 0;
  for (const NamedProblem& named : small_one_axis_problems()) {
    for (const auto& [layout, instance] : {std::pair{Layout::channels_first, 0}, {Layout::channels_first, 1}, {Layout::channels_last, 0}}) {
      const Problem& p = named.problem;
      if (p.batch == 0) continue;
      SCOPED_TRACE(named.name + " " + name_of(layout));
      Problem laid_out = p;
      laid_out.layout = layout;
      const ImplicitTile& tile = implicit_instances()[instance].tile;
      ImplicitGeometry g{};
      ASSERT_TRUE(make_implicit_geometry(laid_out, Precision::tf32, tile, gpu(90), &g));
      const Operands operands = integer_operands(p);
      std::vector<double> expected(std::size_t(p.output_elements())), got(expected.size(), NAN);
      reference_forward(p, operands.input.data(), operands.weight.data(), operands.bias.data(), expected.data());
      in_two_sets += g.sets == 2;
      EXPECT_EQ(g.shift, g.sets == 2 ? g.padding % g.stride : 0);
      std::int64_t twice = 0;
      const auto write = [&](std::int64_t n, std::int64_t channel, std::int64_t q, double value) {
        const std::int64_t output = q - g.padding;
        if (output < 0 || output >= g.output) return;
        double& y = got[std::size_t((n * p.out_channels + channel) * g.output + output)];
        twice += std::isnan(y) ? 0 : 1;
        y = value;
      };
      const auto has_taps = [&](int offset) {
        return offset % g.gcd == 0 && std::int64_t{offset / g.gcd} * g.inverse % g.tap_step < g.residues;
      };
      std::set<std::int64_t> offsets;  // of outputs with taps
      for (int r = 0; r < g.residues; ++r) offsets.insert(std::int64_t{r} * g.dilation % g.stride);
      for (int offset = 0; offset < g.stride; ++offset) {
        EXPECT_EQ(has_taps(offset), offsets.count(offset) == 1) << "offset " << offset;
      }
      EXPECT_EQ(g.fill, int(offsets.size()) < g.stride);

      const int blocks = g.column_tiles.divisor() * tile.columns / kColumnBlock;
      for (std::int64_t row = 0; row < std::int64_t{g.row_tiles} * g.tile_rows; ++row) {
        const std::int64_t n = row / g.sample_rows.divisor(), position = row % g.sample_rows.divisor();
        if (position >= g.positions || n >= g.batch) continue;  // stands for nothing
        for (int column = 0; column < blocks * kColumnBlock * g.groups; ++column) {
          const std::int64_t group = column / (blocks * kColumnBlock);
          const Column of = column_at(g, tile, column % (blocks * kColumnBlock));
          if (!of.exists) continue;
          const std::int64_t channel = group * g.out_channels + of.channel;
          const double bias = p.bias ? operands.bias[std::size_t(channel)] : 0;
          double sum = bias;
          const bool second = of.residue + g.shift >= g.stride && g.sets == 2;
          const int residue = of.residue + g.shift - (second ? g.stride : 0);
          const std::int64_t u = g.first_position + position + second;
          for (int j = 0; j < g.taps && residue + j * g.tap_step < g.kernel; ++j) {
            const Slot slot = slot_at(g, row + second + g.halo - std::int64_t{j} * g.input_step);
            if (!slot.inside) continue;
            for (int c = 0; c < g.in_channels; ++c) {
              const std::int64_t in = group * g.in_channels + c;
              sum += operands.input[std::size_t((slot.sample * p.in_channels + in) * g.input + slot.index)] *
                     operands.weight[std::size_t((in * g.out_channels + of.channel) * g.kernel + residue + j * g.tap_step)];
            }
          }
          write(n, channel, u * g.stride + std::int64_t{residue} * g.dilation, sum);
          if (of.residue != 0) continue;
          for (int offset = 0; offset < g.stride; ++offset) {
            if (!has_taps(offset)) write(n, channel, u * g.stride + offset, bias);
          }
        }
      }
      EXPECT_EQ(twice, 0) << "outputs have two sources";
      EXPECT_EQ(got, expected);
    }
  }
  EXPECT_GT(in_two_sets, 3);
}

/// Every row finds its own sample's inputs, or zeros, in the slots it reads, and samples lie as close as that allows.
TEST(ImplicitGeometry, SamplesShareNothingButZeros) {
  std::vector<std::pair<NamedProblem, int>> all;
  for (const NamedProblem& named : one_axis_problems()) {
    for (const int instance : {0, 1}) all.emplace_back(named, instance);
  }
  for (const auto& [named, instance] : all) {
    SCOPED_TRACE(named.name + " " + implicit_instances()[instance].name);
    ImplicitGeometry g{};
    ASSERT_TRUE(make_implicit_geometry(named.problem, Precision::tf32, implicit_instances()[instance].tile, gpu(90), &g));
    const std::int64_t rows = g.sample_rows.divisor();
    ASSERT_GE(rows, g.positions);
    // They multiply rows as they lie in memory: samples begin as far after a multiple of 16 bytes as they do there.
    ASSERT_TRUE(g.raw_rows);
    const int unit = g.raw_rows || g.vector_rows ? kVectorPositions : 1;
    EXPECT_EQ((std::int64_t{g.in_channels} * g.groups * g.input - rows) % kVectorPositions, 0);
    EXPECT_GE(g.halo, (g.taps - 1) * g.input_step);
    EXPECT_LT(g.halo, (g.taps - 1) * g.input_step + unit);
    std::int64_t wrong = 0;
    for (std::int64_t n : std::set<std::int64_t>{0, std::min<std::int64_t>(1, g.batch - 1), g.batch - 1}) {
      for (std::int64_t position = 0; position < g.positions; ++position) {
        if (position == 1000 && g.positions > 3000) position = g.positions - 1000;
        for (int j = 1 - g.sets; j < g.taps; ++j) {
          const std::int64_t index = g.first_position + position - std::int64_t{j} * g.input_step;
          const Slot slot = slot_at(g, n * rows + position + g.halo - std::int64_t{j} * g.input_step);
          const bool inside = index >= 0 && index < g.input;
          wrong += slot.inside != inside || (inside && (slot.sample != n || slot.index != index));
        }
      }
    }
    EXPECT_EQ(wrong, 0) << "reads";
    if (g.batch == 1) continue;
    // The least distance at which two neighbours have only zeros in common.
    const auto apart = [&](std::int64_t distance) {
      for (std::int64_t e = distance; e < g.positions + g.sets - 1 + g.halo; ++e) {
        for (const std::int64_t index : {g.first_position - g.halo + e, g.first_position - g.halo + e - distance}) {
          if (index >= 0 && index < g.input) return false;
        }
      }
      return true;
    };
    EXPECT_TRUE(apart(rows));
    EXPECT_TRUE(rows - g.positions < unit || !apart(rows - unit));
  }
}

TEST(ImplicitGeometry, PutsShortSamplesNextToEachOther) {
  const auto geometry = [](const Problem& problem) {
    ImplicitGeometry g{};
    EXPECT_TRUE(make_implicit_geometry(problem, Precision::tf32, implicit_instances()[0].tile, gpu(90), &g));
    return g;
  };
  // 34 positions, of which the first reads a zero before the sample and the last one after it: the same slot.
  ImplicitGeometry g = geometry(make_problem(16, 512, 256, {{33, 16, 8, 4}}));
  EXPECT_EQ(g.positions, 34);
  EXPECT_EQ(g.halo, 1);
  EXPECT_EQ(g.sample_rows.divisor(), 36);  // a sample has a multiple of four elements
  EXPECT_EQ(g.row_tiles, (16 * 34 + g.team_rows - 1) / g.team_rows);
  g = geometry(make_problem(16, 512, 256, {{32, 16, 8, 4}}));
  EXPECT_EQ(g.halo, 1);
  EXPECT_EQ(g.sample_rows.divisor(), 36);
  // Padding cuts off the ends: no zeros are read, and a sample's first inputs follow its neighbour's last ones.
  g = geometry(make_problem(2, 8, 8, {{31, 4, 1, 6}}));
  EXPECT_EQ(g.positions, 22);
  EXPECT_EQ(g.halo, 3);
  EXPECT_EQ(g.sample_rows.divisor(), 28);
}

// Which rows store how is measured; that each way is in use is not left to that.
TEST(ImplicitGeometry, StoresInEveryWay) {
  const auto stores = [](const Problem& problem, DType dtype = DType::float32) {
    std::set<int> outputs;  // 0: staged
    for (const auto& [planned_problem, plan, g] : planned(problem, gpu(90))) {
      const bool sm90 = implicit_instances()[plan.instance].tile.family == Family::sm90;
      EXPECT_FALSE((!sm90 || g.channels_last) && g.store == Store::direct);
      if (sm90 && !g.channels_last && plan.dtype == dtype) outputs.insert(g.store == Store::direct ? g.direct_outputs : 0);
    }
    return outputs;
  };
  const Problem vocoder = make_problem(1, 48, 24, {{220416, 4, 2, 1}}), oobleck = make_problem(4, 128, 128, {{32768, 4, 2, 1}});
  // One kernel of those in TF32 has too few columns for two sets, one too short chunks, and those in tf32x3 have but one.
  EXPECT_EQ(stores(vocoder), (std::set<int>{0, 2}));  // outputs one by one, little depth
  EXPECT_EQ(stores(oobleck), (std::set<int>{1, 2}));
  EXPECT_EQ(stores(make_problem(12, 768, 384, {{264, 8, 4, 2}})), (std::set<int>{2, 4}));
  EXPECT_EQ(stores(make_problem(1, 64, 32, {{120000, 4, 2, 0}})), std::set<int>{2});
  EXPECT_EQ(stores(make_problem(12, 768, 384, {{264, 16, 8, 4}})), std::set<int>{4});
  EXPECT_EQ(stores(make_problem(16, 32, 64, {{131072, 3, 2, 1, 0, 2}})), std::set<int>{0});  // outputs without taps
  for (const DType dtype : {DType::bfloat16, DType::float16}) {
    EXPECT_EQ(stores(make_problem(4, 128, 128, {{32769, 3, 1, 1}}), dtype), std::set<int>{0});
    EXPECT_EQ(stores(make_problem(4, 128, 128, {{32768, 3, 1, 1}}), dtype), std::set<int>{1});  // two positions at a time
    EXPECT_EQ(stores(make_problem(8, 256, 128, {{40, 3, 1, 1}}), dtype), std::set<int>{1});  // short rows
    EXPECT_EQ(stores(oobleck, dtype), std::set<int>{2});
    EXPECT_EQ(stores(make_problem(1, 64, 32, {{120000, 4, 2, 0}}), dtype), std::set<int>{2});
    EXPECT_EQ(stores(make_problem(12, 768, 384, {{264, 8, 4, 2}}), dtype), std::set<int>{4});
    EXPECT_EQ(stores(make_problem(12, 768, 384, {{264, 32, 16, 4}}), dtype), std::set<int>{4});
    EXPECT_EQ(stores(make_problem(12, 768, 384, {{264, 16, 8, 4}}), dtype), std::set<int>{8});
    EXPECT_EQ(stores(make_problem(12, 768, 384, {{264, 16, 8, 0}}), dtype), std::set<int>{8});
  }
}

TEST(ImplicitGeometry, CoversTheProblemWithinTheMachine) {
  for (const NamedProblem& named : one_axis_problems()) {
    for (const DeviceTraits& traits : {gpu(90), gpu(80, 108), gpu(86, 84), gpu(90, 3)}) {
      for (const auto& [problem, plan, g] : planned(named.problem, traits)) {
        SCOPED_TRACE(named.name + " " + plan.name());
        const ImplicitTile& tile = implicit_instances()[plan.instance].tile;
        const int element = int(size_of(problem.dtype)), vector = 16 / element, parts = plan.precision == Precision::tf32x3 ? 2 : 1;
        const std::int64_t batch = std::max<std::int64_t>(problem.batch, 1);

        // Teams and rows.
        EXPECT_EQ(g.teams, g.resident ? tile.warpgroups() : 1);
        EXPECT_EQ(g.team_rows * g.teams, tile.rows);
        EXPECT_EQ(g.team_rows_divisor.divisor(), g.team_rows);
        EXPECT_EQ(g.batch, batch);
        const std::int64_t rows = batch * g.sample_rows.divisor();
        const int warpgroups = tile.warpgroups() / g.teams;
        EXPECT_EQ(g.tile_rows, warpgroups * g.owned_rows);
        EXPECT_GE(std::int64_t{g.row_tiles} * g.tile_rows, rows);
        EXPECT_LT(std::int64_t{g.row_tiles - 1} * g.tile_rows, rows);
        // Where rows of y are cut at sectors, a warpgroup has what lies between its last owned output and the next sector.
        EXPECT_TRUE(g.boundary == 1 || (g.store == Store::rows && g.boundary * element == 32));
        EXPECT_GE((g.used_rows - g.owned_rows) * g.stride, g.boundary - 1);
        EXPECT_LE(g.used_rows, tile.warpgroup_rows());
        EXPECT_GE(4 * g.owned_rows, 3 * tile.warpgroup_rows());
        if (g.vector_rows) {
          for (const std::int64_t aligned : {g.input, std::int64_t{g.tile_rows}, g.first_position - g.halo, std::int64_t{g.sample_rows.divisor()}}) {
            EXPECT_EQ(aligned % kVectorPositions, 0);
          }
          const int used = (warpgroups - 1) * g.owned_rows + g.used_rows + (g.chunk_taps - 1) * g.input_step + g.sets - 1;
          EXPECT_GE(g.slot_groups * kVectorPositions, used + kVectorPositions - 1);
          EXPECT_LE(g.slot_groups * kVectorPositions, g.slots);
        }
        // Every output lies in a cell of a position that is covered, and so does every residue's output.
        EXPECT_EQ(g.first_output, g.first_position * g.stride - g.padding + g.shift);
        EXPECT_LE(g.first_output, 0);
        EXPECT_GE(g.first_output + std::int64_t{g.positions} * g.stride, g.output);
        EXPECT_LT(g.first_output - g.stride + std::int64_t{g.residues - 1} * g.dilation, 0);

        // Columns: each (channel, residue) is in one place of one tile.
        const int blocks_of_tile = tile.columns / kColumnBlock;
        EXPECT_EQ(tile.columns % kColumnBlock, 0);
        EXPECT_EQ(g.column_tiles.divisor(), (g.column_blocks + blocks_of_tile - 1) / blocks_of_tile);
        EXPECT_EQ(g.all_column_tiles, g.column_tiles.divisor() * g.groups);
        std::vector<int> seen(std::size_t(g.out_channels) * std::size_t(g.residues));
        for (int column = 0; column < g.column_tiles.divisor() * tile.columns; ++column) {
          const Column of = column_at(g, tile, column);
          if (of.exists) ++seen.at(std::size_t(of.channel) * std::size_t(g.residues) + std::size_t(of.residue));
        }
        EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), std::ptrdiff_t(seen.size()));
        EXPECT_LE(g.run_majors.divisor(), std::max(g.block_majors, 1));

        // Depth.
        const std::int64_t chunk_channels = std::int64_t{tile.words} * 4 / element;
        EXPECT_GE(std::int64_t{g.chunk_taps} * g.tap_blocks, g.taps);
        EXPECT_LT(std::int64_t{g.chunk_taps} * (g.tap_blocks - 1), g.taps);
        EXPECT_GE(g.channel_blocks * chunk_channels, g.in_channels);
        EXPECT_LT((g.channel_blocks - 1) * chunk_channels, g.in_channels);
        EXPECT_EQ(g.chunks, g.channel_blocks * g.tap_blocks);
        EXPECT_EQ(g.whole_quads, g.channels_last && g.in_channels * element % 16 == 0);

        // Shared memory.
        const int limit = traits.compute_capability == 90 ? 227 << 10 : traits.compute_capability == 80 ? 163 << 10 : 99 << 10;
        EXPECT_LE(g.shared_bytes, limit);
        EXPECT_GE(g.stages, 2);
        EXPECT_LE(g.stages, kMostStages);
        EXPECT_LE(g.teams * 2 * kMostStages * 8, kBarrierBytes);
        const int read = g.team_rows + (g.chunk_taps - 1) * g.input_step + g.sets - 1;
        EXPECT_GE(g.slots, read);
        if (g.raw_rows) {
          EXPECT_GE(g.slots, read + 3);
          EXPECT_EQ(g.slots % 32, 8) << "a warp's words would share banks";
          EXPECT_GE(g.x_bytes, g.slots * 4 * tile.words);
        } else {
          EXPECT_EQ(g.slots % 2, 1) << "neighbouring depths would share banks";
          EXPECT_GE(g.x_bytes, g.slots * 16 * (tile.words / 4) * parts);
        }
        EXPECT_EQ(g.weight_bytes, g.chunk_taps * tile.words * 4 * tile.columns * parts);
        EXPECT_GE(g.shared_bytes, kBarrierBytes + g.teams * g.stages * g.x_bytes + (g.resident ? g.chunks : g.stages) * g.weight_bytes +
                                      g.stagings * g.staging_bytes);
        EXPECT_EQ(g.stagings, g.store == Store::direct && g.resident ? 1 : tile.warpgroups());
        for (int bytes : {g.x_bytes, g.weight_bytes, g.staging_bytes, g.shared_bytes}) EXPECT_EQ(bytes % 128, 0);

        // Stores: tables of columns, or staging buffers with their tables.
        if (g.store == Store::direct) {
          EXPECT_TRUE(tile.family == Family::sm90 && !g.channels_last && !g.fill);
          EXPECT_EQ(vector % g.direct_outputs, 0);
          if (g.direct_positions == 2) {
            EXPECT_EQ(g.stride, 1);
            for (const std::int64_t extent : {g.output, g.first_output, std::int64_t{g.sample_rows.divisor()}, std::int64_t{g.owned_rows}}) {
              EXPECT_EQ(extent % 2, 0) << "pairs have to be aligned in every row";
            }
          }
          if (g.sets == 2) {
            EXPECT_EQ(g.direct_outputs, g.stride);
            EXPECT_EQ(g.shift * 2, g.stride);
          }
          for (const std::int64_t extent : {g.output, g.padding - g.shift, std::int64_t{g.stride}, std::int64_t{g.residues}}) {
            EXPECT_EQ(extent % g.direct_outputs, 0) << "16-byte stores have to be aligned in every row";
          }
          EXPECT_TRUE(g.direct_outputs == 1 || g.dilation == 1);
          EXPECT_GE(g.staging_bytes, tile.columns * std::int64_t(sizeof(float)));
        } else {
          const int warpgroup_rows = tile.warpgroup_rows(), majors = g.run_majors.divisor();
          std::int64_t pitch = 0, runs = 0, lines = 0;  // lines: run_pitch elements each
          switch (g.store) {
            case Store::rows:
              for (int offset = 0; offset < std::min(g.sample_rows.divisor(), warpgroup_rows); ++offset) {
                EXPECT_LE((g.sample_rows.divisor() - 1 - offset + warpgroup_rows - 1) / g.sample_rows.divisor() + 1, g.segments);
              }
              // Each segment starts at a vector of its own, shifted by less than one.
              pitch = std::int64_t{warpgroup_rows} * g.stride + (g.segments - 1) * 2 * vector + vector - 1;
              EXPECT_LE(std::int64_t{std::min(g.positions, warpgroup_rows)} * g.stride, g.run_length);
              runs = std::int64_t{g.segments} * majors, lines = majors;
              EXPECT_TRUE(g.compact && !g.channels_last && g.minors <= kColumnBlock);
              break;
            case Store::positions:
              pitch = g.run_length + vector - 1;
              runs = lines = warpgroup_rows;
              EXPECT_EQ(majors, 1);
              EXPECT_TRUE(g.compact && !g.channels_last && g.minors > kColumnBlock);
              EXPECT_GE(g.run_length, std::int64_t{kColumnBlock - 1} * g.dilation + 1);
              break;
            case Store::channels:
              pitch = g.run_length + vector - 1;
              runs = lines = std::int64_t{warpgroup_rows} * majors;
              EXPECT_TRUE(g.channels_last);
              EXPECT_EQ(g.run_length, std::min(g.out_channels, kColumnBlock));
              break;
            case Store::direct:
              break;
            case Store::scattered:
              pitch = warpgroup_rows;
              runs = lines = kColumnBlock;
              EXPECT_TRUE(!g.compact && !g.channels_last);
          }
          EXPECT_GE(g.run_pitch, pitch);
          EXPECT_EQ(g.run_pitch % vector, 0);
          EXPECT_EQ(g.runs, runs);
          EXPECT_GE(g.run_vectors, g.run_length / vector);
          EXPECT_LE(g.run_vectors, 0xffff) << "Run::whole";
          EXPECT_TRUE((1 << g.log2_run_lanes) >= g.run_vectors || g.log2_run_lanes == 5);
          EXPECT_TRUE(g.buffers == 1 || (g.buffers == 2 && g.store == Store::rows && tile.family == Family::sm90));
          EXPECT_GE(g.spare, lines * g.run_pitch);
          std::int64_t elements = lines * g.run_pitch;
          if (g.store == Store::rows) {  // sums of columns that stand for nothing
            int used = 0;
            for (int column = 0; column < g.column_tiles.divisor() * tile.columns; ++column) {
              used += column_at(g, tile, column).exists;
            }
            if (used < g.column_tiles.divisor() * tile.columns) elements = g.spare + std::int64_t{warpgroup_rows - 1} * g.stride + 1;
          }
          EXPECT_GE(g.buffer_elements, elements);
          EXPECT_EQ(g.buffer_elements % vector, 0);
          const std::int64_t most_runs = std::max(g.runs, blocks_of_tile * majors);
          EXPECT_GE(g.staging_bytes, std::int64_t{g.buffers} * g.buffer_elements * element + most_runs * std::int64_t(sizeof(convt_gemm::Run)) +
                                         tile.columns * std::int64_t(sizeof(Place)));
        }

        // Tiles.
        EXPECT_EQ(std::int64_t{g.tiles}, std::int64_t{g.row_tiles} * g.all_column_tiles);
        EXPECT_EQ(g.tile_divisor.divisor(), g.columns_first ? g.all_column_tiles : g.row_tiles);
        EXPECT_LE(g.blocks, std::min(traits.multiprocessors, g.tiles));
        EXPECT_GT(g.blocks, 0);
        if (g.resident) {
          EXPECT_EQ(g.blocks % g.all_column_tiles, 0);
          EXPECT_TRUE(g.columns_first) << "a block keeps its column tile";
        }
        EXPECT_EQ(plan.workspace_bytes, plan.packed_weight ? std::size_t(packed_weight_bytes(g)) : 0u);
        EXPECT_EQ(g.packed, plan.packed_weight);
        EXPECT_GT(plan.predicted_seconds, 0);
        EXPECT_EQ(count_pieces(problem, plan.piece), problem.batch > 0 ? 1 : 0);
        EXPECT_TRUE(check_cuda_plan(problem, plan).ok());
        if (HasFailure()) return;
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
  const auto refused = [&](const Plan& wrong, const char* part) {
    const Status status = check_cuda_plan(problem, wrong);
    EXPECT_EQ(status.code, StatusCode::invalid_argument);
    EXPECT_NE(status.message.find(part), std::string::npos) << "no '" << part << "' in: " << status.message;
  };
  for (int instance : {-1, kFusedInstances}) {
    Plan wrong = plan;
    wrong.instance = instance;
    refused(wrong, "plan.instance");
  }
  Plan wrong = plan;
  wrong.dtype = DType::float64;
  refused(wrong, "expected a CUDA plan for float32");
  wrong = plan;
  wrong.device = Device::cpu;
  refused(wrong, "expected a CUDA plan for float32");
  wrong = plan;
  wrong.multiprocessors = 0;
  refused(wrong, "of another problem");
  // Packed weights of a longer kernel need more of the workspace; without them a plan serves any problem that the kernel does.
  problem.axis(0).kernel = 9;
  for (const Planned& p : all) {
    if (p.problem.dtype != plan.dtype || p.problem.layout != problem.layout) continue;
    EXPECT_EQ(check_cuda_plan(problem, p.plan).ok(), !p.plan.packed_weight) << p.plan.name();
  }
}

TEST(ImplicitPlans, AreChosenByName) {
  Problem problem = make_problem(2, 64, 64, {{1024, 4, 2, 1}});
  PlanOptions options;
  options.precision = Precision::tf32;
  Plan plan;
  for (const char* name : {"implicit_gemm", "implicit_gemm_sm90", "implicit_gemm_sm90_tf32_channels_first_loaders1_packed_128x64x32",
                           "implicit_gemm_sm80_tf32_channels_first_loaders1_packed_128x64x16"}) {
    options.algorithm = name;
    ASSERT_TRUE(choose_plan(problem, gpu(90), options, &plan).ok()) << name;
    EXPECT_EQ(plan.name().rfind(name, 0), 0u) << plan.name();
  }
}

}  // namespace
}  // namespace convt_gemm::testing

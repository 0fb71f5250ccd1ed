// The transposed product's kernels, run by the emulator: every instance, bit for bit against float64 on small integers, as
// implicit_kernel_test.cpp does it for the others; with clusters of several blocks too.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "convt_gemm/reference.h"
#include "emulator/emulator.h"
#include "implicit/transposed_kernel.cuh"
#include "kernels/emulated.h"
#include "plan/transposed_table.h"
#include "support/dtype.h"
#include "support/problems.h"
#include "support/values.h"

namespace convt_gemm::testing {
namespace {

using implicit::Kind;

struct TransposedKernel {
  std::string name;
  TransposedInstance instance;
  int pack_blocks;  ///< for a chunk of x
  void (*pack)(const implicit::PlaneParams&);
  void (*multiply)(const implicit::PlaneParams&);
};

template <Kind kKind, int kPositions, int kColumns, int kWords, Axes kAxes>
TransposedKernel transposed_kernel(const char* name, const TransposedInstance& instance) {
  using C = implicit::TransposedConfig<kKind, kPositions, kColumns, kWords, kAxes>;
  return {name, instance, C::kQuads / C::kPackedQuads, [](const implicit::PlaneParams& p) { implicit::pack_positions<C>(p); },
          [](const implicit::PlaneParams& p) {
            implicit::with_transposed_kernel_of<C>(p.w, [&](auto config) { implicit::implicit_gemm_transposed<decltype(config)>(p); });
          }};
}

std::vector<TransposedKernel> kernels(Axes wanted) {
  std::vector<TransposedKernel> list;
  const TransposedInstance* instance = transposed_instances();
#define CONVT_TRANSPOSED_GEMM(kind, positions, columns, words, number)                                                                               \
  list.push_back(transposed_kernel<Kind::kind, positions, columns, words, Axes::number>(#kind "_" #positions "x" #columns "x" #words, *instance)); \
  if (instance++->tile.axes != wanted) list.pop_back();
#include "implicit/transposed_instances.def"
#undef CONVT_TRANSPOSED_GEMM
  return list;
}

/// The output's bytes; operands and workspace lie between inaccessible pages.
Bytes run(const TransposedKernel& kernel, const Problem& problem, const Operands& operands, const TransposedGeometry& geometry,
          const emulator::Options& options) {
  const auto x = guarded(encode(problem.dtype, operands.input)), weight = guarded(encode(problem.dtype, operands.weight)),
             bias = guarded(encode(problem.dtype, operands.bias));
  const emulator::GuardedMemory y(std::size_t(problem.output_elements()) * size_of(problem.dtype));
  const emulator::GuardedMemory workspace(std::size_t(packed_positions_bytes(kernel.instance.precision, kernel.instance.tile, geometry)), 16);
  for (int range = 0; range < geometry.w.ranges; ++range) {
    const TransposedGeometry part = range_of(geometry, range);
    implicit::PlaneParams params{};
    params.g = part.g, params.w = part.w, params.planes = part.planes;
    params.x = x->data(), params.weight = weight->data(), params.bias = problem.bias ? bias->data() : nullptr;
    params.y = workspace.data();
    emulator::GuardedMemory::hold({x.get(), weight.get(), bias.get(), &y, &workspace});
    emulator::launch({unsigned((params.w.packed_slots - 1) / kWarpgroup + 1), unsigned(params.g.channel_blocks * kernel.pack_blocks), unsigned(params.g.groups)},
                     {kWarpgroup}, 0, options, [&] { kernel.pack(params); });
    params.x = workspace.data(), params.y = y.data();
    emulator::GuardedMemory::hold({&workspace});  // the first kernel has waited for all else before it let this one start
    emulator::launch({unsigned(params.g.blocks)}, {unsigned(kernel.instance.tile.multiplying() + kTransposedLoading)}, std::size_t(params.g.shared_bytes),
                     options, [&] { kernel.multiply(params); }, unsigned(params.w.splits));
  }
  return Bytes(y.data(), y.data() + y.bytes());
}

Problem in(Problem problem, const TransposedKernel& kernel) {
  problem.dtype = kernel.instance.dtype;
  return problem;
}

/// Whether the kernel's tile can serve the problem with so many splits, and in ranges if there is only a part `memory` of what x takes; runs it if so.
bool expect_exact(const Problem& base, const TransposedKernel& kernel, int splits, int multiprocessors,
                  const std::vector<emulator::Options>& every_options, double memory = 1) {
  const Problem problem = in(base, kernel);
  TransposedGeometry geometry;
  if (!make_transposed_geometry(problem, kernel.instance.precision, kernel.instance.tile, splits, hopper(multiprocessors), &geometry)) return false;
  const std::int64_t bytes = packed_positions_bytes(kernel.instance.precision, kernel.instance.tile, geometry);
  if (memory < 1 && (!set_ranges(kernel.instance.precision, kernel.instance.tile, std::int64_t(double(bytes) * memory), &geometry) || geometry.w.ranges < 2)) return false;
  const Operands operands = integer_operands(problem);
  std::vector<double> expected(std::size_t(problem.output_elements()));
  reference_forward(problem, operands.input.data(), operands.weight.data(), operands.bias.data(), expected.data());
  const std::vector<double> want = decode(problem.dtype, encode(problem.dtype, expected));
  for (const emulator::Options& options : every_options) {
    const std::vector<double> got = decode(problem.dtype, run(kernel, problem, operands, geometry, options));
    for (std::size_t i = 0; i < want.size(); ++i) {
      if (got[i] == want[i]) continue;
      ADD_FAILURE() << kernel.name << " with " << splits << " splits and " << multiprocessors << " multiprocessors, " << options << ", on "
                    << to_string(problem) << ": element " << i << " is " << got[i] << ", expected " << want[i];
      return true;
    }
  }
  return true;
}

class TransposedKernels : public ::testing::TestWithParam<TransposedKernel> {};
class PlaneKernels : public TransposedKernels {};

/// Planes and volumes: residues that lack taps on some axes, samples and rows of y that begin and end anywhere in a tile and in what is stored together.
TEST_P(PlaneKernels, GiveTheReference) {
  for (const Problem& problem : {
           make_problem(2, 20, 12, {{5, 2, 2}, {18, 2, 2}}, 1, true),            // every position has four outputs in whole vectors
           make_problem(1, 20, 12, {{9, 2, 2}, {7, 2, 2}}, 1, true),             // or in parts of them
           make_problem(3, 17, 8, {{4, 2, 2, 1, 1}, {17, 4, 2, 1}}, 1, true),    // vectors that begin with a position's second output, and a padded row of 18 slots
           make_problem(1, 12, 8, {{3, 4, 2, 3}, {20, 6, 2, 3, 0}}, 1, true),    // the same, of outputs that padding has cropped
           make_problem(2, 12, 16, {{3, 4, 4}, {16, 4, 4}}, 2, true),            // a position has a vector; groups
           make_problem(2, 20, 24, {{5, 8, 4, 1}, {22, 1, 1}}, 1, true),         // residues of an outer axis
           make_problem(1, 20, 8, {{4, 3, 2, 1, 1}, {7, 3, 2, 1, 1}}, 1, true),  // columns that lack taps on one axis or both
           make_problem(2, 9, 8, {{3, 5, 3, 2, 1, 2}, {6, 3, 1, 0, 0, 3}}),      // dilation, residues that lie one past the other
           make_problem(2, 12, 8, {{2, 2, 2}, {3, 2, 2}, {16, 2, 2}}, 1, true),  // volumes
           make_problem(2, 20, 12, {{3, 1, 1}, {5, 2, 2}, {5, 2, 2}}, 1, true),
           make_problem(1, 8, 8, {{2, 3, 1, 1}, {3, 3, 2, 0}, {9, 2, 1, 0}}, 1, true),
           make_problem(5, 24, 8, {{2, 1, 1}, {4, 4, 1, 0}}, 1, true),           // rows that are mostly zeros
           make_problem(2, 12, 4, {{26, 3, 1, 12}, {2, 1, 1}, {20, 2, 2}}, 1, true),  // tiles that have no outputs, and then the next sample's
           make_problem(1, 12, 7, {{4, 4, 2, 1}, {9, 4, 2, 1}}, 1, true),        // warpgroups of four channels and of three
           make_problem(2, 12, 40, {{3, 8, 8}, {5, 5, 5}}, 1, true),             // 40 residues, a stride that is no vector's
           make_problem(1, 12, 8, {{3, 4, 2, 1}, {240, 4, 2, 1}}, 1, true),      // rows so long that taps of the axis before are runs of their own
           make_problem(1, 12, 4, {{2, 2, 1}, {3, 1, 1}, {236, 2, 2}}),
       }) {
    EXPECT_TRUE(expect_exact(problem, GetParam(), 1, 2, {{}, {emulator::Order::starve, emulator::Completion::late, 5}})) << to_string(problem);
  }
}

/// The depth of a tile, shared out over the blocks of a cluster.
TEST_P(PlaneKernels, AddUpTheSumsOfACluster) {
  const TransposedKernel& kernel = GetParam();
  const int chunk = kernel.instance.tile.words * int(4 / size_of(kernel.instance.dtype));
  for (const int splits : {2, 4}) {
    for (const convt_gemm::Axis& axis : {convt_gemm::Axis{18, 2, 2}, {17, 4, 2, 1}, {22, 1, 1}, {5, 3, 2, 1}}) {
      const Problem problem = make_problem(2, 2 * splits * chunk - 3, 8, {{3, 2, 2}, axis}, 1, true);
      EXPECT_TRUE(expect_exact(problem, kernel, splits, 8, {{emulator::Order::starve, emulator::Completion::late, 3}})) << to_string(problem) << ", " << splits << " splits";
    }
  }
}

/// More tiles than blocks and more chunks than stages, in ranges too.
TEST_P(PlaneKernels, DoNotDependOnTheOrderOfThreads) {
  const TransposedKernel& kernel = GetParam();
  const int chunk = kernel.instance.tile.words * int(4 / size_of(kernel.instance.dtype));
  const Problem problem = make_problem(1, 4 * chunk + 5, 24, {{2, 4, 2, 1}, {kernel.instance.tile.positions / 2, 4, 2, 1}}, 1, true);
  EXPECT_TRUE(expect_exact(problem, kernel, 1, 1, emulator::many_options(1)));
  EXPECT_TRUE(expect_exact(problem, kernel, 1, 1, {{}}, 0.7));
}

/// Rows in ranges, the last of which is shorter, with a sample that two of them have a part of.
TEST_P(TransposedKernels, DoRangesOneAfterTheOther) {
  const TransposedKernel& kernel = GetParam();
  const int positions = kernel.instance.tile.positions;
  for (const bool many_columns : {false, true}) {
    const Problem problem = make_problem(3, 20, many_columns ? 40 : 12, {{positions + 7, 10, 5, 3}}, 1, true);
    EXPECT_TRUE(expect_exact(problem, kernel, 1, 2, {{}, {emulator::Order::starve, emulator::Completion::late, 5}}, 0.8));
    EXPECT_TRUE(expect_exact(problem, kernel, 1, 1, {{}}, 0.5));
  }
}

TEST_P(TransposedKernels, GiveTheReference) {
  for (const Problem& problem : {
           make_problem(2, 40, 16, {{9, 16, 8, 4}}, 1, true),       // kernel = 2 stride, as in vocoders
           make_problem(3, 37, 12, {{9, 4, 2, 1}}, 1, true),        // samples that share a tile
           make_problem(1, 20, 8, {{7, 10, 5, 3, 1}}, 1, true),     // output padding
           make_problem(1, 16, 40, {{20, 16, 8, 4}}),               // several tiles of columns, the last one not full
           make_problem(1, 75, 72, {{200, 3, 1, 1}}, 1, true),      // several tiles of positions
           make_problem(2, 17, 8, {{9, 7, 3, 2}}, 1, true),         // columns that lack the last tap
           make_problem(1, 12, 8, {{6, 5, 3, 2, 0, 2}}, 1, true),   // dilation: residues of one position reach past the next one's
           make_problem(2, 24, 16, {{9, 4, 2, 1}}, 2, true),        // groups
           make_problem(1, 8, 4, {{4, 40, 4, 7}}),                  // ten taps
           make_problem(2, 5, 3, {{9, 1024, 256}}, 1, true),        // more residues than a tile has columns
           make_problem(1, 6, 2, {{4, 640, 160, 5}}, 1, true),      // of which the last tile is not full
           make_problem(1, 3, 1, {{5, 2304, 256, 0, 3}}),           // and more taps than a chunk
           make_problem(1, 5, 8, {{1, 2, 2}}),                      // one position
       }) {
    const bool too_long = problem.axis(0).kernel == 640 && GetParam().instance.tile.columns > 128;  // all taps of as many residues as the tile has columns
    EXPECT_NE(expect_exact(problem, GetParam(), 1, 2, {{}, {emulator::Order::starve, emulator::Completion::late, 5}}), too_long) << to_string(problem);
  }
}

/// Rows of y begin and end in the middle of what is stored together, or pairs do; and the ways that a thread's columns are neighbours or not.
TEST_P(TransposedKernels, StoreRowsOfEveryAlignment) {
  for (const Problem& problem : {
           make_problem(1, 20, 40, {{61, 20, 10, 5}}, 1, true),     // whole vectors behind a part of one
           make_problem(1, 20, 40, {{61, 12, 6, 0}}, 1, true),      // rows of y that begin at every second element
           make_problem(1, 20, 40, {{75, 8, 4, 0}}, 1, true),       // at every fourth
           make_problem(1, 20, 48, {{75, 10, 5, 3, 1}}, 1, true),   // odd strides: at any
           make_problem(3, 20, 48, {{75, 6, 3, 1}}, 1, true),
           make_problem(5, 20, 24, {{33, 16, 8, 4}}, 1, true),      // several samples in a tile, whose rows are whole vectors
           make_problem(5, 20, 24, {{31, 12, 6, 3, 1}}, 1, true),   // or are not
           make_problem(2, 12, 32, {{10, 2, 2}}, 1, true),          // one tap
           make_problem(2, 12, 32, {{26, 128, 64, 32}}, 1, true),   // as many residues as a warpgroup has columns
           make_problem(2, 12, 16, {{26, 160, 80, 40}}, 1, true),   // more
           make_problem(1, 12, 3, {{460, 160, 80, 40}}, 1, true),   // and tiles within a sample, which have all outputs
           make_problem(2, 12, 200, {{26, 4, 2, 1}}, 2, true),      // channels that no column tile ends with
       }) {
    EXPECT_TRUE(expect_exact(problem, GetParam(), 1, 2, {{}, {emulator::Order::random, emulator::Completion::late, 7}})) << to_string(problem);
  }
}

/// The depth of a tile, shared out over the blocks of a cluster. Of eight, the last may have no share of the positions.
TEST_P(TransposedKernels, AddUpTheSumsOfACluster) {
  const TransposedKernel& kernel = GetParam();
  const convt_gemm::TransposedTile& tile = kernel.instance.tile;
  const int chunk = tile.words * int(4 / size_of(kernel.instance.dtype));
  const auto runs = [&](int splits, std::int64_t out_channels, const convt_gemm::Axis& axis) {
    return expect_exact(make_problem(2, 2 * splits * chunk - 3, out_channels, {axis}, 1, true), kernel, splits, 8, {{emulator::Order::starve, emulator::Completion::late, 3}});
  };
  for (const int splits : {2, 4, 8}) {
    // What other blocks give takes as much memory as a stage of wide tiles does.
    const bool one_tap = runs(splits, 20, {9, 8, 8, 4});
    EXPECT_TRUE(one_tap ? tile.splits() : !tile.splits() || (splits > 2 && tile.positions > 100)) << splits;
  }
  EXPECT_EQ(runs(2, 20, {9, 16, 8, 4}), tile.splits() && (tile.positions < 200 || tile.words < 32));
  EXPECT_EQ(runs(2, 20, {9, 10, 5, 3, 1}), tile.splits());    // an odd stride
  EXPECT_EQ(runs(2, 16, {9, 7, 3, 2}), tile.splits());        // columns that lack the last tap
  EXPECT_EQ(runs(2, 8, {11, 4, 3, 2, 0, 2}), tile.splits());  // dilation: threads store what they have
  EXPECT_EQ(runs(2, 12, {9, 20, 10, 5}), tile.splits() && (tile.positions < 200 || tile.words < 32));  // rows that begin in the middle of a vector
}

/// More tiles than blocks and more chunks than stages, so that stages are filled again while others are read.
TEST_P(TransposedKernels, DoNotDependOnTheOrderOfThreads) {
  const TransposedKernel& kernel = GetParam();
  const int chunk = kernel.instance.tile.words * int(4 / size_of(kernel.instance.dtype));
  EXPECT_TRUE(expect_exact(make_problem(1, 4 * chunk + 5, 24, {{13, 16, 8, 4}}, 1, true), kernel, 1, 1, emulator::many_options(1)));
  EXPECT_TRUE(expect_exact(make_problem(1, 4 * chunk + 5, 24, {{13, 10, 5, 3, 1}}, 1, true), kernel, 1, 1, emulator::many_options(1)));
  EXPECT_EQ(expect_exact(make_problem(1, 4 * chunk, 8, {{5, 4, 2, 1}}, 1, true), kernel, 2, 4, emulator::many_options(1)), kernel.instance.tile.splits());
}

/// Real values: the error of tf32x3 is not more than twice that of plain float32 sums, that of TF32 is TF32's.
TEST_P(TransposedKernels, HaveTheErrorOfTheirArithmetic) {
  const TransposedKernel& kernel = GetParam();
  const Problem problem = in(make_problem(1, 512, 8, {{30, 4, 2, 1}}, 1, true), kernel);
  TransposedGeometry geometry;
  ASSERT_TRUE(make_transposed_geometry(problem, kernel.instance.precision, kernel.instance.tile, 1, hopper(2), &geometry));
  Operands operands = uniform_operands(problem);
  for (std::vector<double>* values : {&operands.input, &operands.weight, &operands.bias}) *values = decode(problem.dtype, encode(problem.dtype, *values));
  std::vector<double> want(std::size_t(problem.output_elements()));
  reference_forward(problem, operands.input.data(), operands.weight.data(), operands.bias.data(), want.data());
  const std::vector<double> got = decode(problem.dtype, run(kernel, problem, operands, geometry, {}));
  double worst = 0, largest = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    worst = std::max(worst, std::fabs(got[i] - want[i]));
    largest = std::max(largest, std::fabs(want[i]));
  }
  const double tf32 = std::sqrt(1024.0) * 0x1p-11;  // both operands of each of 1024 products are rounded to 11 bits
  const double float32 = 1024 * 0x1p-24;            // 1024 terms below one in magnitude, one after the other: more than their usual error
  EXPECT_LE(worst, problem.dtype != DType::float32                        ? largest * unit_roundoff(problem.dtype) + 1e-4
                   : kernel.instance.precision == Precision::tf32x3 ? float32
                                                                    : tf32);
  if (kernel.instance.precision == Precision::tf32) {
    EXPECT_GE(worst, tf32 / 16) << "too good for TF32";
  }
}

/// NaN reaches the outputs that its position reaches, and no other: kernel = 2 stride, so every residue has all taps. Channels that do not
/// exist are full of NaN in shared memory at first.
TEST_P(TransposedKernels, KeepNaN) {
  const TransposedKernel& kernel = GetParam();
  const Problem problem = in(make_problem(1, 9, 8, {{12, 4, 2, 1}}), kernel);
  TransposedGeometry geometry;
  ASSERT_TRUE(make_transposed_geometry(problem, kernel.instance.precision, kernel.instance.tile, 1, hopper(2), &geometry));
  Operands operands = integer_operands(problem);
  for (double& weight : operands.weight) weight = 1;
  const std::int64_t position = 7;
  operands.input[std::size_t(5 * problem.axis(0).input + position)] = std::nan("");
  const std::vector<double> got = decode(problem.dtype, run(kernel, problem, operands, geometry, {}));
  for (std::int64_t o = 0; o < problem.output_positions(); ++o) {
    const std::int64_t tap = o + 1 - 2 * position;
    for (std::int64_t channel = 0; channel < problem.out_channels; ++channel) {
      EXPECT_EQ(std::isnan(got[std::size_t(channel * problem.output_positions() + o)]), tap >= 0 && tap < 4) << "output " << o;
    }
  }
}

struct InstanceName {
  template <class Info>
  std::string operator()(const Info& info) const {
    return info.param.name;
  }
};
INSTANTIATE_TEST_SUITE_P(Instance, TransposedKernels, ::testing::ValuesIn(kernels(Axes::one)), InstanceName());
INSTANTIATE_TEST_SUITE_P(Instance, PlaneKernels, ::testing::ValuesIn(kernels(Axes::many)), InstanceName());

}  // namespace
}  // namespace convt_gemm::testing

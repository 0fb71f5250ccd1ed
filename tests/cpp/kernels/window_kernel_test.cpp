// The kernels of windows, run by the emulator: every instance, bit for bit against float64 on small integers, as implicit_kernel_test.cpp does it for the
// others.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "convt_gemm/reference.h"
#include "emulator/emulator.h"
#include "implicit/window_kernel.cuh"
#include "kernels/emulated.h"
#include "plan/window_geometry.h"
#include "plan/window_table.h"
#include "support/dtype.h"
#include "support/problems.h"
#include "support/values.h"

namespace convt_gemm::testing {
namespace {

using implicit::Kind;

struct WindowKernel {
  std::string name;
  ImplicitInstance instance;
  void (*multiply)(const implicit::WindowParams&);
};

template <Kind kKind, int kRows, int kColumns, int kWords, int kRowBlocks, class Window>
WindowKernel window_kernel(const char* name, const ImplicitInstance& instance) {
  using C = implicit::WindowConfig<kKind, kRows, kColumns, kWords, kRowBlocks, Window>;
  return {name, instance, [](const implicit::WindowParams& params) {
            implicit::with_kernel_of<C>(params.p.g, [&](auto config) { implicit::implicit_gemm_windows<decltype(config)>(params); });
          }};
}

const std::vector<WindowKernel>& kernels() {
  static const std::vector<WindowKernel> all = [] {
    std::vector<WindowKernel> list;
    const ImplicitInstance* instance = window_instances();
#define CONVT_WINDOW_GEMM(kind, rows, columns, words, row_blocks, form, taps, step, sets, set_step, lines)                                       \
  list.push_back(window_kernel<Kind::kind, rows, columns, words, row_blocks, implicit::WindowOf<Form::form, taps, step, sets, set_step, lines>>( \
      #kind "_" #rows "x" #columns "x" #words "_" #form "_taps" #taps "_step" #step "_sets" #sets "x" #set_step "_lines" #lines, *instance++));
#include "implicit/window_instances.def"
#undef CONVT_WINDOW_GEMM
    return list;
  }();
  return all;
}

/// The output's bytes; operands lie between inaccessible pages.
Bytes run(const WindowKernel& kernel, const Problem& problem, const Operands& operands, const ImplicitGeometry& g, const emulator::Options& options) {
  const auto x = guarded(encode(problem.dtype, operands.input)), weight = guarded(encode(problem.dtype, operands.weight)),
             bias = guarded(encode(problem.dtype, operands.bias));
  const emulator::GuardedMemory y(std::size_t(problem.output_elements()) * size_of(problem.dtype));
  const implicit::Params params{g, x->data(), weight->data(), problem.bias ? bias->data() : nullptr, y.data()};
  const int element = int(size_of(problem.dtype));
  gpu::TensorMap map{static_cast<const unsigned char*>(params.x), element, {g.input, g.in_channels, g.batch * g.groups}, {g.slots, kernel.instance.tile.words * 4 / element}};
  if (g.planes && !g.flat) map.extents.insert(map.extents.begin() + 1, {g.outer[1].input, g.outer[0].input});
  const std::int64_t counter_bytes = window_workspace_bytes(g);
  const emulator::GuardedMemory counters(std::size_t(std::max<std::int64_t>(counter_bytes, 4)), 4);
  std::memset(counters.data(), 0, counters.bytes());
  emulator::GuardedMemory::hold({x.get(), weight.get(), bias.get(), &y, &counters});
  emulator::launch({unsigned(g.blocks)}, {unsigned(kernel.instance.tile.threads())}, std::size_t(g.shared_bytes), options,
                   [&] { kernel.multiply({params, map, counter_bytes > 0 ? reinterpret_cast<int*>(counters.data()) : nullptr, window_x_passes(g)}); });
  return Bytes(y.data(), y.data() + y.bytes());
}

Problem in(Problem problem, const WindowKernel& kernel) {
  problem.dtype = kernel.instance.dtype;
  return problem;
}

/// Of a device that has `multiprocessors`, or one for each tile of columns if that is more.
bool geometry_of(const Problem& problem, const WindowKernel& kernel, int multiprocessors, ImplicitGeometry* g) {
  const ImplicitTile& tile = kernel.instance.tile;
  const std::int64_t channels = problem.out_channels / problem.groups, tile_channels = tile.columns / tile.window.channel_columns();
  const std::int64_t residues = problem.axes[0].stride * problem.axes[1].stride;
  const std::int64_t column_tiles = residues * problem.groups * ((channels + tile_channels - 1) / tile_channels);
  return make_window_geometry(problem, kernel.instance.precision, tile, hopper(int(std::max<std::int64_t>(multiprocessors, column_tiles))), g);
}

/// Whether the kernel's window is the problem's; runs it if so.
bool expect_exact(const Problem& base, const WindowKernel& kernel, int multiprocessors, const std::vector<emulator::Options>& every_options) {
  const Problem problem = in(base, kernel);
  ImplicitGeometry g;
  if (!geometry_of(problem, kernel, multiprocessors, &g)) return false;
  const Operands operands = integer_operands(problem);
  std::vector<double> expected(std::size_t(problem.output_elements()));
  reference_forward(problem, operands.input.data(), operands.weight.data(), operands.bias.data(), expected.data());
  const std::vector<double> want = decode(problem.dtype, encode(problem.dtype, expected));
  for (const emulator::Options& options : every_options) {
    const std::vector<double> got = decode(problem.dtype, run(kernel, problem, operands, g, options));
    for (std::size_t i = 0; i < want.size(); ++i) {
      if (got[i] == want[i]) continue;
      ADD_FAILURE() << kernel.name << " with " << multiprocessors << " multiprocessors, " << options << ", on " << to_string(problem) << ": element " << i
                    << " is " << got[i] << ", expected " << want[i];
      return true;
    }
  }
  return true;
}

/// The axis that the kernel's form is about.
Axis& last_axis(Problem& problem) { return problem.axes[kMaxAxes - 1]; }
const Axis& last_axis(const Problem& problem) { return problem.axes[kMaxAxes - 1]; }

/// A problem of the kernel's form: `channels` out channels are as many as its sets want. One axis; for tiles of two lines another one, of three.
Problem problem_for(const WindowKernel& kernel, std::int64_t batch, std::int64_t in_channels, std::int64_t channels, std::int64_t input, std::int64_t groups = 1,
                    bool bias = true) {
  const Window& window = kernel.instance.tile.window;
  const std::int64_t taps = window.taps, step = window.step;
  Axis axis;
  switch (window.form) {
    case Form::neighbours: axis = {input, taps, 1, 0, 0, step}; break;
    case Form::gaps: axis = {input, taps, 2, 1, 0, 2 * step}; break;
    case Form::halves: axis = {input, 2 * taps, 2, 1}; break;
    case Form::pairs: axis = {input, 2 * taps, 2, 0}; break;
    case Form::thirds: axis = {input, 3 * taps, 3, 2, 1}; break;
    case Form::none: break;
  }
  std::vector<Axis> axes = {axis};
  if (window.lines > 1) axes.insert(axes.begin(), {3, 3, 1, 1});
  return make_problem(batch, in_channels, channels, axes, groups, bias);
}

/// Its place in the list.
std::size_t number_of(const WindowKernel& kernel) {
  return std::size_t(std::find_if(kernels().begin(), kernels().end(), [&](const WindowKernel& other) { return other.name == kernel.name; }) - kernels().begin());
}

class WindowKernels : public ::testing::TestWithParam<WindowKernel> {};

TEST_P(WindowKernels, GiveTheReference) {
  const WindowKernel& kernel = GetParam();
  EXPECT_TRUE(expect_exact(problem_for(kernel, 2, 5, 48, 264), kernel, 3, {{}}));  // tiles at the ends of a sample, and between
  EXPECT_TRUE(expect_exact(problem_for(kernel, 2, 40, 16, 600, 1, false), kernel, 1, {{emulator::Order::starve, emulator::Completion::late, 5}}));
  EXPECT_TRUE(expect_exact(problem_for(kernel, 2, 6, 32, 520, 2), kernel, 2, {{}}));  // groups
  EXPECT_TRUE(expect_exact(problem_for(kernel, 2, 3, 136, 520), kernel, 9, {{}}));    // several tiles of columns, the last one not full
  if (kernel.instance.tile.window.form == Form::halves) {
    EXPECT_TRUE(expect_exact(problem_for(kernel, 2, 5, 11, 264), kernel, 3, {{}}));  // channels that do not fill narrow tiles either
  }
  // Short samples, so many that teams take tiles in order.
  EXPECT_TRUE(expect_exact(problem_for(kernel, 50, 9, 8, 16), kernel, 1, {{emulator::Order::starve, emulator::Completion::random, 7}}));
}

/// Other paddings, output paddings and kernels: channels begin at other places of a sector, residues are other ones, taps are missing; fewer channels than a tile has.
TEST_P(WindowKernels, BeginAnywhereInASector) {
  const WindowKernel& kernel = GetParam();
  int served = 0;
  for (std::int64_t padding = 0; padding < 10; ++padding) {
    for (const bool other : {false, true}) {  // an output more at even strides, and a tap less
      Problem problem = problem_for(kernel, 2, 3, padding % 2 == 0 ? 8 : 16, 272, padding % 3 == 0 ? 1 : 2 - int(padding % 2));
      problem.in_channels *= problem.groups;
      Axis& axis = last_axis(problem);
      axis.padding = padding;
      if (other && axis.stride == 1) continue;
      if (kernel.instance.tile.window.form == Form::thirds) {  // what gives rows of y whole fours
        axis.kernel -= padding % 2 + other, axis.output_padding = (padding + 1) % 2 + other;
      } else {
        if (other) axis.output_padding = 1;
        if (other && kernel.instance.tile.window.form != Form::gaps) axis.kernel -= 1;
      }
      served += expect_exact(problem, kernel, 4, {{emulator::Order::starve, emulator::Completion::late, 5}});
    }
  }
  const Form form = kernel.instance.tile.window.form;
  EXPECT_GE(served, form == Form::gaps ? 10 : form == Form::thirds ? 4 : 2);
}

/// Many tiles: teams put outputs side by side for the copy engine where they begin at 16 bytes, cut at sectors where they begin in the middle of one.
TEST_P(WindowKernels, StoreRunsOfEveryAlignment) {
  const WindowKernel& kernel = GetParam();
  const Window& window = kernel.instance.tile.window;
  const int rows = kernel.instance.tile.warpgroup_rows(), element = int(size_of(kernel.instance.dtype));
  const int teams = kernel.instance.tile.warpgroups(), batch = 4 * teams;
  int of_runs = 0;
  for (std::int64_t padding = 0; padding < 4; ++padding) {
    Problem problem = problem_for(kernel, batch, 3, 16, 3 * rows + 16 + 8 * padding);
    last_axis(problem).padding = padding;
    ImplicitGeometry g;
    if (!geometry_of(in(problem, kernel), kernel, 1, &g) || g.team_runs_bytes == 0) continue;
    const int cut = rows - g.tile_rows;
    EXPECT_TRUE(cut == 0 || cut == 32 / element / window.outputs()) << cut;
    ++of_runs;
    expect_exact(problem, kernel, 1, {{emulator::Order::starve, emulator::Completion::late, std::uint64_t(padding)}});
  }
  // Two sets of single 16-bit outputs, or of pairs, begin at 8 bytes.
  const bool never = element == 2 && !kernel.instance.tile.serves_any_rows(kernel.instance.precision == Precision::tf32x3) && ((window.form == Form::neighbours && window.sets * window.set_step < 8) || window.form == Form::pairs);
  EXPECT_EQ(of_runs == 0, never) << of_runs;
}

/// Two axes and three: any outer axis whose stride and dilation have no common divisor; rows of y that all begin at a sector, and such as begin anywhere.
TEST_P(WindowKernels, ServeOuterAxes) {
  const WindowKernel& kernel = GetParam();
  const std::vector<std::vector<Axis>> every_outer_of_lines = {
      {{5, 3, 1}},           // a line without another
      {{4, 3, 1, 1}}, {{3, 2, 1}},
      {{3, 4, 1, 2}},        // as many as it has taps
      {{2, 2, 2}, {3, 3, 1, 1}},
      {{3, 3, 3, 2, 0, 2}, {4, 2, 1}},
      {{3, 3, 1, 1}, {2, 5, 1, 2}},
  };
  const std::vector<std::vector<Axis>> every_outer_of_one = {
      {{5, 3, 1}},                             // all outputs have the same taps
      {{4, 4, 2, 1}},                          // two residues
      {{3, 3, 2, 1, 1}},                       // one of them with fewer taps
      {{3, 2, 3, 0, 1}},                       // one without taps
      {{3, 3, 3, 2, 0, 2}},                    // residues in another order
      {{2, 2, 2}, {3, 2, 2}},                  // two axes
      {{3, 3, 1, 1}, {2, 5, 2, 3, 1, 3}},
  };
  const std::vector<std::vector<Axis>>& every_outer = kernel.instance.tile.window.lines > 1 ? every_outer_of_lines : every_outer_of_one;
  // Kernels have a few of them each.
  constexpr std::size_t kProblems = 4;
  const std::size_t first = kProblems * number_of(kernel);
  int served = 0;
  for (std::size_t i = first; i < first + kProblems; ++i) {
    const std::size_t outer = i % every_outer.size();
    const int groups = 1 + int(i % 2), further = int(i / every_outer.size() % 2);
    Problem problem = problem_for(kernel, outer < 4 ? 2 : 1, 3 * groups, 8 * groups, (i % 3 == 0 ? 2 : 1) * kernel.instance.tile.warpgroup_rows() + 16, groups);
    std::vector<Axis> axes = every_outer[outer];
    axes.push_back(last_axis(problem));
    if (axes.back().stride == 1) {
      axes.back().padding += further;
    } else {
      axes.back().output_padding += further;
    }
    problem = make_problem(problem.batch, problem.in_channels, problem.out_channels, axes, groups, true);
    served += expect_exact(problem, kernel, 1, {{emulator::Order::starve, emulator::Completion::late, i}});
  }
  EXPECT_EQ(served, kernel.instance.tile.serves_any_rows(kernel.instance.precision == Precision::tf32x3) ? int(kProblems) : 0);
}

/// Positions of all axes in one row: rows of y shorter than a tile, of odd numbers of positions too.
TEST_P(WindowKernels, PutAllAxesInARow) {
  const WindowKernel& kernel = GetParam();
  const Window& window = kernel.instance.tile.window;
  if (window.form != Form::pairs || window.taps != 1) return;
  const std::vector<std::vector<Axis>> every = {{{8, 2, 2}, {7, 2, 2}}, {{2, 2, 2}, {4, 2, 2}, {23, 2, 2}}, {{3, 1, 1}, {8, 2, 2}, {9, 2, 2}}, {{16, 2, 3, 0, 1}, {40, 2, 2}},
                                                {{7, 2, 2}, {9, 2, 2}}, {{3, 2, 2}, {5, 2, 2}, {17, 2, 2}}};  // rows of x that are no whole vectors
  for (const auto& axes : every) {
    for (const int groups : {1, 2}) {
      const Problem problem = make_problem(2, 5 * groups, (groups == 1 ? 37 : 8) * groups, axes, groups, groups == 1);
      EXPECT_TRUE(expect_exact(problem, kernel, 2, {{emulator::Order::starve, emulator::Completion::late, 3}}));
    }
  }
}

/// Rows of x of every length after a whole number of vectors, where those of y are such as the kernel stores: samples, groups and channels begin anywhere, parts of
/// 16 bytes are another row's, or behind x.
TEST_P(WindowKernels, TakeRowsOfAnyLength) {
  const WindowKernel& kernel = GetParam();
  const Window& window = kernel.instance.tile.window;
  const int vector = 16 / int(size_of(kernel.instance.dtype)), rows = kernel.instance.tile.warpgroup_rows();
  const int depth = kernel.instance.tile.words * vector / 4;
  int served = 0;
  for (int rest = 1; rest < vector; ++rest) {
    for (const int length : {rest, 2 * vector + rest, 2 * rows - rest, rows + 16 + rest, 3 * rows + rest}) {
      const int groups = 1 + rest % 2, channels = (length % 3 == 0 ? 2 * depth + 3 : length % 3 == 1 ? depth : 5) * groups;
      const Problem problem = problem_for(kernel, length < rows ? 9 : 2, channels, 16 * groups, length, groups, rest % 3 != 0);
      served += expect_exact(problem, kernel, 1 + rest % 3, {{rest % 2 == 0 ? emulator::Order::starve : emulator::Order::round_robin, emulator::Completion::late, std::uint64_t(length)}});
    }
  }
  const bool split = kernel.instance.precision == Precision::tf32x3, any_rows = kernel.instance.tile.serves_any_rows(split);
  if ((any_rows || kernel.instance.tile.has_shifted_store(split)) && window.lines == 1) {
    EXPECT_EQ(served, 5 * (vector - 1));
  }
  RecordProperty("served", served);
  if (!any_rows) return;
  // Not of several axes.
  const Problem problem = problem_for(kernel, 2, 6, 8, rows + vector - 1, 2);
  EXPECT_FALSE(expect_exact(make_problem(problem.batch, 6, 8, {{3, 3, 2, 1}, last_axis(problem)}, 2, true), kernel, 1, {{}}));
}

/// Every residue of padding and of rows of y, taps that are missing, rows from a few outputs on, channels that do not fill a tile, rows of x of any length.
TEST_P(WindowKernels, StoreRowsThatBeginAnywhere) {
  const WindowKernel& kernel = GetParam();
  const ImplicitTile& tile = kernel.instance.tile;
  const bool split = kernel.instance.precision == Precision::tf32x3;
  if (!tile.has_shifted_store(split)) return;
  const int rows = tile.warpgroup_rows(), tile_channels = tile.columns / tile.window.channel_columns();
  const int lengths[] = {4, 5, 7, 16, rows - 3, rows, 2 * rows + 1, 2 * rows + 16, 3 * rows + 22};
  const int every_channels[] = {1, 8, tile_channels + 5, 13, tile_channels};
  const Axis form = last_axis(problem_for(kernel, 1, 1, 1, 16));
  int number = 0, stored = 0, whole_vectors = 0;
  for (std::int64_t padding = form.stride == 2 ? 1 : 0; padding < 8; padding += form.stride == 2 ? 2 : 1) {
    for (std::int64_t output_padding = 0; output_padding < form.stride; ++output_padding) {
      for (std::int64_t missing = 0; missing < form.stride; ++missing) {
        for (int i = number % 3; i < 9; i += 3, ++number) {
          const int groups = 1 + number / 3 % 2, multiprocessors = 1 + number % 3;
          const Axis axis = {lengths[i], form.kernel - missing, form.stride, padding, output_padding, form.dilation};
          if (axis.output() <= 0) continue;
          const Problem problem = make_problem(lengths[i] < rows ? 7 : 2, 3 * groups, every_channels[number % 5] * groups, {axis}, groups, number % 4 != 0);
          ImplicitGeometry g;
          if (!geometry_of(in(problem, kernel), kernel, multiprocessors, &g) || !g.shifted_store) continue;
          ++stored, whole_vectors += g.vector_rows;
          expect_exact(problem, kernel, multiprocessors, {{number % 2 == 0 ? emulator::Order::starve : emulator::Order::round_robin, emulator::Completion::late, std::uint64_t(number)}});
        }
      }
    }
  }
  EXPECT_GT(stored, 3);
  EXPECT_GT(whole_vectors, 0);
  EXPECT_LT(whole_vectors, stored);
  // Many tiles a team, which takes them in order; several chunks.
  const Axis axis = {2 * rows + 5, form.kernel, form.stride, form.stride / 2 + form.stride / 3, 0, form.dilation};
  const Problem problem = make_problem(8 * tile.warpgroups(), 3 * tile.words, tile_channels + 3, {axis}, 1, true);
  EXPECT_TRUE(expect_exact(problem, kernel, 2, {{emulator::Order::starve, emulator::Completion::random, 11}}));
}

TEST_P(WindowKernels, DoNotDependOnTheOrderOfThreads) {
  const WindowKernel& kernel = GetParam();
  const int depth = 3 * kernel.instance.tile.words * int(4 / size_of(kernel.instance.dtype)) + 1;
  EXPECT_TRUE(expect_exact(problem_for(kernel, 2, depth, 16, 392), kernel, 1, emulator::many_options(1)));
  if (kernel.instance.tile.window.form == Form::thirds) {  // rows of y that begin anywhere
    EXPECT_TRUE(expect_exact(problem_for(kernel, 2, depth, 16, 391), kernel, 1, emulator::many_options(1)));
  }
}

/// Not-a-number in x reaches the outputs that have it in a tap, and no others.
TEST_P(WindowKernels, PassNotANumberOn) {
  const WindowKernel& kernel = GetParam();
  const Problem problem = in(problem_for(kernel, 2, 8, 16, 400, 1, false), kernel);
  ImplicitGeometry g;
  ASSERT_TRUE(geometry_of(problem, kernel, 1, &g));
  Operands operands = integer_operands(problem);
  // Of the axis before the last and of the last; the former has one element where there is one axis.
  const Axis &line_axis = problem.axes[kMaxAxes - 2], &axis = last_axis(problem);
  const std::int64_t line_position = line_axis.input - 1, position = 217;
  operands.input[std::size_t(((1 * 8 + 3) * line_axis.input + line_position) * axis.input + position)] = std::nan("");
  const std::vector<double> got = decode(problem.dtype, run(kernel, problem, operands, g, {}));
  const auto reaches = [](const Axis& of, std::int64_t input, std::int64_t output) {
    const std::int64_t offset = output + of.padding - input * of.stride;
    return offset >= 0 && offset % of.dilation == 0 && offset / of.dilation < of.kernel;
  };
  for (std::int64_t row = 0; row < 2 * 16; ++row) {
    for (std::int64_t line = 0; line < line_axis.output(); ++line) {
      for (std::int64_t output = 0; output < axis.output(); ++output) {
        const bool reached = row >= 16 && reaches(line_axis, line_position, line) && reaches(axis, position, output);
        ASSERT_EQ(std::isnan(got[std::size_t((row * line_axis.output() + line) * axis.output() + output)]), reached) << "row " << row << " line " << line << " output " << output;
      }
    }
  }
}

struct InstanceName {
  template <class Info>
  std::string operator()(const Info& info) const {
    return info.param.name;
  }
};
INSTANTIATE_TEST_SUITE_P(Instance, WindowKernels, ::testing::ValuesIn(kernels()), InstanceName());

}  // namespace
}  // namespace convt_gemm::testing

#pragma once
// Which kernel of columns_kernel.cuh runs a problem, and its parameters. Host code without CUDA, so that tests take the
// same way as the GPU.
#include <algorithm>
#include <cstdint>

#include "direct/columns_kernel.cuh"
#include "direct/direct_dispatch.h"
#include "plan/direct_columns.h"

namespace convt_gemm {
namespace direct {

inline ColumnParams column_params(const Problem& problem, const ColumnGeometry& g) {
  using Int = std::int32_t;
  ColumnParams p;
  for (int a = 0; a < kMaxAxes; ++a) p.axis[a] = axis_params<Int>(problem.axes[a]);
  for (int a = 0; a < kMaxAxes - 1; ++a) p.by_dilation[a] = FastDiv<Int>(p.axis[a].dilation);
  p.by_tiles = FastDiv<Int>(g.tiles);
  p.by_inputs1 = FastDiv<Int>(problem.axes[1].input);
  p.by_inputs0 = FastDiv<Int>(problem.axes[0].input);
  p.by_groups = FastDiv<Int>(problem.groups);
  p.by_slices = FastDiv<Int>(g.shape.slices);
  p.group_in_channels = Int(problem.group_in_channels());
  p.group_out_channels = Int(problem.group_out_channels());
  p.taps = Int(problem.taps());
  p.columns = Int(problem.group_out_channels() * problem.taps());
  p.slices = Int(g.shape.slices);
  p.splits = Int(g.shape.splits);
  p.split_channels = Int(g.split_channels);
  p.reach = Int(g.reach);
  p.own = Int(g.own);
  p.pitch = Int(g.pitch);
  p.unit_inputs = Int(std::max<std::int64_t>(g.threads() / problem.axes[2].stride, 1));
  p.unit = Int(p.unit_inputs * problem.axes[2].stride);
  p.input_positions = problem.input_positions();
  p.output_positions = problem.output_positions();
  p.channel_bytes = problem.input_positions() * std::int64_t(size_of(problem.dtype));
  return p;
}

/// Calls launch(kernel, params) once. `T` is the problem's dtype.
template <class T, class Launch>
void for_column_kernel(const Problem& problem, const ColumnGeometry& g, Launch launch) {
  static_assert(sizeof kColumnCounts / sizeof *kColumnCounts == 5, "a case for each");
  const ColumnParams p = column_params(problem, g);
  switch (g.columns) {
    case kColumnCounts[0]:
      return launch(Columns<T, kColumnCounts[0]>{}, p);
    case kColumnCounts[1]:
      return launch(Columns<T, kColumnCounts[1]>{}, p);
    case kColumnCounts[2]:
      return launch(Columns<T, kColumnCounts[2]>{}, p);
    case kColumnCounts[3]:
      return launch(Columns<T, kColumnCounts[3]>{}, p);
    default:
      return launch(Columns<T, kColumnCounts[4]>{}, p);
  }
}

}  // namespace direct
}  // namespace convt_gemm

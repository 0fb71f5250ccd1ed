#pragma once
// Which kernel of columns_kernel.cuh runs a problem, and its parameters. Host code without CUDA, so that tests take the
// same way as the GPU.
#include <algorithm>
#include <cstdint>

#include "direct/columns_kernel.cuh"
#include "direct/direct_dispatch.h"
#include "direct/frames_kernel.cuh"
#include "plan/direct_columns.h"

namespace convt_gemm {
namespace direct {

inline ColumnParams column_params(const Problem& problem, const ColumnGeometry& g) {
  using Int = std::int32_t;
  ColumnParams p;
  p.last = axis_params<Int>(problem.axes[2]);
  for (int a = 0; a < kMaxAxes - 1; ++a) {
    p.outer[a] = axis_params<Int>(problem.axes[a]);
    p.by_dilation[a] = FastDiv<Int>(p.outer[a].dilation);
  }
  p.by_tiles = FastDiv<Int>(g.tiles);
  p.by_inputs1 = FastDiv<Int>(problem.axes[1].input);
  p.by_inputs0 = FastDiv<Int>(problem.axes[0].input);
  p.by_groups = FastDiv<Int>(problem.groups);
  p.by_slices = FastDiv<Int>(g.shape.slices);
  p.group_in_channels = Int(problem.group_in_channels());
  p.group_out_channels = Int(problem.group_out_channels());
  p.taps = Int(problem.taps());
  p.columns = Int(problem.group_out_channels() * problem.taps());
  p.one_axis = problem.axes[0] == convt_gemm::Axis{} && problem.axes[1] == convt_gemm::Axis{};
  p.threads = Int(g.threads());
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

template <class T, int J, class Launch>
void for_columns(const ColumnGeometry& g, const ColumnParams& p, Launch& launch) {
  g.parked ? launch(Columns<T, J, true>{}, p) : launch(Columns<T, J, false>{}, p);
}

/// Calls launch(kernel, params) once. `T` is the problem's dtype.
template <class T, class Launch>
void for_column_kernel(const Problem& problem, const ColumnGeometry& g, Launch launch) {
  static_assert(sizeof kColumnCounts / sizeof *kColumnCounts == 5, "a case for each");
  const ColumnParams p = column_params(problem, g);
  switch (g.columns) {
    case kColumnCounts[0]:
      return for_columns<T, kColumnCounts[0]>(g, p, launch);
    case kColumnCounts[1]:
      return for_columns<T, kColumnCounts[1]>(g, p, launch);
    case kColumnCounts[2]:
      return for_columns<T, kColumnCounts[2]>(g, p, launch);
    case kColumnCounts[3]:
      return for_columns<T, kColumnCounts[3]>(g, p, launch);
    default:
      return for_columns<T, kColumnCounts[4]>(g, p, launch);
  }
}

/// Calls launch(kernel, params, blocks) once. `T` is the problem's dtype.
template <class T, class Launch>
void for_frame_kernel(const Problem& problem, Launch launch) {
  using Int = std::int32_t;
  const convt_gemm::Axis& last = problem.axes[2];
  const FrameGeometry g = frame_geometry(problem);
  FrameParams p;
  p.by_tiles = FastDiv<Int>(g.tiles);
  p.by_groups = FastDiv<Int>(problem.groups);
  p.channels = Int(problem.group_in_channels());
  p.input = Int(last.input);
  p.output = Int(last.output());
  p.padding = Int(last.padding);
  p.first = Int(g.first);
  last.stride == 4 ? launch(Frames<T, 4>{}, p, g.blocks) : launch(Frames<T, 5>{}, p, g.blocks);
}

}  // namespace direct
}  // namespace convt_gemm

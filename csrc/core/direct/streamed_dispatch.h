#pragma once
// Which kernel of streamed_kernel.cuh runs a problem, and its parameters. Host code without CUDA, so that tests take the same way as the GPU.
#include <cstdint>

#include "direct/direct_dispatch.h"
#include "direct/streamed_kernel.cuh"
#include "plan/direct_streamed.h"

namespace convt_gemm {
namespace direct {

inline StreamedParams streamed_params(const Problem& problem, const StreamedGeometry& g) {
  using Int = std::int32_t;
  StreamedParams p;
  p.by_sample_blocks = FastDiv<Int>(g.sample_blocks);
  p.by_tiles = FastDiv<Int>(g.tiles);
  p.by_lanes = FastDiv<Int>(g.lanes);
  p.by_slots = FastDiv<Int>(g.slots);
  p.in_channels = Int(problem.group_in_channels());
  p.out_channels = Int(problem.group_out_channels());
  p.taps = Int(problem.taps());
  p.columns = Int(problem.group_out_channels() * problem.taps());
  p.tile_channels = Int(g.tile_channels);
  p.batch = Int(problem.batch);
  p.samples = Int(g.samples);
  p.by_inputs = FastDiv<Int>(problem.input_positions());
  const bool last = problem.layout == Layout::channels_last;
  const std::int64_t run_inputs = last ? 1 : problem.input_positions(), vector = 16 / std::int64_t(size_of(problem.dtype));
  p.sample_runs = Int(last ? problem.input_positions() : 1);
  p.run = Int(problem.group_in_channels() * run_inputs);
  p.input_run = problem.in_channels * run_inputs;
  p.vector_runs = p.run % vector == 0;
  p.by_run = FastDiv<Int>(p.vector_runs ? p.run / vector : p.run);
  p.by_run_inputs = FastDiv<Int>(run_inputs);
  p.output_sample = problem.out_channels * problem.output_positions();
  p.output_channel = last ? 1 : problem.output_positions();
  p.output_position = last ? problem.out_channels : 1;
  p.by_outputs = FastDiv<Int>(problem.output_positions());
  p.by_outputs2 = FastDiv<Int>(problem.axes[2].output());
  p.by_outputs1 = FastDiv<Int>(problem.axes[1].output());
  p.one_axis = problem.axes[0] == convt_gemm::Axis{} && problem.axes[1] == convt_gemm::Axis{};
  for (int a = 0; a < kMaxAxes; ++a) p.axis[a] = axis_params<Int>(problem.axes[a]);
  return p;
}

template <class T, int V, class Launch>
void for_streamed_positions(const StreamedGeometry& g, const StreamedParams& p, Launch& launch) {
  static_assert(sizeof kStreamedPositions / sizeof *kStreamedPositions == 4, "a case for each");
  switch (g.positions) {
    case kStreamedPositions[0]:
      return launch(Streamed<T, V, kStreamedPositions[0]>{}, p);
    case kStreamedPositions[1]:
      return launch(Streamed<T, V, kStreamedPositions[1]>{}, p);
    case kStreamedPositions[2]:
      return launch(Streamed<T, V, kStreamedPositions[2]>{}, p);
    default:
      return launch(Streamed<T, V, kStreamedPositions[3]>{}, p);
  }
}

/// Calls launch(kernel, params) once. `T` is the problem's dtype.
template <class T, class Launch>
void for_streamed_kernel(const Problem& problem, const StreamedGeometry& g, Launch launch) {
  const StreamedParams p = streamed_params(problem, g);
  g.vector == 1 ? for_streamed_positions<T, 1>(g, p, launch) : for_streamed_positions<T, kVector<T>>(g, p, launch);
}

}  // namespace direct
}  // namespace convt_gemm

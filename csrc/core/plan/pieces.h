#pragma once
// How a problem is cut so that its columns fit a bounded workspace.
#include <array>
#include <cstddef>
#include <cstdint>

#include "convt_gemm/plan.h"

namespace convt_gemm {

/// Half-open range of positions on one axis.
struct Range {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t size() const { return end - begin; }
};

/// The inputs that any output in `output` can read: i with i*stride + k*dilation - padding = o for some tap k.
/// Clipped to the axis; empty (begin == end) if there is none.
Range inputs_of(const Axis& axis, Range output);

/// Most inputs that `outputs` neighbouring outputs can read on this axis.
std::int64_t max_inputs(const Axis& axis, std::int64_t outputs);

/// Bytes of one element of the column buffer: float32, or float64 for float64.
constexpr std::size_t column_size(DType dtype) { return dtype == DType::float64 ? 8 : 4; }

/// Columns (elements) that a piece needs: batch * out_channels * taps * input positions.
std::int64_t column_elements(const Problem& problem, const Piece& piece);

/// Parts of the workspace begin at multiples of so many bytes.
inline constexpr std::int64_t kWorkspaceUnit = 256;

/// Plan::joined: bytes of a piece's x, which lies at the end of the workspace; whole units.
std::int64_t joined_bytes(const Problem& problem, std::int64_t batch);

/// The largest piece whose columns stay within `limit` elements, cut over batch first, then over positions from the outermost
/// axis inwards; pieces of one problem are of nearly equal size. A single output is never cut, even if it exceeds the limit.
Piece cut(const Problem& problem, std::int64_t limit);

/// How many pieces of this shape cover the problem.
std::int64_t count_pieces(const Problem& problem, const Piece& piece);

}  // namespace convt_gemm

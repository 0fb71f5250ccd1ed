#include "plan/pieces.h"

#include <algorithm>

#include "plan/arithmetic.h"

namespace convt_gemm {

Range inputs_of(const Axis& axis, Range output) {
  const std::int64_t first_q = output.begin + axis.padding - axis.dilation * (axis.kernel - 1);
  const std::int64_t last_q = output.end - 1 + axis.padding;
  Range input;
  input.begin = first_q <= 0 ? 0 : ceil_div(first_q, axis.stride);
  input.end = std::min(axis.input, last_q / axis.stride + 1);
  input.begin = std::min(input.begin, axis.input);
  input.end = std::max(input.end, input.begin);
  return input;
}

std::int64_t max_inputs(const Axis& axis, std::int64_t outputs) {
  return std::min(axis.input, (outputs - 1 + axis.dilation * (axis.kernel - 1)) / axis.stride + 1);
}

namespace {

/// The same count in floating point, so that no caller's sizes can overflow the comparison with a limit.
double column_elements_estimate(const Problem& problem, const Piece& piece) {
  double elements = static_cast<double>(piece.batch) * problem.out_channels * problem.taps();
  for (int a = 0; a < kMaxAxes; ++a) elements *= max_inputs(problem.axes[a], piece.output[a]);
  return elements;
}

/// Largest value in [1, full] that fits, then evened out over the pieces it makes.
template <class Fits>
std::int64_t largest_even(std::int64_t full, Fits fits) {
  std::int64_t low = 1, high = full;
  while (low < high) {
    const std::int64_t middle = low + (high - low + 1) / 2;
    if (fits(middle)) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return ceil_div(full, ceil_div(full, low));
}

}  // namespace

std::int64_t column_elements(const Problem& problem, const Piece& piece) {
  std::int64_t elements = piece.batch * problem.out_channels * problem.taps();
  for (int a = 0; a < kMaxAxes; ++a) elements *= max_inputs(problem.axes[a], piece.output[a]);
  return elements;
}

std::int64_t joined_bytes(const Problem& problem, std::int64_t batch) {
  return round_up(batch * problem.in_channels * problem.input_positions() * std::int64_t(size_of(problem.dtype)), kWorkspaceUnit);
}

Piece cut(const Problem& problem, std::int64_t limit) {
  Piece piece;
  piece.batch = std::max<std::int64_t>(problem.batch, 1);
  for (int a = 0; a < kMaxAxes; ++a) piece.output[a] = problem.axes[a].output();
  const auto fits = [&](const Piece& candidate) { return column_elements_estimate(problem, candidate) <= double(limit); };
  if (fits(piece)) return piece;
  piece.batch = largest_even(piece.batch, [&](std::int64_t value) {
    Piece candidate = piece;
    candidate.batch = value;
    return fits(candidate);
  });
  for (int a = 0; a < kMaxAxes && !fits(piece); ++a) {
    piece.output[a] = largest_even(piece.output[a], [&](std::int64_t value) {
      Piece candidate = piece;
      candidate.output[a] = value;
      return fits(candidate);
    });
  }
  return piece;
}

std::int64_t count_pieces(const Problem& problem, const Piece& piece) {
  std::int64_t count = ceil_div(problem.batch, piece.batch);
  for (int a = 0; a < kMaxAxes; ++a) count *= ceil_div(problem.axes[a].output(), piece.output[a]);
  return count;
}

}  // namespace convt_gemm

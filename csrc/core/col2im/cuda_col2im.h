#pragma once
// col2im on the GPU: adds the columns of one piece into the output. Every output element has one owner, which gathers its
// columns in a fixed order, adds the bias and writes once.
#include <array>
#include <cstdint>

#include "convt_gemm/exec.h"
#include "convt_gemm/problem.h"
#include "plan/pieces.h"

namespace convt_gemm {

struct Col2imPiece {
  Range batch;
  std::array<Range, kMaxAxes> output;
  std::array<Range, kMaxAxes> input;  ///< of each axis, what the column buffer holds; may be empty
  bool joined = false;                ///< samples lie side by side
};

/// Threads that are as good as more: two for each that a large GPU has room for.
inline constexpr std::int64_t kCol2imThreads = 1 << 17;

/// `columns` is [batch, out_channels, taps, inputs of the piece], or joined [out_channels, taps, batch, inputs of the piece]; float32 (float64 for float64); `tensors` are the whole ones.
/// A thread takes outputs of several channels, where they can share its indices, as long as there are `enough_threads`.
Status cuda_col2im(const Problem& problem, const Col2imPiece& piece, const void* columns, const Tensors& tensors,
                   const CudaContext& context, std::int64_t enough_threads = kCol2imThreads);

}  // namespace convt_gemm

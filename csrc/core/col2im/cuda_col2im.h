#pragma once
// col2im on the GPU: adds the columns of one piece into the output. Every output element has one owner, which gathers its
// columns in a fixed order, adds the bias and writes once.
#include <array>

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

/// `columns` is [batch, out_channels, taps, inputs of the piece], or joined [out_channels, taps, batch, inputs of the piece]; float32 (float64 for float64); `tensors` are the whole ones.
Status cuda_col2im(const Problem& problem, const Col2imPiece& piece, const void* columns, const Tensors& tensors,
                   const CudaContext& context);

}  // namespace convt_gemm

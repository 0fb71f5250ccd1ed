#pragma once
// The one matrix product of the lowering, as every GEMM back end gets it.
#include <cstdint>

#include "convt_gemm/problem.h"

namespace convt_gemm {

/// Most products in one call: the grid axis that counts them ends there.
inline constexpr std::int64_t kMaxGemmBatch = 65535;

/// columns[b][r, p] = sum over d of weight[d, r] * x[b][d, p], for `batch` products; r < rows, p < positions, d < depth.
/// Rows are (out_channel, tap) pairs of one group, which is the order PyTorch's weight already has.
/// Columns are float32 (float64 for float64 operands). Strides count elements.
struct BatchedGemm {
  std::int64_t rows = 0;
  std::int64_t positions = 0;
  std::int64_t depth = 0;
  std::int64_t batch = 1;  ///< at most kMaxGemmBatch

  const void* weight = nullptr;  ///< [depth, rows], rows contiguous
  std::int64_t weight_stride = 0;
  std::int64_t weight_batch_stride = 0;

  const void* x = nullptr;
  Layout x_layout = Layout::channels_first;
  std::int64_t x_stride = 0;  ///< channels_first: between channels, positions contiguous; channels_last: between positions
  std::int64_t x_batch_stride = 0;

  void* columns = nullptr;  ///< [rows, positions], positions contiguous
  std::int64_t columns_stride = 0;
  std::int64_t columns_batch_stride = 0;
};

}  // namespace convt_gemm

#pragma once

namespace convt_gemm {

/// What a GEMM kernel computes at a time.
struct GemmTile {
  int rows;
  int positions;
  int depth;
};

/// Of the library's own kernel (gemm/native_gemm.cuh).
inline constexpr GemmTile kNativeTile{64, 128, 16};

}  // namespace convt_gemm

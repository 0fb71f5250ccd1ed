#pragma once
// The one template behind every row of cutlass_instances.def. Included by the generated translation units alone: nothing
// else sees a CUTLASS header.
#include <algorithm>
#include <cstdint>
#include <string>

#include <cutlass/epilogue/thread/linear_combination.h>
#include <cutlass/gemm/device/gemm_universal.h>

#include "convt_gemm/status.h"
#include "gemm/batched_gemm.h"

namespace convt_gemm {

/// Operand types, accumulator and instruction of each `kind` of the instance list.
struct Tf32Kind {
  using Operand = float;
  using Column = float;
  using OpClass = cutlass::arch::OpClassTensorOp;
  using Operator = cutlass::arch::OpMultiplyAdd;
  using Instruction = cutlass::gemm::GemmShape<16, 8, 8>;
};
struct Tf32x3Kind : Tf32Kind {
  using Operator = cutlass::arch::OpMultiplyAddFastF32;
};
struct IeeeKind {
  using Operand = float;
  using Column = float;
  using OpClass = cutlass::arch::OpClassSimt;
  using Operator = cutlass::arch::OpMultiplyAdd;
  using Instruction = cutlass::gemm::GemmShape<1, 1, 1>;
};
template <class T>
struct HalfKind {
  using Operand = T;
  using Column = float;
  using OpClass = cutlass::arch::OpClassTensorOp;
  using Operator = cutlass::arch::OpMultiplyAdd;
  using Instruction = cutlass::gemm::GemmShape<16, 8, 16>;
};
struct Float64Kind {
  using Operand = double;
  using Column = double;
  using OpClass = cutlass::arch::OpClassTensorOp;
  using Operator = cutlass::arch::OpMultiplyAdd;
  using Instruction = cutlass::gemm::GemmShape<8, 8, 4>;
};

namespace kinds {
using tf32 = Tf32Kind;
using tf32x3 = Tf32x3Kind;
using ieee = IeeeKind;
using bfloat16 = HalfKind<cutlass::bfloat16_t>;
using float16 = HalfKind<cutlass::half_t>;
using float64 = Float64Kind;
}  // namespace kinds

namespace layouts {
using channels_first = cutlass::layout::RowMajor;    // x as [depth, positions]
using channels_last = cutlass::layout::ColumnMajor;  // x as [positions, depth]
}  // namespace layouts

template <class Kind, class XLayout, class Tile, class Warp, int Stages, int Align>
struct CutlassGemm {
  using Operand = typename Kind::Operand;
  using Column = typename Kind::Column;
  static constexpr int kColumnAlign = Align == 1 ? 1 : 16 / int(sizeof(Column));
  using Epilogue = cutlass::epilogue::thread::LinearCombination<Column, kColumnAlign, Column, Column,
                                                                cutlass::epilogue::thread::ScaleType::Nothing>;
  using Gemm = cutlass::gemm::device::GemmUniversal<
      Operand, cutlass::layout::ColumnMajor, Operand, XLayout, Column, cutlass::layout::RowMajor, Column,
      typename Kind::OpClass, cutlass::arch::Sm80, Tile, Warp, typename Kind::Instruction, Epilogue,
      cutlass::gemm::threadblock::GemmIdentityThreadblockSwizzle<1>, Stages, Align, Align, typename Kind::Operator>;

  static Status run(const BatchedGemm& gemm, cudaStream_t stream) {
    // Tiles of positions are counted by the grid's second axis, which ends at 65535.
    constexpr std::int64_t kMaxPositions = std::int64_t{65535} * Tile::kN;
    constexpr bool kChannelsLast = cutlass::platform::is_same<XLayout, layouts::channels_last>::value;
    for (std::int64_t p = 0; p < gemm.positions; p += kMaxPositions) {
      const auto* x = static_cast<const Operand*>(gemm.x) + p * (kChannelsLast ? gemm.x_stride : 1);
      auto* columns = static_cast<Column*>(gemm.columns) + p;
      typename Gemm::Arguments arguments(
          cutlass::gemm::GemmUniversalMode::kBatched,
          {int(gemm.rows), int(std::min(kMaxPositions, gemm.positions - p)), int(gemm.depth)}, int(gemm.batch), {},
          gemm.weight, x, columns, columns, gemm.weight_batch_stride, gemm.x_batch_stride, gemm.columns_batch_stride,
          gemm.columns_batch_stride, gemm.weight_stride, gemm.x_stride, gemm.columns_stride, gemm.columns_stride);
      Gemm kernel;
      cutlass::Status status = kernel.can_implement(arguments);
      if (status == cutlass::Status::kSuccess) status = kernel(arguments, nullptr, stream);
      if (status != cutlass::Status::kSuccess) {
        return Status::failure(std::string("CUTLASS GEMM: ") + cutlassGetStatusString(status) +
                               ", last CUDA error: " + cudaGetErrorString(cudaGetLastError()));
      }
    }
    return {};
  }
};

}  // namespace convt_gemm

#define CONVT_DEFINE_CUTLASS_GEMM(symbol, kind, layout, m, n, k, warp_m, warp_n, stages, align)                     \
  namespace convt_gemm {                                                                                            \
  Status symbol(const BatchedGemm& gemm, cudaStream_t stream) {                                                     \
    return CutlassGemm<kinds::kind, layouts::layout, cutlass::gemm::GemmShape<m, n, k>,                             \
                       cutlass::gemm::GemmShape<warp_m, warp_n, k>, stages, align>::run(gemm, stream);              \
  }                                                                                                                 \
  }

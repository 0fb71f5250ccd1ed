#pragma once
// The product of packed weights with a packed input tile: columns[row][position] = sum over depth of weight * input.
#include <array>
#include <cstdint>

namespace convt_gemm {

/// One loop over the depth of the product.
struct DepthLoop {
  std::int64_t count = 1;
  std::int64_t step = 0;         ///< from one term's inputs to the next term's
  std::int64_t weight_step = 1;  ///< from one term's weights to the next term's; 1 for the innermost loop
};

/// Rows are cut into panels as cpu_row_panels() says. A panel of r rows holds its weights as [panel_depth][r], panel
/// after panel. Terms are added in the order of the loops, in sums that end at the same terms of the panel, whatever the
/// instruction set, tile or thread.
template <typename T>
struct CpuGemm {
  const T* weight = nullptr;
  std::int64_t rows = 0;
  std::int64_t panel_depth = 0;
  std::int64_t sum_terms = 1;      ///< each so many terms of a panel are summed in registers, then added to the column
  std::int64_t first_weight = 0;   ///< of the first term, in [0, panel_depth)
  std::array<DepthLoop, 4> depth;  ///< outermost first
  const T* input = nullptr;        ///< input of position 0 and the first depth term
  std::int64_t positions = 0;      ///< inputs of up to one vector beyond them are read and their products dropped
  T* columns = nullptr;
  std::int64_t row_step = 0;
  bool accumulate = false;  ///< add to what the columns hold
};

/// Columns after a row's last position, up to this multiple of positions, may be overwritten with anything.
inline constexpr std::int64_t kColumnLane = 8;

enum class CpuIsa : std::int8_t { baseline, avx2, avx512 };

/// The widest instruction set that this build and this processor have.
CpuIsa cpu_isa();

/// `rows` cut into panels: the first `longer` panels have `size` rows, the others one fewer.
struct RowPanels {
  std::int64_t count = 0;
  std::int64_t size = 0;
  std::int64_t longer = 0;
};

/// The panels that cpu_gemm() of this instruction set expects.
RowPanels cpu_row_panels(CpuIsa isa, std::int64_t rows);

void cpu_gemm(CpuIsa isa, const CpuGemm<float>& gemm);
void cpu_gemm(CpuIsa isa, const CpuGemm<double>& gemm);

}  // namespace convt_gemm

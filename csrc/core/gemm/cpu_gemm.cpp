#include "gemm/cpu_gemm.h"

#include "gemm/cpu_gemm_isa.h"

namespace convt_gemm {
namespace {

int panel_rows(CpuIsa isa) {
#if CONVT_GEMM_X86_DISPATCH
  if (isa == CpuIsa::avx512) return cpu_avx512::kPanelRows;
  if (isa == CpuIsa::avx2) return cpu_avx2::kPanelRows;
#endif
  (void)isa;
  return cpu_baseline::kPanelRows;
}

template <typename T>
void dispatch(CpuIsa isa, const CpuGemm<T>& gemm) {
  const RowPanels panels = cpu_row_panels(isa, gemm.rows);
#if CONVT_GEMM_X86_DISPATCH
  if (isa == CpuIsa::avx512) return cpu_avx512::gemm(gemm, panels);
  if (isa == CpuIsa::avx2) return cpu_avx2::gemm(gemm, panels);
#endif
  cpu_baseline::gemm(gemm, panels);
}

}  // namespace

CpuIsa cpu_isa() {
#if CONVT_GEMM_X86_DISPATCH
  if (__builtin_cpu_supports("avx512f")) return CpuIsa::avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return CpuIsa::avx2;
#endif
  return CpuIsa::baseline;
}

RowPanels cpu_row_panels(CpuIsa isa, std::int64_t rows) {
  const std::int64_t most = panel_rows(isa);
  RowPanels panels;
  panels.count = (rows + most - 1) / most;
  panels.size = (rows + panels.count - 1) / panels.count;
  panels.longer = rows - panels.count * (panels.size - 1);
  return panels;
}

void cpu_gemm(CpuIsa isa, const CpuGemm<float>& gemm) { dispatch(isa, gemm); }
void cpu_gemm(CpuIsa isa, const CpuGemm<double>& gemm) { dispatch(isa, gemm); }

}  // namespace convt_gemm

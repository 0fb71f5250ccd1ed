#pragma once
// One entry per instruction set; which of them exist depends on the compiler and the target.
#include "gemm/cpu_gemm.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CONVT_GEMM_X86_DISPATCH 1
#else
#define CONVT_GEMM_X86_DISPATCH 0
#endif

namespace convt_gemm {

namespace cpu_baseline {
void gemm(const CpuGemm<float>& gemm, const RowPanels& panels);
void gemm(const CpuGemm<double>& gemm, const RowPanels& panels);
inline constexpr int kPanelRows = 6;
}  // namespace cpu_baseline

#if CONVT_GEMM_X86_DISPATCH
namespace cpu_avx2 {
void gemm(const CpuGemm<float>& gemm, const RowPanels& panels);
void gemm(const CpuGemm<double>& gemm, const RowPanels& panels);
inline constexpr int kPanelRows = 6;
}  // namespace cpu_avx2

namespace cpu_avx512 {
void gemm(const CpuGemm<float>& gemm, const RowPanels& panels);
void gemm(const CpuGemm<double>& gemm, const RowPanels& panels);
inline constexpr int kPanelRows = 12;
}  // namespace cpu_avx512
#endif

}  // namespace convt_gemm

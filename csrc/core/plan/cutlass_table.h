#pragma once
// The host's view of the CUTLASS instances: the rows of gemm/cutlass_instances.def as data.
#include <cstddef>

#include "convt_gemm/plan.h"
#include "plan/gemm_tile.h"
#include "plan/instance_kinds.h"

namespace convt_gemm {

struct CutlassInstance {
  const char* name;  ///< "tf32_channels_first_128x128x32_align4"
  DType dtype;
  Precision precision;
  Layout layout;
  GemmTile tile;
  int align;  ///< elements
};

namespace cutlass_rows {
using namespace instance_kinds;

#define CONVT_CUTLASS_GEMM(kind, layout, m, n, k, warp_m, warp_n, stages, align) \
  CutlassInstance{#kind "_" #layout "_" #m "x" #n "x" #k "_align" #align, kind.dtype, kind.precision, Layout::layout, {m, n, k}, align},
inline constexpr CutlassInstance kRows[] = {
#include "gemm/cutlass_instances.def"
};
#undef CONVT_CUTLASS_GEMM
}  // namespace cutlass_rows

inline constexpr std::size_t kCutlassInstances = sizeof(cutlass_rows::kRows) / sizeof(CutlassInstance);

inline constexpr const CutlassInstance* cutlass_instances() { return cutlass_rows::kRows; }

}  // namespace convt_gemm

#pragma once
// The host's view of the CUTLASS instances: the rows of gemm/cutlass_instances.def as data.
#include <cstddef>

#include "convt_gemm/plan.h"
#include "plan/gemm_tile.h"

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
/// What a `kind` of the list means to the planner.
struct Kind {
  DType dtype;
  Precision precision;
};
inline constexpr Kind tf32{DType::float32, Precision::tf32};
inline constexpr Kind tf32x3{DType::float32, Precision::tf32x3};
inline constexpr Kind ieee{DType::float32, Precision::ieee};
inline constexpr Kind bfloat16{DType::bfloat16, Precision::ieee};
inline constexpr Kind float16{DType::float16, Precision::ieee};
inline constexpr Kind float64{DType::float64, Precision::ieee};

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

#pragma once
// The host's view of the fused kernels: the rows of implicit/instances.def as data.
#include <cstddef>

#include "convt_gemm/plan.h"
#include "plan/implicit_geometry.h"

namespace convt_gemm {

struct ImplicitInstance {
  const char* name;  ///< without the tile: "sm90_tf32_channels_first_loaders1"
  DType dtype;
  Precision precision;
  Layout layout;
  ImplicitTile tile;
};

namespace implicit_rows {
/// What a `kind` of the list means to the planner.
struct Kind {
  DType dtype;
  Precision precision;
};
inline constexpr Kind tf32{DType::float32, Precision::tf32};
inline constexpr Kind tf32x3{DType::float32, Precision::tf32x3};
inline constexpr Kind bfloat16{DType::bfloat16, Precision::ieee};
inline constexpr Kind float16{DType::float16, Precision::ieee};

#define CONVT_IMPLICIT_GEMM(family, kind, layout, rows, columns, words, row_blocks, loaders)                           \
  ImplicitInstance{#family "_" #kind "_" #layout "_loaders" #loaders, kind.dtype, kind.precision, Layout::layout,                  \
                   {Family::family, rows, columns, words, row_blocks, loaders}},
inline constexpr ImplicitInstance kRows[] = {
#include "implicit/instances.def"
};
#undef CONVT_IMPLICIT_GEMM
}  // namespace implicit_rows

inline constexpr std::size_t kImplicitInstances = sizeof(implicit_rows::kRows) / sizeof(ImplicitInstance);

inline constexpr const ImplicitInstance* implicit_instances() { return implicit_rows::kRows; }

}  // namespace convt_gemm

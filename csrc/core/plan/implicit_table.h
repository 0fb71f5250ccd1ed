#pragma once
// The host's view of the fused kernels: the rows of implicit/instances.def as data.
#include <cstddef>

#include "convt_gemm/plan.h"
#include "plan/implicit_geometry.h"
#include "plan/instance_kinds.h"

namespace convt_gemm {

struct ImplicitInstance {
  const char* name;  ///< without the tile: "sm90_tf32_channels_first_loaders1"
  DType dtype;
  Precision precision;
  Layout layout;
  ImplicitTile tile;
};

namespace implicit_rows {
using namespace instance_kinds;

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

#pragma once
// The host's view of the transposed product's kernels: the rows of implicit/transposed_instances.def as data.
#include <cstddef>

#include "plan/implicit_table.h"
#include "plan/transposed_geometry.h"

namespace convt_gemm {

struct TransposedInstance {
  const char* name;  ///< without the tile: "sm90_transposed_tf32_channels_first"
  DType dtype;
  Precision precision;
  TransposedTile tile;
};

namespace transposed_rows {
using namespace instance_kinds;

#define CONVT_TRANSPOSED_GEMM(kind, positions, columns, words, axes) \
  TransposedInstance{Axes::axes == Axes::many ? "sm90_transposed_planes_" #kind "_channels_first" : "sm90_transposed_" #kind "_channels_first", kind.dtype, kind.precision, \
                     {positions, columns, words, Axes::axes}},
inline constexpr TransposedInstance kRows[] = {
#include "implicit/transposed_instances.def"
};
#undef CONVT_TRANSPOSED_GEMM
}  // namespace transposed_rows

inline constexpr std::size_t kTransposedInstances = sizeof(transposed_rows::kRows) / sizeof(TransposedInstance);

inline constexpr const TransposedInstance* transposed_instances() { return transposed_rows::kRows; }

/// Plan::instance counts on after the rows of instances.def.
inline constexpr bool is_transposed(int instance) {
  return instance >= int(kImplicitInstances) && instance < int(kImplicitInstances + kTransposedInstances);
}
inline constexpr const TransposedInstance& transposed_instance(int instance) { return transposed_rows::kRows[instance - int(kImplicitInstances)]; }

}  // namespace convt_gemm

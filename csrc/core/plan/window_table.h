#pragma once
// The host's view of the kernels of windows: the rows of implicit/window_instances.def as data.
#include <cstddef>

#include "plan/transposed_table.h"

namespace convt_gemm {

namespace window_rows {
using namespace instance_kinds;

#define CONVT_WINDOW_LINES_1 ""
#define CONVT_WINDOW_LINES_2 "_lines2"
#define CONVT_WINDOW_GEMM(kind, rows, columns, words, row_blocks, form, taps, step, sets, set_step, lines)                                                                        \
  ImplicitInstance{"sm90_windows_" #kind "_channels_first_" #form "_taps" #taps "_step" #step "_sets" #sets "x" #set_step CONVT_WINDOW_LINES_##lines, kind.dtype, kind.precision, \
                   Layout::channels_first, {Family::sm90, rows, columns, words, row_blocks, 1, {Form::form, taps, step, sets, set_step, lines}}},
inline constexpr ImplicitInstance kRows[] = {
#include "implicit/window_instances.def"
};
#undef CONVT_WINDOW_GEMM
#undef CONVT_WINDOW_LINES_1
#undef CONVT_WINDOW_LINES_2
}  // namespace window_rows

inline constexpr std::size_t kWindowInstances = sizeof(window_rows::kRows) / sizeof(ImplicitInstance);

inline constexpr const ImplicitInstance* window_instances() { return window_rows::kRows; }

/// Plan::instance counts the rows of all lists: those of instances.def, of transposed_instances.def, and these.
inline constexpr int kFirstWindow = int(kImplicitInstances + kTransposedInstances), kFusedInstances = kFirstWindow + int(kWindowInstances);
inline constexpr bool is_window(int instance) { return instance >= kFirstWindow; }
/// Of a plan that is not of the transposed product.
inline constexpr const ImplicitInstance& implicit_instance(int instance) {
  return is_window(instance) ? window_rows::kRows[instance - kFirstWindow] : implicit_rows::kRows[instance];
}

}  // namespace convt_gemm

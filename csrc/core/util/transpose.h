#pragma once
// Transposition of a block whose rows are contiguous on both sides.
#include <cstdint>
#include <type_traits>

#include "util/half_types.h"

namespace convt_gemm {

namespace detail {

#if defined(__GNUC__)
typedef float Float4 __attribute__((vector_size(16)));
typedef float UnalignedFloat4 __attribute__((vector_size(16), aligned(4), may_alias));

/// Four rows of four to four columns of four, in registers.
inline void transpose_4x4(const float* source, std::int64_t source_step, const float* addend, float* destination,
                          std::int64_t destination_step) {
  Float4 row[4];
  for (int r = 0; r < 4; ++r) row[r] = *reinterpret_cast<const UnalignedFloat4*>(source + r * source_step) + addend[r];
  const Float4 low01 = __builtin_shufflevector(row[0], row[1], 0, 4, 1, 5);
  const Float4 low23 = __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5);
  const Float4 high01 = __builtin_shufflevector(row[0], row[1], 2, 6, 3, 7);
  const Float4 high23 = __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7);
  const Float4 column[4] = {
      __builtin_shufflevector(low01, low23, 0, 1, 4, 5), __builtin_shufflevector(low01, low23, 2, 3, 6, 7),
      __builtin_shufflevector(high01, high23, 0, 1, 4, 5), __builtin_shufflevector(high01, high23, 2, 3, 6, 7)};
  for (int c = 0; c < 4; ++c) *reinterpret_cast<UnalignedFloat4*>(destination + c * destination_step) = column[c];
}
#endif

}  // namespace detail

/// destination[c * destination_step + r] = round(source[r * source_step + c] + addend(r)), for r below rows and c below
/// columns.
template <typename To, typename From, typename Addend>
void transpose(const From* source, std::int64_t source_step, std::int64_t rows, std::int64_t columns, Addend addend,
               To* destination, std::int64_t destination_step) {
  constexpr std::int64_t kBlock = 4;
  for (std::int64_t r = 0; r < rows; r += kBlock) {
    const std::int64_t count = rows - r < kBlock ? rows - r : kBlock;
    decltype(to_accumulator(From{})) add[kBlock] = {};
    for (std::int64_t i = 0; i < count; ++i) add[i] = addend(r + i);
    std::int64_t c = 0;
#if defined(__GNUC__)
    if constexpr (std::is_same_v<From, float> && std::is_same_v<To, float>) {
      for (; count == kBlock && c + kBlock <= columns; c += kBlock) {
        detail::transpose_4x4(source + r * source_step + c, source_step, add, destination + c * destination_step + r,
                              destination_step);
      }
    }
#endif
    for (; c < columns; ++c) {
      for (std::int64_t i = 0; i < count; ++i) {
        destination[c * destination_step + r + i] =
            Rounding<To>::from(to_accumulator(source[(r + i) * source_step + c]) + add[i]);
      }
    }
  }
}

}  // namespace convt_gemm

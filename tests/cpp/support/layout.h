#pragma once
#include <cstdint>
#include <vector>

#include "convt_gemm/problem.h"

namespace convt_gemm::testing {

/// [batch, channels, positions] rearranged to the memory order of `layout`.
template <class T>
std::vector<T> arranged(const std::vector<T>& values, Layout layout, std::int64_t channels, std::int64_t positions) {
  if (layout == Layout::channels_first) return values;
  std::vector<T> result(values.size());
  const std::int64_t batch = values.empty() ? 0 : std::int64_t(values.size()) / (channels * positions);
  for (std::int64_t n = 0; n < batch; ++n) {
    for (std::int64_t c = 0; c < channels; ++c) {
      for (std::int64_t p = 0; p < positions; ++p) {
        result[std::size_t((n * positions + p) * channels + c)] =
            values[std::size_t((n * channels + c) * positions + p)];
      }
    }
  }
  return result;
}

}  // namespace convt_gemm::testing

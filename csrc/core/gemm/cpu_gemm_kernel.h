// The register-tiled product, compiled once for each instruction set. The including file defines, in its own namespace,
//   template <typename T> struct Simd { using Vector; kWidth; load, store, load_first, store_first, zero, broadcast,
//   add, multiply_add }; constexpr int kPanelRows;                   rows of the largest panel constexpr int
//   tile_vectors(int rows);       vectors of positions that a panel of so many rows keeps in registers
// (load_first and store_first touch the given number of positions; with vectors of up to kColumnLane they may touch
// all) and switches the compiler to that instruction set before it includes this file, so nothing of the standard
// library may be instantiated here. No include guard and no includes for that reason.

/// kPanels neighbouring panels of kRows rows times kVectors vectors of positions, the last of which has `last`
/// positions.
template <int kPanels, int kRows, int kVectors, typename T>
[[gnu::noinline]] void multiply_tile(const CpuGemm<T>& gemm, const T* __restrict panel, std::int64_t position,
                                     std::int64_t last, T* __restrict columns) {
  using V = Simd<T>;
  constexpr int kAll = kPanels * kRows;
  constexpr int kFull = kVectors - 1;
  const std::int64_t panel_step = gemm.panel_depth * kRows;
  const DepthLoop* const loop = gemm.depth.data();
  const T* const input = gemm.input + position;
  bool add = gemm.accumulate;
  bool done = loop[0].count == 0 || loop[1].count == 0 || loop[2].count == 0 || loop[3].count == 0;
  std::int64_t i0 = 0, i1 = 0, i2 = 0, i3 = 0;
  do {
    typename V::Vector sum[kAll][kVectors];
#pragma GCC unroll 16
    for (int r = 0; r < kAll; ++r) {
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) sum[r][v] = V::zero();
    }
    const auto term = [&] {
      return gemm.first_weight + i0 * loop[0].weight_step + i1 * loop[1].weight_step + i2 * loop[2].weight_step + i3;
    };
    // Sums end at fixed places of the panel, so that terms left out elsewhere do not move them.
    const std::int64_t end_of_sum = (term() / gemm.sum_terms + 1) * gemm.sum_terms;
    while (!done && term() < end_of_sum) {
      const std::int64_t rest = loop[3].count - i3, room = end_of_sum - term(), part = rest < room ? rest : room;
      const T* x = input + i0 * loop[0].step + i1 * loop[1].step + i2 * loop[2].step + i3 * loop[3].step;
      const T* weight = panel + term() * kRows;
      const std::int64_t inner_step = loop[3].step;
      for (std::int64_t i = 0; i < part; ++i, x += inner_step, weight += kRows) {
        if constexpr (kVectors < kAll) {
          typename V::Vector xs[kVectors];
#pragma GCC unroll 16
          for (int v = 0; v < kVectors; ++v) xs[v] = V::load(x + v * V::kWidth);
#pragma GCC unroll 16
          for (int r = 0; r < kAll; ++r) {
            const typename V::Vector w = V::broadcast(weight + r / kRows * panel_step + r % kRows);
#pragma GCC unroll 16
            for (int v = 0; v < kVectors; ++v) sum[r][v] = V::multiply_add(w, xs[v], sum[r][v]);
          }
        } else {
          typename V::Vector ws[kAll];
#pragma GCC unroll 16
          for (int r = 0; r < kAll; ++r) ws[r] = V::broadcast(weight + r);
#pragma GCC unroll 16
          for (int v = 0; v < kVectors; ++v) {
            const typename V::Vector xv = V::load(x + v * V::kWidth);
#pragma GCC unroll 16
            for (int r = 0; r < kAll; ++r) sum[r][v] = V::multiply_add(ws[r], xv, sum[r][v]);
          }
        }
      }
      i3 += part;
      if (i3 == loop[3].count) {
        i3 = 0;
        if (++i2 == loop[2].count) {
          i2 = 0;
          if (++i1 == loop[1].count) {
            i1 = 0;
            done = ++i0 == loop[0].count;
          }
        }
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kAll; ++r) {
      T* const to = columns + r * gemm.row_step;
#pragma GCC unroll 16
      for (int v = 0; v < kFull; ++v) {
        V::store(to + v * V::kWidth, add ? V::add(V::load(to + v * V::kWidth), sum[r][v]) : sum[r][v]);
      }
      T* const end = to + kFull * V::kWidth;
      V::store_first(end, add ? V::add(V::load_first(end, last), sum[r][kFull]) : sum[r][kFull], last);
    }
    add = true;
  } while (!done);
}

/// Where a strip of positions begins, and what is left of it.
template <typename T>
struct Strip {
  std::int64_t position;
  std::int64_t count;  ///< positions
  const T* weight;
  T* columns;
};

template <int kPanels, int kRows, int kVectors, typename T>
inline void multiply_vectors(const CpuGemm<T>& gemm, Strip<T>* strip) {
  constexpr std::int64_t kPositions = kVectors * Simd<T>::kWidth;
  const std::int64_t missing = strip->count < kPositions ? kPositions - strip->count : 0;
  multiply_tile<kPanels, kRows, kVectors>(gemm, strip->weight, strip->position, Simd<T>::kWidth - missing,
                                          strip->columns);
  strip->position += kPositions;
  strip->count -= kPositions;
  strip->columns += kPositions;
}

/// A panel of kRows rows times the strip.
template <int kRows, typename T>
void multiply_panel(const CpuGemm<T>& gemm, Strip<T> strip) {
  constexpr int kMost = tile_vectors(kRows);
  constexpr std::int64_t kWidth = Simd<T>::kWidth;
  while (strip.count > (kMost - 1) * kWidth) multiply_vectors<1, kRows, kMost>(gemm, &strip);
  // What is left has fewer than kMost vectors, so that each of these steps is taken at most once.
  if constexpr (kMost > 4) {
    if (strip.count > 3 * kWidth) multiply_vectors<1, kRows, 4>(gemm, &strip);
  }
  if constexpr (kMost > 2) {
    if (strip.count > kWidth) multiply_vectors<1, kRows, 2>(gemm, &strip);
  }
  if (strip.count > 0) multiply_vectors<1, kRows, 1>(gemm, &strip);
}

template <int kRows, typename T>
void multiply_panel_of(std::int64_t rows, const CpuGemm<T>& gemm, const Strip<T>& strip) {
  if constexpr (kRows == 1) {
    multiply_panel<1>(gemm, strip);
  } else {
    if (rows == kRows) {
      multiply_panel<kRows>(gemm, strip);
    } else {
      multiply_panel_of<kRows - 1>(rows, gemm, strip);
    }
  }
}

/// For each strip of positions all panels, so that the strip's inputs stay in the first-level cache.
template <typename T>
void multiply(const CpuGemm<T>& gemm, const RowPanels& panels) {
  constexpr std::int64_t kWidth = Simd<T>::kWidth;
  const std::int64_t whole = panels.count == 1 ? gemm.positions : tile_vectors(int(panels.size)) * kWidth;
  for (std::int64_t position = 0; position < gemm.positions; position += whole) {
    const std::int64_t rest = gemm.positions - position;
    Strip<T> strip{position, rest < whole ? rest : whole, gemm.weight, gemm.columns + position};
    for (std::int64_t p = 0; p < panels.count; ++p) {
      const std::int64_t rows = p < panels.longer ? panels.size : panels.size - 1;
      std::int64_t together = 1;
      // One vector of one panel leaves too few sums to hide the latency of an addition.
      if (strip.count <= kWidth && rows == kPanelRows && p + 1 < panels.longer) {
        Strip<T> both = strip;
        multiply_vectors<2, kPanelRows, 1>(gemm, &both);
        together = 2;
        ++p;
      } else {
        multiply_panel_of<kPanelRows>(rows, gemm, strip);
      }
      strip.weight += together * rows * gemm.panel_depth;
      strip.columns += together * rows * gemm.row_step;
    }
  }
}

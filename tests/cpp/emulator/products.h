#pragma once
// What a warp computes with its tensor core.
#include <cstdint>
#include <cstring>
#include <vector>

#include "emulator/operations.h"
#include "util/half_types.h"

namespace convt_gemm::emulator {

constexpr int kWarp = 32;
constexpr int kRows = 16;       // a warp's share of a product
constexpr int kWordsDeep = 8;   // depth of a product

inline int values_per_word(Words words) { return words == Words::tf32 ? 1 : 2; }

/// The values in a word, as the tensor cores read them: of a TF32 value the low 13 bits do not count.
inline void decode(Words words, std::uint32_t word, double* values) {
  const auto low = static_cast<std::uint16_t>(word), high = static_cast<std::uint16_t>(word >> 16);
  if (words == Words::tf32) {
    values[0] = detail::float_of_bits(word & 0xffffe000u);
  } else if (words == Words::bfloat16) {
    values[0] = to_accumulator(BFloat16{low}), values[1] = to_accumulator(BFloat16{high});
  } else {
    values[0] = to_accumulator(Float16{low}), values[1] = to_accumulator(Float16{high});
  }
}

/// What of the 16 rows of a is in its lane's register i, as gpu_ops.cuh lays them out.
inline int row_in_register(int lane, int i) { return lane / 4 + 8 * (i % 2); }
inline int word_in_register(int lane, int i) { return lane % 4 + 4 * (i / 2); }

/// sum = a * b, plus the old sum if `accumulate`, for 16 rows and a multiple of 8 columns. a[lane] and sum[lane] are
/// the lane's registers, as gpu_ops.cuh lays them out; b holds `columns` words for each of the 8 words of depth.
inline void multiply(Words words, int columns, const std::uint32_t (&a)[kWarp][4], const std::uint32_t* b,
                     bool accumulate, float* const (&sum)[kWarp]) {
  const int depth = kWordsDeep * values_per_word(words);
  double rows[kRows][2 * kWordsDeep];
  for (int lane = 0; lane < kWarp; ++lane) {
    for (int i = 0; i < 4; ++i) {
      decode(words, a[lane][i], &rows[row_in_register(lane, i)][word_in_register(lane, i) * values_per_word(words)]);
    }
  }
  for (int first = 0; first < columns; first += 8) {
    double block[2 * kWordsDeep][8];
    for (int word = 0; word < kWordsDeep; ++word) {
      for (int column = 0; column < 8; ++column) {
        double values[2];
        decode(words, b[word * columns + first + column], values);
        for (int i = 0; i < values_per_word(words); ++i) block[word * values_per_word(words) + i][column] = values[i];
      }
    }
    for (int row = 0; row < kRows; ++row) {
      double products[8] = {};
      for (int k = 0; k < depth; ++k) {
        for (int column = 0; column < 8; ++column) products[column] += rows[row][k] * block[k][column];
      }
      for (int column = 0; column < 8; ++column) {
        float& value = sum[row % 8 * 4 + column / 2][first / 2 + row / 8 * 2 + column % 2];
        value = static_cast<float>(accumulate ? products[column] + value : products[column]);
      }
    }
  }
}

}  // namespace convt_gemm::emulator

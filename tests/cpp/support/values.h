#pragma once
// Deterministic operands, as float64 in the order [batch, channels, positions].
#include <cstdint>
#include <random>
#include <vector>

#include "convt_gemm/problem.h"

namespace convt_gemm::testing {

/// Integers in [-bound, bound]. With bound 3 they are exact in every dtype and in TF32, and so are their sums in
/// float32.
inline std::vector<double> integers(std::int64_t count, std::uint64_t seed, std::int64_t bound = 3) {
  std::mt19937_64 random(seed);
  std::vector<double> values(static_cast<std::size_t>(count));
  for (double& value : values) value = double(std::int64_t(random() % std::uint64_t(2 * bound + 1)) - bound);
  return values;
}

/// Uniform in [-1, 1).
inline std::vector<double> uniform(std::int64_t count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<double> values(static_cast<std::size_t>(count));
  for (double& value : values) value = double(random() >> 11) * 0x1p-52 - 1.0;
  return values;
}

struct Operands {
  std::vector<double> input;
  std::vector<double> weight;
  std::vector<double> bias;
};

inline Operands integer_operands(const Problem& problem, std::int64_t input_bound = 3) {
  return {integers(problem.input_elements(), 1, input_bound), integers(problem.weight_elements(), 2),
          integers(problem.out_channels, 3)};
}

inline Operands uniform_operands(const Problem& problem) {
  return {uniform(problem.input_elements(), 1), uniform(problem.weight_elements(), 2),
          uniform(problem.out_channels, 3)};
}

}  // namespace convt_gemm::testing

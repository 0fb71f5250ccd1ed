#pragma once
// Values of any dtype as float64 and back, by arithmetic on the value: independent of the library's own conversions.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "convt_gemm/problem.h"

namespace convt_gemm::testing {

/// An IEEE 754 binary format of 16 bits.
struct Format16 {
  int mantissa_bits;
  int exponent_bits;

  int min_exponent() const { return 2 - (1 << (exponent_bits - 1)); }  // of the smallest normal number

  /// To nearest, ties to even.
  std::uint16_t encode(double value) const {
    const unsigned sign = std::signbit(value) ? 0x8000u : 0u;
    const unsigned infinity = ((1u << exponent_bits) - 1) << mantissa_bits;
    if (std::isnan(value)) return std::uint16_t(sign | infinity | (1u << (mantissa_bits - 1)));
    const double magnitude = std::fabs(value);
    if (std::isinf(value)) return std::uint16_t(sign | infinity);
    if (magnitude == 0) return std::uint16_t(sign);
    int exponent = 0;
    std::frexp(magnitude, &exponent);
    const int step = std::max(exponent - 1, min_exponent());
    // In units of the last place; a carry into the exponent is part of the addition below.
    const double units = std::nearbyint(std::ldexp(magnitude, mantissa_bits - step));
    const double bits = units + std::ldexp(double(step - min_exponent()), mantissa_bits);
    return std::uint16_t(sign | unsigned(std::min(bits, double(infinity))));
  }

  double decode(std::uint16_t bits) const {
    const int exponent = (bits & 0x7fff) >> mantissa_bits;
    const int mantissa = bits & ((1 << mantissa_bits) - 1);
    double magnitude = 0;
    if (exponent == (1 << exponent_bits) - 1) {
      magnitude = mantissa ? std::numeric_limits<double>::quiet_NaN() : std::numeric_limits<double>::infinity();
    } else if (exponent == 0) {
      magnitude = std::ldexp(double(mantissa), min_exponent() - mantissa_bits);
    } else {
      magnitude = std::ldexp(double(mantissa + (1 << mantissa_bits)), exponent - 1 + min_exponent() - mantissa_bits);
    }
    return bits & 0x8000 ? -magnitude : magnitude;
  }
};

inline constexpr Format16 kBFloat16Format{7, 8};
inline constexpr Format16 kFloat16Format{10, 5};

using Bytes = std::vector<unsigned char>;

inline Bytes encode(DType dtype, const std::vector<double>& values) {
  const std::size_t size = size_of(dtype);
  Bytes bytes(values.size() * size);
  for (std::size_t i = 0; i < values.size(); ++i) {
    unsigned char* const at = bytes.data() + i * size;
    if (dtype == DType::float64) {
      std::memcpy(at, &values[i], size);
    } else if (dtype == DType::float32) {
      const float value = float(values[i]);
      std::memcpy(at, &value, size);
    } else {
      const std::uint16_t value = (dtype == DType::bfloat16 ? kBFloat16Format : kFloat16Format).encode(values[i]);
      std::memcpy(at, &value, size);
    }
  }
  return bytes;
}

inline std::vector<double> decode(DType dtype, const Bytes& bytes) {
  const std::size_t size = size_of(dtype);
  std::vector<double> values(bytes.size() / size);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const unsigned char* const at = bytes.data() + i * size;
    if (dtype == DType::float64) {
      std::memcpy(&values[i], at, size);
    } else if (dtype == DType::float32) {
      float value;
      std::memcpy(&value, at, size);
      values[i] = value;
    } else {
      std::uint16_t value;
      std::memcpy(&value, at, size);
      values[i] = (dtype == DType::bfloat16 ? kBFloat16Format : kFloat16Format).decode(value);
    }
  }
  return values;
}

/// Half the distance between neighbours, relative: the error of one rounding to this dtype.
inline double unit_roundoff(DType dtype) {
  switch (dtype) {
    case DType::float64:
      return 0x1p-53;
    case DType::float32:
      return 0x1p-24;
    case DType::bfloat16:
      return 0x1p-8;
    case DType::float16:
      return 0x1p-11;
  }
  return 0;
}

}  // namespace convt_gemm::testing

#pragma once
// bfloat16 and float16 in memory, converted with plain integer arithmetic so that loops over them vectorise on any
// target.
#include <cstdint>
#include <cstring>

namespace convt_gemm {

namespace detail {
inline float float_of_bits(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline std::uint32_t bits_of_float(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
}  // namespace detail

struct BFloat16 {
  std::uint16_t bits;
};

struct Float16 {
  std::uint16_t bits;
};

inline float to_accumulator(float value) { return value; }
inline double to_accumulator(double value) { return value; }
inline float to_accumulator(BFloat16 value) { return detail::float_of_bits(std::uint32_t{value.bits} << 16); }

inline float to_accumulator(Float16 value) {
  // Sign aside, a float16 is a float32 whose exponent is 112 too small; multiplying by 2^112 normalises subnormals too.
  const std::uint32_t magnitude = std::uint32_t(value.bits & 0x7fffu) << 13;
  const std::uint32_t scaled = detail::bits_of_float(detail::float_of_bits(magnitude) * 0x1p112f);
  const std::uint32_t infinite = magnitude >= (0x7c00u << 13) ? 0x7f800000u : 0u;
  return detail::float_of_bits(scaled | infinite | (std::uint32_t(value.bits & 0x8000u) << 16));
}

template <typename Stored>
struct Rounding;

template <>
struct Rounding<float> {
  static float from(float value) { return value; }
};

template <>
struct Rounding<double> {
  static double from(double value) { return value; }
};

/// To nearest, ties to even.
template <>
struct Rounding<BFloat16> {
  static BFloat16 from(float value) {
    const std::uint32_t bits = detail::bits_of_float(value);
    const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const std::uint32_t quiet_nan = (bits >> 16) | 0x40u;
    return {std::uint16_t((bits & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded)};
  }
};

/// To nearest, ties to even; too large becomes infinite.
template <>
struct Rounding<Float16> {
  static Float16 from(float value) {
    const std::uint32_t bits = detail::bits_of_float(value);
    const std::uint32_t sign = (bits >> 16) & 0x8000u;
    const std::uint32_t magnitude = bits & 0x7fffffffu;
    // Below 2^-14 the sum with 0.5 leaves the subnormal's bits, rounded, at the end of the mantissa.
    const std::uint32_t subnormal = detail::bits_of_float(detail::float_of_bits(magnitude) + 0.5f) - 0x3f000000u;
    const std::uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    const std::uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
    const std::uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
    return {std::uint16_t(sign | (magnitude >= 0x47800000u ? special : finite))};
  }
};

}  // namespace convt_gemm

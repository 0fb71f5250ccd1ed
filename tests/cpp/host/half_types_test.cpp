// The library's conversions of 16-bit types against arithmetic on their definition.
#include "util/half_types.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "support/dtype.h"

namespace convt_gemm::testing {
namespace {

template <class Half>
const Format16& format_of();
template <>
const Format16& format_of<BFloat16>() {
  return kBFloat16Format;
}
template <>
const Format16& format_of<Float16>() {
  return kFloat16Format;
}

template <class Half>
class HalfTypes : public ::testing::Test {};
using Halves = ::testing::Types<BFloat16, Float16>;
TYPED_TEST_SUITE(HalfTypes, Halves);

TYPED_TEST(HalfTypes, EveryBitPatternWidensToItsValue) {
  for (unsigned bits = 0; bits < 0x10000; ++bits) {
    const double expected = format_of<TypeParam>().decode(std::uint16_t(bits));
    const float got = to_accumulator(TypeParam{std::uint16_t(bits)});
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(got)) << bits;
    } else {
      ASSERT_EQ(double(got), expected) << bits;
      ASSERT_EQ(std::signbit(got), std::signbit(expected)) << bits;
    }
  }
}

TYPED_TEST(HalfTypes, RoundsToNearestEven) {
  std::vector<float> values{0.0f,
                            -0.0f,
                            1.0f,
                            65504.0f,
                            65519.996f,
                            65520.0f,
                            1e30f,
                            3.4e38f,
                            5.9604645e-8f,
                            2.9802322e-8f,
                            2.9802326e-8f,
                            6.1e-5f,
                            std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity(),
                            std::numeric_limits<float>::denorm_min()};
  std::mt19937 random(11);
  for (int i = 0; i < 200000; ++i) {
    const float value = detail::float_of_bits(std::uint32_t(random()));
    if (!std::isnan(value)) values.push_back(value);
  }
  // Midway between neighbours, and just beside.
  for (unsigned bits = 0; bits + 1 < 0x7c00; bits += 7) {
    const double low = format_of<TypeParam>().decode(std::uint16_t(bits)),
                 high = format_of<TypeParam>().decode(std::uint16_t(bits + 1));
    const float middle = float((low + high) / 2);
    for (float value : {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e38f)}) values.push_back(value);
  }
  for (float value : values) {
    ASSERT_EQ(Rounding<TypeParam>::from(value).bits, format_of<TypeParam>().encode(value)) << value;
    ASSERT_EQ(Rounding<TypeParam>::from(-value).bits, format_of<TypeParam>().encode(-double(value))) << -value;
  }
}

TYPED_TEST(HalfTypes, KeepsNaN) {
  for (std::uint32_t bits : {0x7fc00000u, 0x7f800001u, 0xffffffffu, 0xff800001u}) {
    EXPECT_TRUE(std::isnan(to_accumulator(Rounding<TypeParam>::from(detail::float_of_bits(bits))))) << std::hex << bits;
  }
}

}  // namespace
}  // namespace convt_gemm::testing

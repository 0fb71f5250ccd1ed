// Multiplication and shift against division.
#include "util/fast_div.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <random>
#include <vector>

namespace convt_gemm::testing {
namespace {

/// Small numbers, neighbours of powers of two and random numbers of every length.
template <class Int>
std::vector<Int> interesting() {
  constexpr int kBits = std::numeric_limits<Int>::digits;
  std::vector<Int> values;
  for (Int i = 0; i < 70; ++i) values.push_back(i);
  for (int bit = 6; bit < kBits; ++bit) {
    for (int offset = -1; offset <= 1; ++offset) values.push_back((Int{1} << bit) + Int(offset));
  }
  for (Int i = 0; i < 4; ++i) values.push_back(std::numeric_limits<Int>::max() - i);
  std::mt19937_64 random(7);
  for (int bits = 1; bits <= kBits; ++bits) {
    for (int i = 0; i < 12; ++i) values.push_back(Int(random() >> (64 - bits)));
  }
  return values;
}

template <class Int>
class FastDivTest : public ::testing::Test {};
using Integers = ::testing::Types<std::int32_t, std::int64_t>;
TYPED_TEST_SUITE(FastDivTest, Integers);

TYPED_TEST(FastDivTest, IsDivision) {
  using Int = TypeParam;
  const std::vector<Int> values = interesting<Int>();
  for (Int divisor : values) {
    if (divisor == 0) continue;
    const FastDiv<Int> fast(divisor);
    ASSERT_EQ(fast.divisor(), divisor);
    for (Int n : values) ASSERT_EQ(fast.quotient(n), n / divisor) << n << " / " << divisor;
    // Around multiples of the divisor, where a magic number that is off by one shows first.
    for (Int n : values) {
      const Int multiple = n / divisor * divisor;
      ASSERT_EQ(fast.quotient(multiple), multiple / divisor) << multiple << " / " << divisor;
      if (multiple > 0) {
        ASSERT_EQ(fast.quotient(multiple - 1), (multiple - 1) / divisor) << multiple - 1 << " / " << divisor;
      }
    }
  }
}

TYPED_TEST(FastDivTest, DefaultsToOne) {
  using Int = TypeParam;
  const FastDiv<Int> fast;
  EXPECT_EQ(fast.divisor(), Int(1));
  EXPECT_EQ(fast.quotient(std::numeric_limits<Int>::max()), std::numeric_limits<Int>::max());
}

}  // namespace
}  // namespace convt_gemm::testing

// The residue form of one axis against its definition: tap k reaches output o from input i if i*stride + k*dilation ==
// q.
#include "util/residues.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace convt_gemm::testing {
namespace {

TEST(ResiduesOf, NamesTheTapsOfEveryOutput) {
  for (std::int64_t stride = 1; stride <= 12; ++stride) {
    for (std::int64_t dilation = 1; dilation <= 12; ++dilation) {
      for (std::int64_t kernel : {1, 2, 3, 5, 8, 13}) {
        const Axis axis{100, kernel, stride, 0, 0, dilation};
        const Residues r = residues_of(axis);
        ASSERT_EQ(r.gcd, std::gcd(stride, dilation));
        ASSERT_EQ(r.tap_step * r.gcd, stride);
        ASSERT_EQ(r.input_step * r.gcd, dilation);
        ASSERT_TRUE(r.inverse >= 0 && r.inverse < r.tap_step);
        ASSERT_EQ(r.inverse * r.input_step % r.tap_step, r.tap_step == 1 ? 0 : 1);
        std::int64_t most_taps = 0;
        for (std::int64_t q = 0; q < 3 * stride * dilation; ++q) {
          std::vector<std::int64_t> expected, got;
          for (std::int64_t k = 0; k < kernel; ++k) {
            if ((q - k * dilation) % stride == 0) expected.push_back(k);
          }
          if (q % r.gcd == 0) {
            for (std::int64_t k = q / r.gcd % r.tap_step * r.inverse % r.tap_step; k < kernel; k += r.tap_step)
              got.push_back(k);
          }
          ASSERT_EQ(got, expected) << "q " << q << " stride " << stride << " dilation " << dilation << " kernel "
                                   << kernel;
          for (std::size_t j = 1; j < got.size(); ++j) {
            ASSERT_EQ((q - got[j] * dilation) / stride, (q - got[j - 1] * dilation) / stride - r.input_step);
          }
          most_taps = std::max(most_taps, std::int64_t(expected.size()));
        }
        ASSERT_EQ(r.most_taps, most_taps);
      }
    }
  }
}

TEST(ResiduesOf, TakesLargeStridesAndDilations) {
  for (const auto& [stride, dilation] : {std::pair<std::int64_t, std::int64_t>{50000, 3},
                                         {std::int64_t{1} << 40, (std::int64_t{1} << 31) + 1},
                                         {999999937, 1000000007}}) {
    const Residues r = residues_of(Axis{2, 3, stride, 0, 0, dilation});
    EXPECT_EQ(r.gcd, std::gcd(stride, dilation));
    __extension__ typedef __int128 Wide;
    EXPECT_EQ(std::int64_t(Wide(r.inverse) * r.input_step % r.tap_step), 1);
  }
}

}  // namespace
}  // namespace convt_gemm::testing

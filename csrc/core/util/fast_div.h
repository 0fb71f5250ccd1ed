#pragma once
// Division of non-negative integers by a divisor fixed on the host: one high multiplication and a shift.
// (Granlund and Montgomery, "Division by invariant integers using multiplication", 1994.)
#include <cstdint>

#ifdef __CUDACC__
#define CONVT_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define CONVT_HOST_DEVICE inline
#endif

namespace convt_gemm {

/// Exact for 0 <= n < 2^31 (Int = int32_t) or 2^63 (Int = int64_t) and divisors of the same range.
template <class Int>
class FastDiv;

template <>
class FastDiv<std::int32_t> {
 public:
  FastDiv() = default;
  explicit FastDiv(std::int64_t divisor) : divisor_(static_cast<std::int32_t>(divisor)) {
    if (divisor == 1) return;
    int log2 = 0;
    while ((std::int64_t{1} << log2) < divisor) ++log2;
    shift_ = static_cast<std::uint32_t>(log2 - 1);
    const std::uint64_t power = std::uint64_t{1} << (31 + log2);
    magic_ = static_cast<std::uint32_t>((power + std::uint64_t(divisor) - 1) / std::uint64_t(divisor));
  }
  CONVT_HOST_DEVICE std::int32_t divisor() const { return divisor_; }
  CONVT_HOST_DEVICE std::int32_t quotient(std::int32_t n) const {
    if (divisor_ == 1) return n;
#ifdef __CUDA_ARCH__
    return static_cast<std::int32_t>(__umulhi(static_cast<std::uint32_t>(n), magic_) >> shift_);
#else
    return static_cast<std::int32_t>((std::uint64_t(std::uint32_t(n)) * magic_ >> 32) >> shift_);
#endif
  }

 private:
  std::int32_t divisor_ = 1;
  std::uint32_t magic_ = 0;
  std::uint32_t shift_ = 0;
};

template <>
class FastDiv<std::int64_t> {
 public:
  FastDiv() = default;
  explicit FastDiv(std::int64_t divisor) : divisor_(divisor) {
    if (divisor == 1) return;
    int log2 = 0;
    while (log2 < 63 && (std::uint64_t{1} << log2) < std::uint64_t(divisor)) ++log2;
    shift_ = static_cast<std::uint32_t>(log2 - 1);
    __extension__ typedef unsigned __int128 Wide;
    magic_ = static_cast<std::uint64_t>(((Wide(1) << (63 + log2)) + std::uint64_t(divisor) - 1) / std::uint64_t(divisor));
  }
  CONVT_HOST_DEVICE std::int64_t divisor() const { return divisor_; }
  CONVT_HOST_DEVICE std::int64_t quotient(std::int64_t n) const {
    if (divisor_ == 1) return n;
#ifdef __CUDA_ARCH__
    return static_cast<std::int64_t>(__umul64hi(static_cast<std::uint64_t>(n), magic_) >> shift_);
#else
    __extension__ typedef unsigned __int128 Wide;
    return static_cast<std::int64_t>(std::uint64_t((Wide(std::uint64_t(n)) * magic_) >> 64) >> shift_);
#endif
  }

 private:
  std::int64_t divisor_ = 1;
  std::uint64_t magic_ = 0;
  std::uint32_t shift_ = 0;
};

}  // namespace convt_gemm

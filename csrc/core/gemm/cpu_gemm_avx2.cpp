// The product for AVX2 with FMA: 16 registers of 8 float32 or 4 float64. The whole file is compiled for that target,
// whatever the build's -march; nothing outside calls it before cpu_isa() has found the instructions.
#include "gemm/cpu_gemm_isa.h"

#if CONVT_GEMM_X86_DISPATCH
#include <immintrin.h>
#pragma GCC target("avx2,fma")

namespace convt_gemm::cpu_avx2 {
namespace {

template <typename T>
struct Simd;

template <>
struct Simd<float> {
  using Vector = __m256;
  static constexpr int kWidth = 8;
  static Vector load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, Vector v) { _mm256_storeu_ps(p, v); }
  static Vector load_first(const float* p, std::int64_t) { return load(p); }
  static void store_first(float* p, Vector v, std::int64_t) { store(p, v); }
  static Vector zero() { return _mm256_setzero_ps(); }
  static Vector broadcast(const float* p) { return _mm256_broadcast_ss(p); }
  static Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
  static Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
};

template <>
struct Simd<double> {
  using Vector = __m256d;
  static constexpr int kWidth = 4;
  static Vector load(const double* p) { return _mm256_loadu_pd(p); }
  static void store(double* p, Vector v) { _mm256_storeu_pd(p, v); }
  static Vector load_first(const double* p, std::int64_t) { return load(p); }
  static void store_first(double* p, Vector v, std::int64_t) { store(p, v); }
  static Vector zero() { return _mm256_setzero_pd(); }
  static Vector broadcast(const double* p) { return _mm256_broadcast_sd(p); }
  static Vector add(Vector a, Vector b) { return _mm256_add_pd(a, b); }
  static Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_pd(a, b, c); }
};

constexpr int tile_vectors(int rows) { return rows >= 5 ? 2 : rows == 4 ? 3 : rows == 3 ? 4 : rows == 2 ? 6 : 8; }

#include "gemm/cpu_gemm_kernel.h"

}  // namespace

void gemm(const CpuGemm<float>& gemm, const RowPanels& panels) { multiply(gemm, panels); }
void gemm(const CpuGemm<double>& gemm, const RowPanels& panels) { multiply(gemm, panels); }

}  // namespace convt_gemm::cpu_avx2
#endif

// The product for AVX-512F: 32 registers of 16 float32 or 8 float64. The whole file is compiled for that target,
// whatever the build's -march; nothing outside calls it before cpu_isa() has found the instructions.
#include "gemm/cpu_gemm_isa.h"

#if CONVT_GEMM_X86_DISPATCH
#include <immintrin.h>
#pragma GCC target("avx512f,avx2,fma")

namespace convt_gemm::cpu_avx512 {
namespace {

template <typename T>
struct Simd;

template <>
struct Simd<float> {
  using Vector = __m512;
  static constexpr int kWidth = 16;
  static Vector load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, Vector v) { _mm512_storeu_ps(p, v); }
  static Vector load_first(const float* p, std::int64_t count) { return _mm512_maskz_loadu_ps(first(count), p); }
  static void store_first(float* p, Vector v, std::int64_t count) { _mm512_mask_storeu_ps(p, first(count), v); }
  static __mmask16 first(std::int64_t count) { return __mmask16((1u << count) - 1u); }
  static Vector zero() { return _mm512_setzero_ps(); }
  static Vector broadcast(const float* p) { return _mm512_set1_ps(*p); }
  static Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
  static Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
};

template <>
struct Simd<double> {
  using Vector = __m512d;
  static constexpr int kWidth = 8;
  static Vector load(const double* p) { return _mm512_loadu_pd(p); }
  static void store(double* p, Vector v) { _mm512_storeu_pd(p, v); }
  static Vector load_first(const double* p, std::int64_t count) { return _mm512_maskz_loadu_pd(first(count), p); }
  static void store_first(double* p, Vector v, std::int64_t count) { _mm512_mask_storeu_pd(p, first(count), v); }
  static __mmask8 first(std::int64_t count) { return __mmask8((1u << count) - 1u); }
  static Vector zero() { return _mm512_setzero_pd(); }
  static Vector broadcast(const double* p) { return _mm512_set1_pd(*p); }
  static Vector add(Vector a, Vector b) { return _mm512_add_pd(a, b); }
  static Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_pd(a, b, c); }
};

constexpr int tile_vectors(int rows) { return rows >= 9 ? 2 : rows >= 7 ? 3 : rows >= 5 ? 4 : rows >= 3 ? 6 : 8; }

#include "gemm/cpu_gemm_kernel.h"

}  // namespace

void gemm(const CpuGemm<float>& gemm, const RowPanels& panels) { multiply(gemm, panels); }
void gemm(const CpuGemm<double>& gemm, const RowPanels& panels) { multiply(gemm, panels); }

}  // namespace convt_gemm::cpu_avx512
#endif

// The product with the vectors that every target of the compiler has: GCC's vector extensions, 16 bytes wide.
#include "gemm/cpu_gemm_isa.h"

namespace convt_gemm::cpu_baseline {
namespace {

template <typename T>
struct Simd {
  typedef T Vector __attribute__((vector_size(16)));
  typedef T Unaligned __attribute__((vector_size(16), aligned(alignof(T)), may_alias));
  static constexpr int kWidth = 16 / sizeof(T);
  static Vector load(const T* p) { return *reinterpret_cast<const Unaligned*>(p); }
  static void store(T* p, Vector v) { *reinterpret_cast<Unaligned*>(p) = v; }
  static Vector load_first(const T* p, std::int64_t) { return load(p); }
  static void store_first(T* p, Vector v, std::int64_t) { store(p, v); }
  static Vector zero() { return Vector{}; }
  static Vector broadcast(const T* p) { return Vector{} + *p; }
  static Vector add(Vector a, Vector b) { return a + b; }
  static Vector multiply_add(Vector a, Vector b, Vector c) { return a * b + c; }
};

constexpr int tile_vectors(int rows) { return rows >= 5 ? 2 : rows == 4 ? 3 : rows == 3 ? 4 : rows == 2 ? 6 : 8; }

#include "gemm/cpu_gemm_kernel.h"

}  // namespace

void gemm(const CpuGemm<float>& gemm, const RowPanels& panels) { multiply(gemm, panels); }
void gemm(const CpuGemm<double>& gemm, const RowPanels& panels) { multiply(gemm, panels); }

}  // namespace convt_gemm::cpu_baseline

#pragma once
// csrc/core/implicit/gpu_ops.cuh for the emulator: CUDA's vocabulary, then the same functions, each with the place of
// its call as an additional default argument.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "emulator/operations.h"
#include "util/half_types.h"

// --- CUDA's vocabulary ---------------------------------------------------------------------------------------------

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

using dim3 = convt_gemm::emulator::Extent;
#define threadIdx (::convt_gemm::emulator::position->thread_index)
#define blockIdx (::convt_gemm::emulator::position->block_index)
#define blockDim (::convt_gemm::emulator::position->threads)
#define gridDim (::convt_gemm::emulator::position->blocks)

using std::max;
using std::min;

#define CONVT_EMULATED_VECTORS(Type, Element)                                                       \
  struct alignas(2 * sizeof(Element)) Type##2 {                                                     \
    Element x, y;                                                                                   \
  };                                                                                                \
  struct alignas(4 * sizeof(Element)) Type##4 {                                                     \
    Element x, y, z, w;                                                                             \
  };                                                                                                \
  inline Type##2 make_##Type##2(Element x, Element y) { return {x, y}; }                            \
  inline Type##4 make_##Type##4(Element x, Element y, Element z, Element w) { return {x, y, z, w}; }
CONVT_EMULATED_VECTORS(float, float)
CONVT_EMULATED_VECTORS(int, int)
CONVT_EMULATED_VECTORS(uint, unsigned)
CONVT_EMULATED_VECTORS(ushort, unsigned short)
#undef CONVT_EMULATED_VECTORS

namespace convt_gemm::emulator {
template <class To, class From>
To same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From) && std::is_trivially_copyable_v<To> && std::is_trivially_copyable_v<From>);
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
}  // namespace convt_gemm::emulator

inline unsigned __float_as_uint(float value) { return convt_gemm::emulator::same_bits<unsigned>(value); }
inline int __float_as_int(float value) { return convt_gemm::emulator::same_bits<int>(value); }
inline float __uint_as_float(unsigned bits) { return convt_gemm::emulator::same_bits<float>(bits); }
inline float __int_as_float(int bits) { return convt_gemm::emulator::same_bits<float>(bits); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(std::uint64_t(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  __extension__ typedef unsigned __int128 Wide;
  return static_cast<unsigned long long>(Wide(a) * b >> 64);
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
/// Byte i of the result is byte selector[4i .. 4i+2] of y:x, or its sign in all 8 bits if bit 4i+3 is set.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const std::uint64_t both = std::uint64_t(y) << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned select = selector >> (4 * i) & 0xfu;
    unsigned byte = unsigned(both >> (8 * (select & 7u))) & 0xffu;
    if (select & 8u) byte = byte & 0x80u ? 0xffu : 0u;
    result |= byte << (8 * i);
  }
  return result;
}
template <class T>
T __ldg(const T* global) {
  return *global;
}

/// Of threads of any block: one runs at a time.
inline int atomicAdd(int* address, int value) {
  const int before = *address;
  *address += value;
  return before;
}

inline void __syncthreads(convt_gemm::emulator::Source at = convt_gemm::emulator::Source::here()) {
  convt_gemm::emulator::named_barrier(0, 0, at);
}
inline void __syncwarp(unsigned mask = 0xffffffffu,
                       convt_gemm::emulator::Source at = convt_gemm::emulator::Source::here()) {
  convt_gemm::emulator::synchronize_warp(mask, at);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              convt_gemm::emulator::Source at = convt_gemm::emulator::Source::here()) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  const int first = convt_gemm::emulator::lane() & ~(width - 1);
  bits = convt_gemm::emulator::shuffle(mask, bits, first | (source & (width - 1)), at);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                  convt_gemm::emulator::Source at = convt_gemm::emulator::Source::here()) {
  const int lane = convt_gemm::emulator::lane(), other = lane ^ lane_mask;
  // A lane of a later section is out of reach, one of an earlier section is not.
  return __shfl_sync(mask, value, other / width > lane / width ? lane : other, 32, at);
}

// --- gpu_ops.cuh ---------------------------------------------------------------------------------------------------

namespace convt_gemm::gpu {

using emulator::Source;
using emulator::Words;

inline unsigned shared_address(const void* shared, Source at = Source::here()) {
  return emulator::shared_address(shared, at);
}
inline unsigned char* dynamic_shared() { return emulator::position->shared; }

template <int kBytes>
void copy_async(void* shared, const void* global, int valid, Source at = Source::here()) {
  static_assert(kBytes == 8 || kBytes == 16);
  emulator::copy_async(shared, global, kBytes, valid, at);
}
inline void copy_async_commit() { emulator::copy_async_commit(); }
template <int kPending>
void copy_async_wait() {
  emulator::copy_async_wait(kPending);
}

inline void barrier_init(std::uint64_t* barrier, int arrivals, Source at = Source::here()) {
  emulator::barrier_init(barrier, arrivals, at);
}
inline void let_next_kernel_start() {}
inline void wait_for_kernel_before() {
  emulator::pass();
  emulator::wait_for_kernel_before();
  emulator::pass();
}
inline void barrier_init_fence() { emulator::pass(); }
inline void barrier_arrive(std::uint64_t* barrier, Source at = Source::here()) {
  emulator::barrier_arrive(barrier, 0, at);
}
inline void barrier_wait(std::uint64_t* barrier, int parity, Source at = Source::here()) {
  emulator::barrier_wait(barrier, parity, at);
}
inline void barrier_arrive_expect(std::uint64_t* barrier, unsigned bytes, Source at = Source::here()) {
  emulator::barrier_arrive(barrier, bytes, at);
}
inline void bulk_copy(void* shared, const void* global, unsigned bytes, std::uint64_t* barrier,
                      Source at = Source::here()) {
  emulator::bulk_copy(shared, global, bytes, barrier, at);
}
/// A tensor of three axes or five, the innermost of whole 16 bytes, and the box of it that is copied at a time.
struct TensorMap {
  const unsigned char* tensor;
  int element;                        ///< bytes
  std::vector<std::int64_t> extents;  ///< innermost first
  int box[2];                         ///< of the innermost axis, and of the last but one; one of the others
};
inline void tensor_copy(void* shared, const TensorMap* map, const int* at, int axes, std::uint64_t* barrier, Source where) {
  alignas(16) static constexpr unsigned char kZeros[4096] = {};
  if (axes != int(map->extents.size())) throw emulator::Error("a tensor copy has other axes than its map");
  for (int line = 0; line < map->box[1]; ++line) {
    unsigned char* const to = static_cast<unsigned char*>(shared) + line * map->box[0] * map->element;
    bool exists = true;
    std::int64_t row = 0;
    for (int axis = axes - 1; axis > 0; --axis) {
      const std::int64_t place = at[axis] + (axis == axes - 2 ? line : 0);
      exists = exists && place >= 0 && place < map->extents[axis];
      row = row * map->extents[axis] + place;
    }
    const int inner = at[0];
    const std::int64_t end = std::int64_t{inner} + map->box[0];
    const std::int64_t first = exists ? std::min<std::int64_t>(std::max(inner, 0), end) : end;
    const std::int64_t after = exists ? std::max(first, std::min(end, map->extents[0])) : end;
    const auto copy = [&](std::int64_t begin, std::int64_t past, const unsigned char* from) {
      if (past > begin) emulator::bulk_copy(to + (begin - inner) * map->element, from, std::uint32_t((past - begin) * map->element), barrier, where);
    };
    copy(inner, first, kZeros);
    copy(first, after, map->tensor + (row * map->extents[0] + first) * map->element);
    copy(after, end, kZeros);
  }
}
inline void tensor_copy(void* shared, const TensorMap* map, int inner, int middle, int outer, std::uint64_t* barrier,
                        bool /*passes*/, Source at = Source::here()) {
  const int place[3] = {inner, middle, outer};
  tensor_copy(shared, map, place, 3, barrier, at);
}
inline void tensor_copy(void* shared, const TensorMap* map, const int (&place)[5], std::uint64_t* barrier, Source at = Source::here()) {
  tensor_copy(shared, map, place, 5, barrier, at);
}
/// No cache is emulated.
inline void prefetch(const void* /*at*/) {}
inline void prefetch_run(const void* /*from*/, unsigned /*bytes*/) {}
inline void tensor_prefetch(const TensorMap* /*map*/, int /*inner*/, int /*middle*/, int /*outer*/) {}
inline void tensor_prefetch(const TensorMap* /*map*/, const int (&/*place*/)[5]) {}
inline void bulk_store(void* global, const void* shared, unsigned bytes, Source at = Source::here()) {
  emulator::bulk_store(global, shared, bytes, at);
}
inline bool elect(Source at = Source::here()) {
  emulator::synchronize_warp(0xffffffffu, at);
  return emulator::lane() == 0;
}
inline void bulk_store_commit() { emulator::bulk_store_commit(); }
template <int kPending>
void bulk_store_wait() {
  static_assert(kPending >= 0);
  emulator::bulk_store_wait(kPending);
}
inline void fence_async_proxy() { emulator::pass(); }

inline void named_barrier(int id, int threads, Source at = Source::here()) {
  emulator::named_barrier(id, threads, at);
}

inline unsigned cluster_rank() { return emulator::position->cluster_rank; }
inline void cluster_arrive_relaxed(Source at = Source::here()) { emulator::cluster_arrive(at); }
inline void cluster_wait(Source at = Source::here()) { emulator::cluster_wait(at); }
inline void store_remote(void* shared, unsigned rank, uint4 value, std::uint64_t* barrier, Source at = Source::here()) {
  emulator::store_remote(shared, rank, &value, barrier, at);
}

template <int kRegisters>
void give_registers_back() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
}
template <int kRegisters>
void take_registers() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
}

inline float to_float(BFloat16 value) { return to_accumulator(value); }
inline float to_float(Float16 value) { return to_accumulator(value); }
template <class Element>
Element from_float(float value) {
  return Rounding<Element>::from(value);
}
template <class Element>
std::uint32_t pack(float low, float high) {
  return std::uint32_t{from_float<Element>(high).bits} << 16 | from_float<Element>(low).bits;
}
inline std::uint32_t load_or_zero(const std::uint32_t* from, bool exists) { return exists ? *from : 0; }
inline std::uint16_t load_or_zero(const std::uint16_t* from, bool exists) { return exists ? *from : std::uint16_t{0}; }
inline void store_16_bytes(void* global, uint4 value, Source at = Source::here()) {
  emulator::store_16_bytes(global, &value, at);
}

template <Words kWords>
void warp_multiply(float (&sum)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1,
                   Source at = Source::here()) {
  emulator::warp_multiply(kWords, sum, a, b0, b1, at);
}

inline std::uint32_t tf32_operand(float value) {
  const std::uint32_t bits = __float_as_uint(value);
  return std::isfinite(value) ? bits + 0xfffu + (bits >> 13 & 1) : bits;
}

inline void warpgroup_fence(Source at = Source::here()) { emulator::warpgroup_fence(at); }
inline void warpgroup_commit(Source at = Source::here()) { emulator::warpgroup_commit(at); }
template <int kPending>
void warpgroup_wait(Source at = Source::here()) {
  emulator::warpgroup_wait(kPending, at);
}
inline std::uint64_t matrix_descriptor(const void* shared, unsigned depth_stride, unsigned column_stride,
                                       Source at = Source::here()) {
  return emulator::matrix_descriptor(shared, depth_stride, column_stride, at);
}
namespace detail {
template <int kSums>
constexpr int warpgroup_columns() {
  constexpr int kColumns = 2 * kSums;
  static_assert(kColumns == 8 || kColumns == 16 || kColumns == 24 || kColumns == 32 || kColumns == 48 || kColumns == 64 || kColumns == 96 ||
                    kColumns == 128 || kColumns == 136 || kColumns == 192 || kColumns == 216 || kColumns == 256,
                "gpu_ops.cuh has no instruction of so many columns");
  return kColumns;
}
}  // namespace detail
template <Words kWords, int kSums>
void warpgroup_multiply(float (&sum)[kSums], const std::uint32_t (&a)[4], std::uint64_t b, bool accumulate,
                        Source at = Source::here()) {
  emulator::warpgroup_multiply(kWords, sum, detail::warpgroup_columns<kSums>(), a, b, accumulate, at);
}
template <Words kWords, int kSums>
void warpgroup_multiply(float (&sum)[kSums], std::uint64_t a, std::uint64_t b, bool accumulate,
                        Source at = Source::here()) {
  emulator::warpgroup_multiply(kWords, sum, detail::warpgroup_columns<kSums>(), a, b, accumulate, at);
}
template <int kSums>
void warpgroup_settle(float (&)[kSums]) {}
inline int in_register(int value) { return value; }
template <int kRows>
void warpgroup_operand_ready(std::uint32_t (&)[kRows][4]) {}
inline void warpgroup_operand_ready(std::uint32_t (&)[4]) {}

}  // namespace convt_gemm::gpu

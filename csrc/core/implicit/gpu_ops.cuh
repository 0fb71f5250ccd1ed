#pragma once
// The instructions that the fused kernels use and C++ has no name for, one function each. Nothing here knows what is
// computed. The tests supply a second implementation of the same functions that runs on the CPU
// (tests/cpp/emulator/gpu_ops.h), so that the kernels' logic is tested without a GPU.
#ifdef CONVT_GEMM_EMULATED_GPU
#include "emulator/gpu_ops.h"
#else
#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>
#include <utility>

#include <cute/arch/mma_sm80.hpp>
#include <cute/arch/mma_sm90_gmma.hpp>
#ifdef CONVT_GEMM_ALL_PRODUCT_SHAPES  // a long header, for those kernels only that need it
#include <cute/arch/mma_sm90_gmma_ext.hpp>
#endif

#include "util/half_types.h"
#include "util/kernel_order.cuh"

namespace convt_gemm::gpu {

/// How a tensor-core instruction reads 32-bit words: one TF32 value, or two 16-bit values of neighbouring depth, the
/// lower one in the low half.
enum class Words { tf32, bfloat16, float16 };

__device__ __forceinline__ unsigned shared_address(const void* shared) {
  return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}

/// The block's dynamic shared memory.
__device__ __forceinline__ unsigned char* dynamic_shared() {
  extern __shared__ __align__(1024) unsigned char convt_gemm_dynamic_shared[];
  return convt_gemm_dynamic_shared;
}

// --- Copies into shared memory -------------------------------------------------------------------------------------

/// Starts to copy kBytes (8 or 16) to shared memory; only the first `valid` bytes are read, zeros stand for the rest.
template <int kBytes>
__device__ __forceinline__ void copy_async(void* shared, const void* global, int valid) {
  static_assert(kBytes == 8 || kBytes == 16);
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(valid)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(valid)
                 : "memory");
  }
}

/// Closes a group of this thread's copy_async.
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits until at most kPending groups of this thread are under way.
template <int kPending>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// --- mbarriers -----------------------------------------------------------------------------------------------------

__device__ __forceinline__ void barrier_init(std::uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

/// Makes barrier_init visible to the copy engine; before the block's first __syncthreads.
__device__ __forceinline__ void barrier_init_fence() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

__device__ __forceinline__ void barrier_arrive(std::uint64_t* barrier) {
  asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared::cta.b64 state, [%0];\n}" ::"r"(shared_address(barrier))
               : "memory");
}

/// Waits for the phase of this parity to end: parity 0 for a barrier's first phase.
__device__ __forceinline__ void barrier_wait(std::uint64_t* barrier, int parity) {
#if __CUDA_ARCH__ >= 900
#define CONVT_BARRIER_WAIT "mbarrier.try_wait.parity.shared::cta.b64"
#else
#define CONVT_BARRIER_WAIT "mbarrier.test_wait.parity.shared::cta.b64"
#endif
  asm volatile("{\n.reg .pred done;\nwait_%=:\n" CONVT_BARRIER_WAIT
               " done, [%0], %1;\n@!done bra wait_%=;\n}" ::"r"(shared_address(barrier)),
               "r"(parity)
               : "memory");
#undef CONVT_BARRIER_WAIT
}

// --- sm_90: the copy engine ----------------------------------------------------------------------------------------

/// Arrives, and makes the phase wait for `bytes` more of bulk copies.
__device__ __forceinline__ void barrier_arrive_expect(std::uint64_t* barrier, unsigned bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
#endif
}

/// True in one lane of a warp whose lanes are all here. Bulk copies want addresses in registers of the warp: where the compiler does not
/// know of this that only one lane is left, it goes through the lanes in a loop.
__device__ __forceinline__ bool elect() {
  unsigned elected = 0;
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n"
      ".reg .pred one;\n"
      "elect.sync _|one, 0xffffffff;\n"
      "selp.b32 %0, 1, 0, one;\n"
      "}\n"
      : "=r"(elected));
#endif
  return elected != 0;
}

/// Starts to copy `bytes`, a multiple of 16, between addresses aligned to 16; counts on the barrier.
__device__ __forceinline__ void bulk_copy(void* shared, const void* global, unsigned bytes, std::uint64_t* barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          shared_address(shared)),
      "l"(global), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
#endif
}

/// Describes a tensor of three axes or five, and boxes of it that are copied at a time.
using TensorMap = CUtensorMap;

/// Starts to copy the box of the kernel parameter `map` that begins at (inner, middle, outer), `inner` a multiple of 16 bytes (else the instruction is illegal),
/// to shared memory, aligned to 128 bytes; what lies outside of the tensor is zero. Counts all of the box on the barrier. `passes`: L2 drops the box before others.
__device__ __forceinline__ void tensor_copy(void* shared, const TensorMap* map, int inner, int middle, int outer, std::uint64_t* barrier, bool passes) {
#if __CUDA_ARCH__ >= 900
  if (passes) {
    constexpr std::uint64_t kEvictFirst = 0x12f0000000000000u;  // what createpolicy makes of evict_first for all of it
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(shared_address(shared)),
        "l"(map), "r"(inner), "r"(middle), "r"(outer), "r"(shared_address(barrier)), "l"(kEvictFirst)
        : "memory");
  } else {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(shared_address(shared)),
                 "l"(map), "r"(inner), "r"(middle), "r"(outer), "r"(shared_address(barrier))
                 : "memory");
  }
#endif
}

/// The same of a tensor of five axes, `at` innermost first.
__device__ __forceinline__ void tensor_copy(void* shared, const TensorMap* map, const int (&at)[5], std::uint64_t* barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5, %6}], [%7];" ::"r"(shared_address(shared)),
               "l"(map), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4]), "r"(shared_address(barrier))
               : "memory");
#endif
}

/// Asks for a box of three axes so that the L2 cache has it when it is copied: see prefetch.
__device__ __forceinline__ void tensor_prefetch(const TensorMap* map, int inner, int middle, int outer) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.tensor.3d.L2.global [%0, {%1, %2, %3}];" ::"l"(map), "r"(inner), "r"(middle), "r"(outer));
#endif
}

/// The same of five axes, `at` innermost first.
__device__ __forceinline__ void tensor_prefetch(const TensorMap* map, const int (&at)[5]) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.tensor.5d.L2.global [%0, {%1, %2, %3, %4, %5}];" ::"l"(map), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4]));
#endif
}

/// Starts to copy `bytes`, a multiple of 16, from shared memory to global memory, addresses aligned to 16.
__device__ __forceinline__ void bulk_store(void* global, const void* shared, unsigned bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(global), "r"(shared_address(shared)), "r"(bytes)
               : "memory");
#endif
}

/// Closes a group of this thread's bulk_store.
__device__ __forceinline__ void bulk_store_commit() {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#endif
}

/// Waits until all but this thread's newest kPending groups have been read from shared memory.
template <int kPending>
__device__ __forceinline__ void bulk_store_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
#endif
}

/// Orders this thread's ordinary writes to shared memory before what the tensor cores and the copy engine do there next.
__device__ __forceinline__ void fence_async_proxy() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// --- Threads -------------------------------------------------------------------------------------------------------

/// A barrier among `threads` threads of the block, a multiple of 32; `id` in 1..15 (0 is __syncthreads).
__device__ __forceinline__ void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/// Changes the registers of each thread of this warpgroup (sm_90a); a multiple of 8.
template <int kRegisters>
__device__ __forceinline__ void give_registers_back() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}
template <int kRegisters>
__device__ __forceinline__ void take_registers() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}

// --- sm_90: clusters of blocks -------------------------------------------------------------------------------------

/// The block's place in its cluster, from 0 on.
__device__ __forceinline__ unsigned cluster_rank() {
  unsigned rank = 0;
#if __CUDA_ARCH__ >= 900
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
  return rank;
}

/// Comes to the cluster's barrier, without waiting: cluster_wait does, and is due before the next arrival and before the thread ends. Both only by all threads of a
/// warp together. One is due before the first store to another block's shared memory, which is there only once that block has started. What the thread wrote
/// before may be seen later.
__device__ __forceinline__ void cluster_arrive_relaxed() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
}

/// Waits until all threads of all blocks of the cluster have come there or exited.
__device__ __forceinline__ void cluster_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

/// Starts to store 16 bytes, aligned to 16, in the shared memory of the cluster's block `rank`, where `shared` points in this block's; the barrier that lies there where
/// `barrier` points in this block counts them. That block must not end before it has waited for them.
__device__ __forceinline__ void store_remote(void* shared, unsigned rank, uint4 value, std::uint64_t* barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n"
      ".reg .b32 remote, counter;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mapa.shared::cluster.u32 counter, %6, %1;\n"
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [remote], {%2, %3, %4, %5}, [counter];\n"
      "}\n" ::"r"(shared_address(shared)),
      "r"(rank), "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w), "r"(shared_address(barrier))
      : "memory");
#endif
}

// --- Values --------------------------------------------------------------------------------------------------------

__device__ __forceinline__ float to_float(BFloat16 value) { return __uint_as_float(std::uint32_t{value.bits} << 16); }
__device__ __forceinline__ float to_float(Float16 value) { return __half2float(__ushort_as_half(value.bits)); }

/// To nearest, ties to even.
template <class Element>
__device__ __forceinline__ Element from_float(float value) {
  if constexpr (std::is_same_v<Element, BFloat16>) {
    return {__bfloat16_as_ushort(__float2bfloat16_rn(value))};
  } else {
    return {__half_as_ushort(__float2half_rn(value))};
  }
}

/// Two of them in a word, `low` in the lower half.
template <class Element>
__device__ __forceinline__ std::uint32_t pack(float low, float high) {
  if constexpr (std::is_same_v<Element, BFloat16>) {
    const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
    return std::uint32_t{__bfloat16_as_ushort(both.y)} << 16 | __bfloat16_as_ushort(both.x);
  } else {
    const __half2 both = __floats2half2_rn(low, high);
    return std::uint32_t{__half_as_ushort(both.y)} << 16 | __half_as_ushort(both.x);
  }
}

/// A word from global memory, or zero unless `exists`. (Of `exists ? *from : 0` the compiler may make a load and a choice, which waits for
/// what was loaded.)
__device__ __forceinline__ std::uint32_t load_or_zero(const std::uint32_t* from, bool exists) {
  std::uint32_t to;
  asm volatile("{\n.reg .pred there;\nsetp.ne.b32 there, %2, 0;\nmov.b32 %0, 0;\n@there ld.global.nc.b32 %0, [%1];\n}"
               : "=&r"(to)
               : "l"(from), "r"(int{exists}));
  return to;
}

/// The same for a 16-bit element.
__device__ __forceinline__ std::uint16_t load_or_zero(const std::uint16_t* from, bool exists) {
  std::uint16_t to;
  asm volatile("{\n.reg .pred there;\nsetp.ne.b32 there, %2, 0;\nmov.b16 %0, 0;\n@there ld.global.nc.b16 %0, [%1];\n}"
               : "=&h"(to)
               : "l"(from), "r"(int{exists}));
  return to;
}

/// One 16-byte store. (A plain store of a vector made of separate registers may be compiled to four.)
__device__ __forceinline__ void store_16_bytes(void* global, uint4 value) { __stwb(static_cast<uint4*>(global), value); }

/// A value as a TF32 operand: rounded to the nearest; the tensor cores ignore the low 13 bits.
__device__ __forceinline__ std::uint32_t tf32_operand(float value) {
#if __CUDA_ARCH__ >= 900
  std::uint32_t word;
  asm("cvt.rn.tf32.f32 %0, %1;" : "=r"(word) : "f"(value));
  return word;
#else
  // Half of a unit added, ties away from zero: cvt.rna.tf32, which there is here, takes one more instruction.
  const std::uint32_t bits = __float_as_uint(value);
  return fabsf(value) < INFINITY ? bits + 0x1000u : bits;  // the sum would make a number of some NaN
#endif
}

// --- sm_80: warp-wide products -------------------------------------------------------------------------------------

/// sum += a * b: 16 rows x 8 columns x 8 words of depth. Lane 4g + t holds of a the words (row, depth) = (g, t),
/// (g + 8, t), (g, t + 4), (g + 8, t + 4); of b the words (depth, column) = (t, g), (t + 4, g); and of the sum
/// (row, column) = (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
template <Words kWords>
__device__ __forceinline__ void warp_multiply(float (&sum)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                              std::uint32_t b1) {
  const auto multiply = [&](auto instruction) {
    decltype(instruction)::fma(sum[0], sum[1], sum[2], sum[3], a[0], a[1], a[2], a[3], b0, b1, sum[0], sum[1], sum[2],
                               sum[3]);
  };
  if constexpr (kWords == Words::tf32) {
    multiply(cute::SM80_16x8x8_F32TF32TF32F32_TN{});
  } else if constexpr (kWords == Words::bfloat16) {
    multiply(cute::SM80_16x8x16_F32BF16BF16F32_TN{});
  } else {
    multiply(cute::SM80_16x8x16_F32F16F16F32_TN{});
  }
}

// --- sm_90a: warpgroup-wide products -------------------------------------------------------------------------------

/// Before the first of a row of warpgroup_multiply, and after other code has touched their registers.
__device__ __forceinline__ void warpgroup_fence() { cute::warpgroup_arrive(); }
__device__ __forceinline__ void warpgroup_commit() { cute::warpgroup_commit_batch(); }
template <int kPending>
__device__ __forceinline__ void warpgroup_wait() {
  cute::warpgroup_wait<kPending>();
}

/// The descriptor of a K-major operand without swizzle in shared memory: core matrices of 8 columns x 4 words (128
/// consecutive bytes, a column's 4 words together); `depth_stride` bytes from a core matrix to the one 4 words deeper,
/// `column_stride` bytes to the one 8 columns on. All multiples of 16 bytes.
__device__ __forceinline__ std::uint64_t matrix_descriptor(const void* shared, unsigned depth_stride,
                                                           unsigned column_stride) {
  return std::uint64_t((shared_address(shared) & 0x3ffffu) >> 4) | std::uint64_t(depth_stride >> 4) << 16 |
         std::uint64_t(column_stride >> 4) << 32;
}

namespace detail {
template <Words kWords, int kColumns>
struct WarpgroupInstruction;
#define CONVT_WARPGROUP_INSTRUCTION(n)                                                              \
  template <>                                                                                       \
  struct WarpgroupInstruction<Words::tf32, n> {                                                     \
    using Type = cute::SM90::GMMA::MMA_64x##n##x8_F32TF32TF32_RS_TN<>;                              \
    using BothShared = cute::SM90::GMMA::MMA_64x##n##x8_F32TF32TF32_SS_TN<>;                        \
  };                                                                                                \
  template <>                                                                                       \
  struct WarpgroupInstruction<Words::bfloat16, n> {                                                 \
    using Type = cute::SM90::GMMA::MMA_64x##n##x16_F32BF16BF16_RS<cute::SM90::GMMA::Major::K,       \
                                                                  cute::SM90::GMMA::Major::K>;      \
    using BothShared = cute::SM90::GMMA::MMA_64x##n##x16_F32BF16BF16_SS<cute::SM90::GMMA::Major::K, \
                                                                        cute::SM90::GMMA::Major::K>; \
  };                                                                                                \
  template <>                                                                                       \
  struct WarpgroupInstruction<Words::float16, n> {                                                  \
    using Type = cute::SM90::GMMA::MMA_64x##n##x16_F32F16F16_RS<cute::SM90::GMMA::Major::K,         \
                                                                cute::SM90::GMMA::Major::K>;        \
    using BothShared = cute::SM90::GMMA::MMA_64x##n##x16_F32F16F16_SS<cute::SM90::GMMA::Major::K,   \
                                                                      cute::SM90::GMMA::Major::K>;  \
  };
CONVT_WARPGROUP_INSTRUCTION(8)
CONVT_WARPGROUP_INSTRUCTION(16)
CONVT_WARPGROUP_INSTRUCTION(32)
CONVT_WARPGROUP_INSTRUCTION(64)
CONVT_WARPGROUP_INSTRUCTION(96)
CONVT_WARPGROUP_INSTRUCTION(128)
CONVT_WARPGROUP_INSTRUCTION(256)
#ifdef CONVT_GEMM_ALL_PRODUCT_SHAPES
CONVT_WARPGROUP_INSTRUCTION(24)
CONVT_WARPGROUP_INSTRUCTION(48)
CONVT_WARPGROUP_INSTRUCTION(136)
CONVT_WARPGROUP_INSTRUCTION(192)
CONVT_WARPGROUP_INSTRUCTION(216)
#endif
#undef CONVT_WARPGROUP_INSTRUCTION

template <class Instruction, int kSums, std::size_t... i>
__device__ __forceinline__ void warpgroup_multiply(float (&sum)[kSums], const std::uint32_t (&a)[4], std::uint64_t b,
                                                   bool accumulate, std::index_sequence<i...>) {
  using cute::SM90::GMMA::ScaleOut;
  Instruction::fma(a[0], a[1], a[2], a[3], b, sum[i]..., accumulate ? ScaleOut::One : ScaleOut::Zero);
}
template <class Instruction, int kSums, std::size_t... i>
__device__ __forceinline__ void warpgroup_multiply(float (&sum)[kSums], std::uint64_t a, std::uint64_t b,
                                                   bool accumulate, std::index_sequence<i...>) {
  using cute::SM90::GMMA::ScaleOut;
  Instruction::fma(a, b, sum[i]..., accumulate ? ScaleOut::One : ScaleOut::Zero);
}
}  // namespace detail

/// Starts sum += a * b (sum = a * b if not `accumulate`): 64 rows x 2 kSums columns x 8 words of depth. Warp w of the
/// warpgroup holds rows 16w .. 16w+15 of a and of the sum; within them lane 4g + t holds of a what it holds for
/// warp_multiply, and of the sum, for each 8 columns c, in sum[4c..4c+3] what it holds there.
template <Words kWords, int kSums>
__device__ __forceinline__ void warpgroup_multiply(float (&sum)[kSums], const std::uint32_t (&a)[4], std::uint64_t b,
                                                   bool accumulate) {
  detail::warpgroup_multiply<typename detail::WarpgroupInstruction<kWords, 2 * kSums>::Type>(
      sum, a, b, accumulate, std::make_index_sequence<kSums>{});
}

/// The same with a in shared memory too, until warpgroup_wait: its matrix_descriptor has 64 rows where b's has columns.
template <Words kWords, int kSums>
__device__ __forceinline__ void warpgroup_multiply(float (&sum)[kSums], std::uint64_t a, std::uint64_t b,
                                                   bool accumulate) {
  detail::warpgroup_multiply<typename detail::WarpgroupInstruction<kWords, 2 * kSums>::BothShared>(
      sum, a, b, accumulate, std::make_index_sequence<kSums>{});
}

/// Keeps the compiler from working out the words of a register operand after warpgroup_fence, which makes products wait for each other.
template <int kRows>
__device__ __forceinline__ void warpgroup_operand_ready(std::uint32_t (&words)[kRows][4]) {
#pragma unroll
  for (auto& row : words) {
#pragma unroll
    for (std::uint32_t& word : row) cute::warpgroup_fence_operand(word);
  }
}

__device__ __forceinline__ void warpgroup_operand_ready(std::uint32_t (&words)[4]) {
#pragma unroll
  for (std::uint32_t& word : words) cute::warpgroup_fence_operand(word);
}

/// A value that the compiler keeps in a register: it takes parameters of a kernel to be free, and reads them again where their latency hurts.
__device__ __forceinline__ int in_register(int value) {
  asm volatile("" : "+r"(value));
  return value;
}

/// Keeps the compiler from moving other uses of the sums across: before reading what warpgroup_wait has completed.
template <int kSums>
__device__ __forceinline__ void warpgroup_settle(float (&sum)[kSums]) {
#pragma unroll
  for (float& value : sum) cute::warpgroup_fence_operand(value);
}

}  // namespace convt_gemm::gpu
#endif  // CONVT_GEMM_EMULATED_GPU

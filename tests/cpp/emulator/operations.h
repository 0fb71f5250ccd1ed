#pragma once
// What emulator/gpu_ops.h is made of: the operations of the thread that runs at the moment.
#include <cstdint>

#include "emulator/emulator.h"

namespace convt_gemm::emulator {

enum class Words { tf32, bfloat16, float16 };

/// Where in the kernel an operation stands; as a default argument, the place of the call.
struct Source {
  const char* file;
  int line;
  static constexpr Source here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

struct Position {
  Extent thread_index;
  Extent block_index;
  Extent threads;
  Extent blocks;
  unsigned cluster_rank;
  unsigned char* shared;
};
/// Of the thread that runs at the moment.
extern const Position* position;

std::uint32_t shared_address(const void* shared, Source at);

/// The memory that GuardedMemory::hold names can be accessed from here on, by all threads of the cluster.
void wait_for_kernel_before();

void copy_async(void* shared, const void* global, int bytes, int valid, Source at);
void copy_async_commit();
void copy_async_wait(int pending);

void barrier_init(std::uint64_t* barrier, int arrivals, Source at);
void barrier_arrive(std::uint64_t* barrier, std::uint32_t expected_bytes, Source at);
void barrier_wait(std::uint64_t* barrier, int parity, Source at);
void bulk_copy(void* shared, const void* global, std::uint32_t bytes, std::uint64_t* barrier, Source at);

void bulk_store(void* global, const void* shared, std::uint32_t bytes, Source at);
void bulk_store_commit();
/// The GPU has only read shared memory by then; here global memory has been written too.
void bulk_store_wait(int pending);

/// An operation at which the emulator may let other threads go on, but that has no effect of its own.
void pass();

/// Barrier 0 is the block's: for it `threads` is 0.
void named_barrier(int id, int threads, Source at);
/// Like an instruction with .aligned, each wants all threads of a warp. Threads that have exited are not waited for.
void cluster_arrive(Source at);
void cluster_wait(Source at);
/// 16 bytes to the place of `shared`, which is in the running thread's block, in that of block `rank` of its cluster, whose barrier counts them.
void store_remote(void* shared, unsigned rank, const void* value, std::uint64_t* barrier, Source at);
void synchronize_warp(std::uint32_t mask, Source at);
std::uint64_t shuffle(std::uint32_t mask, std::uint64_t value, int source_lane, Source at);
/// The running thread's place in its warp.
int lane();

void store_16_bytes(void* global, const void* value, Source at);

void warp_multiply(Words words, float* sum, const std::uint32_t* a, std::uint32_t b0, std::uint32_t b1, Source at);
std::uint64_t matrix_descriptor(const void* shared, unsigned depth_stride, unsigned column_stride, Source at);
void warpgroup_fence(Source at);
void warpgroup_commit(Source at);
void warpgroup_wait(int pending, Source at);
/// With operand a in registers.
void warpgroup_multiply(Words words, float* sum, int columns, const std::uint32_t* a, std::uint64_t b, bool accumulate,
                        Source at);
/// With a descriptor of operand a.
void warpgroup_multiply(Words words, float* sum, int columns, std::uint64_t a, std::uint64_t b, bool accumulate,
                        Source at);

}  // namespace convt_gemm::emulator

// The emulator itself: what the instructions do, and that it finds what kernels may not do.
#include "emulator/emulator.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <numeric>
#include <sstream>
#include <string>
#include <vector>

#include "implicit/gpu_ops.cuh"
#include "support/values.h"
#include "util/half_types.h"

namespace convt_gemm::testing {
namespace {

using emulator::Completion;
using emulator::GlobalArray;
using emulator::GuardedMemory;
using emulator::launch;
using emulator::Options;
using emulator::Order;

const Options kEarly = {Order::round_robin, Completion::early, 0};
const Options kLate = {Order::round_robin, Completion::late, 0};

/// What launch() of one cluster, or block, complains about, or "" if it does not.
template <class Kernel>
std::string complaint(unsigned threads, std::size_t shared_bytes, const Options& options, Kernel kernel,
                      unsigned cluster_size = 1) {
  try {
    launch({cluster_size}, {threads}, shared_bytes, options, kernel, cluster_size);
  } catch (const emulator::Error& error) {
    return error.what();
  }
  return "";
}

::testing::AssertionResult contains(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "no \"" << part << "\" in \"" << text << '"';
}

/// Under each of many options, as a trace too.
template <class Body>
void under_many_options(Body body) {
  for (const Options& options : emulator::many_options(3)) {
    std::ostringstream name;
    name << options;
    SCOPED_TRACE(name.str());
    body(options);
  }
}

/// The array of T that starts at this byte of shared memory.
template <class T>
T* shared_at(std::size_t byte) {
  return reinterpret_cast<T*>(gpu::dynamic_shared() + byte);
}

// --- Threads -------------------------------------------------------------------------------------------------------

TEST(Emulator, GivesEachThreadItsPlace) {
  under_many_options([](const Options& options) {
    GlobalArray<int> seen(2 * 3 * 2 * 8 * 5 * 2);
    std::fill(seen.begin(), seen.end(), 0);
    launch({2, 3, 2}, {8, 5, 2}, 0, options, [&] {
      const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
      const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
      ++seen[block * 80 + thread];
    });
    for (int count : seen) EXPECT_EQ(count, 1);
  });
}

TEST(Emulator, SynchronizesABlock) {
  under_many_options([](const Options& options) {
    GlobalArray<unsigned> reversed(3 * 96);
    launch({3}, {96}, 96 * 4, options, [&] {
      unsigned* const values = shared_at<unsigned>(0);
      values[threadIdx.x] = threadIdx.x + blockIdx.x;
      __syncthreads();
      reversed[blockIdx.x * 96 + threadIdx.x] = values[95 - threadIdx.x];
    });
    for (unsigned i = 0; i < 3 * 96; ++i) EXPECT_EQ(reversed[i], 95 - i % 96 + i / 96);
  });
}

TEST(Emulator, AMissingSynchronizationShows) {
  const auto finds = [](const Options& options) {
    GlobalArray<unsigned> neighbours(96);
    launch({1}, {96}, 96 * 4, options, [&] {
      unsigned* const values = shared_at<unsigned>(0);
      values[threadIdx.x] = threadIdx.x;
      neighbours[threadIdx.x] = values[(threadIdx.x + 1) % 96];
    });
    for (unsigned i = 0; i < 96; ++i) {
      if (neighbours[i] != (i + 1) % 96) return true;
    }
    return false;
  };
  under_many_options([&](const Options& options) { EXPECT_TRUE(finds(options)); });
}

TEST(Emulator, ExitedThreadsAreNotWaitedForByTheBlock) {
  under_many_options([](const Options& options) {
    int last = 0;
    launch({1}, {128}, 0, options, [&] {
      if (threadIdx.x >= 40) return;
      __syncthreads();
      __syncwarp();
      __syncthreads();
      last = 1;
    });
    EXPECT_EQ(last, 1);
  });
}

TEST(Emulator, FindsWarpsThatWaitForEver) {
  under_many_options([](const Options& options) {
    const std::string message = complaint(96, 0, options, [] {
      if (threadIdx.x / 32 == 1) {
        gpu::named_barrier(3, 64);
      } else {
        __syncthreads();
      }
    });
    EXPECT_TRUE(contains(message, "no thread of block (0, 0, 0) can go on"));
    EXPECT_TRUE(contains(message, "threads 0 to 31 wait in __syncthreads"));
    EXPECT_TRUE(contains(message, "threads 32 to 63 wait in named_barrier 3"));
    EXPECT_TRUE(contains(message, "emulator_test.cpp:"));
  });
}

TEST(Emulator, FindsLanesThatPartAtABarrier) {
  under_many_options([](const Options& options) {
    EXPECT_TRUE(contains(complaint(32, 0, options,
                                   [] {
                                     if (threadIdx.x < 7) {
                                       __syncthreads();
                                     } else {
                                       __syncwarp();
                                     }
                                   }),
                         "while other lanes of its warp are at"));
  });
}

TEST(Emulator, NamedBarriersSeparateGroups) {
  under_many_options([](const Options& options) {
    GlobalArray<unsigned> sums(8);
    std::fill(sums.begin(), sums.end(), 0u);
    launch({1}, {256}, 256 * 4, options, [&] {
      unsigned* const values = shared_at<unsigned>(0);
      const unsigned group = threadIdx.x / 128;
      for (unsigned turn = 0; turn < 4; ++turn) {
        values[threadIdx.x] = threadIdx.x * (turn + 1);
        gpu::named_barrier(1 + int(group), 128);
        if (threadIdx.x % 128 == 0) {
          for (unsigned i = 0; i < 128; ++i) sums[group * 4 + turn] += values[group * 128 + i];
        }
        gpu::named_barrier(1 + int(group), 128);
        if (group == 1 && turn == 1) break;
      }
    });
    for (unsigned i = 0; i < 8; ++i) {
      const unsigned once = i / 4 == 0 ? 127 * 64 : 127 * 64 + 128 * 128;
      EXPECT_EQ(sums[i], i < 6 ? once * (i % 4 + 1) : 0u);
    }
  });
}

TEST(Emulator, FindsNamedBarriersOfDifferentSizes) {
  EXPECT_TRUE(contains(complaint(96, 0, kEarly, [] { gpu::named_barrier(1, threadIdx.x < 32 ? 64 : 96); }),
                       "where others wait for 64"));
  EXPECT_TRUE(contains(complaint(96, 0, kEarly, [] { gpu::named_barrier(16, 96); }), "named_barrier 16"));
  EXPECT_TRUE(contains(complaint(96, 0, kEarly, [] { gpu::named_barrier(1, 48); }), "for 48 threads"));
}

TEST(Emulator, Shuffles) {
  under_many_options([](const Options& options) {
    GlobalArray<double> sums(64), from(64), halves(64);
    launch({1}, {64}, 0, options, [&] {
      const unsigned i = threadIdx.x;
      double sum = i;
      for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(~0u, sum, distance);
      sums[i] = sum;
      from[i] = __shfl_sync(~0u, double(i), int(i) + 1, 8);
      halves[i] = i % 32 < 16 ? __shfl_sync(0xffffu, double(i), 3) : __shfl_sync(0xffff0000u, double(i), 20);
    });
    for (unsigned i = 0; i < 64; ++i) {
      EXPECT_EQ(sums[i], i < 32 ? 496 : 496 + 32 * 32);
      EXPECT_EQ(from[i], i / 8 * 8 + (i + 1) % 8);
      EXPECT_EQ(halves[i], i / 32 * 32 + (i % 32 < 16 ? 3 : 20));
    }
  });
  EXPECT_TRUE(contains(complaint(32, 0, kEarly, [] { if (threadIdx.x < 8) __shfl_sync(0xffu, 1, 9); }),
                       "shuffles with lane 9"));
}

TEST(Emulator, PassesOnWhatAKernelThrows) {
  EXPECT_THROW(launch({1}, {64}, 0, kEarly, [] { if (threadIdx.x == 33) throw std::out_of_range("33"); }),
               std::out_of_range);
  EXPECT_EQ(complaint(64, 0, kEarly, [] {}), "");  // and can launch again
}

// --- Guarded memory ------------------------------------------------------------------------------------------------

TEST(Emulator, FindsAccessesOutsideArrays) {
  GlobalArray<float> array(1000);  // a multiple of 16 bytes: the inaccessible page is next
  volatile float* const data = array.data();
  EXPECT_EQ(complaint(32, 0, kEarly, [&] { data[threadIdx.x + 968] = 1; }), "");
  const std::string message = complaint(33, 0, kEarly, [&] { data[threadIdx.x + 968] = 1; });
  EXPECT_TRUE(contains(message, "thread 32 of block (0, 0, 0) read or wrote 0 bytes past the end of an array of 4000"));
  EXPECT_TRUE(contains(complaint(1, 0, kEarly, [&] { (void)data[-1000]; }), "4000 bytes before an array"));
  EXPECT_TRUE(contains(complaint(1, 0, kEarly, [&] { (void)data[100000000]; }), "read or wrote no array"));
  GlobalArray<char> odd(13);
  volatile char* const letters = odd.data();
  EXPECT_TRUE(contains(complaint(1, 0, kEarly, [&] { letters[14] = 1; }), "was written: 1 bytes past the end"));
}

TEST(Emulator, FindsAccessesBeforeTheKernelAheadIsDone) {
  GuardedMemory memory(4096), other(4096);
  GuardedMemory empty(0);
  volatile unsigned char* const data = memory.data();
  volatile unsigned char* const free_data = other.data();
  const auto held_complaint = [&](const std::function<void()>& kernel) {
    GuardedMemory::hold({&memory, &empty});
    return complaint(64, 1024, kEarly, kernel);
  };
  EXPECT_TRUE(contains(held_complaint([&] { data[threadIdx.x + 100] = 1; }),
                       "thread 0 of block (0, 0, 0) read or wrote byte 100 of an array of 4096 bytes, before wait_for_kernel_before"));
  EXPECT_TRUE(contains(held_complaint([&] { if (threadIdx.x == 7) (void)data[3]; }), "thread 7 of block (0, 0, 0)"));
  EXPECT_TRUE(contains(held_complaint([&] { gpu::copy_async<16>(shared_at<float>(0) + 4 * threadIdx.x, memory.data(), 16); }), "before wait_for_kernel_before"));
  EXPECT_EQ(held_complaint([&] {
              gpu::wait_for_kernel_before();
              data[threadIdx.x] = 1;
            }), "");
  // One thread waits for all.
  EXPECT_EQ(held_complaint([&] {
              if (threadIdx.x == 40) gpu::wait_for_kernel_before();
              __syncthreads();
              data[threadIdx.x] = 1;
            }), "");
  EXPECT_EQ(held_complaint([&] { free_data[threadIdx.x] = 1; }), "");  // nothing of what is held: need not wait
  EXPECT_EQ(complaint(1, 0, kEarly, [&] { data[5] = 1; }), "");        // held for one launch
  data[5] = 2;                                                         // and for no one after it
}

TEST(Emulator, HoldsMemoryFromEveryCluster) {
  GuardedMemory memory(4096);
  volatile unsigned char* const data = memory.data();
  GuardedMemory::hold({&memory});
  EXPECT_THROW(launch({4}, {32}, 0, kEarly, [&] {
                 if (blockIdx.x < 3) gpu::wait_for_kernel_before();
                 data[threadIdx.x] = 1;
               }), emulator::Error);
}

TEST(Emulator, FindsAccessesOutsideSharedMemory) {
  EXPECT_EQ(complaint(32, 1024, kEarly, [] { shared_at<float>(0)[threadIdx.x + 224] = 1; }), "");
  EXPECT_TRUE(contains(complaint(32, 1024, kEarly, [] { shared_at<float>(0)[threadIdx.x + 225] = 1; }),
                       "thread 31 of block (0, 0, 0) read or wrote 0 bytes past the end of an array of 1024"));
  EXPECT_TRUE(contains(complaint(32, 1000, kEarly, [] { shared_at<float>(0)[threadIdx.x + 219] = 1; }),
                       "was written: 0 bytes past the end of an array of 1000"));
}

// NOLINTNEXTLINE(misc-no-recursion)
int deep(volatile int* stack, int depth) {
  volatile int frame[256] = {depth};
  return depth == 0 ? stack[0] : deep(frame, depth - 1) + frame[0];
}

TEST(Emulator, FindsAStackThatOverflows) {
  volatile int start[1] = {0};
  EXPECT_TRUE(contains(complaint(2, 0, kEarly, [&] { deep(start, 100000); }), "the emulator's stack of the thread"));
}

TEST(Emulator, FillsSharedMemoryWithNaNForEachBlock) {
  launch({2}, {32}, 128, kEarly, [] {
    float& value = shared_at<float>(0)[threadIdx.x];
    EXPECT_TRUE(std::isnan(value));
    value = 1;
  });
}

// --- Clusters ------------------------------------------------------------------------------------------------------

/// Among all threads of all blocks of the cluster.
void cluster_barrier() {
  gpu::cluster_arrive_relaxed();
  gpu::cluster_wait();
}

TEST(Emulator, GivesEachBlockItsPlaceInTheCluster) {
  under_many_options([](const Options& options) {
    for (unsigned size : {1u, 2u, 3u, 6u}) {
      int threads = 0;
      const auto check = [&] {
        EXPECT_EQ(gpu::cluster_rank(), blockIdx.x % size);
        ++threads;
      };
      launch({6, 3, 2}, {40}, 0, options, check, size);
      EXPECT_EQ(threads, 6 * 3 * 2 * 40);
    }
  });
}

TEST(Emulator, ChecksTheSizeOfClusters) {
  for (const auto& [blocks, size] : {std::pair(3u, 2u), std::pair(4u, 0u), std::pair(16u, 16u)}) {
    EXPECT_THROW(launch({blocks}, {32}, 0, kEarly, [] {}, size), emulator::Error);
  }
}

TEST(Emulator, FillsSharedMemoryWithNaNForEachBlockOfACluster) {
  const auto kernel = [] {
    float& value = shared_at<float>(0)[threadIdx.x];
    EXPECT_TRUE(std::isnan(value));
    value = 1;
    cluster_barrier();
    EXPECT_EQ(value, 1.0f);
  };
  under_many_options([&](const Options& options) { launch({8}, {32}, 128, options, kernel, 4); });
}

TEST(Emulator, AnyBlockOfAClusterMayBeFirst) {
  for (Order order : {Order::random, Order::starve}) {
    std::vector<int> first(4);
    for (std::uint64_t seed = 1; seed <= 64; ++seed) {
      bool any = false;
      const auto kernel = [&] {
        if (!any) ++first[blockIdx.x];
        any = true;
      };
      launch({4}, {64}, 0, {order, Completion::early, seed}, kernel, 4);
    }
    for (int times : first) EXPECT_GT(times, 0);
  }
}

/// Adds the floats of 16 bytes.
void add(float (&sum)[4], uint4 words) {
  const unsigned each[4] = {words.x, words.y, words.z, words.w};
  for (int i = 0; i < 4; ++i) sum[i] += __uint_as_float(each[i]);
}

uint4 as_words(const float (&values)[4]) {
  return make_uint4(__float_as_uint(values[0]), __float_as_uint(values[1]), __float_as_uint(values[2]),
                    __float_as_uint(values[3]));
}

constexpr unsigned kSumThreads = 64, kSumFloats = 4 * kSumThreads;

/// What a block of the grid adds to float i in a turn.
float addend(unsigned block, unsigned i, unsigned turn) { return float((block + 1) * (i + 5) + 1000 * turn); }

/// Whether each cluster's sums, in sums[turn][cluster][i], are those of its blocks' addends.
bool are_sums(const GlobalArray<float>& sums, unsigned turns, unsigned clusters, unsigned size) {
  for (unsigned at = 0; at < turns * clusters * kSumFloats; ++at) {
    const unsigned i = at % kSumFloats, cluster = at / kSumFloats % clusters, turn = at / kSumFloats / clusters;
    float sum = 0;
    for (unsigned rank = 0; rank < size; ++rank) sum += addend(cluster * size + rank, i, turn);
    if (sums[at] != sum) return false;
  }
  return true;
}

/// Barriers of the kernel below, which is wrong without one of them.
struct ClusterBarriers {
  bool start = true;    // before the first store to another block
  bool written = true;  // between writing and reading, each turn
  bool read = true;     // between reading and writing, or ending, each turn
};

/// Two clusters sum vectors over their blocks, twice: each block writes its vectors to the shared memory of the block that sums them, rank by rank, where a barrier
/// counts them. Whether the sums are right.
bool sums_over_clusters(unsigned size, const Options& options, const ClusterBarriers& barriers) {
  constexpr unsigned kTurns = 2, kClusters = 2;
  GlobalArray<float> sums(kTurns * kClusters * kSumFloats);
  const auto kernel = [&] {
    const unsigned thread = threadIdx.x, cluster = blockIdx.x / size;
    auto* const arrived = shared_at<std::uint64_t>(0);
    float* const vectors = shared_at<float>(16) + 4 * thread;
    if (thread == 0) gpu::barrier_init(arrived, 1);
    if (barriers.start) cluster_barrier();
    for (unsigned turn = 0; turn < kTurns; ++turn) {
      if (thread == 0) gpu::barrier_arrive_expect(arrived, kSumThreads * 16);  // a size-th of the threads' vectors, of each block
      float values[4];
      for (unsigned i = 0; i < 4; ++i) values[i] = addend(blockIdx.x, 4 * thread + i, turn);
      gpu::store_remote(vectors + gpu::cluster_rank() * kSumFloats, thread % size, as_words(values), arrived);
      if (barriers.written) gpu::barrier_wait(arrived, int(turn) % 2);
      if (thread % size == gpu::cluster_rank()) {
        for (unsigned i = 0; i < 4; ++i) {
          float& sum = sums[(turn * kClusters + cluster) * kSumFloats + 4 * thread + i];
          sum = 0;
          for (unsigned rank = 0; rank < size; ++rank) sum += vectors[rank * kSumFloats + i];
        }
      }
      if (barriers.read) cluster_barrier();
    }
  };
  launch({kClusters * size}, {kSumThreads}, 16 + size * kSumFloats * 4, options, kernel, size);
  return are_sums(sums, kTurns, kClusters, size);
}

TEST(Emulator, SumsOverACluster) {
  under_many_options([](const Options& options) {
    for (unsigned size : {1u, 2u, 4u}) EXPECT_TRUE(sums_over_clusters(size, options, {}));
  });
}

/// Under how many of the options the sums are wrong, or an Error.
int times_wrong(unsigned size, const ClusterBarriers& barriers) {
  int times = 0;
  for (const Options& options : emulator::many_options(8)) {
    try {
      times += !sums_over_clusters(size, options, barriers);
    } catch (const emulator::Error&) {
      ++times;
    }
  }
  return times;
}

TEST(Emulator, AMissingClusterBarrierShows) {
  for (unsigned size : {2u, 4u}) {
    EXPECT_GT(times_wrong(size, {false, true, true}), 0);
    EXPECT_GT(times_wrong(size, {true, false, true}), 0);
    EXPECT_GT(times_wrong(size, {true, true, false}), 0);
  }
}

TEST(Emulator, BlocksOfAClusterHaveTheirOwnBarriers) {
  under_many_options([](const Options& options) {
    constexpr unsigned kBlocks = 3, kFloats = 64;
    GlobalArray<float> from(kBlocks * kFloats), to(kBlocks * kFloats);
    std::iota(from.begin(), from.end(), 1.0f);
    const auto kernel = [&] {
      auto* const barrier = shared_at<std::uint64_t>(0);
      float* const values = shared_at<float>(16);
      // Each block has as many phases of each barrier as its rank says.
      const int phases = 1 + int(gpu::cluster_rank());
      if (threadIdx.x == 0) {
        gpu::barrier_init(barrier, 1);
        gpu::barrier_init_fence();
      }
      __syncthreads();
      for (int phase = 0; phase < phases; ++phase) {
        if (threadIdx.x == 0) {
          gpu::barrier_arrive_expect(barrier, kFloats * 4);
          gpu::bulk_copy(values, from.data() + (blockIdx.x + unsigned(phases - 1 - phase)) % kBlocks * kFloats,
                         kFloats * 4, barrier);
        }
        gpu::barrier_wait(barrier, phase % 2);
        gpu::named_barrier(1, 64);
        __syncthreads();
      }
      to[blockIdx.x * kFloats + threadIdx.x] = values[threadIdx.x];
    };
    launch({kBlocks}, {kFloats}, 16 + kFloats * 4, options, kernel, kBlocks);
    EXPECT_TRUE(std::equal(to.begin(), to.end(), from.begin()));
  });
}

TEST(Emulator, AClusterBarrierDoesNotWaitForCopies) {
  GlobalArray<float> from(4);
  std::fill(from.begin(), from.end(), 1.0f);
  const auto seen = [&](const Options& options, bool wait) {
    float value = 0;
    const auto kernel = [&] {
      if (blockIdx.x == 1) gpu::copy_async<16>(gpu::dynamic_shared(), from.data(), 16);
      gpu::copy_async_commit();
      if (wait) gpu::copy_async_wait<0>();
      cluster_barrier();
      if (blockIdx.x == 1) value = *shared_at<float>(0);
    };
    launch({2}, {1}, 16, options, kernel, 2);
    return value;
  };
  EXPECT_EQ(seen(kEarly, false), 1.0f);
  EXPECT_EQ(seen(kLate, true), 1.0f);
  EXPECT_TRUE(std::isnan(seen(kLate, false)));
}

TEST(Emulator, ExitedThreadsAreNotWaitedForByTheCluster) {
  under_many_options([](const Options& options) {
    int last = 0;
    const auto kernel = [&] {
      if (blockIdx.x == 1 || threadIdx.x >= 40) return;
      cluster_barrier();
      cluster_barrier();
      last = 1;
    };
    launch({3}, {128}, 0, options, kernel, 3);
    EXPECT_EQ(last, 1);
  });
}

TEST(Emulator, FindsBlocksOfAClusterThatWaitForEver) {
  under_many_options([](const Options& options) {
    const auto kernel = [] {
      if (blockIdx.x == 2) return;
      if (blockIdx.x == 1 && threadIdx.x >= 32) gpu::named_barrier(3, 64);
      cluster_barrier();
    };
    const std::string message = complaint(64, 0, options, kernel, 3);
    EXPECT_TRUE(contains(message, "no thread of block (0, 0, 0) can go on\n  threads 0 to 63 wait in cluster_wait, "));
    EXPECT_TRUE(contains(message, "no thread of block (1, 0, 0) can go on\n  threads 0 to 31 wait in cluster_wait, "));
    EXPECT_TRUE(contains(message, "threads 32 to 63 wait in named_barrier 3"));
    EXPECT_TRUE(contains(message, "no thread of block (2, 0, 0) can go on\n  threads 0 to 63 have exited"));
    EXPECT_TRUE(contains(message, "emulator_test.cpp:"));
  });
}

TEST(Emulator, FindsMisuseOfTheClusterBarrier) {
  under_many_options([](const Options& options) {
    const auto twice = [] {
      gpu::cluster_arrive_relaxed();
      if (blockIdx.x == 1) gpu::cluster_arrive_relaxed();
      gpu::cluster_wait();
    };
    EXPECT_TRUE(contains(complaint(32, 0, options, twice, 2), "of block (1, 0, 0) uses cluster_arrive twice"));
    const auto never = [] {
      if (blockIdx.x == 0) gpu::cluster_arrive_relaxed();
      gpu::cluster_wait();
    };
    EXPECT_TRUE(contains(complaint(32, 0, options, never, 2), "of block (1, 0, 0) uses cluster_wait without"));
    const auto no_wait = [] {
      gpu::cluster_arrive_relaxed();
      if (blockIdx.x == 0) gpu::cluster_wait();
    };
    EXPECT_TRUE(contains(complaint(32, 0, options, no_wait, 2), "of block (1, 0, 0) exits without cluster_wait"));
    const auto part = [] {
      if (blockIdx.x == 1 && threadIdx.x == 7) __syncwarp();
      cluster_barrier();
    };
    EXPECT_TRUE(contains(complaint(32, 0, options, part, 2), "while other lanes of its warp are at"));
  });
}

TEST(Emulator, FindsAccessToABlockThatHasNotStarted) {
  // In this order block 0 starts first.
  const auto store = [] {
    if (blockIdx.x == 0) gpu::store_remote(gpu::dynamic_shared(), 1, make_uint4(1, 2, 3, 4), shared_at<std::uint64_t>(16));
    cluster_barrier();
  };
  EXPECT_TRUE(contains(complaint(32, 32, kEarly, store, 2),
                       "thread 0 of block (0, 0, 0) uses store_remote on block (1, 0, 0), which has not started"));
}

TEST(Emulator, FindsAccessToABlockThatHasEnded) {
  // The blocks access each other, one for longer: whatever the order, one of them goes on after the other's end.
  under_many_options([](const Options& options) {
    // Or it ends before it has got what was stored earlier.
    const auto store = [] {
      auto* const barrier = shared_at<std::uint64_t>(16);
      gpu::barrier_init(barrier, 1);
      cluster_barrier();
      for (int i = 0; i < (blockIdx.x == 0 ? 100 : 1); ++i) {
        gpu::store_remote(gpu::dynamic_shared(), 1 - blockIdx.x, make_uint4(1, 2, 3, 4), barrier);
      }
    };
    const std::string message = complaint(1, 32, options, store, 2);
    EXPECT_TRUE(contains(message, "0, 0), whose threads have all exited") || contains(message, "the block ended")) << message;
  });
}

TEST(Emulator, ChecksRemoteAccess) {
  const auto access = [](std::size_t byte, unsigned rank) {
    const auto store = [=] {
      auto* const barrier = shared_at<std::uint64_t>(0);
      gpu::barrier_init(barrier, 1);
      gpu::barrier_arrive_expect(barrier, rank == gpu::cluster_rank() ? 32 : 0);
      cluster_barrier();
      gpu::store_remote(gpu::dynamic_shared() + byte, rank, make_uint4(1, 2, 3, 4), barrier);
      cluster_barrier();
      gpu::barrier_wait(barrier, 0);
    };
    return complaint(1, 64, kEarly, store, 2);
  };
  EXPECT_EQ(access(48, 0), "");
  EXPECT_EQ(access(48, 1), "");
  EXPECT_TRUE(contains(access(48, 2), "on block 2 of a cluster of 2"));
  EXPECT_TRUE(contains(access(40, 1), "at shared byte 40 is misaligned"));
  EXPECT_TRUE(contains(access(52, 1), "of 16 bytes is not inside the block's 64 bytes of shared memory but at byte 52"));
  EXPECT_TRUE(contains(access(52, 1), "emulator_test.cpp:"));
}

TEST(Emulator, FindsACopyThatABlockOfAClusterDoesNotWaitFor) {
  // Block 0 ends early, and what it left under way would end while block 1 waits for its own copies.
  GlobalArray<float> from(4);
  const auto kernel = [&] {
    auto* const barrier = shared_at<std::uint64_t>(0);
    gpu::barrier_init(barrier, 1);
    for (int phase = 0; phase < 100; ++phase) {
      gpu::barrier_arrive_expect(barrier, 16);
      gpu::bulk_copy(gpu::dynamic_shared() + 16, from.data(), 16, barrier);
      if (blockIdx.x == 0) return;
      gpu::barrier_wait(barrier, phase % 2);
    }
  };
  EXPECT_TRUE(contains(complaint(1, 32, kLate, kernel, 2), "the block ended before this bulk copy did"));
}

// --- cp.async ------------------------------------------------------------------------------------------------------

TEST(Emulator, CopiesAsynchronously) {
  under_many_options([](const Options& options) {
    GlobalArray<float> from(64 * 4), to(64 * 4), words(64);
    std::iota(from.begin(), from.end(), 1.0f);
    launch({1}, {64}, 64 * 24, options, [&] {
      const unsigned i = threadIdx.x;
      float* const vectors = shared_at<float>(0);
      float* const pairs = shared_at<float>(64 * 16);
      gpu::copy_async<16>(vectors + 4 * i, from.data() + 4 * i, int(i % 5) * 4);
      gpu::copy_async_commit();
      gpu::copy_async<8>(pairs + 2 * i, from.data() + 2 * i, i % 2 == 0 ? 8 : 0);
      gpu::copy_async_commit();
      gpu::copy_async_wait<1>();
      __syncthreads();
      for (unsigned j = 0; j < 4; ++j) to[4 * i + j] = vectors[(4 * i + j + 4) % 256];
      gpu::copy_async_wait<0>();
      __syncthreads();
      words[i] = pairs[2 * (63 - i) + 1];
    });
    for (unsigned i = 0; i < 256; ++i) {
      const unsigned source = (i + 4) % 256, thread = source / 4;
      EXPECT_EQ(to[i], source % 4 < thread % 5 ? float(source + 1) : 0.0f);
    }
    for (unsigned i = 0; i < 64; ++i) EXPECT_EQ(words[i], (63 - i) % 2 == 0 ? float(128 - 2 * i) : 0.0f);
  });
}

/// Whether values copied with copy_async are right if the thread waits for all but kPending of its two groups.
template <int kPending>
bool right_after_waiting(const Options& options, bool commit) {
  GlobalArray<float> from(128), to(128);
  std::iota(from.begin(), from.end(), 1.0f);
  launch({1}, {32}, 128 * 4, options, [&] {
    float* const values = shared_at<float>(0);
    for (unsigned i = threadIdx.x; i < 64; i += 32) {
      gpu::copy_async<8>(values + 2 * i, from.data() + 2 * i, 8);
      if (commit) gpu::copy_async_commit();
    }
    gpu::copy_async_wait<kPending>();
    for (unsigned i = 2 * threadIdx.x; i < 128; i += i % 2 == 0 ? 1 : 63) to[i] = values[i];
  });
  return std::equal(to.begin(), to.end(), from.begin());
}

TEST(Emulator, LateCopiesShowAMissingWait) {
  EXPECT_TRUE(right_after_waiting<0>(kEarly, true));
  EXPECT_TRUE(right_after_waiting<0>(kLate, true));
  EXPECT_TRUE(right_after_waiting<1>(kEarly, true));
  EXPECT_FALSE(right_after_waiting<1>(kLate, true));
  EXPECT_FALSE(right_after_waiting<0>(kLate, false));
  EXPECT_FALSE(right_after_waiting<1>({Order::round_robin, Completion::random, 1}, true));
}

TEST(Emulator, ChecksAsynchronousCopies) {
  GlobalArray<float> from(64);
  const auto copy = [&](std::size_t to, std::size_t first, int valid) {
    return complaint(1, 64, kLate,
                     [&] { gpu::copy_async<16>(gpu::dynamic_shared() + to, from.data() + first, valid); });
  };
  EXPECT_EQ(copy(48, 60, 16), "");
  EXPECT_TRUE(contains(copy(8, 0, 16), "copy_async at shared byte 8 is misaligned"));
  EXPECT_TRUE(contains(copy(64, 0, 16), "not inside the block's 64 bytes of shared memory"));
  EXPECT_TRUE(contains(copy(0, 1, 16), "misaligned global address"));
  EXPECT_TRUE(contains(copy(0, 0, 17), "17 bytes"));
  EXPECT_TRUE(contains(copy(0, 64, 4), "past the end of an array"));
  EXPECT_EQ(copy(0, 64, 0), "");  // nothing is read
}

// --- mbarriers and bulk copies -------------------------------------------------------------------------------------

TEST(Emulator, BarrierPhases) {
  under_many_options([](const Options& options) {
    GlobalArray<int> seen(5 * 32);
    launch({1}, {96}, 16 + 4, options, [&] {
      auto* const barriers = shared_at<std::uint64_t>(0);
      int* const value = shared_at<int>(16);
      if (threadIdx.x == 0) {
        gpu::barrier_init(barriers, 1);
        gpu::barrier_init(barriers + 1, 32);
        gpu::barrier_init_fence();
      }
      __syncthreads();
      for (int i = 0; i < 5; ++i) {
        if (threadIdx.x == 64) {
          gpu::barrier_wait(barriers + 1, i % 2 == 0 ? 1 : 0);  // returns at once the first time
          *value = i * i;
          gpu::barrier_arrive(barriers);
        } else if (threadIdx.x < 32) {
          gpu::barrier_wait(barriers, i % 2);
          seen[unsigned(i) * 32 + threadIdx.x] = *value;
          gpu::barrier_arrive(barriers + 1);
        }
      }
    });
    for (int i = 0; i < 5 * 32; ++i) EXPECT_EQ(seen[std::size_t(i)], (i / 32) * (i / 32));
  });
}

/// Runs the kernel of 64 threads with a barrier of so many arrivals.
template <class Kernel>
std::string barrier_complaint(int arrivals, const Options& options, Kernel kernel) {
  return complaint(64, 1024, options, [&] {
    auto* const barrier = shared_at<std::uint64_t>(0);
    if (threadIdx.x == 0) gpu::barrier_init(barrier, arrivals);
    __syncthreads();
    kernel(barrier);
  });
}

TEST(Emulator, FindsMisuseOfBarriers) {
  under_many_options([](const Options& options) {
    EXPECT_TRUE(contains(barrier_complaint(3, options,
                                           [](std::uint64_t* barrier) {
                                             if (threadIdx.x < 2) gpu::barrier_arrive(barrier);
                                             gpu::barrier_wait(barrier, 0);
                                           }),
                         "threads 0 to 63 wait in barrier_wait for parity 0 of the barrier at shared byte 0, which is "
                         "in phase 0 and needs 1 arrivals and 0 bytes"));
    EXPECT_TRUE(contains(barrier_complaint(1, options,
                                           [](std::uint64_t* barrier) {
                                             if (threadIdx.x == 0) gpu::barrier_arrive_expect(barrier, 16);
                                             __syncthreads();
                                             if (threadIdx.x == 0) gpu::barrier_arrive(barrier);
                                           }),
                         "has had its 1 arrivals"));
    EXPECT_TRUE(contains(barrier_complaint(1, options,
                                           [](std::uint64_t* barrier) {
                                             if (threadIdx.x == 0) *barrier = 0;
                                             __syncthreads();
                                             gpu::barrier_wait(barrier, 1);
                                           }),
                         "has not been initialised, or has been overwritten"));
    EXPECT_TRUE(contains(barrier_complaint(1, options,
                                           [](std::uint64_t* barrier) {
                                             if (threadIdx.x == 0) gpu::barrier_arrive_expect(barrier, 48);
                                           }),
                         "still needed 48 bytes"));
  });
}

TEST(Emulator, FindsABarrierThatRunsAheadOfAWaitingThread) {
  const auto kernel = [](std::uint64_t* barrier) {
    if (threadIdx.x == 40) gpu::barrier_wait(barrier, 0);
    if (threadIdx.x == 41) {
      gpu::barrier_arrive(barrier);
      gpu::barrier_arrive(barrier);
    }
  };
  const std::string message = barrier_complaint(1, kEarly, kernel);
  EXPECT_TRUE(contains(message, "thread 41 of block (0, 0, 0) ends phase 1 of the barrier for which thread 40"));
}

TEST(Emulator, BulkCopiesCountOnTheirBarrier) {
  under_many_options([](const Options& options) {
    constexpr unsigned kStages = 2, kTiles = 7, kFloats = 128;
    GlobalArray<float> from(kTiles * kFloats), to(kTiles * kFloats);
    std::iota(from.begin(), from.end(), 1.0f);
    launch({1}, {kFloats + 32}, 64 + kStages * kFloats * 4, options, [&] {
      auto* const full = shared_at<std::uint64_t>(0);
      auto* const empty = full + kStages;
      float* const stages = shared_at<float>(64);
      if (threadIdx.x == 0) {
        for (unsigned i = 0; i < kStages; ++i) {
          gpu::barrier_init(full + i, 1);
          gpu::barrier_init(empty + i, kFloats);
        }
        gpu::barrier_init_fence();
      }
      __syncthreads();
      for (unsigned tile = 0; tile < kTiles; ++tile) {
        const unsigned stage = tile % kStages;
        const int parity = int(tile / kStages % 2);
        float* const values = stages + stage * kFloats;
        if (threadIdx.x == kFloats) {
          gpu::barrier_wait(empty + stage, parity ^ 1);
          gpu::barrier_arrive_expect(full + stage, kFloats * 4);
          for (unsigned half = 0; half < 2; ++half) {
            gpu::bulk_copy(values + half * 64, from.data() + tile * kFloats + half * 64, 256, full + stage);
          }
        } else if (threadIdx.x < kFloats) {
          gpu::barrier_wait(full + stage, parity);
          to[tile * kFloats + threadIdx.x] = values[kFloats - 1 - threadIdx.x];
          gpu::barrier_arrive(empty + stage);
        }
      }
    });
    for (unsigned i = 0; i < to.size(); ++i) {
      EXPECT_EQ(to[i], from[i / kFloats * kFloats + kFloats - 1 - i % kFloats]);
    }
  });
}

TEST(Emulator, ChecksBulkCopies) {
  GlobalArray<float> from(64);
  const auto copy = [&](std::size_t to, std::size_t first, unsigned bytes, unsigned expected) {
    return barrier_complaint(1, kEarly, [&](std::uint64_t* barrier) {
      if (threadIdx.x == 0) {
        gpu::bulk_copy(gpu::dynamic_shared() + to, from.data() + first, bytes, barrier);
        gpu::barrier_arrive_expect(barrier, expected);
      }
      gpu::barrier_wait(barrier, 0);
    });
  };
  EXPECT_EQ(copy(16, 0, 256, 256), "");
  EXPECT_TRUE(contains(copy(16, 0, 256, 240), "needs 0 arrivals and -16 bytes"));
  EXPECT_TRUE(contains(copy(16, 0, 24, 24), "asks bulk_copy for 24 bytes"));
  EXPECT_TRUE(contains(copy(24, 0, 16, 16), "misaligned"));
  EXPECT_TRUE(contains(copy(16, 1, 16, 16), "misaligned global address"));
  EXPECT_TRUE(contains(copy(1008, 0, 32, 32), "not inside"));
  EXPECT_TRUE(contains(copy(16, 60, 32, 32), "past the end of an array"));
  EXPECT_TRUE(contains(copy(16, std::size_t(-4), 32, 32), "reads 16 bytes before an array"));
  // Also where the last 16 bytes are partly an array's, though nothing would fault.
  GlobalArray<float> odd(62);
  EXPECT_TRUE(contains(barrier_complaint(1, kEarly, [&](std::uint64_t* barrier) { gpu::bulk_copy(gpu::dynamic_shared() + 16, odd.data() + 60, 16, barrier); }),
                       "reads 0 bytes past the end of an array of 248"));
}

TEST(Emulator, LateBulkCopiesShowAMissingWait) {
  GlobalArray<float> from(4);
  std::fill(from.begin(), from.end(), 1.0f);
  float seen = 0;
  const auto read_too_early = [&](std::uint64_t* barrier) {
    if (threadIdx.x != 0) return;
    gpu::barrier_arrive_expect(barrier, 16);
    gpu::bulk_copy(gpu::dynamic_shared() + 16, from.data(), 16, barrier);
    seen = *shared_at<float>(16);
    gpu::barrier_wait(barrier, 0);
  };
  EXPECT_EQ(barrier_complaint(1, kEarly, read_too_early), "");
  EXPECT_EQ(seen, 1.0f);
  EXPECT_EQ(barrier_complaint(1, kLate, read_too_early), "");
  EXPECT_TRUE(std::isnan(seen));
}

// --- Bulk stores ---------------------------------------------------------------------------------------------------

TEST(Emulator, BulkStoresArrive) {
  under_many_options([](const Options& options) {
    constexpr unsigned kBlocks = 2, kStages = 2, kTiles = 7, kFloats = 64;
    GlobalArray<float> to(kBlocks * kTiles * kFloats);
    const auto kernel = [&] {
      for (unsigned tile = 0; tile < kTiles; ++tile) {
        float* const stage = shared_at<float>(0) + tile % kStages * kFloats;
        float* const destination = to.data() + (blockIdx.x * kTiles + tile) * kFloats;
        // Both warps store: the first half of each tile by thread 0, in two parts, the other by thread 32.
        if (threadIdx.x % 32 == 0) gpu::bulk_store_wait<kStages - 1>();
        __syncthreads();
        stage[threadIdx.x] = float(1 + (blockIdx.x * kTiles + tile) * kFloats + threadIdx.x);
        gpu::fence_async_proxy();
        __syncthreads();
        if (threadIdx.x == 0) {
          gpu::bulk_store(destination, stage, 16);
          gpu::bulk_store(destination + 4, stage + 4, 112);
          gpu::bulk_store_commit();
        } else if (threadIdx.x == 32) {
          gpu::bulk_store(destination + 32, stage + 32, 128);
          gpu::bulk_store_commit();
        }
      }
      if (threadIdx.x % 32 == 0) gpu::bulk_store_wait<0>();
    };
    for (unsigned cluster_size : {1u, kBlocks}) {
      std::fill(to.begin(), to.end(), 0.0f);
      launch({kBlocks}, {kFloats}, kStages * kFloats * 4, options, kernel, cluster_size);
      for (unsigned i = 0; i < to.size(); ++i) EXPECT_EQ(to[i], float(i + 1));
    }
  });
}

/// What arrives of a buffer of ones and one of twos, each stored in its own group, if the thread overwrites both with
/// threes after waiting for all but kPending groups. Unless `commit`, it commits only then, both in one group.
template <int kPending>
std::vector<float> stored_after_waiting(const Options& options, bool commit) {
  GlobalArray<float> to(2 * 8);
  launch({1}, {1}, to.size() * 4, options, [&] {
    float* const values = shared_at<float>(0);
    for (unsigned i = 0; i < 16; ++i) values[i] = i < 8 ? 1 : 2;
    gpu::fence_async_proxy();
    for (unsigned i = 0; i < 2; ++i) {
      for (unsigned half = 0; half < 2; ++half) {
        gpu::bulk_store(to.data() + i * 8 + half * 4, values + i * 8 + half * 4, 16);
      }
      if (commit) gpu::bulk_store_commit();
    }
    gpu::bulk_store_wait<kPending>();
    for (unsigned i = 0; i < 16; ++i) values[i] = 3;
    if (!commit) gpu::bulk_store_commit();
    gpu::bulk_store_wait<0>();
  });
  return {to.begin(), to.end()};
}

TEST(Emulator, LateBulkStoresShowABufferOverwrittenTooEarly) {
  const auto values = [](float first, float second) {
    std::vector<float> both(16, first);
    std::fill(both.begin() + 8, both.end(), second);
    return both;
  };
  EXPECT_EQ(stored_after_waiting<0>(kEarly, true), values(1, 2));
  EXPECT_EQ(stored_after_waiting<2>(kEarly, true), values(1, 2));
  EXPECT_EQ(stored_after_waiting<0>(kEarly, false), values(1, 2));
  EXPECT_EQ(stored_after_waiting<0>(kLate, true), values(1, 2));
  EXPECT_EQ(stored_after_waiting<1>(kLate, true), values(1, 3));
  EXPECT_EQ(stored_after_waiting<2>(kLate, true), values(3, 3));
  EXPECT_EQ(stored_after_waiting<3>(kLate, true), values(3, 3));
  EXPECT_EQ(stored_after_waiting<0>(kLate, false), values(3, 3));
  under_many_options([&](const Options& options) {
    EXPECT_EQ(stored_after_waiting<0>(options, true), values(1, 2));
    const std::vector<float> all_but_one = stored_after_waiting<1>(options, true);
    EXPECT_TRUE(std::equal(all_but_one.begin(), all_but_one.begin() + 8, values(1, 2).begin()));
  });
}

TEST(Emulator, BulkStoresFinishAtRandom) {
  // In round_robin the thread goes on from the stores to the wait: each is either early or late.
  int right = 0;
  for (std::uint64_t seed = 1; seed <= 32; ++seed) {
    const std::vector<float> stored = stored_after_waiting<2>({Order::round_robin, Completion::random, seed}, true);
    right += stored[0] == 1;
  }
  EXPECT_GT(right, 0);
  EXPECT_LT(right, 32);
  // Where others can go on for long, they are over without a wait.
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    GlobalArray<float> to(4);
    launch({1}, {1}, 16, {Order::random, Completion::random, seed}, [&] {
      float* const values = shared_at<float>(0);
      for (unsigned i = 0; i < 4; ++i) values[i] = 1;
      gpu::bulk_store(to.data(), values, 16);
      gpu::bulk_store_commit();
      for (int i = 0; i < 2000; ++i) gpu::fence_async_proxy();
      for (unsigned i = 0; i < 4; ++i) values[i] = 2;
      gpu::bulk_store_wait<0>();
    });
    for (float value : to) EXPECT_EQ(value, 1.0f);
  }
}

TEST(Emulator, LateBulkStoresHaveNotArrived) {
  const auto seen_before_waiting = [](const Options& options) {
    GlobalArray<float> to(4);
    std::fill(to.begin(), to.end(), 1.0f);
    float seen = 0;
    launch({1}, {1}, 16, options, [&] {
      for (unsigned i = 0; i < 4; ++i) shared_at<float>(0)[i] = 2;
      gpu::bulk_store(to.data(), gpu::dynamic_shared(), 16);
      gpu::bulk_store_commit();
      seen = to[3];
      gpu::bulk_store_wait<0>();
    });
    EXPECT_EQ(to[3], 2.0f);
    return seen;
  };
  EXPECT_EQ(seen_before_waiting(kEarly), 2.0f);
  EXPECT_TRUE(std::isnan(seen_before_waiting(kLate)));
}

TEST(Emulator, ChecksBulkStores) {
  GlobalArray<float> to(64);
  for (const Options& options : {kEarly, kLate}) {
    int line = 0;
    const auto store = [&](std::size_t first, std::size_t from, unsigned bytes) {
      return complaint(1, 1024, options, [&] {
        line = __LINE__ + 1;
        gpu::bulk_store(to.data() + first, gpu::dynamic_shared() + from, bytes);
        gpu::bulk_store_commit();
        gpu::bulk_store_wait<0>();
      });
    };
    EXPECT_EQ(store(0, 768, 256), "");
    EXPECT_EQ(store(60, 16, 16), "");
    EXPECT_TRUE(contains(store(0, 0, 0), "asks bulk_store for 0 bytes"));
    EXPECT_TRUE(contains(store(0, 0, 24), "asks bulk_store for 24 bytes"));
    EXPECT_TRUE(contains(store(0, 8, 16), "bulk_store at shared byte 8 is misaligned"));
    EXPECT_TRUE(contains(store(1, 0, 16), "writes to a misaligned global address in bulk_store"));
    EXPECT_TRUE(contains(store(0, 1008, 32), "bulk_store of 32 bytes is not inside the block's 1024 bytes"));
    for (const std::string& message : {store(60, 0, 32), store(64, 0, 16)}) {
      EXPECT_TRUE(contains(message, "thread 0 of block (0, 0, 0) read or wrote "));
      EXPECT_TRUE(contains(message, "past the end of an array of 256 bytes"));
      EXPECT_TRUE(contains(message, "emulator_test.cpp:" + std::to_string(line)));
    }
  }
  // Nor is what lies beyond the end but in the same page the array's.
  GlobalArray<float> odd(61);
  EXPECT_TRUE(contains(complaint(1, 16, kLate,
                                 [&] {
                                   for (unsigned i = 0; i < 4; ++i) shared_at<float>(0)[i] = 1;
                                   gpu::bulk_store(odd.data() + 60, gpu::dynamic_shared(), 16);
                                   gpu::bulk_store_commit();
                                   gpu::bulk_store_wait<0>();
                                 }),
                       "was written: 0 bytes past the end of an array of 244 bytes"));
}

/// What is wrong with a block of 64 threads that all do `then` after thread 40 has stored two groups, the second of them
/// committed only if `commit`; `line` becomes that of the second store.
template <class Then>
std::string complaint_after_storing(const Options& options, bool commit, int& line, Then then) {
  GlobalArray<float> to(8);
  return complaint(64, 32, options, [&] {
    if (threadIdx.x == 40) {
      gpu::bulk_store(to.data(), gpu::dynamic_shared(), 16);
      gpu::bulk_store_commit();
      line = __LINE__ + 1;
      gpu::bulk_store(to.data() + 4, gpu::dynamic_shared() + 16, 16);
      if (commit) gpu::bulk_store_commit();
    }
    __syncthreads();
    then();
  });
}

TEST(Emulator, FindsBulkStoresThatNothingWaitsFor) {
  under_many_options([](const Options& options) {
    int line = 0;
    const auto names_the_store = [&](const std::string& message, int at) {
      return contains(message, "emulator_test.cpp:" + std::to_string(at) +
                                   ": the thread ended before this bulk_store was read: nothing waits for it (thread "
                                   "40 of block (0, 0, 0))");
    };
    const std::string waited = complaint_after_storing(options, true, line, [] { gpu::bulk_store_wait<0>(); });
    EXPECT_EQ(waited, "");
    const std::string for_none = complaint_after_storing(options, true, line, [] {});
    EXPECT_TRUE(names_the_store(for_none, line - 3));
    const std::string for_one = complaint_after_storing(options, true, line, [] { gpu::bulk_store_wait<1>(); });
    EXPECT_TRUE(names_the_store(for_one, line));
    const std::string uncommitted = complaint_after_storing(options, false, line, [] { gpu::bulk_store_wait<0>(); });
    EXPECT_TRUE(names_the_store(uncommitted, line));
    const std::string by_another = complaint_after_storing(options, true, line, [] {
      if (threadIdx.x == 41) gpu::bulk_store_wait<0>();
    });
    EXPECT_TRUE(names_the_store(by_another, line - 3));
  });
}

// --- Values --------------------------------------------------------------------------------------------------------

TEST(Emulator, RoundsToSixteenBits) {
  EXPECT_EQ(gpu::from_float<BFloat16>(1.00390625f).bits, 0x3f80u);  // ties to even
  EXPECT_EQ(gpu::from_float<Float16>(-65520.0f).bits, 0xfc00u);
  EXPECT_EQ(gpu::to_float(gpu::from_float<Float16>(1.5f)) + gpu::to_float(gpu::from_float<BFloat16>(2.5f)), 4.0f);
}

TEST(Emulator, PermutesBytes) {
  EXPECT_EQ(__byte_perm(0x33221100u, 0x77665544u, 0x7520u), 0x77552200u);
  EXPECT_EQ(__byte_perm(0x80000000u, 0x7fu, 0x3b0cu), 0x80ff0000u);
}

TEST(Emulator, ChecksStores) {
  GlobalArray<float> to(8);
  EXPECT_EQ(complaint(1, 0, kEarly, [&] { gpu::store_16_bytes(to.data() + 4, make_uint4(1, 2, 3, 4)); }), "");
  EXPECT_EQ(__float_as_uint(to[6]), 3u);
  EXPECT_TRUE(contains(
      complaint(1, 0, kEarly, [&] { gpu::store_16_bytes(to.data() + 1, make_uint4(1, 2, 3, 4)); }), "misaligned"));
  EXPECT_TRUE(contains(
      complaint(1, 0, kEarly, [&] { gpu::store_16_bytes(to.data() + 8, make_uint4(1, 2, 3, 4)); }), "past the end"));
}

// --- Products ------------------------------------------------------------------------------------------------------

/// A matrix of small integers, as numbers and as words of kWords along its depth.
template <gpu::Words kWords>
struct Matrix {
  static constexpr int kPerWord = kWords == gpu::Words::tf32 ? 1 : 2;

  Matrix(int vectors_, int words_, std::uint64_t seed)
      : vectors(vectors_), words(words_), values(integers(vectors_ * words_ * kPerWord, seed, 8)) {}

  double value(int vector, int depth) const { return values[std::size_t(vector * words * kPerWord + depth)]; }
  std::uint32_t word(int vector, int word) const {
    const auto at = [&](int i) { return float(value(vector, word * kPerWord + i)); };
    if constexpr (kWords == gpu::Words::tf32) return __float_as_uint(at(0)) | 0x1fffu;  // bits that do not count
    using Half = std::conditional_t<kWords == gpu::Words::bfloat16, BFloat16, Float16>;
    return Rounding<Half>::from(at(0)).bits | std::uint32_t(Rounding<Half>::from(at(kPerWord - 1)).bits) << 16;
  }
  double product(int vector, const Matrix& other, int other_vector) const {
    double sum = 0;
    for (int k = 0; k < words * kPerWord; ++k) sum += value(vector, k) * other.value(other_vector, k);
    return sum;
  }

  int vectors;
  int words;
  std::vector<double> values;
};

template <gpu::Words kWords>
void check_warp_multiply() {
  const Matrix<kWords> a(16, 8, 1), b(8, 8, 2);
  under_many_options([&](const Options& options) {
    GlobalArray<float> sums(16 * 8);
    launch({1}, {32}, 0, options, [&] {
      const int g = int(threadIdx.x) / 4, t = int(threadIdx.x) % 4;
      float sum[4] = {1, 2, 3, 4};
      const std::uint32_t words[4] = {a.word(g, t), a.word(g + 8, t), a.word(g, t + 4), a.word(g + 8, t + 4)};
      gpu::warp_multiply<kWords>(sum, words, b.word(g, t), b.word(g, t + 4));
      for (int i = 0; i < 4; ++i) sums[std::size_t((g + i / 2 * 8) * 8 + 2 * t + i % 2)] = sum[i];
    });
    for (int row = 0; row < 16; ++row) {
      for (int column = 0; column < 8; ++column) {
        EXPECT_EQ(sums[std::size_t(row * 8 + column)],
                  a.product(row, b, column) + 1 + column % 2 + (row >= 8 ? 2 : 0));
      }
    }
  });
}

TEST(Emulator, MultipliesInAWarp) {
  check_warp_multiply<gpu::Words::tf32>();
  check_warp_multiply<gpu::Words::bfloat16>();
  check_warp_multiply<gpu::Words::float16>();
}

/// Where shared memory has the words of an operand, in core matrices of 8 vectors x 4 words.
struct Layout {
  unsigned start;
  unsigned depth_stride;
  unsigned vector_stride;

  unsigned byte(int vector, int word) const {
    return start + unsigned(vector / 8) * vector_stride + unsigned(word / 4) * depth_stride +
           unsigned(vector % 8 * 16 + word % 4 * 4);
  }
  std::uint64_t descriptor(int vector, int word) const {
    return gpu::matrix_descriptor(gpu::dynamic_shared() + byte(vector, word), depth_stride, vector_stride);
  }
};

/// By all threads of the block.
template <gpu::Words kWords>
void store_operand(const Matrix<kWords>& matrix, const Layout& layout) {
  for (int i = int(threadIdx.x); i < matrix.vectors * matrix.words; i += int(blockDim.x)) {
    const int vector = i / matrix.words, word = i % matrix.words;
    *shared_at<std::uint32_t>(layout.byte(vector, word)) = matrix.word(vector, word);
  }
}

/// A thread's sums of a product of a warpgroup, to out[row][column].
template <int kSums>
void store_sums(const float (&sum)[kSums], GlobalArray<float>& out) {
  const int lane = int(threadIdx.x) % 32, row = int(threadIdx.x) / 32 * 16 + lane / 4;
  for (int i = 0; i < kSums; ++i) {
    out[std::size_t((row + i % 4 / 2 * 8) * 2 * kSums + i / 4 * 8 + 2 * (lane % 4) + i % 2)] = sum[i];
  }
}

/// Of the rows of a from first_row on.
template <gpu::Words kWords>
void expect_product(const GlobalArray<float>& out, const Matrix<kWords>& a, int first_row, int rows,
                    const Matrix<kWords>& b) {
  for (int row = 0; row < rows; ++row) {
    for (int column = 0; column < b.vectors; ++column) {
      ASSERT_EQ(out[std::size_t(row * b.vectors + column)], a.product(first_row + row, b, column))
          << row << ", " << column;
    }
  }
}

/// 64 kGroups rows, kColumns columns, 24 words of depth; b in two layouts of core matrices.
template <gpu::Words kWords, int kColumns, int kGroups>
void multiply_in_warpgroups(const Options& options, bool columns_first, GlobalArray<float>& out) {
  constexpr int kSteps = 3, kWordsDeep = 8 * kSteps;
  const Matrix<kWords> a(64 * kGroups, kWordsDeep, 1), b(kColumns, kWordsDeep, 2);
  const Layout layout = columns_first ? Layout{0, 128 * (kColumns / 8), 128} : Layout{0, 128, 128 * (kWordsDeep / 4)};
  launch({1}, {128 * kGroups}, kColumns * kWordsDeep * 4, options, [&] {
    store_operand(b, layout);
    gpu::fence_async_proxy();
    __syncthreads();
    const int lane = int(threadIdx.x) % 32, g = lane / 4, t = lane % 4, row = int(threadIdx.x) / 32 * 16 + g;
    float sum[kColumns / 2];
    gpu::warpgroup_fence();
    for (int step = 0; step < kSteps; ++step) {
      const int word = 8 * step + t;
      const std::uint32_t words[4] = {a.word(row, word), a.word(row + 8, word), a.word(row, word + 4),
                                      a.word(row + 8, word + 4)};
      gpu::warpgroup_multiply<kWords>(sum, words, layout.descriptor(0, 8 * step), step > 0);
      gpu::warpgroup_commit();
      if (step == 1) gpu::warpgroup_wait<1>();
    }
    gpu::warpgroup_wait<0>();
    gpu::warpgroup_settle(sum);
    store_sums(sum, out);
  });
  expect_product(out, a, 0, 64 * kGroups, b);
}

template <int kColumns, int kGroups>
void check_warpgroup_multiply() {
  under_many_options([](const Options& options) {
    for (bool columns_first : {false, true}) {
      GlobalArray<float> out(64 * kGroups * kColumns);
      multiply_in_warpgroups<gpu::Words::tf32, kColumns, kGroups>(options, columns_first, out);
      multiply_in_warpgroups<gpu::Words::bfloat16, kColumns, kGroups>(options, columns_first, out);
      multiply_in_warpgroups<gpu::Words::float16, kColumns, kGroups>(options, columns_first, out);
    }
  });
}

TEST(Emulator, MultipliesInAWarpgroup) {
  check_warpgroup_multiply<8, 1>();
  check_warpgroup_multiply<16, 2>();
  check_warpgroup_multiply<96, 1>();
  check_warpgroup_multiply<256, 1>();
}

/// The same with a in shared memory too, behind b: 8 rows more than are multiplied, which start at first_row.
template <gpu::Words kWords, int kColumns, int kGroups>
void multiply_shared_rows(const Options& options, const Layout& a_layout, int first_row, GlobalArray<float>& out) {
  constexpr int kSteps = 3, kWordsDeep = 8 * kSteps, kRows = 64 * kGroups;
  const Matrix<kWords> a(kRows + 8, kWordsDeep, 1), b(kColumns, kWordsDeep, 2);
  const Layout b_layout = {0, 128, 128 * (kWordsDeep / 4)};
  ASSERT_GE(a_layout.start, unsigned(kColumns * kWordsDeep * 4));
  launch({1}, {128 * kGroups}, a_layout.byte(kRows + 7, kWordsDeep - 1) + 4, options, [&] {
    store_operand(a, a_layout);
    store_operand(b, b_layout);
    gpu::fence_async_proxy();
    __syncthreads();
    const int row = int(threadIdx.x) / 128 * 64 + first_row;
    float sum[kColumns / 2];
    gpu::warpgroup_fence();
    for (int step = 0; step < kSteps; ++step) {
      const int word = 8 * step;
      gpu::warpgroup_multiply<kWords>(sum, a_layout.descriptor(row, word), b_layout.descriptor(0, word), step > 0);
      gpu::warpgroup_commit();
      if (step == 1) gpu::warpgroup_wait<1>();
    }
    gpu::warpgroup_wait<0>();
    gpu::warpgroup_settle(sum);
    store_sums(sum, out);
  });
  expect_product(out, a, first_row, kRows, b);
}

template <int kColumns, int kGroups>
void check_multiply_shared_rows() {
  constexpr unsigned kStart = kColumns * 24 * 4 + 48;
  // One with the rows 16 bytes apart throughout, so that a product can start at any; one with gaps everywhere.
  const Layout rows_first = {kStart, 16 * (64 * kGroups + 8) + 32, 128}, depth_first = {kStart, 144, 6 * 144 + 16};
  under_many_options([&](const Options& options) {
    GlobalArray<float> out(64 * kGroups * kColumns);
    for (int first_row : {0, 1, 7}) {
      multiply_shared_rows<gpu::Words::tf32, kColumns, kGroups>(options, rows_first, first_row, out);
      multiply_shared_rows<gpu::Words::bfloat16, kColumns, kGroups>(options, rows_first, first_row, out);
    }
    multiply_shared_rows<gpu::Words::tf32, kColumns, kGroups>(options, depth_first, 0, out);
    multiply_shared_rows<gpu::Words::bfloat16, kColumns, kGroups>(options, depth_first, 8, out);
    multiply_shared_rows<gpu::Words::float16, kColumns, kGroups>(options, depth_first, 8, out);
  });
}

TEST(Emulator, MultipliesRowsInSharedMemoryInAWarpgroup) {
  check_multiply_shared_rows<8, 1>();
  check_multiply_shared_rows<32, 2>();
  check_multiply_shared_rows<256, 1>();
}

TEST(Emulator, ProductsOfTheBlocksOfAClusterAdd) {
  constexpr int kColumns = 8;
  const Layout layout = {0, 128, 256};
  for (unsigned size : {2u, 4u}) {
    // Each block multiplies 8 words of the depth, for all of the sums, and adds up those of some threads.
    const Matrix<gpu::Words::tf32> a(64, 8 * int(size), 1), b(kColumns, 8 * int(size), 2);
    under_many_options([&](const Options& options) {
      GlobalArray<float> out(64 * kColumns);
      const auto kernel = [&] {
        const unsigned rank = gpu::cluster_rank();
        const int first = 8 * int(rank);
        auto* const arrived = shared_at<std::uint64_t>(256);
        if (threadIdx.x == 0) {
          gpu::barrier_init(arrived, 1);
          gpu::barrier_arrive_expect(arrived, 128 * 16);
        }
        cluster_barrier();
        for (int i = int(threadIdx.x); i < kColumns * 8; i += int(blockDim.x)) {
          *shared_at<std::uint32_t>(layout.byte(i / 8, i % 8)) = b.word(i / 8, first + i % 8);
        }
        gpu::fence_async_proxy();
        __syncthreads();
        const int lane = int(threadIdx.x) % 32, row = int(threadIdx.x) / 32 * 16 + lane / 4, word = first + lane % 4;
        const std::uint32_t words[4] = {a.word(row, word), a.word(row + 8, word), a.word(row, word + 4),
                                        a.word(row + 8, word + 4)};
        float sum[kColumns / 2];
        gpu::warpgroup_fence();
        gpu::warpgroup_multiply<gpu::Words::tf32>(sum, words, layout.descriptor(0, 0), false);
        gpu::warpgroup_commit();
        gpu::warpgroup_wait<0>();
        gpu::warpgroup_settle(sum);
        uint4* const given = shared_at<uint4>(272) + threadIdx.x;
        gpu::store_remote(given + 128 * rank, threadIdx.x % size, as_words(sum), arrived);
        gpu::barrier_wait(arrived, 0);
        if (threadIdx.x % size == rank) {
          for (unsigned other = 1; other < size; ++other) add(sum, given[128 * ((rank + other) % size)]);
          store_sums(sum, out);
        }
      };
      launch({size}, {128}, 272 + size * 128 * 16, options, kernel, size);
      expect_product(out, a, 0, 64, b);
    });
  }
}

/// Multiplies ones by ones, waits for all but kPending of two groups and adds what it sees.
template <int kPending>
float seen_after_waiting(const Options& options) {
  float seen = 0;
  launch({1}, {128}, 256, options, [&] {
    shared_at<float>(0)[threadIdx.x % 64] = 1;
    __syncthreads();
    const std::uint32_t one = __float_as_uint(1.0f), a[4] = {one, one, one, one};
    float sum[4], other[4];
    gpu::warpgroup_fence();
    const std::uint64_t b = gpu::matrix_descriptor(gpu::dynamic_shared(), 128, 256);
    gpu::warpgroup_multiply<gpu::Words::tf32>(other, a, b, false);
    gpu::warpgroup_commit();
    gpu::warpgroup_multiply<gpu::Words::tf32>(sum, a, b, false);
    gpu::warpgroup_commit();
    gpu::warpgroup_wait<kPending>();
    if (threadIdx.x == 77) seen = sum[2] + other[3];
    gpu::warpgroup_wait<0>();
  });
  return seen;
}

TEST(Emulator, LateProductsShowAMissingWait) {
  EXPECT_EQ(seen_after_waiting<0>(kLate), 16.0f);
  EXPECT_EQ(seen_after_waiting<1>(kEarly), 16.0f);
  EXPECT_TRUE(std::isnan(seen_after_waiting<1>(kLate)));
}

TEST(Emulator, LateProductsShowAnOperandOverwrittenTooEarly) {
  const auto product = [](const Options& options) {
    float seen = 0;
    launch({1}, {128}, 256, options, [&] {
      float& value = shared_at<float>(0)[threadIdx.x % 64];
      value = 1;
      __syncthreads();
      const std::uint32_t one = __float_as_uint(1.0f), a[4] = {one, one, one, one};
      float sum[4];
      gpu::warpgroup_fence();
      gpu::warpgroup_multiply<gpu::Words::tf32>(sum, a, gpu::matrix_descriptor(gpu::dynamic_shared(), 128, 256), false);
      gpu::warpgroup_commit();
      __syncthreads();
      value = 2;
      gpu::warpgroup_wait<0>();
      if (threadIdx.x == 77) seen = sum[2];
    });
    return seen;
  };
  EXPECT_EQ(product(kEarly), 8.0f);
  EXPECT_NE(product(kLate), 8.0f);
}

/// A product of 64 rows of ones, from byte 256 of shared memory on, by columns of ones before them; row 58's sum (of
/// thread 105) if `between` gets one of a's words, each thread another, while the product is under way.
template <class Between>
float sum_of_shared_rows(const Options& options, Between between) {
  float seen = 0;
  launch({1}, {128}, 256 + 64 * 32, options, [&] {
    for (unsigned i = threadIdx.x; i < 64 + 64 * 8; i += 128) shared_at<float>(0)[i] = 1;
    __syncthreads();
    const std::uint64_t a = gpu::matrix_descriptor(gpu::dynamic_shared() + 256, 1024, 128);
    float sum[4];
    gpu::warpgroup_fence();
    gpu::warpgroup_multiply<gpu::Words::tf32>(sum, a, gpu::matrix_descriptor(gpu::dynamic_shared(), 128, 256), false);
    gpu::warpgroup_commit();
    __syncthreads();
    between(shared_at<float>(256 + 1024 + 16 * (threadIdx.x % 64))[threadIdx.x / 64]);
    gpu::warpgroup_wait<0>();
    if (threadIdx.x == 105) seen = sum[2];
  });
  return seen;
}

TEST(Emulator, LateProductsShowSharedRowsOverwrittenTooEarly) {
  EXPECT_EQ(sum_of_shared_rows(kLate, [](float&) {}), 8.0f);
  EXPECT_EQ(sum_of_shared_rows(kEarly, [](float& word) { word = 2; }), 8.0f);
  EXPECT_NE(sum_of_shared_rows(kLate, [](float& word) { word = 2; }), 8.0f);
}

TEST(Emulator, SharedRowsThatAreNotWrittenAreNaN) {
  for (const Options& options : {kEarly, kLate}) {
    GlobalArray<float> out(64 * 8);
    launch({1}, {128}, 256 + 64 * 32, options, [&] {
      constexpr unsigned kSkipped = 64 + 256 + 37 * 4 + 3;  // row 37's last word
      for (unsigned i = threadIdx.x; i < 64 + 64 * 8; i += 128) {
        if (i != kSkipped) shared_at<float>(0)[i] = 1;
      }
      __syncthreads();
      const std::uint64_t a = gpu::matrix_descriptor(gpu::dynamic_shared() + 256, 1024, 128);
      float sum[4];
      gpu::warpgroup_fence();
      gpu::warpgroup_multiply<gpu::Words::tf32>(sum, a, gpu::matrix_descriptor(gpu::dynamic_shared(), 128, 256), false);
      gpu::warpgroup_commit();
      gpu::warpgroup_wait<0>();
      store_sums(sum, out);
    });
    for (int i = 0; i < 64 * 8; ++i) EXPECT_EQ(std::isnan(out[std::size_t(i)]), i / 8 == 37) << i / 8;
  }
}

/// What is wrong with a block of 128 threads that does `between` while a product is under way.
template <class Between>
std::string complaint_while_under_way(const Options& options, Between between) {
  return complaint(128, 512, options, [&] {
    const std::uint32_t a[4] = {};
    float sum[8] = {};
    gpu::warpgroup_fence();
    gpu::warpgroup_multiply<gpu::Words::tf32>(sum, a, gpu::matrix_descriptor(gpu::dynamic_shared(), 256, 128), true);
    gpu::warpgroup_commit();
    between(sum);
    gpu::warpgroup_wait<0>();
  });
}

TEST(Emulator, LateProductsShowUseOfTheirSums) {
  const auto write = [](float(&sum)[8]) { sum[7] = 1; };
  EXPECT_EQ(complaint_while_under_way(kEarly, write), "");
  EXPECT_TRUE(contains(complaint_while_under_way(kLate, write), "has written sums of this product"));
  const auto multiply_half = [](float* half) {
    const std::uint32_t a[4] = {};
    auto& sum = *reinterpret_cast<float(*)[4]>(half);
    gpu::warpgroup_multiply<gpu::Words::tf32>(sum, a, gpu::matrix_descriptor(gpu::dynamic_shared(), 256, 128), true);
    gpu::warpgroup_commit();
  };
  EXPECT_TRUE(contains(complaint_while_under_way(kLate, [&](float(&sum)[8]) { multiply_half(sum); }), "another shape"));
  EXPECT_TRUE(contains(complaint_while_under_way(kLate, [&](float(&sum)[8]) { multiply_half(sum + 4); }), "overlap"));
}

/// What is wrong with a block of 128 threads that multiplies after `before`.
template <class Before>
std::string product_complaint(Before before) {
  return complaint(128, 256, kLate, [&] {
    std::uint64_t b = gpu::matrix_descriptor(gpu::dynamic_shared(), 128, 256);
    bool accumulate = false, wait = true, fence = true;
    before(b, accumulate, wait, fence);
    const std::uint32_t a[4] = {};
    float sum[4];
    if (fence) gpu::warpgroup_fence();
    gpu::warpgroup_multiply<gpu::Words::tf32>(sum, a, b, accumulate);
    gpu::warpgroup_commit();
    if (wait) gpu::warpgroup_wait<0>();
  });
}

TEST(Emulator, ChecksProducts) {
  using Descriptor = std::uint64_t;
  EXPECT_EQ(product_complaint([](Descriptor&, bool&, bool&, bool&) {}), "");
  EXPECT_TRUE(contains(product_complaint([](Descriptor&, bool& accumulate, bool&, bool&) {
                         accumulate = threadIdx.x == 5;
                       }),
                       "with other lanes or operands"));
  EXPECT_TRUE(contains(product_complaint([](Descriptor&, bool& accumulate, bool&, bool&) {
                         accumulate = threadIdx.x >= 96;
                       }),
                       "differs from what another warp"));
  EXPECT_TRUE(contains(product_complaint([](Descriptor& b, bool&, bool&, bool&) { b += 1; }), "outside shared memory"));
  EXPECT_TRUE(contains(product_complaint([](Descriptor& b, bool&, bool&, bool&) { b |= Descriptor(1) << 62; }),
                       "not emulated"));
  EXPECT_TRUE(contains(product_complaint([](Descriptor&, bool&, bool& wait, bool&) { wait = false; }),
                       "exits without warpgroup_wait"));
  EXPECT_TRUE(contains(product_complaint([](Descriptor&, bool&, bool&, bool& fence) { fence = false; }),
                       "before its first warpgroup_fence"));
  EXPECT_TRUE(contains(complaint(96, 256, kEarly,
                                 [] {
                                   const std::uint32_t a[4] = {};
                                   float sum[4];
                                   gpu::warpgroup_fence();
                                   gpu::warpgroup_multiply<gpu::Words::tf32>(sum, a, 64, false);
                                 }),
                       "in no complete warpgroup"));
  EXPECT_TRUE(contains(complaint(128, 256, kEarly,
                                 [] {
                                   if (threadIdx.x >= 96) return;
                                   const std::uint32_t a[4] = {};
                                   float sum[4];
                                   gpu::warpgroup_fence();
                                   gpu::warpgroup_multiply<gpu::Words::tf32>(sum, a, 64 | 8 << 16, false);
                                   gpu::warpgroup_commit();
                                   gpu::warpgroup_wait<0>();
                                 }),
                       "warp 3 took no part"));
}

/// What is wrong with a block of 128 threads that multiplies rows in shared memory after `before`.
template <class Before>
std::string shared_rows_complaint(const Options& options, Before before) {
  return complaint(128, 2048, options, [&] {
    std::uint64_t a = gpu::matrix_descriptor(gpu::dynamic_shared(), 1024, 128);
    before(a);
    float sum[4];
    gpu::warpgroup_fence();
    gpu::warpgroup_multiply<gpu::Words::tf32>(sum, a, gpu::matrix_descriptor(gpu::dynamic_shared(), 128, 256), false);
    gpu::warpgroup_commit();
    gpu::warpgroup_wait<0>();
  });
}

TEST(Emulator, ChecksProductsOfSharedRows) {
  using Descriptor = std::uint64_t;
  for (const Options& options : {kEarly, kLate}) {
    EXPECT_EQ(shared_rows_complaint(options, [](Descriptor&) {}), "");
    EXPECT_TRUE(contains(shared_rows_complaint(options, [](Descriptor& a) { a += 1; }),
                         "operand a of warpgroup_multiply outside shared memory, at byte 1936"));
    EXPECT_TRUE(contains(shared_rows_complaint(options, [](Descriptor& a) { a -= 1; }),
                         "operand a of warpgroup_multiply outside shared memory, at byte -16"));
    EXPECT_TRUE(contains(shared_rows_complaint(options, [](Descriptor& a) { a |= Descriptor(1) << 62; }),
                         "not emulated"));
    EXPECT_TRUE(contains(shared_rows_complaint(options, [](Descriptor& a) { a += threadIdx.x == 5; }),
                         "with other lanes or operands"));
    // Rows of the last warp only, inside shared memory.
    EXPECT_TRUE(contains(shared_rows_complaint(options, [](Descriptor& a) { a -= (threadIdx.x >= 96) * 8; }),
                         "differs from what another warp"));
  }
}

TEST(Emulator, FindsWarpsThatDisagreeWhereTheRowsAre) {
  const auto multiply = [](unsigned first_with_registers) {
    return complaint(128, 2048, kEarly, [=] {
      const std::uint64_t a = gpu::matrix_descriptor(gpu::dynamic_shared(), 1024, 128);
      const std::uint64_t b = gpu::matrix_descriptor(gpu::dynamic_shared(), 128, 256);
      const std::uint32_t registers[4] = {};
      float sum[4];
      gpu::warpgroup_fence();
      if (threadIdx.x >= first_with_registers) {
        gpu::warpgroup_multiply<gpu::Words::tf32>(sum, registers, b, false);
      } else {
        gpu::warpgroup_multiply<gpu::Words::tf32>(sum, a, b, false);
      }
      gpu::warpgroup_commit();
      gpu::warpgroup_wait<0>();
    });
  };
  EXPECT_EQ(multiply(0), "");
  EXPECT_EQ(multiply(128), "");
  EXPECT_TRUE(contains(multiply(64), "differs from what another warp"));
  EXPECT_TRUE(contains(multiply(16), "with other lanes or operands"));
}

}  // namespace
}  // namespace convt_gemm::testing

#pragma once
// Runs CUDA kernels on the CPU, so that their logic is tested without a GPU, bit for bit, under many interleavings of
// their threads. A kernel is compiled with CONVT_GEMM_EMULATED_GPU, which makes csrc/core/implicit/gpu_ops.cuh include
// emulator/gpu_ops.h, and with -fno-strict-aliasing, as CUDA's vector loads need; a launch then is
//
//   emulator::launch({blocks}, {threads}, shared_bytes, options, [&] { kernel<64, 2>(arguments); });
//
// with the blocks per cluster as one more argument if there are clusters.
//
// Each thread is a fiber that runs until it waits for others. The blocks of a cluster run together, and clusters one
// after another. What a kernel may not do is an Error that says which thread did it, and where: threads that wait for
// ever (with a list of all of them), misaligned copies, addresses outside shared or guarded global memory, barriers
// with too many arrivals or with bytes left over, lanes of a warp that disagree, a barrier that goes through two phases
// before a thread that waits for the first has noticed, access to the shared memory of a block that has not started or
// has ended, access to memory that the kernel ahead may be at work on (GuardedMemory::hold) before any thread has
// waited for it, and so on. Races show as NaN or as results that depend on the options: shared memory is NaN at first, and
// so is the destination of whatever is still under way.
//
// What is not found: a missing fence_async_proxy; a register operand of warpgroup_multiply that is changed too
// early; what depends on the memory model (here an ordinary load or store is over, and seen by every thread, before
// the next statement; on the GPU a load may still be under way when the stage it reads from is handed back); an
// ordinary load or store of a vector that is misaligned (-fsanitize=alignment finds it); races between clusters; a
// thread that waits by polling memory (it hangs). -fsanitize=address does not understand the fibers;
// -fsanitize=undefined does. Tensor-core sums are rounded to nearest, once per instruction; the hardware truncates,
// so tests compare bits only where sums are exact.
#include <cstddef>
#include <cstdint>
#include <functional>
#include <iosfwd>
#include <stdexcept>
#include <vector>

#include "emulator/guarded_memory.h"

namespace convt_gemm::emulator {

/// What a kernel did wrong.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Which thread goes on when one waits. All but round_robin also let others go on at operations that do not wait.
enum class Order {
  round_robin,  // the next one by index
  random,       // any one
  starve,       // one of the warp that is preferred to all others; the preferences change now and then
};

/// When asynchronous copies and products happen.
enum class Completion {
  early,   // when they are started
  late,    // when the kernel can no longer go on, or not be right, without them; their destination is NaN until then
  random,  // each one early or at some later time
};

struct Options {
  Order order = Order::round_robin;
  Completion completion = Completion::early;
  std::uint64_t seed = 0;
};
std::ostream& operator<<(std::ostream& stream, const Options& options);

/// Options that between them find most races: round_robin with early and late, and `seeds` of each pair of the others.
std::vector<Options> many_options(int seeds);

struct Extent {
  unsigned x = 1;
  unsigned y = 1;
  unsigned z = 1;
};

/// Calls the kernel in every thread of every block. Every `cluster_size` blocks side by side in x are a cluster. Throws
/// Error, or what the kernel throws. One at a time per process.
void launch(Extent blocks, Extent threads, std::size_t shared_bytes, const Options& options,
            const std::function<void()>& kernel, unsigned cluster_size = 1);

}  // namespace convt_gemm::emulator

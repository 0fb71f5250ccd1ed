// longjmp from fiber to fiber is what _FORTIFY_SOURCE takes for a mistake.
#undef _FORTIFY_SOURCE
#include "emulator/emulator.h"

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <exception>
#include <memory>
#include <new>
#include <optional>
#include <ostream>
#include <random>
#include <sstream>
#include <string>
#include <utility>

#include "emulator/operations.h"
#include "emulator/products.h"

namespace convt_gemm::emulator {

const Position* position = nullptr;

namespace {

constexpr std::uint32_t kAllLanes = 0xffffffffu;
constexpr int kWarpgroupWarps = 4;
constexpr std::uint32_t kSharedBase = 1024;  // the shared address of the first byte of dynamic shared memory
constexpr std::size_t kMaxShared = 227 * 1024;
constexpr unsigned kMaxCluster = 8;  // what every GPU with clusters allows
constexpr std::size_t kMaxThreads = 1024;
constexpr std::uint64_t kBarrierMark = 0x6d62617272000000u;  // a barrier's word in shared memory, plus its index
constexpr unsigned char kNaN = 0xff;
constexpr const char* kNamedBarrier = "named_barrier";

template <class... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream stream;
  (stream << ... << parts);
  return stream.str();
}

std::string place(Source at) { return text(at.file, ":", at.line); }

// --- Threads and what they wait for --------------------------------------------------------------------------------

struct Block;
struct Fiber;
struct Warp;

struct Barrier {
  std::uint64_t* word;
  int arrivals;             // of each phase
  int pending;              // arrivals that this phase still needs
  std::int64_t bytes = 0;   // that this phase still needs
  std::uint64_t phase = 0;  // the one that has not ended yet
  struct Waiter {
    const Fiber* thread;
    std::uint64_t phase;
  };
  std::vector<Waiter> waiters = {};  // also those that have been woken and have not run since
};

struct Copy {
  unsigned char* shared;
  const unsigned char* global;
  int bytes;
  int valid;
  std::uint64_t group;
};

struct BulkCopy {
  unsigned char* shared;
  const unsigned char* global;
  std::uint32_t bytes;
  Block* block;
  std::size_t barrier;
  Source at;
  std::array<unsigned char, 16> value = {};  // for a null pointer in `global`
};

struct BulkStore {
  unsigned char* global;
  const unsigned char* shared;
  std::uint32_t bytes;
  const Fiber* thread;
  std::uint64_t group;  // of the thread's
  Source at;
  bool finished = false;
};

struct Fiber {
  int index = 0;  // in its block
  Warp* warp = nullptr;
  Position position = {};
  bool started = false;
  ucontext_t start;
  jmp_buf context;

  // What it waits for, for messages.
  const char* operation = "";
  Source at = {"", 0};
  const Barrier* barrier = nullptr;
  int detail = 0;  // parity, or the named barrier

  std::deque<Copy> copies = {};
  std::uint64_t copy_group = 0;        // the open one
  std::uint64_t bulk_store_group = 0;  // the open one

  std::uint32_t lane_bit() const { return 1u << (index % kWarp); }
};

/// Lanes of a warp that have come to an operation that needs all of `lanes`.
struct Meeting {
  const char* operation;               // compared as a pointer: each operation names itself in one place
  std::array<std::uint64_t, 3> key;    // what the lanes must agree about
  std::uint32_t lanes;
  std::uint32_t arrived;
  bool may_exit;  // the operation does without lanes that have exited
  std::array<void*, kWarp> arguments;
  Source at;
  bool (*complete)(Warp&, Meeting&);  // whether the lanes can go on
};

/// Sums with products under way; the kernel's own are NaN meanwhile.
struct Sums {
  std::array<float*, kWarp> of_lane;
  int count;  // per lane
  int products = 0;
  std::vector<float> values = {};
};

/// What the warps of a warpgroup must agree about.
struct ProductKey {
  Words words;
  int columns;
  std::optional<std::uint64_t> a;  // its descriptor; none if it is in registers
  std::uint64_t b;
  bool accumulate;
  Source at;
};

/// A warp's share of operand a, as its lanes hold it in registers.
struct Rows {
  std::uint32_t of_lane[kWarp][4];
};

struct Product {
  ProductKey key;
  Rows a;  // unless it is in shared memory
  std::shared_ptr<Sums> sums;
  std::uint64_t group;
};

struct Warp {
  Block* block = nullptr;
  int index = 0;             // in its block
  Fiber* threads = nullptr;  // lane by lane
  std::uint32_t alive = 0;
  std::uint32_t runnable = 0;
  std::vector<Meeting> meetings = {};

  std::uint64_t cluster_arrivals = 0;  // at the cluster's barrier
  std::uint64_t cluster_waits = 0;     // with the one under way
  Source last_cluster_arrive = {"", 0};

  bool fenced = false;               // before its first product
  std::size_t products_started = 0;  // as an index into the warpgroup's
  std::uint64_t group = 0;           // the open one
  std::deque<Product> products = {};
  std::vector<std::shared_ptr<Sums>> sums = {};
  std::uint64_t groups_waited_for = 0;
  std::uint64_t last_product_end = 0;  // one past its group
  Source last_product = {"", 0};
};

struct NamedBarrier {
  int threads = 0;
  int arrived = 0;
  std::vector<Warp*> warps = {};
};

struct Block {
  unsigned rank;  // in its cluster
  Extent index;
  GuardedMemory* shared;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  bool started = false;  // whether any of its threads has
  std::deque<Barrier> barriers = {};
  std::array<NamedBarrier, 16> named_barriers = {};
  std::vector<std::vector<ProductKey>> warpgroup_products = {};

  bool alive() const {
    return std::any_of(warps.begin(), warps.end(), [](const Warp& warp) { return warp.alive != 0; });
  }
};

std::string describe(const Extent& block) {
  return text("block (", block.x, ", ", block.y, ", ", block.z, ")");
}

std::string describe(const Fiber& fiber) {
  return text("thread ", fiber.index, " of ", describe(fiber.position.block_index));
}

/// Stacks with an inaccessible page below each; kept from launch to launch.
class Stacks {
 public:
  static constexpr std::size_t kBytes = 256 * 1024;
  static constexpr std::size_t kGuard = 4096;

  unsigned char* get(std::size_t i) {
    while (stacks_.size() <= i) {
      void* const memory = mmap(nullptr, kGuard + kBytes, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (memory == MAP_FAILED || mprotect(memory, kGuard, PROT_NONE) != 0) throw std::bad_alloc();
      stacks_.push_back(static_cast<unsigned char*>(memory) + kGuard);
    }
    return stacks_[i];
  }
  bool in_guard(const void* address) const {
    const auto at = reinterpret_cast<std::uintptr_t>(address);
    return std::any_of(stacks_.begin(), stacks_.end(), [&](const unsigned char* stack) {
      return reinterpret_cast<std::uintptr_t>(stack) - at - 1 < kGuard;
    });
  }

 private:
  std::vector<unsigned char*> stacks_;
};

Stacks& stacks() {
  static Stacks all;
  return all;
}

// --- A launch ------------------------------------------------------------------------------------------------------

class Launch {
 public:
  Launch(Extent blocks, Extent threads, std::size_t shared_bytes, const Options& options,
         const std::function<void()>& kernel, unsigned cluster_size)
      : blocks_(blocks), threads_(threads), options_(options), kernel_(kernel), random_(options.seed) {
    for (unsigned rank = 0; rank < cluster_size; ++rank) shared_.emplace_back(shared_bytes, 1024);
  }

  void run() {
    for (unsigned z = 0; z < blocks_.z; ++z) {
      for (unsigned y = 0; y < blocks_.y; ++y) {
        for (unsigned x = 0; x < blocks_.x; x += unsigned(shared_.size())) run_cluster({x, y, z});
      }
    }
  }

  // What the threads call.
  Fiber& running() { return *running_; }
  bool in_thread() const { return running_ != nullptr; }
  [[noreturn]] void fail(Source at, const std::string& what);
  void pass();
  unsigned char* inside_shared(const void* shared, std::size_t bytes, std::size_t alignment, const char* what,
                               Source at);
  std::uint32_t shared_address(const void* shared, Source at);
  unsigned char* remote_shared(const void* shared, unsigned rank, std::size_t bytes, Source at);
  void store_remote(void* shared, unsigned rank, const void* value, std::uint64_t* word, Source at);

  void copy_async(Copy copy, Source at);
  void copy_async_wait(Fiber& fiber, std::uint64_t pending_groups);
  void barrier_init(std::uint64_t* word, int arrivals, Source at);
  Barrier& barrier_at(std::uint64_t* word, Source at);
  Barrier& barrier_of(Block& block, std::uint64_t* word, Source at);
  void barrier_arrive(Barrier& barrier, std::uint32_t expected_bytes, Source at);
  void barrier_wait(Barrier& barrier, int parity, Source at);
  void bulk_copy(void* shared, const void* global, std::uint32_t bytes, std::uint64_t* word, Source at);
  void bulk_store(void* global, const void* shared, std::uint32_t bytes, Source at);
  void bulk_store_wait(Fiber& fiber, std::uint64_t pending_groups);

  /// Comes to an operation of several lanes and waits until it is done.
  void meet(const char* operation, std::array<std::uint64_t, 3> key, std::uint32_t lanes, bool may_exit, void* argument,
            bool (*complete)(Warp&, Meeting&), Source at);
  bool arrive_at_named_barrier(Warp& warp, int id, int threads, Source at);
  void arrive_at_cluster_barrier(Warp& warp, Source at);
  bool wait_for_cluster_barrier(Warp& warp, Source at);
  void start_product(Warp& warp, Product product, const std::array<float*, kWarp>& sums);
  void wait_for_products(Warp& warp, std::uint64_t pending_groups);

  void fault(const void* address);  // in a signal handler

 private:
  enum Resumed { yielded = 1, faulted = 2 };

  void run_cluster(Extent first);
  void start_block(Block& block);
  void check_end_of_block(const Block& block);
  static void thread_main();
  void exit_thread(Fiber& fiber);
  Resumed resume(Fiber& fiber);
  void yield();

  Fiber* next();
  bool late();
  bool chance(unsigned of) { return random_() % of == 0; }
  void wake(Warp& warp, std::uint32_t lanes) { warp.runnable |= lanes; }
  void wait_as(const char* operation, Source at, const Barrier* barrier = nullptr, int detail = 0);

  void complete_meeting(Warp& warp, std::size_t index);
  void complete_block_barrier(Block& block);
  void complete_cluster_barrier();
  void end_phase_if_complete(Barrier& barrier);
  void finish_copy(const Copy& copy);
  void finish_bulk_copy(std::size_t index);
  void finish_bulk_store(BulkStore& store);
  void finish_product(Warp& warp, const Product& product);
  void execute_product(const Warp& warp, const Product& product, float* const (&sums)[kWarp]);
  Rows product_rows(const Warp& warp, const Product& product);
  std::vector<std::uint32_t> product_columns(const Warp& warp, const Product& product);
  std::vector<std::uint32_t> shared_operand(const Block& block, const char* name, std::uint64_t descriptor, int first,
                                            int count, Source at);

  std::string describe_waiting(const Fiber& fiber) const;
  [[noreturn]] void fail_deadlocked();

  const Extent blocks_;
  const Extent threads_;
  const Options options_;
  const std::function<void()>& kernel_;
  std::deque<GuardedMemory> shared_;  // of each block of a cluster
  std::mt19937_64 random_;

  jmp_buf scheduler_;
  Fiber* running_ = nullptr;
  const void* fault_address_ = nullptr;
  std::exception_ptr error_;

  // Of the cluster.
  std::vector<Block> cluster_;
  std::vector<Warp*> warps_;
  std::vector<unsigned> preference_;  // per warp
  int last_ = 0;                      // the thread that ran last, as an index into the lanes of all warps
  std::vector<BulkCopy> bulk_copies_;
  std::vector<BulkStore> bulk_stores_;  // those that no wait has covered, finished or not
  std::uint64_t cluster_barriers_ = 0;  // times that the cluster's barrier has completed
};

Launch* launched = nullptr;

// --- Scheduling ----------------------------------------------------------------------------------------------------

void Launch::run_cluster(Extent first) {
  cluster_.clear();
  cluster_.reserve(shared_.size());
  warps_.clear();
  bulk_copies_.clear();
  bulk_stores_.clear();
  cluster_barriers_ = 0;
  const std::size_t count = std::size_t(threads_.x) * threads_.y * threads_.z;
  const std::size_t warps = (count + kWarp - 1) / kWarp;
  for (unsigned rank = 0; rank < shared_.size(); ++rank) {
    cluster_.push_back({rank, {first.x + rank, first.y, first.z}, &shared_[rank], std::vector<Fiber>(count),
                        std::vector<Warp>(warps)});
  }
  for (Block& block : cluster_) start_block(block);
  GuardedMemory::allow_held(false);
  preference_.assign(warps_.size(), 0);
  for (unsigned& preference : preference_) preference = unsigned(random_());
  last_ = int(warps_.size()) * kWarp - 1;
  while (std::any_of(cluster_.begin(), cluster_.end(), [](const Block& block) { return block.alive(); })) {
    if (options_.completion == Completion::random && !bulk_copies_.empty() && chance(16)) {
      finish_bulk_copy(random_() % bulk_copies_.size());
    }
    if (options_.completion == Completion::random && !bulk_stores_.empty() && chance(16)) {
      finish_bulk_store(bulk_stores_[random_() % bulk_stores_.size()]);
    }
    Fiber* const fiber = next();
    if (fiber == nullptr) {
      if (bulk_copies_.empty()) fail_deadlocked();
      finish_bulk_copy(random_() % bulk_copies_.size());
      continue;
    }
    Block& block = *fiber->warp->block;
    block.started = true;
    running_ = fiber;
    position = &fiber->position;
    const Resumed resumed = resume(*fiber);
    if (resumed == faulted) {
      const std::string what = stacks().in_guard(fault_address_) ? "the emulator's stack of the thread"
                                                                 : GuardedMemory::describe(fault_address_);
      throw Error(text(describe(*fiber), " read or wrote ", what, " (address ", fault_address_, ")",
                       fiber->at.line != 0 ? "; the last operation it came to: " + place(fiber->at) : ""));
    }
    if (error_) std::rethrow_exception(error_);
    running_ = nullptr;
    // Not only when the cluster's last block ends: by then copies that this one did not wait for may have finished.
    if (!block.alive()) check_end_of_block(block);
  }
}

void Launch::start_block(Block& block) {
  block.shared->fill_with_nan();
  block.warpgroup_products.resize((block.warps.size() + kWarpgroupWarps - 1) / kWarpgroupWarps);
  for (std::size_t i = 0; i < block.warps.size(); ++i) {
    Warp& warp = block.warps[i];
    warp.block = &block;
    warp.index = int(i);
    warp.threads = &block.fibers[i * kWarp];
    warps_.push_back(&warp);
  }
  for (std::size_t i = 0; i < block.fibers.size(); ++i) {
    Fiber& fiber = block.fibers[i];
    fiber.index = int(i);
    fiber.warp = &block.warps[i / kWarp];
    fiber.warp->alive |= fiber.lane_bit();
    fiber.warp->runnable |= fiber.lane_bit();
    const auto x = unsigned(i);
    fiber.position = {{x % threads_.x, x / threads_.x % threads_.y, x / threads_.x / threads_.y},
                      block.index,
                      threads_,
                      blocks_,
                      block.rank,
                      block.shared->data()};
    getcontext(&fiber.start);
    const std::size_t stack = block.rank * block.fibers.size() + i;
    fiber.start.uc_stack.ss_sp = stacks().get(stack);
    // Stacks that started at the same offset in their pages would share a few sets of the cache.
    fiber.start.uc_stack.ss_size = Stacks::kBytes - stack * 192 % 4096;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, &Launch::thread_main, 0);
  }
}

void Launch::check_end_of_block(const Block& block) {
  GuardedMemory::allow_held(true);  // a block that has nothing to do need not wait
  const std::string damage = GuardedMemory::damage();
  if (!damage.empty()) throw Error(damage);
  for (const BulkCopy& copy : bulk_copies_) {
    if (copy.block != &block) continue;
    throw Error(text(place(copy.at), ": the block ended before this bulk copy did: nothing waits for it"));
  }
  for (const Barrier& barrier : block.barriers) {
    if (barrier.bytes != 0) {
      throw Error(text("the block ended while the barrier at shared byte ",
                       reinterpret_cast<unsigned char*>(barrier.word) - block.shared->data(), " still needed ",
                       barrier.bytes, " bytes (negative: more were copied than expected)"));
    }
  }
  for (const Warp& warp : block.warps) {
    const auto& products = block.warpgroup_products[std::size_t(warp.index / kWarpgroupWarps)];
    if (warp.products_started != products.size()) {
      throw Error(text(place(products[warp.products_started].at), ": warp ", warp.index,
                       " took no part in this warpgroup_multiply"));
    }
  }
}

void Launch::thread_main() {
  Launch& launch = *launched;
  try {
    launch.kernel_();
    launch.exit_thread(*launch.running_);
  } catch (...) {
    launch.error_ = std::current_exception();
  }
  _longjmp(launch.scheduler_, yielded);
}

__attribute__((noinline)) Launch::Resumed Launch::resume(Fiber& fiber) {
  const int resumed = _setjmp(scheduler_);
  if (resumed == 0) {
    if (running_->started) _longjmp(running_->context, 1);
    fiber.started = true;
    setcontext(&fiber.start);
  }
  return resumed == faulted ? faulted : yielded;
}

__attribute__((noinline)) void Launch::yield() {
  if (_setjmp(running_->context) == 0) _longjmp(scheduler_, yielded);
}

void Launch::fault(const void* address) {
  fault_address_ = address;
  _longjmp(scheduler_, faulted);
}

void Launch::exit_thread(Fiber& fiber) {
  ++fiber.copy_group;
  copy_async_wait(fiber, 0);
  // Unlike copy_async's, even those that have finished: whether they have is chance.
  for (const BulkStore& store : bulk_stores_) {
    if (store.thread != &fiber) continue;
    throw Error(text(place(store.at), ": the thread ended before this bulk_store was read: nothing waits for it (",
                     describe(fiber), ")"));
  }
  Warp& warp = *fiber.warp;
  if (warp.last_product_end > warp.groups_waited_for) {
    fail(warp.last_product, "exits without warpgroup_wait for this product");
  }
  if (warp.cluster_arrivals != warp.cluster_waits) {
    fail(warp.last_cluster_arrive, "exits without cluster_wait after this cluster_arrive");
  }
  warp.alive &= ~fiber.lane_bit();
  warp.runnable &= ~fiber.lane_bit();
  for (std::size_t i = 0; i < warp.meetings.size();) {
    Meeting& meeting = warp.meetings[i];
    if ((meeting.lanes & fiber.lane_bit()) == 0) {
      ++i;
      continue;
    }
    if (!meeting.may_exit) {
      fail(meeting.at, text("exits, but other lanes of its warp wait for it in ", meeting.operation));
    }
    meeting.lanes &= ~fiber.lane_bit();
    if (meeting.arrived == meeting.lanes) {
      complete_meeting(warp, i);
    } else {
      ++i;
    }
  }
  complete_block_barrier(*warp.block);
  complete_cluster_barrier();
}

Fiber* Launch::next() {
  const int warps = int(warps_.size());
  const auto runnable = [&](int warp) { return warps_[std::size_t(warp)]->runnable; };
  int warp = -1, first_lane = 0;
  if (options_.order == Order::round_robin) {
    const int start = (last_ + 1) % (warps * kWarp);
    if (runnable(start / kWarp) >> (start % kWarp) != 0) {
      warp = start / kWarp;
      first_lane = start % kWarp;
    }
    for (int i = 1; i <= warps && warp < 0; ++i) {
      const int candidate = (start / kWarp + i) % warps;
      if (runnable(candidate) != 0) warp = candidate;
    }
  } else {
    const bool starve = options_.order == Order::starve;
    if (starve && chance(32)) preference_[random_() % preference_.size()] = unsigned(random_());
    const int start = int(random_() % unsigned(warps));
    for (int i = 0; i < warps; ++i) {
      const int candidate = (start + i) % warps;
      if (runnable(candidate) == 0) continue;
      if (warp < 0 || preference_[std::size_t(candidate)] > preference_[std::size_t(warp)]) warp = candidate;
      if (!starve) break;
    }
    first_lane = int(random_() % kWarp);
  }
  if (warp < 0) return nullptr;
  const std::uint32_t later = runnable(warp) & kAllLanes << first_lane;
  const int lane = __builtin_ctz(later != 0 ? later : runnable(warp));
  last_ = warp * kWarp + lane;
  return warps_[std::size_t(warp)]->threads + lane;
}

bool Launch::late() {
  if (options_.completion == Completion::random) return chance(2);
  return options_.completion == Completion::late;
}

void Launch::pass() {
  if (options_.order != Order::round_robin && chance(4)) yield();
}

/// The running thread waits until it is woken.
void Launch::wait_as(const char* operation, Source at, const Barrier* barrier, int detail) {
  Fiber& fiber = *running_;
  fiber.operation = operation, fiber.at = at, fiber.barrier = barrier, fiber.detail = detail;
  fiber.warp->runnable &= ~fiber.lane_bit();
}

// --- Messages ------------------------------------------------------------------------------------------------------

void Launch::fail(Source at, const std::string& what) {
  throw Error(text(place(at), ": ", running_ != nullptr ? describe(*running_) : "the emulator", " ", what));
}

std::string Launch::describe_waiting(const Fiber& fiber) const {
  const Block& block = *fiber.warp->block;
  std::string what = text("wait in ", fiber.operation);
  if (fiber.barrier != nullptr) {
    const Barrier& barrier = *fiber.barrier;
    what += text(" for parity ", fiber.detail, " of the barrier at shared byte ",
                 reinterpret_cast<unsigned char*>(barrier.word) - block.shared->data(), ", which is in phase ",
                 barrier.phase, " and needs ", barrier.pending, " arrivals and ", barrier.bytes, " bytes");
  } else if (fiber.detail != 0) {
    const NamedBarrier& barrier = block.named_barriers[std::size_t(fiber.detail)];
    what += text(" ", fiber.detail, ", at which whole warps with ", barrier.arrived, " threads are");
  }
  return what + text(", ", place(fiber.at));
}

void Launch::fail_deadlocked() {
  std::string message;
  for (const Block& block : cluster_) {
    message += text(block.rank == 0 ? "" : "\n", "no thread of ", describe(block.index), " can go on");
    for (std::size_t i = 0; i < block.fibers.size();) {
      const auto line = [&](std::size_t thread) {
        const Fiber& fiber = block.fibers[thread];
        return (fiber.warp->alive & fiber.lane_bit()) != 0 ? describe_waiting(fiber) : std::string("have exited");
      };
      const std::string first = line(i);
      std::size_t end = i + 1;
      while (end < block.fibers.size() && line(end) == first) ++end;
      message += text("\n  threads ", i, " to ", end - 1, " ", first);
      i = end;
    }
  }
  throw Error(message);
}

// --- Shared memory and copies --------------------------------------------------------------------------------------

unsigned char* Launch::inside_shared(const void* shared, std::size_t bytes, std::size_t alignment, const char* what,
                                     Source at) {
  const auto address = reinterpret_cast<std::uintptr_t>(shared);
  const GuardedMemory& own = *running_->warp->block->shared;
  const auto begin = reinterpret_cast<std::uintptr_t>(own.data());
  if (address < begin || address + bytes > begin + own.bytes()) {
    fail(at, text(what, " of ", bytes, " bytes is not inside the block's ", own.bytes(),
                  " bytes of shared memory but at byte ", std::int64_t(address - begin)));
  }
  if (address % alignment != 0) fail(at, text(what, " at shared byte ", address - begin, " is misaligned"));
  return own.data() + (address - begin);
}

std::uint32_t Launch::shared_address(const void* shared, Source at) {
  // One past the end is an address that code may form.
  return std::uint32_t(inside_shared(shared, 0, 1, "address", at) - running_->position.shared) + kSharedBase;
}

/// The bytes in the shared memory of the cluster's block `rank` that lie where `shared` is in the running thread's.
unsigned char* Launch::remote_shared(const void* shared, unsigned rank, std::size_t bytes, Source at) {
  if (rank >= cluster_.size()) {
    fail(at, text("uses store_remote on block ", rank, " of a cluster of ", cluster_.size()));
  }
  const Block& block = cluster_[rank];
  const std::ptrdiff_t offset = inside_shared(shared, bytes, bytes, "store_remote", at) - running_->position.shared;
  // On the GPU its shared memory may be another's before it starts and after it has ended.
  if (!block.started) fail(at, text("uses store_remote on ", describe(block.index), ", which has not started"));
  if (!block.alive()) fail(at, text("uses store_remote on ", describe(block.index), ", whose threads have all exited"));
  return block.shared->data() + offset;
}

/// Faults now, in the thread and at the operation to blame, if the memory cannot be read.
void touch(const unsigned char* global, std::size_t bytes) {
  constexpr std::size_t kPage = 4096;
  const volatile unsigned char* const bytes_read = global;
  for (std::size_t i = 0; i < bytes; i += kPage) (void)bytes_read[i];
  if (bytes != 0) (void)bytes_read[bytes - 1];
}

void Launch::copy_async(Copy copy, Source at) {
  copy.shared = inside_shared(copy.shared, std::size_t(copy.bytes), std::size_t(copy.bytes), "copy_async", at);
  if (reinterpret_cast<std::uintptr_t>(copy.global) % std::size_t(copy.bytes) != 0) {
    fail(at, "reads from a misaligned global address in copy_async");
  }
  if (copy.valid < 0 || copy.valid > copy.bytes) fail(at, text("asks copy_async for ", copy.valid, " bytes"));
  running_->at = at;
  touch(copy.global, std::size_t(copy.valid));
  if (late()) {
    std::memset(copy.shared, kNaN, std::size_t(copy.bytes));
    copy.group = running_->copy_group;
    running_->copies.push_back(copy);
  } else {
    finish_copy(copy);
  }
}

void Launch::finish_copy(const Copy& copy) {
  if (copy.valid > 0) std::memcpy(copy.shared, copy.global, std::size_t(copy.valid));
  std::memset(copy.shared + copy.valid, 0, std::size_t(copy.bytes - copy.valid));
}

void Launch::copy_async_wait(Fiber& fiber, std::uint64_t pending_groups) {
  const std::uint64_t end = fiber.copy_group < pending_groups ? 0 : fiber.copy_group - pending_groups;
  while (!fiber.copies.empty() && fiber.copies.front().group < end) {
    finish_copy(fiber.copies.front());
    fiber.copies.pop_front();
  }
}

// --- mbarriers -----------------------------------------------------------------------------------------------------

void Launch::barrier_init(std::uint64_t* word, int arrivals, Source at) {
  inside_shared(word, sizeof *word, sizeof *word, "barrier", at);
  if (arrivals < 1 || arrivals >= 1 << 20) fail(at, text("makes a barrier of ", arrivals, " arrivals"));
  std::deque<Barrier>& barriers = running_->warp->block->barriers;
  for (const Barrier& barrier : barriers) {
    if (barrier.word == word) fail(at, "initialises a barrier for the second time");
  }
  *word = kBarrierMark + barriers.size();
  barriers.push_back({word, arrivals, arrivals});
  pass();
}

Barrier& Launch::barrier_at(std::uint64_t* word, Source at) {
  inside_shared(word, sizeof *word, sizeof *word, "barrier", at);
  return barrier_of(*running_->warp->block, word, at);
}

Barrier& Launch::barrier_of(Block& block, std::uint64_t* word, Source at) {
  std::deque<Barrier>& barriers = block.barriers;
  const std::uint64_t index = *word - kBarrierMark;
  if (index >= barriers.size() || barriers[index].word != word) {
    fail(at, "uses a barrier that has not been initialised, or has been overwritten");
  }
  return barriers[index];
}

void Launch::barrier_arrive(Barrier& barrier, std::uint32_t expected_bytes, Source at) {
  if (barrier.pending == 0) {
    fail(at, text("arrives at a barrier whose phase ", barrier.phase, " has had its ", barrier.arrivals,
                  " arrivals and only needs ", barrier.bytes, " bytes"));
  }
  barrier.bytes += expected_bytes;
  if (std::abs(barrier.bytes) >= 1 << 20) fail(at, "makes a barrier count 2^20 bytes or more");
  --barrier.pending;
  running_->at = at;
  end_phase_if_complete(barrier);
  pass();
}

void Launch::end_phase_if_complete(Barrier& barrier) {
  if (barrier.pending != 0 || barrier.bytes != 0) return;
  for (const Barrier::Waiter& waiter : barrier.waiters) {
    const Fiber& fiber = *waiter.thread;
    if (waiter.phase < barrier.phase) {
      fail(fiber.at, text("ends phase ", barrier.phase, " of the barrier for which thread ", fiber.index,
                          " may still be waiting here for phase ", waiter.phase, ", and would wait on"));
    }
    wake(*fiber.warp, fiber.lane_bit());
  }
  ++barrier.phase;
  barrier.pending = barrier.arrivals;
}

void Launch::barrier_wait(Barrier& barrier, int parity, Source at) {
  if (parity != 0 && parity != 1) fail(at, text("waits for parity ", parity));
  if (int(barrier.phase % 2) != parity) return pass();
  const Fiber* const thread = running_;
  barrier.waiters.push_back({thread, barrier.phase});
  wait_as("barrier_wait", at, &barrier, parity);
  yield();
  const auto own = [&](const Barrier::Waiter& waiter) { return waiter.thread == thread; };
  barrier.waiters.erase(std::find_if(barrier.waiters.begin(), barrier.waiters.end(), own));
}

void Launch::bulk_copy(void* shared, const void* global, std::uint32_t bytes, std::uint64_t* word, Source at) {
  const Barrier& barrier = barrier_at(word, at);
  if (bytes == 0 || bytes % 16 != 0) fail(at, text("asks bulk_copy for ", bytes, " bytes"));
  const auto* const source = static_cast<const unsigned char*>(global);
  if (reinterpret_cast<std::uintptr_t>(source) % 16 != 0) {
    fail(at, "reads from a misaligned global address in bulk_copy");
  }
  if (const void* const outside = GuardedMemory::slack_in(source, bytes)) fail(at, text("reads ", GuardedMemory::describe(outside), " in bulk_copy"));
  running_->at = at;
  touch(source, bytes);
  const std::size_t index = *barrier.word - kBarrierMark;
  unsigned char* const destination = inside_shared(shared, bytes, 16, "bulk_copy", at);
  bulk_copies_.push_back({destination, source, bytes, running_->warp->block, index, at});
  if (late()) {
    std::memset(shared, kNaN, bytes);
  } else {
    finish_bulk_copy(bulk_copies_.size() - 1);
  }
  pass();
}

void Launch::store_remote(void* shared, unsigned rank, const void* value, std::uint64_t* word, Source at) {
  unsigned char* const destination = remote_shared(shared, rank, 16, at);
  auto* const remote_word = reinterpret_cast<std::uint64_t*>(remote_shared(word, rank, sizeof *word, at));
  Block& block = cluster_[rank];
  const std::size_t index = *barrier_of(block, remote_word, at).word - kBarrierMark;
  running_->at = at;
  BulkCopy copy{destination, nullptr, 16, &block, index, at};
  std::memcpy(copy.value.data(), value, 16);
  bulk_copies_.push_back(copy);
  if (late()) {
    std::memset(destination, kNaN, 16);
  } else {
    finish_bulk_copy(bulk_copies_.size() - 1);
  }
  pass();
}

void Launch::finish_bulk_copy(std::size_t index) {
  const BulkCopy copy = bulk_copies_[index];
  bulk_copies_.erase(bulk_copies_.begin() + std::ptrdiff_t(index));
  std::memcpy(copy.shared, copy.global == nullptr ? copy.value.data() : copy.global, copy.bytes);
  Barrier& barrier = copy.block->barriers[copy.barrier];
  if (*barrier.word != kBarrierMark + copy.barrier) fail(copy.at, "finds the barrier of this bulk_copy overwritten");
  barrier.bytes -= copy.bytes;
  if (std::abs(barrier.bytes) >= 1 << 20) fail(copy.at, "makes a barrier count 2^20 bytes or more");
  end_phase_if_complete(barrier);
}

// --- Bulk stores ---------------------------------------------------------------------------------------------------

void Launch::bulk_store(void* global, const void* shared, std::uint32_t bytes, Source at) {
  if (bytes == 0 || bytes % 16 != 0) fail(at, text("asks bulk_store for ", bytes, " bytes"));
  const unsigned char* const source = inside_shared(shared, bytes, 16, "bulk_store", at);
  auto* const destination = static_cast<unsigned char*>(global);
  if (reinterpret_cast<std::uintptr_t>(destination) % 16 != 0) {
    fail(at, "writes to a misaligned global address in bulk_store");
  }
  running_->at = at;
  // Also faults now, in the thread and at the operation to blame, if the memory cannot be written.
  std::memset(destination, kNaN, bytes);
  bulk_stores_.push_back({destination, source, bytes, running_, running_->bulk_store_group, at});
  if (!late()) finish_bulk_store(bulk_stores_.back());
  pass();
}

/// Copies what shared memory holds now, unless it has done so before.
void Launch::finish_bulk_store(BulkStore& store) {
  if (!store.finished) std::memcpy(store.global, store.shared, store.bytes);
  store.finished = true;
}

void Launch::bulk_store_wait(Fiber& fiber, std::uint64_t pending_groups) {
  const std::uint64_t end = fiber.bulk_store_group < pending_groups ? 0 : fiber.bulk_store_group - pending_groups;
  const auto covered = [&](const BulkStore& store) { return store.thread == &fiber && store.group < end; };
  for (BulkStore& store : bulk_stores_) {
    if (covered(store)) finish_bulk_store(store);
  }
  bulk_stores_.erase(std::remove_if(bulk_stores_.begin(), bulk_stores_.end(), covered), bulk_stores_.end());
}

// --- Operations of several lanes -----------------------------------------------------------------------------------

void Launch::meet(const char* operation, std::array<std::uint64_t, 3> key, std::uint32_t lanes, bool may_exit,
                  void* argument, bool (*complete)(Warp&, Meeting&), Source at) {
  Fiber& fiber = *running_;
  Warp& warp = *fiber.warp;
  if (may_exit) lanes &= warp.alive;
  if ((lanes & fiber.lane_bit()) == 0) fail(at, text("is not one of the lanes of its ", operation));
  if ((lanes & ~warp.alive) != 0) fail(at, text("waits in ", operation, " for lanes that do not exist or have exited"));
  std::size_t index = 0;
  while (index < warp.meetings.size() && (warp.meetings[index].lanes & lanes) == 0) ++index;
  if (index == warp.meetings.size()) {
    warp.meetings.push_back({operation, key, lanes, 0, may_exit, {}, at, complete});
  }
  Meeting& meeting = warp.meetings[index];
  if (meeting.operation != operation || meeting.lanes != lanes || meeting.key != key) {
    fail(at, text("comes to ", operation, " while other lanes of its warp are at ", place(meeting.at), ", in ",
                  meeting.operation, meeting.operation == operation ? " with other lanes or operands" : ""));
  }
  meeting.arrived |= fiber.lane_bit();
  meeting.arguments[std::size_t(fiber.index % kWarp)] = argument;
  wait_as(operation, at, nullptr, operation == kNamedBarrier ? int(key[0]) : 0);
  if (meeting.arrived == meeting.lanes) complete_meeting(warp, index);
  if ((warp.runnable & fiber.lane_bit()) != 0) {
    pass();
  } else {
    yield();
  }
}

void Launch::complete_meeting(Warp& warp, std::size_t index) {
  Meeting meeting = warp.meetings[index];
  warp.meetings.erase(warp.meetings.begin() + std::ptrdiff_t(index));
  if (meeting.lanes != 0 && meeting.complete(warp, meeting)) wake(warp, meeting.lanes);
}

bool Launch::arrive_at_named_barrier(Warp& warp, int id, int threads, Source at) {
  NamedBarrier& barrier = warp.block->named_barriers[std::size_t(id)];
  if (barrier.arrived != 0 && barrier.threads != threads) {
    fail(at, text("comes to named_barrier ", id, " of ", threads, " threads, where others wait for ", barrier.threads));
  }
  barrier.threads = threads;
  barrier.arrived += kWarp;
  barrier.warps.push_back(&warp);
  if (id == 0) {
    complete_block_barrier(*warp.block);
  } else if (barrier.arrived == threads) {
    for (Warp* waiting : barrier.warps) wake(*waiting, waiting->alive);
    barrier = {};
  }
  return false;
}

/// __syncthreads is over when every warp that has not exited is there.
void Launch::complete_block_barrier(Block& block) {
  NamedBarrier& barrier = block.named_barriers[0];
  const auto alive =
      std::count_if(block.warps.begin(), block.warps.end(), [](const Warp& warp) { return warp.alive != 0; });
  if (barrier.warps.empty() || std::ptrdiff_t(barrier.warps.size()) != alive) return;
  for (Warp* waiting : barrier.warps) wake(*waiting, waiting->alive);
  barrier = {};
}

void Launch::arrive_at_cluster_barrier(Warp& warp, Source at) {
  if (warp.cluster_arrivals != warp.cluster_waits) fail(at, "uses cluster_arrive twice without cluster_wait");
  ++warp.cluster_arrivals;
  warp.last_cluster_arrive = at;
  complete_cluster_barrier();
}

/// Whether the warp can go on.
bool Launch::wait_for_cluster_barrier(Warp& warp, Source at) {
  if (warp.cluster_arrivals == warp.cluster_waits) fail(at, "uses cluster_wait without cluster_arrive before");
  ++warp.cluster_waits;
  return warp.cluster_waits <= cluster_barriers_;
}

/// The cluster's barrier is over when every warp that has not exited has arrived; not all of them may wait yet.
void Launch::complete_cluster_barrier() {
  bool any = false;
  for (const Warp* warp : warps_) {
    if (warp->alive == 0) continue;
    if (warp->cluster_arrivals == cluster_barriers_) return;
    any = true;
  }
  if (!any) return;
  ++cluster_barriers_;
  for (Warp* warp : warps_) {
    if (warp->cluster_waits == cluster_barriers_) wake(*warp, warp->alive);
  }
}

// --- Warpgroup products --------------------------------------------------------------------------------------------

/// `count` vectors of an operand, rows of a or columns of b, from `first` on (multiples of 8): their words, in
/// [depth][vector], as they are in shared memory now.
std::vector<std::uint32_t> Launch::shared_operand(const Block& block, const char* name, std::uint64_t descriptor,
                                                  int first, int count, Source at) {
  const auto field = [&](int bit) { return std::uint32_t(descriptor >> bit & 0x3fffu) << 4; };
  const std::uint32_t start = field(0), depth_stride = field(16), vector_stride = field(32);
  std::vector<std::uint32_t> words(std::size_t(kWordsDeep * count));
  for (int vector = 0; vector < count; vector += 8) {
    for (int depth = 0; depth < kWordsDeep; depth += 4) {
      const std::uint32_t core = start + std::uint32_t((first + vector) / 8) * vector_stride +
                                 std::uint32_t(depth / 4) * depth_stride;
      if (core < kSharedBase || core - kSharedBase + 128 > block.shared->bytes()) {
        fail(at, text("has operand ", name, " of warpgroup_multiply outside shared memory, at byte ",
                      std::int64_t(core) - kSharedBase));
      }
      for (int n = 0; n < 8; ++n) {
        for (int k = 0; k < 4; ++k) {
          std::memcpy(&words[std::size_t((depth + k) * count + vector + n)],
                      block.shared->data() + (core - kSharedBase) + n * 16 + k * 4, 4);
        }
      }
    }
  }
  return words;
}

/// The warp's rows of a: what its lanes passed, or what is in shared memory now.
Rows Launch::product_rows(const Warp& warp, const Product& product) {
  if (!product.key.a) return product.a;
  const int first = warp.index % kWarpgroupWarps * kRows;
  const std::vector<std::uint32_t> words =
      shared_operand(*warp.block, "a", *product.key.a, first, kRows, product.key.at);
  Rows rows;
  for (int lane = 0; lane < kWarp; ++lane) {
    for (int i = 0; i < 4; ++i) {
      rows.of_lane[lane][i] = words[std::size_t(word_in_register(lane, i) * kRows + row_in_register(lane, i))];
    }
  }
  return rows;
}

std::vector<std::uint32_t> Launch::product_columns(const Warp& warp, const Product& product) {
  return shared_operand(*warp.block, "b", product.key.b, 0, product.key.columns, product.key.at);
}

void Launch::execute_product(const Warp& warp, const Product& product, float* const (&sums)[kWarp]) {
  const ProductKey& key = product.key;
  const Rows rows = product_rows(warp, product);
  multiply(key.words, key.columns, rows.of_lane, product_columns(warp, product).data(), key.accumulate, sums);
}

void Launch::start_product(Warp& warp, Product product, const std::array<float*, kWarp>& sums) {
  const ProductKey key = product.key;
  const std::size_t warpgroup = std::size_t(warp.index / kWarpgroupWarps);
  if ((warpgroup + 1) * kWarpgroupWarps > warp.block->warps.size()) fail(key.at, "is in no complete warpgroup");
  if (!warp.fenced) fail(key.at, "starts a product before its first warpgroup_fence");
  constexpr std::uint64_t kUsedBits = 0x3fffu | 0x3fffull << 16 | 0x3fffull << 32;
  if (((key.a.value_or(0) | key.b) & ~kUsedBits) != 0) {
    fail(key.at, "uses a descriptor with bits that are not emulated");
  }
  std::vector<ProductKey>& keys = warp.block->warpgroup_products[warpgroup];
  if (warp.products_started == keys.size()) {
    keys.push_back(key);
  } else {
    const ProductKey& other = keys[warp.products_started];
    if (other.words != key.words || other.columns != key.columns || other.a != key.a || other.b != key.b ||
        other.accumulate != key.accumulate) {
      fail(key.at, text("starts a product that differs from what another warp of its warpgroup started instead at ",
                        place(other.at)));
    }
  }
  ++warp.products_started;
  warp.last_product = key.at;
  warp.last_product_end = warp.group + 1;
  product.group = warp.group;

  const int count = key.columns / 2;
  const auto same = [&](const std::shared_ptr<Sums>& other) { return other->of_lane == sums; };
  const auto found = std::find_if(warp.sums.begin(), warp.sums.end(), same);
  if (found == warp.sums.end()) {
    for (const auto& other : warp.sums) {
      if (sums[0] < other->of_lane[0] + other->count && other->of_lane[0] < sums[0] + count) {
        fail(key.at, "starts a product whose sums overlap those of one under way");
      }
    }
    if (!late()) {
      float* of_lane[kWarp];
      std::copy(sums.begin(), sums.end(), of_lane);
      execute_product(warp, product, of_lane);
      return;
    }
    product.sums = std::make_shared<Sums>(Sums{sums, count});
    for (float* of_lane : sums) {
      product.sums->values.insert(product.sums->values.end(), of_lane, of_lane + count);
      std::memset(of_lane, kNaN, sizeof(float) * std::size_t(count));
    }
    warp.sums.push_back(product.sums);
  } else {
    if ((*found)->count != count) fail(key.at, "starts a product of another shape on sums that are under way");
    product.sums = *found;
  }
  product_rows(warp, product), product_columns(warp, product);  // check their addresses
  ++product.sums->products;
  warp.products.push_back(std::move(product));
}

void Launch::finish_product(Warp& warp, const Product& product) {
  Sums& sums = *product.sums;
  const std::size_t bytes = sizeof(float) * std::size_t(sums.count);
  for (const float* of_lane : sums.of_lane) {
    const auto* const begin = reinterpret_cast<const unsigned char*>(of_lane);
    if (std::any_of(begin, begin + bytes, [](unsigned char byte) { return byte != kNaN; })) {
      fail(product.key.at, "has written sums of this product while it was under way");
    }
  }
  float* values[kWarp];
  for (int lane = 0; lane < kWarp; ++lane) values[lane] = &sums.values[std::size_t(lane * sums.count)];
  execute_product(warp, product, values);
  if (--sums.products != 0) return;
  for (int lane = 0; lane < kWarp; ++lane) std::memcpy(sums.of_lane[std::size_t(lane)], values[lane], bytes);
  warp.sums.erase(std::find(warp.sums.begin(), warp.sums.end(), product.sums));
}

void Launch::wait_for_products(Warp& warp, std::uint64_t pending_groups) {
  const std::uint64_t end = warp.group < pending_groups ? 0 : warp.group - pending_groups;
  while (!warp.products.empty() && warp.products.front().group < end) {
    finish_product(warp, warp.products.front());
    warp.products.pop_front();
  }
  warp.groups_waited_for = std::max(warp.groups_waited_for, end);
}

// --- Memory faults -------------------------------------------------------------------------------------------------

/// While it lives, a fault in a thread of the kernel ends the launch with an Error.
class FaultHandler {
 public:
  FaultHandler() {
    stack_t stack = {};
    stack.ss_sp = stack_;
    stack.ss_size = sizeof stack_;
    sigaltstack(&stack, &old_stack_);
    struct sigaction action = {};
    action.sa_sigaction = &FaultHandler::handle;
    // Not blocked while handled: it is left with longjmp. On its own stack: the thread's may have overflowed.
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &action, &old_segv_);
    sigaction(SIGBUS, &action, &old_bus_);
  }
  ~FaultHandler() {
    sigaction(SIGSEGV, &old_segv_, nullptr);
    sigaction(SIGBUS, &old_bus_, nullptr);
    sigaltstack(&old_stack_, nullptr);
  }
  FaultHandler(const FaultHandler&) = delete;
  FaultHandler& operator=(const FaultHandler&) = delete;

 private:
  static void handle(int signal, siginfo_t* info, void*) {
    if (launched != nullptr && launched->in_thread()) launched->fault(info->si_addr);
    struct sigaction standard = {};
    standard.sa_handler = SIG_DFL;
    sigaction(signal, &standard, nullptr);  // the access is repeated, and ends the process
  }

  static inline unsigned char stack_[64 * 1024];
  stack_t old_stack_ = {};
  struct sigaction old_segv_ = {};
  struct sigaction old_bus_ = {};
};

/// Makes a launch the one whose threads call the operations.
class Launched {
 public:
  explicit Launched(Launch& launch) { launched = &launch; }
  ~Launched() {
    launched = nullptr, position = nullptr;
    GuardedMemory::release_held();
  }
  Launched(const Launched&) = delete;
  Launched& operator=(const Launched&) = delete;
};

}  // namespace

// --- What a test calls ---------------------------------------------------------------------------------------------

std::ostream& operator<<(std::ostream& stream, const Options& options) {
  constexpr const char* kOrders[] = {"round_robin", "random", "starve"};
  constexpr const char* kCompletions[] = {"early", "late", "random"};
  return stream << "order " << kOrders[int(options.order)] << ", completion " << kCompletions[int(options.completion)]
                << ", seed " << options.seed;
}

std::vector<Options> many_options(int seeds) {
  std::vector<Options> all = {{Order::round_robin, Completion::early, 0}, {Order::round_robin, Completion::late, 0}};
  for (int seed = 1; seed <= seeds; ++seed) {
    for (Order order : {Order::random, Order::starve}) {
      for (Completion completion : {Completion::early, Completion::late, Completion::random}) {
        all.push_back({order, completion, std::uint64_t(seed)});
      }
    }
  }
  return all;
}

void launch(Extent blocks, Extent threads, std::size_t shared_bytes, const Options& options,
            const std::function<void()>& kernel, unsigned cluster_size) {
  if (launched != nullptr) throw Error("a launch from within a launch");
  const std::size_t count = std::size_t(threads.x) * threads.y * threads.z;
  if (count == 0 || count > kMaxThreads) throw Error(text("a block of ", count, " threads"));
  if (shared_bytes > kMaxShared) throw Error(text(shared_bytes, " bytes of shared memory"));
  if (blocks.y > 65535 || blocks.z > 65535 || blocks.x == 0 || blocks.y == 0 || blocks.z == 0) {
    throw Error(text("a grid of (", blocks.x, ", ", blocks.y, ", ", blocks.z, ") blocks"));
  }
  if (cluster_size == 0 || cluster_size > kMaxCluster || blocks.x % cluster_size != 0) {
    throw Error(text("clusters of ", cluster_size, " blocks in a grid that is ", blocks.x, " wide"));
  }
  Launch launch(blocks, threads, shared_bytes, options, kernel, cluster_size);
  const FaultHandler handler;
  const Launched current(launch);
  launch.run();
}

// --- What the kernel calls -----------------------------------------------------------------------------------------

std::uint32_t shared_address(const void* shared, Source at) { return launched->shared_address(shared, at); }
void pass() { launched->pass(); }
int lane() { return launched->running().index % kWarp; }

void wait_for_kernel_before() { GuardedMemory::allow_held(true); }

void copy_async(void* shared, const void* global, int bytes, int valid, Source at) {
  launched->copy_async(
      {static_cast<unsigned char*>(shared), static_cast<const unsigned char*>(global), bytes, valid, 0}, at);
  launched->pass();
}

void copy_async_commit() { ++launched->running().copy_group; }

void copy_async_wait(int pending) {
  launched->pass();
  launched->copy_async_wait(launched->running(), std::uint64_t(pending));
}

void barrier_init(std::uint64_t* barrier, int arrivals, Source at) { launched->barrier_init(barrier, arrivals, at); }

void barrier_arrive(std::uint64_t* barrier, std::uint32_t expected_bytes, Source at) {
  launched->barrier_arrive(launched->barrier_at(barrier, at), expected_bytes, at);
}

void barrier_wait(std::uint64_t* barrier, int parity, Source at) {
  launched->barrier_wait(launched->barrier_at(barrier, at), parity, at);
}

void bulk_copy(void* shared, const void* global, std::uint32_t bytes, std::uint64_t* barrier, Source at) {
  launched->bulk_copy(shared, global, bytes, barrier, at);
}

void bulk_store(void* global, const void* shared, std::uint32_t bytes, Source at) {
  launched->bulk_store(global, shared, bytes, at);
}

void bulk_store_commit() { ++launched->running().bulk_store_group; }

void bulk_store_wait(int pending) {
  launched->pass();
  launched->bulk_store_wait(launched->running(), std::uint64_t(pending));
}

void named_barrier(int id, int threads, Source at) {
  if (id == 0) {
    const auto arrive = [](Warp& warp, Meeting& meeting) {
      return launched->arrive_at_named_barrier(warp, 0, 0, meeting.at);
    };
    launched->meet("__syncthreads", {0, 0}, kAllLanes, true, nullptr, arrive, at);
    return;
  }
  if (id < 0 || id > 15) launched->fail(at, text("uses named_barrier ", id));
  if (threads <= 0 || threads % kWarp != 0) launched->fail(at, text("uses named_barrier for ", threads, " threads"));
  const auto arrive = [](Warp& warp, Meeting& meeting) {
    return launched->arrive_at_named_barrier(warp, int(meeting.key[0]), int(meeting.key[1]), meeting.at);
  };
  launched->meet(kNamedBarrier, {std::uint64_t(id), std::uint64_t(threads)}, kAllLanes, true, nullptr, arrive, at);
}

void cluster_arrive(Source at) {
  const auto arrive = [](Warp& warp, Meeting& meeting) {
    launched->arrive_at_cluster_barrier(warp, meeting.at);
    return true;
  };
  launched->meet("cluster_arrive", {0, 0}, kAllLanes, true, nullptr, arrive, at);
}

void cluster_wait(Source at) {
  const auto wait = [](Warp& warp, Meeting& meeting) { return launched->wait_for_cluster_barrier(warp, meeting.at); };
  launched->meet("cluster_wait", {0, 0}, kAllLanes, true, nullptr, wait, at);
}

void store_remote(void* shared, unsigned rank, const void* value, std::uint64_t* barrier, Source at) {
  launched->store_remote(shared, rank, value, barrier, at);
}

void synchronize_warp(std::uint32_t mask, Source at) {
  launched->meet("__syncwarp", {0, 0}, mask, true, nullptr, [](Warp&, Meeting&) { return true; }, at);
}

std::uint64_t shuffle(std::uint32_t mask, std::uint64_t value, int source_lane, Source at) {
  struct Exchange {
    std::uint64_t value;
    int source_lane;
    std::uint64_t result;
  };
  Exchange own = {value, source_lane, 0};
  const auto exchange = [](Warp&, Meeting& meeting) {
    for (std::size_t i = 0; i < kWarp; ++i) {
      if ((meeting.lanes >> i & 1u) == 0) continue;
      Exchange& one = *static_cast<Exchange*>(meeting.arguments[i]);
      if (one.source_lane < 0 || one.source_lane >= kWarp || (meeting.lanes >> one.source_lane & 1u) == 0) {
        launched->fail(meeting.at, text("shuffles with lane ", one.source_lane, ", which takes no part"));
      }
      one.result = static_cast<Exchange*>(meeting.arguments[std::size_t(one.source_lane)])->value;
    }
    return true;
  };
  launched->meet("a shuffle", {0, 0}, mask, true, &own, exchange, at);
  return own.result;
}

void store_16_bytes(void* global, const void* value, Source at) {
  if (reinterpret_cast<std::uintptr_t>(global) % 16 != 0) launched->fail(at, "stores 16 bytes to a misaligned address");
  launched->running().at = at;
  std::memcpy(global, value, 16);
}

void warp_multiply(Words words, float* sum, const std::uint32_t* a, std::uint32_t b0, std::uint32_t b1, Source at) {
  struct Operands {
    float* sum;
    const std::uint32_t* a;
    std::uint32_t b[2];
  };
  Operands own = {sum, a, {b0, b1}};
  const auto complete = [](Warp&, Meeting& meeting) {
    std::uint32_t rows[kWarp][4], b[kWordsDeep * 8];
    float* sums[kWarp];
    for (int lane = 0; lane < kWarp; ++lane) {
      const Operands& operands = *static_cast<Operands*>(meeting.arguments[std::size_t(lane)]);
      sums[lane] = operands.sum;
      std::copy(operands.a, operands.a + 4, rows[lane]);
      for (int i = 0; i < 2; ++i) b[(lane % 4 + 4 * i) * 8 + lane / 4] = operands.b[i];
    }
    multiply(Words(meeting.key[0]), 8, rows, b, true, sums);
    return true;
  };
  launched->meet("warp_multiply", {std::uint64_t(words), 0}, kAllLanes, false, &own, complete, at);
}

std::uint64_t matrix_descriptor(const void* shared, unsigned depth_stride, unsigned column_stride, Source at) {
  const std::uint32_t address = launched->shared_address(shared, at);
  if (address % 16 != 0 || depth_stride % 16 != 0 || column_stride % 16 != 0) {
    launched->fail(at, "describes a matrix that is not aligned to 16 bytes");
  }
  if (depth_stride >= 1u << 18 || column_stride >= 1u << 18) launched->fail(at, "describes a matrix with wide strides");
  return std::uint64_t((address & 0x3ffffu) >> 4) | std::uint64_t(depth_stride >> 4) << 16 |
         std::uint64_t(column_stride >> 4) << 32;
}

void warpgroup_fence(Source at) {
  const auto complete = [](Warp& warp, Meeting&) { return warp.fenced = true; };
  launched->meet("warpgroup_fence", {0, 0}, kAllLanes, false, nullptr, complete, at);
}

void warpgroup_commit(Source at) {
  const auto complete = [](Warp& warp, Meeting&) {
    ++warp.group;
    return true;
  };
  launched->meet("warpgroup_commit", {0, 0}, kAllLanes, false, nullptr, complete, at);
}

void warpgroup_wait(int pending, Source at) {
  const auto complete = [](Warp& warp, Meeting& meeting) {
    launched->wait_for_products(warp, meeting.key[0]);
    return true;
  };
  launched->meet("warpgroup_wait", {std::uint64_t(pending), 0}, kAllLanes, false, nullptr, complete, at);
}

namespace {
/// `registers` are null if a is in shared memory.
void meet_in_product(const ProductKey& key, float* sum, const std::uint32_t* registers) {
  struct Operands {
    ProductKey key;
    float* sum;
    const std::uint32_t* registers;
  };
  Operands own = {key, sum, registers};
  const auto complete = [](Warp& warp, Meeting& meeting) {
    Product product = {static_cast<Operands*>(meeting.arguments[0])->key, {}, nullptr, 0};
    product.key.at = meeting.at;
    std::array<float*, kWarp> sums;
    for (std::size_t i = 0; i < kWarp; ++i) {
      const Operands& operands = *static_cast<Operands*>(meeting.arguments[i]);
      sums[i] = operands.sum;
      if (!product.key.a) std::copy(operands.registers, operands.registers + 4, product.a.of_lane[i]);
    }
    launched->start_product(warp, std::move(product), sums);
    return true;
  };
  const std::uint64_t form = std::uint64_t(key.columns) << 8 | std::uint64_t(key.a.has_value()) << 7 |
                             std::uint64_t(key.words) << 1 | std::uint64_t(key.accumulate);
  launched->meet("warpgroup_multiply", {form, key.a.value_or(0), key.b}, kAllLanes, false, &own, complete, key.at);
}
}  // namespace

void warpgroup_multiply(Words words, float* sum, int columns, const std::uint32_t* a, std::uint64_t b, bool accumulate,
                        Source at) {
  meet_in_product({words, columns, std::nullopt, b, accumulate, at}, sum, a);
}

void warpgroup_multiply(Words words, float* sum, int columns, std::uint64_t a, std::uint64_t b, bool accumulate,
                        Source at) {
  meet_in_product({words, columns, a, b, accumulate, at}, sum, nullptr);
}

}  // namespace convt_gemm::emulator

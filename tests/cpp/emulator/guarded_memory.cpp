#include "emulator/guarded_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <stdexcept>
#include <vector>

namespace convt_gemm::emulator {
namespace {

constexpr std::size_t kPage = 4096;
constexpr unsigned char kNaN = 0xff;

std::vector<const GuardedMemory*>& all_memory() {
  static std::vector<const GuardedMemory*> all;
  return all;
}

/// What the kernel ahead of the next launch is at work on, and whether it is done.
struct Held {
  std::vector<const GuardedMemory*> memories;
  bool allowed = true;
};
Held& held() {
  static Held all;
  return all;
}

std::size_t round_up(std::size_t n, std::size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

}  // namespace

GuardedMemory::GuardedMemory(std::size_t bytes, std::size_t alignment) : bytes_(bytes) {
  if (alignment == 0 || (alignment & (alignment - 1)) != 0 || alignment > kPage) {
    throw std::invalid_argument("GuardedMemory: the alignment is a power of two up to 4096");
  }
  const std::size_t aligned = round_up(bytes, alignment);
  pages_bytes_ = round_up(aligned, kPage);
  void* pages = mmap(nullptr, pages_bytes_ + 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) throw std::bad_alloc();
  pages_ = static_cast<unsigned char*>(pages) + kPage;
  if (pages_bytes_ != 0 && mprotect(pages_, pages_bytes_, PROT_READ | PROT_WRITE) != 0) {
    munmap(pages, pages_bytes_ + 2 * kPage);
    throw std::bad_alloc();
  }
  data_ = pages_ + pages_bytes_ - aligned;
  fill_with_nan();
  all_memory().push_back(this);
}

GuardedMemory::~GuardedMemory() {
  all_memory().erase(std::find(all_memory().begin(), all_memory().end(), this));
  std::vector<const GuardedMemory*>& memories = held().memories;
  memories.erase(std::remove(memories.begin(), memories.end(), this), memories.end());
  munmap(pages_ - kPage, pages_bytes_ + 2 * kPage);
}

void GuardedMemory::fill_with_nan() {
  if (pages_bytes_ != 0) std::memset(pages_, kNaN, pages_bytes_);
}

std::string GuardedMemory::describe(const void* address) {
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  for (const GuardedMemory* memory : all_memory()) {
    const auto begin = reinterpret_cast<std::uintptr_t>(memory->data_), end = begin + memory->bytes_;
    const auto first = reinterpret_cast<std::uintptr_t>(memory->pages_);
    if (at < first - kPage || at >= first + memory->pages_bytes_ + kPage) continue;
    const bool waits = !held().allowed && std::find(held().memories.begin(), held().memories.end(), memory) != held().memories.end();
    const std::string array = " an array of " + std::to_string(memory->bytes_) + " bytes" + (waits ? ", before wait_for_kernel_before" : "");
    if (at < begin) return std::to_string(begin - at) + " bytes before" + array;
    if (at >= end) return std::to_string(at - end) + " bytes past the end of" + array;
    return "byte " + std::to_string(at - begin) + " of" + array;
  }
  return "no array";
}

const void* GuardedMemory::slack_in(const void* from, std::size_t bytes) {
  const auto* const begin = static_cast<const unsigned char*>(from);
  const unsigned char* const end = begin + bytes;
  for (const GuardedMemory* memory : all_memory()) {
    const unsigned char *const first = memory->pages_, *const last = memory->pages_ + memory->pages_bytes_, *const data_end = memory->data_ + memory->bytes_;
    if (end <= first || begin >= last) continue;
    if (begin < memory->data_) return begin;
    if (end > data_end) return std::max(begin, data_end);
  }
  return nullptr;
}

void GuardedMemory::hold(std::initializer_list<const GuardedMemory*> memories) { held().memories = memories; }

void GuardedMemory::allow_held(bool allow) {
  if (held().allowed == allow) return;
  for (const GuardedMemory* memory : held().memories) {
    if (memory->pages_bytes_ != 0 && mprotect(memory->pages_, memory->pages_bytes_, allow ? PROT_READ | PROT_WRITE : PROT_NONE) != 0) throw std::bad_alloc();
  }
  held().allowed = allow;
}

void GuardedMemory::release_held() {
  allow_held(true);
  held().memories.clear();
}

std::string GuardedMemory::damage() {
  for (const GuardedMemory* memory : all_memory()) {
    const auto written = [](unsigned char byte) { return byte != kNaN; };
    const unsigned char* const end = memory->data_ + memory->bytes_;
    const unsigned char* const last = memory->pages_ + memory->pages_bytes_;
    const unsigned char* found = std::find_if(memory->pages_, memory->data_, written);
    if (found == memory->data_) found = std::find_if(end, last, written);
    if (found != last) return "was written: " + describe(found);
  }
  return "";
}

}  // namespace convt_gemm::emulator

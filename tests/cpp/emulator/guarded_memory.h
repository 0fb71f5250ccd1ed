#pragma once
// Memory between inaccessible pages, for operands of emulated kernels: an access past either end is found, as
// compute-sanitizer would find it.
#include <cstddef>
#include <initializer_list>
#include <string>

namespace convt_gemm::emulator {

/// `bytes` of memory, filled with 0xff (NaN of every dtype). They end at an inaccessible page, but for what rounding
/// them up to the alignment takes (a power of two up to 4096); that slack too is watched, for writes.
class GuardedMemory {
 public:
  explicit GuardedMemory(std::size_t bytes, std::size_t alignment = 16);
  ~GuardedMemory();
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;

  unsigned char* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  void fill_with_nan();

  /// What lies at the address, for an error message.
  static std::string describe(const void* address);
  /// What of [from, from + bytes) is slack of any GuardedMemory, where reading it is a mistake that does not fault; null if nothing is.
  static const void* slack_in(const void* from, std::size_t bytes);
  /// In the next launch the kernel ahead is taken to be at work on this memory still: a kernel that started early must not touch it before it has waited.
  static void hold(std::initializer_list<const GuardedMemory*> memories);
  /// What is held can be accessed, or not.
  static void allow_held(bool allow);
  /// Nothing is held any longer.
  static void release_held();

  /// An error message if the slack of any GuardedMemory has been written, else empty.
  static std::string damage();

 private:
  unsigned char* pages_ = nullptr;  // the accessible ones
  std::size_t pages_bytes_ = 0;
  unsigned char* data_ = nullptr;
  std::size_t bytes_ = 0;
};

/// An operand in guarded memory, NaN at first. `alignment` is what the kernel may rely on: the smaller, the closer the
/// array is to the inaccessible page.
template <class T>
class GlobalArray {
 public:
  explicit GlobalArray(std::size_t size, std::size_t alignment = 16)
      : memory_(size * sizeof(T), alignment), size_(size) {}

  T* data() const { return reinterpret_cast<T*>(memory_.data()); }
  std::size_t size() const { return size_; }
  T& operator[](std::size_t i) const { return data()[i]; }
  T* begin() const { return data(); }
  T* end() const { return data() + size_; }

 private:
  GuardedMemory memory_;
  std::size_t size_;
};

}  // namespace convt_gemm::emulator

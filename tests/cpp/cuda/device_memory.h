#pragma once
// Device memory of the tests. Every byte is written before it is read, so that initcheck has nothing to say about the
// tests.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>

#include "cuda/machine.h"
#include "support/dtype.h"

namespace convt_gemm::testing {

/// An operand: exactly its bytes, so that memcheck sees a read beyond them.
class DeviceArray {
 public:
  explicit DeviceArray(const Bytes& bytes) {
    if (bytes.empty()) return;
    check_cuda(cudaMalloc(&data_, bytes.size()), "cudaMalloc");
    check_cuda(cudaMemcpyAsync(data_, bytes.data(), bytes.size(), cudaMemcpyHostToDevice, Machine::get().stream()),
               "upload");
    Machine::get().synchronize();
  }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  const void* data() const { return data_; }

 private:
  void* data_ = nullptr;
};

/// Memory that a call writes: filled with NaN of every dtype, between guard bytes. Keeps its allocation from call to
/// call.
class GuardedMemory {
 public:
  static constexpr unsigned char kNaN = 0xff;

  GuardedMemory() = default;
  ~GuardedMemory() { cudaFree(base_); }
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;

  void reset(std::size_t bytes) {
    if (bytes > capacity_) {
      cudaFree(base_);
      capacity_ = bytes + bytes / 4;
      check_cuda(cudaMalloc(&base_, capacity_ + 2 * kGuardBytes), "cudaMalloc");
    }
    if (base_ == nullptr) check_cuda(cudaMalloc(&base_, 2 * kGuardBytes), "cudaMalloc");
    bytes_ = bytes;
    const cudaStream_t stream = Machine::get().stream();
    check_cuda(cudaMemsetAsync(base_, kGuard, bytes + 2 * kGuardBytes, stream), "fill guards");
    check_cuda(cudaMemsetAsync(data(), kNaN, bytes, stream), "fill with NaN");
  }

  /// Aligned to 256 bytes.
  void* data() const { return static_cast<unsigned char*>(base_) + kGuardBytes; }

  Bytes read() const { return copy(kGuardBytes, bytes_); }

  bool guards_intact() const {
    const auto intact = [](const Bytes& guard) {
      return std::all_of(guard.begin(), guard.end(), [](unsigned char byte) { return byte == kGuard; });
    };
    return intact(copy(0, kGuardBytes)) && intact(copy(kGuardBytes + bytes_, kGuardBytes));
  }

  bool untouched() const {
    const Bytes bytes = read();
    return guards_intact() && std::all_of(bytes.begin(), bytes.end(), [](unsigned char byte) { return byte == kNaN; });
  }

 private:
  static constexpr std::size_t kGuardBytes = 1024;
  static constexpr unsigned char kGuard = 0xab;

  Bytes copy(std::size_t offset, std::size_t bytes) const {
    Bytes result(bytes);
    const auto* from = static_cast<unsigned char*>(base_) + offset;
    check_cuda(cudaMemcpyAsync(result.data(), from, bytes, cudaMemcpyDeviceToHost, Machine::get().stream()),
               "download");
    Machine::get().synchronize();
    return result;
  }

  void* base_ = nullptr;
  std::size_t capacity_ = 0;
  std::size_t bytes_ = 0;
};

}  // namespace convt_gemm::testing

#pragma once
// The direct algorithm's kernels on the processor: memory that checks every load and store, and the oracle.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

#include "convt_gemm/reference.h"
#include "direct/direct_kernel.cuh"
#include "support/dtype.h"
#include "support/layout.h"
#include "support/values.h"

namespace convt_gemm::testing {

/// Bytes at an address that is a multiple of 16, as tensors on the GPU are.
class Aligned {
 public:
  explicit Aligned(const Bytes& bytes) : storage_((bytes.size() + 15) / 16 + 1), size_(bytes.size()) {
    if (!bytes.empty()) std::memcpy(data(), bytes.data(), size_);
  }
  unsigned char* data() { return reinterpret_cast<unsigned char*>(storage_.data()); }
  std::size_t size() const { return size_; }

 private:
  std::vector<direct::Words> storage_;
  std::size_t size_;
};

/// Memory as the kernels see it: refuses what is outside a tensor or not aligned, and counts the writes of each output.
struct CheckedAccess {
  struct Region {
    const unsigned char *begin, *end;
  };
  static inline std::array<Region, 3> readable;
  static inline unsigned char* output = nullptr;
  static inline std::size_t element_size = 0;
  static inline std::vector<int> writes;  // of each output element
  static inline int bad_reads = 0, bad_writes = 0;

  static bool can_read(const void* from, std::size_t bytes) {
    const auto* at = static_cast<const unsigned char*>(from);
    for (const Region& region : readable) {
      if (at >= region.begin && at + bytes <= region.end) return reinterpret_cast<std::uintptr_t>(from) % bytes == 0;
    }
    return false;
  }

  /// Part of what is asked for has to be the tensor's, or it would be for nothing.
  template <class T>
  static void prefetch(const T* at) {
    bad_reads += !can_read(at, sizeof(T));
  }
  template <class T>
  static void prefetch_run(const T* from, int count) {
    bad_reads += count <= 0 || !can_read(from, sizeof(T)) || !can_read(from + count - 1, sizeof(T));
  }
  static bool has_room_for(unsigned /*kernels*/) { return true; }
  static void begin() {}
  static void let_next_start() {}

  template <class T>
  static T load(const T* from) {
    if (can_read(from, sizeof(T))) return *from;
    ++bad_reads;
    return T{};
  }

  template <class T>
  static direct::Words load_vector(const T* from) {
    direct::Words words = {};
    if (can_read(from, sizeof words)) {
      std::memcpy(&words, from, sizeof words);
    } else {
      ++bad_reads;
    }
    return words;
  }

  template <int kBytes, int kCount, class T, class Acc, int kSize>
  static void load_run(const T* from, Acc (&to)[kSize]) {
    static_assert(kCount <= kSize && kCount * sizeof(T) % kBytes == 0, "whole loads");
    for (int i = 0; i < kCount; i += kBytes / int(sizeof(T))) bad_reads += !can_read(from + i, kBytes);
    for (int i = 0; i < kCount; ++i) to[i] = direct::widen(load(from + i));
  }

  template <class T>
  static void copy(T* to, const T* from, bool there) {
    *to = there ? load(from) : T{};
  }
  template <int kCount, class T>
  static void copy_run(T* to, const T* from) {
    load_run<16, kCount>(from, *reinterpret_cast<T(*)[kCount]>(to));
  }
  static void wait_for_copies() {}

  static void write(void* to, const void* from, std::size_t bytes) {
    const std::ptrdiff_t offset = static_cast<unsigned char*>(to) - output;
    if (offset < 0 || std::size_t(offset) + bytes > writes.size() * element_size || std::size_t(offset) % bytes != 0) {
      ++bad_writes;
      return;
    }
    for (std::size_t i = 0; i < bytes / element_size; ++i) ++writes[std::size_t(offset) / element_size + i];
    std::memcpy(to, from, bytes);
  }
  template <class T>
  static void store(T* to, T value) {
    write(to, &value, sizeof value);
  }
  template <class T>
  static void store_vector(T* to, const direct::Words& words) {
    write(to, &words, sizeof words);
  }

  template <int kCount, class T, class Acc>
  static void store_run(T* to, const Acc (&from)[kCount]) {
    constexpr int kBytes = std::min(16, kCount * int(sizeof(T))), kEach = kBytes / int(sizeof(T));
    for (int i = 0; i < kCount; i += kEach) {
      T each[kEach];
      for (int e = 0; e < kEach; ++e) each[e] = direct::round_to<T>(from[i + e]);
      write(to + i, each, kBytes);
    }
  }
};

/// A problem's tensors in its dtype and layout, reached through CheckedAccess. One at a time.
template <class T>
class CheckedTensors {
 public:
  CheckedTensors(const Problem& problem, const Operands& operands)
      : problem_(problem),
        input_(encode(problem.dtype,
                      arranged(operands.input, problem.layout, problem.in_channels, problem.input_positions()))),
        weight_(encode(problem.dtype, operands.weight)),
        bias_(problem.bias ? encode(problem.dtype, operands.bias) : Bytes()),
        output_(Bytes(std::size_t(problem.output_elements()) * sizeof(T), 0xff)) {
    using Access = CheckedAccess;
    Access::readable = {};
    int i = 0;
    for (Aligned* tensor : {&input_, &weight_, &bias_}) {
      Access::readable[std::size_t(i++)] = {tensor->data(), tensor->data() + tensor->size()};
    }
    Access::output = output_.data();
    Access::element_size = sizeof(T);
    Access::writes.assign(std::size_t(problem.output_elements()), 0);
    Access::bad_reads = Access::bad_writes = 0;
  }
  CheckedTensors(const CheckedTensors&) = delete;
  CheckedTensors& operator=(const CheckedTensors&) = delete;

  const T* input() { return reinterpret_cast<const T*>(input_.data()); }
  const T* weight() { return reinterpret_cast<const T*>(weight_.data()); }
  const T* bias() { return problem_.bias ? reinterpret_cast<const T*>(bias_.data()) : nullptr; }
  T* output() { return reinterpret_cast<T*>(output_.data()); }

  /// A failure of the test unless every access was right and every output is written exactly once.
  Bytes checked_output() {
    using Access = CheckedAccess;
    EXPECT_EQ(Access::bad_reads, 0) << to_string(problem_);
    EXPECT_EQ(Access::bad_writes, 0) << to_string(problem_);
    EXPECT_TRUE(std::all_of(Access::writes.begin(), Access::writes.end(), [](int count) { return count == 1; }))
        << to_string(problem_) << ": not every output is written exactly once";
    return Bytes(output_.data(), output_.data() + output_.size());
  }

 private:
  Problem problem_;
  Aligned input_, weight_, bias_, output_;
};

/// The problem's result in float64, in its layout.
inline std::vector<double> reference(const Problem& problem, const Operands& operands) {
  std::vector<double> output(std::size_t(problem.output_elements()));
  const std::vector<double> input =
      arranged(operands.input, problem.layout, problem.in_channels, problem.input_positions());
  reference_forward(problem, input.data(), operands.weight.data(), operands.bias.data(), output.data());
  return output;
}

}  // namespace convt_gemm::testing

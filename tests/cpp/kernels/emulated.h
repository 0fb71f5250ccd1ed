#pragma once
// What tests of kernels that the emulator runs have in common.
#include <cstring>
#include <memory>

#include "convt_gemm/plan.h"
#include "emulator/guarded_memory.h"
#include "support/dtype.h"

namespace convt_gemm::testing {

/// A small Hopper GPU, so that blocks have several tiles.
inline DeviceTraits hopper(int multiprocessors) {
  DeviceTraits traits;
  traits.device = Device::cuda;
  traits.compute_capability = 90;
  traits.multiprocessors = multiprocessors;
  return traits;
}

/// A copy between inaccessible pages.
inline std::unique_ptr<emulator::GuardedMemory> guarded(const Bytes& bytes) {
  auto memory = std::make_unique<emulator::GuardedMemory>(bytes.size());
  std::memcpy(memory->data(), bytes.data(), bytes.size());
  return memory;
}

}  // namespace convt_gemm::testing

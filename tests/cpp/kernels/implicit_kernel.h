#pragma once
// Runs one instance of the fused kernel in the emulator: the same source that the GPU runs, on operands in guarded memory.
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "convt_gemm/reference.h"
#include "emulator/emulator.h"
#include "implicit/kernel.cuh"
#include "support/dtype.h"
#include "support/layout.h"
#include "support/values.h"

namespace convt_gemm::testing {

/// An instance under test, without the number of its template arguments.
struct ImplicitKernel {
  std::string name;
  ImplicitTile tile;
  DType dtype;
  Precision precision;
  Layout layout;
  void (*multiply)(const implicit::Params&);
  void (*pack)(const implicit::Params&);
};

template <Family kFamily, implicit::Kind kKind, Layout kLayout, int kRows, int kColumns, int kWords, int kRowBlocks, int kLoaders>
ImplicitKernel implicit_kernel(const char* name) {
  using C = implicit::Config<kFamily, kKind, kLayout, kRows, kColumns, kWords, kRowBlocks, kLoaders>;
  constexpr bool kHalf = kKind == implicit::Kind::bfloat16 || kKind == implicit::Kind::float16;
  return {name,
          C::kTile,
          kKind == implicit::Kind::bfloat16  ? DType::bfloat16
          : kKind == implicit::Kind::float16 ? DType::float16
                                             : DType::float32,
          kHalf ? Precision::ieee : kKind == implicit::Kind::tf32x3 ? Precision::tf32x3 : Precision::tf32,
          kLayout,
          [](const implicit::Params& p) { implicit::implicit_gemm<C>(p); },
          [](const implicit::Params& p) { implicit::pack_weights<C>(p); }};
}

/// A small GPU, so that blocks have several tiles.
inline DeviceTraits emulated_traits(const ImplicitKernel& kernel, int multiprocessors) {
  DeviceTraits traits;
  traits.device = Device::cuda;
  traits.compute_capability = kernel.tile.family == Family::sm90 ? 90 : 80;
  traits.multiprocessors = multiprocessors;
  return traits;
}

/// Operands and output of a problem in guarded memory.
class EmulatedRun {
 public:
  EmulatedRun(const Problem& problem, const Operands& operands)
      : problem_(problem),
        x_(encode(problem.dtype, arranged(operands.input, problem.layout, problem.in_channels, problem.input_positions()))),
        weight_(encode(problem.dtype, operands.weight)),
        bias_(encode(problem.dtype, operands.bias)) {}

  /// The output's bytes, in the problem's layout.
  Bytes run(const ImplicitKernel& kernel, ImplicitGeometry geometry, bool packed, const emulator::Options& options) const {
    geometry.packed = packed;
    const auto guarded = [](const Bytes& bytes) {
      auto memory = std::make_unique<emulator::GuardedMemory>(bytes.size());
      std::memcpy(memory->data(), bytes.data(), bytes.size());
      return memory;
    };
    const auto x = guarded(x_), weight = guarded(weight_), bias = guarded(bias_);
    const emulator::GuardedMemory y(std::size_t(problem_.output_elements()) * size_of(problem_.dtype));
    implicit::Params params{geometry, x->data(), weight->data(), problem_.bias ? bias->data() : nullptr, y.data()};
    std::optional<emulator::GuardedMemory> workspace;
    if (packed) {
      workspace.emplace(std::size_t(packed_weight_bytes(geometry)), 16);
      implicit::Params to_packed = params;
      to_packed.y = workspace->data();
      params.weight = workspace->data();
      emulator::GuardedMemory::hold({x.get(), weight.get(), bias.get(), &y, &*workspace});
      emulator::launch({3}, {kWarpgroup}, 0, options, [&] { kernel.pack(to_packed); });
      emulator::GuardedMemory::hold({&*workspace});
    } else {
      emulator::GuardedMemory::hold({x.get(), weight.get(), bias.get(), &y});
    }
    emulator::launch({unsigned(geometry.blocks)}, {unsigned(kernel.tile.threads())}, std::size_t(geometry.shared_bytes), options,
                     [&] { kernel.multiply(params); });
    return Bytes(y.data(), y.data() + y.bytes());
  }

 private:
  Problem problem_;
  Bytes x_, weight_, bias_;
};

}  // namespace convt_gemm::testing

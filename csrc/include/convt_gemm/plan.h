#pragma once
// Planning: which algorithm, back end, tile and column pieces serve a problem. Pure host functions; nothing here runs on,
// or asks, a device.
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "convt_gemm/problem.h"
#include "convt_gemm/status.h"

namespace convt_gemm {

enum class Device : std::int8_t { cpu, cuda };

enum class Algorithm : std::int8_t {
  gemm_col2im,    ///< GEMM into per-tap column buffers in memory, then col2im adds them into the output
  direct,         ///< one pass without a GEMM: depthwise layers, layers of few channels or few output channels
  implicit_gemm,  ///< the column buffer never leaves the chip: one kernel multiplies, adds the taps and stores
};

enum class GemmBackend : std::int8_t {
  cpu,
  cublas,
  cutlass,
  native,  ///< the library's own CUDA kernels
};

/// How products of float32 values are formed. Every other dtype multiplies in its own precision and is planned as `ieee`;
/// 16-bit types accumulate in float32.
enum class Precision : std::int8_t {
  ieee,    ///< plain float32 multiply-add
  tf32,    ///< operands rounded to TF32 (10-bit mantissa), float32 accumulation
  tf32x3,  ///< three TF32 products per multiply: the error of plain float32 on tensor cores
};

const char* name_of(Algorithm algorithm);
const char* name_of(GemmBackend backend);
const char* name_of(Precision precision);
/// Accepts "ieee", "tf32" and "tf32x3".
Status parse_precision(std::string_view name, Precision* precision);

/// What the planner needs to know of the machine.
struct DeviceTraits {
  Device device = Device::cpu;
  int compute_capability = 90;          ///< cuda: major*10 + minor
  int multiprocessors = 132;            ///< cuda
  std::int64_t l2_bytes = 60 << 20;     ///< cuda: shared second-level cache
  int threads = 1;                      ///< cpu: threads that will run the plan
  std::int64_t core_cache_bytes = 512 << 10;  ///< cpu: second-level cache of one core
};

/// Default bound of the column workspace, in bytes.
inline constexpr std::int64_t kDefaultWorkspaceLimit = std::int64_t{512} << 20;

struct PlanOptions {
  Precision precision = Precision::ieee;  ///< wanted for float32; ignored for every other dtype
  /// "auto", or a plan's name, or a leading part of names that ends at an underscore: "gemm_col2im", "gemm_col2im_cublas".
  std::string_view algorithm = "auto";
  std::int64_t workspace_limit = kDefaultWorkspaceLimit;  ///< bytes; at least one output's columns are always taken
};

/// The part of a problem that goes through the column buffer at a time: up to `batch` samples and an `output` box.
struct Piece {
  std::int64_t batch = 1;
  std::array<std::int64_t, kMaxAxes> output{1, 1, 1};
};

struct Plan {
  Device device = Device::cpu;
  Algorithm algorithm = Algorithm::gemm_col2im;
  GemmBackend backend = GemmBackend::cpu;
  Precision precision = Precision::ieee;
  DType dtype = DType::float32;
  int instance = -1;  ///< row of the algorithm's table of kernel instances, or its kernel's number; -1 where there is just one
  bool joined = false;          ///< gemm_col2im: samples of a piece lie side by side as one product, for which x is first put in that order, in the workspace
  bool packed_weight = false;   ///< implicit_gemm: weights are first put in the kernel's order, in the workspace
  int splits = 1;               ///< implicit_gemm: blocks of a cluster that share out the depth of a tile
  int compute_capability = 0;   ///< implicit_gemm: of the device that the plan was made for, as in DeviceTraits
  int multiprocessors = 0;      ///< likewise
  Piece piece;
  std::size_t workspace_bytes = 0;  ///< what forward() needs in its context, 256-byte aligned
  double bytes = 0;                 ///< memory traffic of the algorithm, column buffer included
  double flops = 0;                 ///< multiplications and additions of the problem
  double predicted_seconds = 0;     ///< the model's estimate; orders plans, promises nothing

  /// Spells every choice: "gemm_col2im_cublas_tf32", "gemm_col2im_cublas_joined_tf32", "gemm_col2im_native_tf32x3",
  /// "gemm_col2im_cutlass_tf32x3_channels_first_64x128x16_align4", "gemm_col2im_cpu_float32",
  /// "implicit_gemm_sm90_tf32_channels_first_loaders1_128x64x32", "implicit_gemm_sm90_transposed_tf32_channels_first_136x128x32_splits2",
  /// "direct_float32", "direct_columns_float32", "direct_columns_mma_tf32", "direct_streamed_float32".
  std::string name() const;
  /// "128x128x32" (gemm_col2im: rows x positions x depth; implicit_gemm: positions x columns x words of depth); "" for back ends
  /// that decide by themselves.
  std::string tile() const;
};

/// Every legal plan for the problem with these options, in the order of predicted time. Empty if none is legal.
/// The problem must have passed validate().
std::vector<Plan> enumerate_plans(const Problem& problem, const DeviceTraits& traits, const PlanOptions& options);

/// The first of enumerate_plans(), or a message that says why there is none: also that of validate().
Status choose_plan(const Problem& problem, const DeviceTraits& traits, const PlanOptions& options, Plan* plan);

/// A few lines for a person: algorithm, back end, tile, pieces, workspace, bytes, FLOPs and predicted time.
std::string describe(const Problem& problem, const Plan& plan);

}  // namespace convt_gemm

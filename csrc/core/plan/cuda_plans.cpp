#include "plan/cuda_plans.h"

#include <algorithm>
#include <limits>

#include "plan/arithmetic.h"
#include "plan/cutlass_table.h"
#include "plan/direct_plans.h"
#include "plan/gemm_tile.h"
#include "plan/implicit_plans.h"
#include "plan/pieces.h"
#include "plan/transposed_plans.h"
#include "plan/transposed_table.h"
#include "plan/window_plans.h"
#include "plan/window_table.h"
#include "plan/work.h"
#include "util/residues.h"

namespace convt_gemm {
namespace {

// Rates were measured on one H200 (132 multiprocessors; PERFORMANCE.md beside the kernels), seconds of launches and of what small problems wait
// for on one H100, in graphs (plan/PERFORMANCE.md).
// They only order plans: other devices scale all of them alike.
constexpr double kCopyBandwidth = 4.28e12;   // bytes/s, read + written
constexpr double kNativeBandwidth = 3.1e12;  // bytes/s of the native GEMM, which re-reads operands from the L2 cache
constexpr double kCol2imBandwidth = 2.5e12;  // bytes/s over columns read and outputs written
constexpr double kCol2imLaunch = 1.3e-6;     // seconds,
constexpr double kCol2imIndices = 1.15e-6;   // for each axis more where every output has indices of its own,
constexpr double kCol2imTap = 0.28e-6;       // and for each tap of an output: their loads wait for each other
constexpr double kJoinLaunch = 1.2e-6;       // seconds, as are
constexpr double kProductLaunch = 3.3e-6, kCublasLaunch = 4.4e-6;
constexpr double kL2Bandwidth = 5.5e12;      // bytes/s of weights, which products of few positions read from L2 again and again,
constexpr double kWeightBandwidth = 2.2e12;  // the first time from memory,
constexpr std::int64_t kTilePositions = 128;  // once for so many positions of a product
// CUTLASS's tiles: seconds of a step of the depth, and for each element of both operands that it loads. What multiplies many tiles at a time is Rates::flops.
constexpr double kDepthStep = 0.10e-6, kStepElement = 0.1e-9;
constexpr double kNativeStep = 0.8e-6;   // of the native GEMM
constexpr double kCublasChannel = 3.5e-9, kCublasUnalignedChannel = 8e-9;  // seconds of an input channel of cuBLAS's products, however little else there is

constexpr std::int64_t kRowUnit = 16;                   // bytes: rows that are not whole ones
constexpr double kUnalignedRows = 3, kUnalignedTf32 = 2;  // make cuBLAS so many times slower

struct Rates {
  double flops;   ///< FLOP/s on large products
  double launch;  ///< seconds of a product's launch in a graph, whatever its size
  double bandwidth = kCopyBandwidth;  ///< bytes/s over operands read and columns written
  bool overlap = true;                ///< whether memory traffic hides behind arithmetic
};

Rates rates_of(GemmBackend backend, DType dtype, Precision precision) {
  const bool cublas = backend == GemmBackend::cublas, native = backend == GemmBackend::native;
  const double launch = cublas ? kCublasLaunch : kProductLaunch;
  switch (dtype) {
    case DType::float64:
      return {cublas ? 55e12 : 35e12, launch};
    case DType::bfloat16:
    case DType::float16:
      return {cublas ? 550e12 : 250e12, launch};
    case DType::float32:
      break;
  }
  switch (precision) {
    case Precision::tf32:
      return {cublas ? 190e12 : 140e12, launch, cublas ? 3.7e12 : 2.9e12};
    case Precision::tf32x3:
      if (native) return {55e12, launch, kNativeBandwidth};
      return {85e12, launch, kCopyBandwidth, false};
    case Precision::ieee:
      if (native) return {41e12, launch, kNativeBandwidth};
      return {cublas ? 56e12 : 54e12, launch, kCopyBandwidth, false};
  }
  return {1e12, launch};
}

Precision effective_precision(const Problem& problem, const PlanOptions& options) {
  return problem.dtype == DType::float32 ? options.precision : Precision::ieee;
}

/// Fills in the parts that do not depend on the back end.
Plan column_plan(const Problem& problem, const PlanOptions& options) {
  Plan plan;
  plan.device = Device::cuda;
  plan.algorithm = Algorithm::gemm_col2im;
  plan.dtype = problem.dtype;
  plan.precision = effective_precision(problem, options);
  const std::int64_t element = std::int64_t(column_size(problem.dtype));
  // Whole units of the workspace's alignment, so that rounding up stays within the limit.
  plan.piece = cut(problem, options.workspace_limit / kWorkspaceUnit * kWorkspaceUnit / element);
  plan.workspace_bytes = std::size_t(round_up(column_elements(problem, plan.piece) * element, kWorkspaceUnit));
  plan.flops = flops_of(problem);
  return plan;
}

/// Whether samples can be joined and it may pay: all of x is read, and samples have few positions. (Those of one position are one product as they lie.)
bool can_join(const Problem& problem) {
  constexpr std::int64_t kMostPositions = 256, kMost = std::int64_t{1} << 30;
  if (problem.layout != Layout::channels_first || problem.batch < 2 || problem.input_positions() < 2 || problem.input_positions() > kMostPositions) return false;
  for (const Axis& axis : problem.axes) {
    if (inputs_of(axis, {0, axis.output()}).size() != axis.input) return false;
  }
  return problem.input_elements() <= kMost && double(problem.taps()) * double(problem.batch * problem.input_positions()) <= double(kMost);
}

/// Bytes of a joined piece's columns and x.
std::int64_t joined_workspace(const Problem& problem, const Piece& piece) {
  return round_up(column_elements(problem, piece) * std::int64_t(column_size(problem.dtype)), kWorkspaceUnit) + joined_bytes(problem, piece.batch);
}

/// Makes pieces of whole samples, each piece one product; false if there is no room for a sample.
bool join(const Problem& problem, std::int64_t limit, Plan* plan) {
  if (!can_join(problem)) return false;
  Piece piece;
  piece.batch = 1;
  for (int a = 0; a < kMaxAxes; ++a) piece.output[a] = problem.axes[a].output();
  const std::int64_t samples = std::min(problem.batch, limit / joined_workspace(problem, piece));
  if (samples == 0) return false;
  piece.batch = ceil_div(problem.batch, ceil_div(problem.batch, samples));  // pieces of nearly equal size
  plan->joined = true, plan->piece = piece;
  plan->workspace_bytes = std::size_t(joined_workspace(problem, piece));
  return true;
}

/// Seconds of the steps of the depth that follow each other.
double time_of_steps(const Problem& problem, const Plan& plan, const GemmTile& tile) {
  constexpr std::int64_t kAtOnce = 2 * 132;  // tiles
  const std::int64_t tiles = ceil_div(problem.group_out_channels() * problem.taps(), std::int64_t{tile.rows}) * ceil_div(problem.input_positions(), std::int64_t{tile.positions}) *
                             std::max<std::int64_t>(plan.piece.batch, 1);
  const double step = plan.backend == GemmBackend::native ? kNativeStep : kDepthStep + kStepElement * double(tile.rows + tile.positions) * tile.depth;
  return double(ceil_div(tiles, kAtOnce) * ceil_div(problem.group_in_channels(), std::int64_t{tile.depth})) * step;
}

double col2im_launch(const Problem& problem) {
  return kCol2imLaunch + (problem.axes[2].stride > 2 ? kCol2imIndices * problem.rank : 0);
}

/// Seconds that the taps of an output follow each other.
double col2im_wait(const Problem& problem) {
  double taps = 1;
  for (const Axis& axis : problem.axes) taps *= double(residues_of(axis).most_taps);
  return kCol2imTap * taps;
}

/// `tile`: nullptr where the back end decides by itself.
void predict(const Problem& problem, const GemmTile* tile, Plan* plan) {
  const double item = double(size_of(problem.dtype));
  const double columns = double(problem.batch) * problem.out_channels * problem.taps() * problem.input_positions() *
                         double(column_size(problem.dtype));
  plan->bytes = tensor_bytes(problem) + 2 * columns;

  double flops = plan->flops;
  if (tile != nullptr) {
    const std::int64_t rows = problem.group_out_channels() * problem.taps();
    const std::int64_t positions = problem.input_positions();
    flops *= double(round_up(rows, tile->rows)) / rows * double(round_up(positions, tile->positions)) / positions;
    // Small tiles reload their operands more often than the tensor cores can wait for.
    if (tile->rows < 128 && tile->positions < 128) flops *= 2;
  }
  const double gemm_bytes = item * problem.input_elements() + item * problem.weight_elements() + columns;
  Rates rates = rates_of(plan->backend, problem.dtype, plan->precision);
  // Samples, or all samples of a piece, are products.
  const std::int64_t samples = std::max<std::int64_t>(problem.batch, 1), positions = problem.input_positions();
  const bool unaligned = plan->backend == GemmBackend::cublas && problem.layout == Layout::channels_first && !plan->joined && positions > 1 &&
                         positions * std::int64_t(size_of(problem.dtype)) % kRowUnit != 0;
  if (unaligned && problem.dtype != DType::float64 && !(problem.dtype == DType::float32 && plan->precision == Precision::ieee)) {
    const double slower = problem.dtype == DType::float32 ? kUnalignedTf32 : kUnalignedRows;
    rates.flops /= slower, rates.bandwidth /= slower;
  }
  const double pieces = double(count_pieces(problem, plan->piece));
  const double memory = gemm_bytes / rates.bandwidth, arithmetic = flops / rates.flops;
  const bool one_product = plan->joined || (plan->backend == GemmBackend::cublas && positions == 1);
  const std::int64_t position_tiles = one_product ? ceil_div(samples * positions, kTilePositions) : samples * ceil_div(positions, kTilePositions);
  const double weights = plan->backend == GemmBackend::cublas ? item * problem.weight_elements() * (1 / kWeightBandwidth + double(position_tiles - 1) / kL2Bandwidth) : 0;
  const double joining = plan->joined ? 2 * item * problem.input_elements() / kCopyBandwidth + kJoinLaunch * pieces : 0;
  const double steps = tile != nullptr ? time_of_steps(problem, *plan, *tile) : (unaligned ? kCublasUnalignedChannel : kCublasChannel) * double(problem.group_in_channels());
  const double gemm = std::max({rates.overlap ? std::max(memory, arithmetic) : memory + arithmetic, weights, steps}) + joining;
  const double col2im = (columns + item * problem.output_elements()) / kCol2imBandwidth + pieces * col2im_wait(problem);
  const double products = problem.groups == 1 ? 1.0 : double(std::min(problem.groups, std::max<std::int64_t>(plan->piece.batch, 1)));
  plan->predicted_seconds = gemm + col2im + pieces * (products * rates.launch + col2im_launch(problem));
}

/// Whether every pointer and leading dimension of the product is divisible by the instance's alignment: the weight's rows, the
/// input's inner extent in its layout, and the columns, which are stored 16 bytes at a time.
bool aligned(const Problem& problem, const Piece& piece, const CutlassInstance& instance) {
  if (instance.align == 1) return true;
  const std::int64_t align = instance.align;
  const std::int64_t column_align = 16 / std::int64_t(column_size(problem.dtype));
  // A cut piece, and one that a large padding crops, begins at any input of its axis and has any number of them, each of which
  // stands for all positions of the axes inside it.
  std::int64_t inside = 1;
  for (int a = kMaxAxes - 1; a >= 0; --a) {
    const Axis& axis = problem.axes[a];
    const bool whole = piece.output[a] == axis.output() && inputs_of(axis, {0, axis.output()}).size() == axis.input;
    if (!whole && inside % std::max(align, column_align) != 0) return false;
    inside *= axis.input;
  }
  const std::int64_t rows = problem.group_out_channels() * problem.taps();
  const std::int64_t inner =
      problem.layout == Layout::channels_first ? problem.input_positions() : problem.group_in_channels();
  return rows % align == 0 && inner % align == 0 && problem.input_positions() % column_align == 0;
}

/// The kernels take rows and depth as 32-bit numbers; strides are 64-bit, and CUTLASS gets its positions in parts.
bool fits_int(const Problem& problem) {
  constexpr std::int64_t kMax = std::numeric_limits<std::int32_t>::max();
  return problem.group_out_channels() * problem.taps() <= kMax && problem.in_channels <= kMax;
}

bool serves(const CutlassInstance& instance, const Problem& problem, const Plan& plan) {
  return instance.dtype == problem.dtype && instance.precision == plan.precision && instance.layout == problem.layout &&
         aligned(problem, plan.piece, instance) && fits_int(problem);
}

bool native_serves(const Problem& problem, const Plan& plan) {
  return problem.dtype == DType::float32 && problem.layout == Layout::channels_first && plan.precision != Precision::tf32 &&
         fits_int(problem);
}

}  // namespace

void append_cuda_plans(const Problem& problem, const DeviceTraits& traits, const PlanOptions& options,
                       std::vector<Plan>* plans) {
  if (traits.compute_capability < 80) return;
  Plan plan = column_plan(problem, options);
  if (plan.precision != Precision::tf32x3) {  // cuBLAS has no error-compensated TF32
    plan.backend = GemmBackend::cublas;
    predict(problem, nullptr, &plan);
    plans->push_back(plan);
    Plan joined = plan;
    if (join(problem, options.workspace_limit, &joined)) {
      predict(problem, nullptr, &joined);
      plans->push_back(joined);
    }
  }
  if (native_serves(problem, plan)) {
    plan.backend = GemmBackend::native;
    predict(problem, &kNativeTile, &plan);
    plans->push_back(plan);
  }
  plan.backend = GemmBackend::cutlass;
  for (std::size_t row = 0; row < kCutlassInstances; ++row) {
    const CutlassInstance& instance = cutlass_instances()[row];
    if (!serves(instance, problem, plan)) continue;
    plan.instance = int(row);
    predict(problem, &instance.tile, &plan);
    plans->push_back(plan);
  }
}

Status check_cuda_plan(const Problem& problem, const Plan& plan) {
  if (plan.algorithm == Algorithm::direct) return check_direct_plan(problem, plan);
  if (plan.algorithm == Algorithm::implicit_gemm && is_transposed(plan.instance)) {
    TransposedGeometry geometry;
    return transposed_geometry_of(problem, plan, &geometry);
  }
  if (plan.algorithm == Algorithm::implicit_gemm) {
    ImplicitGeometry geometry;
    return is_window(plan.instance) ? window_geometry_of(problem, plan, &geometry) : implicit_geometry_of(problem, plan, &geometry);
  }
  if (plan.instance >= int(kCutlassInstances)) {
    return Status::invalid("expected plan.instance to be below " + std::to_string(kCutlassInstances) + ", but got " +
                           std::to_string(plan.instance));
  }
  if (plan.device != Device::cuda || plan.dtype != problem.dtype) {
    return Status::invalid("expected a CUDA plan for " + std::string(name_of(problem.dtype)) + ", but got " + plan.name());
  }
  bool fits = plan.piece.batch > 0;
  for (std::int64_t outputs : plan.piece.output) fits = fits && outputs > 0;
  fits = fits && double(column_elements(problem, plan.piece)) * double(column_size(problem.dtype)) <= double(plan.workspace_bytes);
  if (plan.joined) {
    fits = fits && plan.backend == GemmBackend::cublas && can_join(problem) && joined_workspace(problem, plan.piece) <= std::int64_t(plan.workspace_bytes);
    for (int a = 0; a < kMaxAxes; ++a) fits = fits && plan.piece.output[a] == problem.axes[a].output();
  }
  if (plan.backend == GemmBackend::cutlass) {
    fits = fits && plan.instance >= 0 && serves(cutlass_instances()[plan.instance], problem, plan);
  }
  if (plan.backend == GemmBackend::native) fits = fits && native_serves(problem, plan);
  if (!fits) {
    return Status::invalid("expected a plan that was made for " + to_string(problem) + ", but got " + plan.name() +
                           " of another problem");
  }
  return {};
}

}  // namespace convt_gemm

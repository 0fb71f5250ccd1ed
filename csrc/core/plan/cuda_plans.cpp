#include "plan/cuda_plans.h"

#include <algorithm>
#include <limits>

#include "plan/arithmetic.h"
#include "plan/cutlass_table.h"
#include "plan/pieces.h"

namespace convt_gemm {
namespace {

// The model's constants were measured on one H200 (132 multiprocessors); PERFORMANCE.md beside the kernels has the runs.
// They only order plans: other devices scale all of them alike.
constexpr double kCopyBandwidth = 4.28e12;        // bytes/s, read + written
constexpr double kCol2imBandwidth = 3.6e12;       // bytes/s over columns read and outputs written
constexpr double kLaunchSeconds = 2.5e-6;

constexpr std::int64_t kWorkspaceUnit = 256;  // bytes

/// Arithmetic rate that a back end reaches on large products, FLOP/s.
double gemm_rate(GemmBackend backend, DType dtype, Precision precision) {
  const bool cublas = backend == GemmBackend::cublas;
  switch (dtype) {
    case DType::float64:
      return cublas ? 55e12 : 35e12;
    case DType::bfloat16:
    case DType::float16:
      return cublas ? 600e12 : 350e12;
    case DType::float32:
      break;
  }
  switch (precision) {
    case Precision::tf32:
      return cublas ? 330e12 : 200e12;
    case Precision::tf32x3:
      return 70e12;
    case Precision::ieee:
      return cublas ? 45e12 : 35e12;
  }
  return 1e12;
}

Precision effective_precision(const Problem& problem, const PlanOptions& options) {
  return problem.dtype == DType::float32 ? options.precision : Precision::ieee;
}

std::size_t column_size(DType dtype) { return dtype == DType::float64 ? 8 : 4; }

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
  plan.flops = 2.0 * problem.batch * problem.input_positions() * problem.in_channels * problem.group_out_channels() *
               problem.taps();
  return plan;
}

void predict(const Problem& problem, const CutlassInstance* instance, Plan* plan) {
  const double item = double(size_of(problem.dtype));
  const double columns = double(problem.batch) * problem.out_channels * problem.taps() * problem.input_positions() *
                         double(column_size(problem.dtype));
  const double tensors = item * (double(problem.input_elements()) + double(problem.output_elements()));
  plan->bytes = tensors + item * problem.weight_elements() + 2 * columns;

  double flops = plan->flops;
  if (instance != nullptr) {
    const std::int64_t rows = problem.group_out_channels() * problem.taps();
    const std::int64_t positions = problem.input_positions();
    flops *= double(round_up(rows, instance->tile_rows)) / rows * double(round_up(positions, instance->tile_positions)) /
             positions;
  }
  const double gemm_bytes = item * problem.input_elements() + item * problem.weight_elements() + columns;
  const double gemm = std::max(gemm_bytes / kCopyBandwidth, flops / gemm_rate(plan->backend, problem.dtype, plan->precision));
  const double col2im = (columns + item * problem.output_elements()) / kCol2imBandwidth;
  const double products = problem.groups == 1 ? 1.0 : double(std::min(problem.groups, std::max<std::int64_t>(plan->piece.batch, 1)));
  const double launches = double(count_pieces(problem, plan->piece)) * (products + 1);
  plan->predicted_seconds = gemm + col2im + launches * kLaunchSeconds;
}

/// Whether every pointer and leading dimension of the product is divisible by the instance's alignment: the weight's rows, the
/// input's inner extent in its layout, and the columns, which are stored 16 bytes at a time.
bool aligned(const Problem& problem, const Piece& piece, const CutlassInstance& instance) {
  if (instance.align == 1) return true;
  // A cut piece, and one that a large padding crops, begins at any input and has any number of them.
  for (int a = 0; a < kMaxAxes; ++a) {
    const Axis& axis = problem.axes[a];
    if (piece.output[a] != axis.output() || inputs_of(axis, {0, axis.output()}).size() != axis.input) return false;
  }
  const std::int64_t align = instance.align;
  const std::int64_t column_align = 16 / std::int64_t(column_size(problem.dtype));
  const std::int64_t rows = problem.group_out_channels() * problem.taps();
  const std::int64_t inner =
      problem.layout == Layout::channels_first ? problem.input_positions() : problem.group_in_channels();
  return rows % align == 0 && inner % align == 0 && problem.input_positions() % column_align == 0;
}

/// CUTLASS takes extents as 32-bit numbers; strides are 64-bit, and the back end cuts positions.
bool fits_int(const Problem& problem) {
  constexpr std::int64_t kMax = std::numeric_limits<std::int32_t>::max();
  return problem.group_out_channels() * problem.taps() <= kMax && problem.in_channels <= kMax;
}

bool serves(const CutlassInstance& instance, const Problem& problem, const Plan& plan) {
  return instance.dtype == problem.dtype && instance.precision == plan.precision && instance.layout == problem.layout &&
         aligned(problem, plan.piece, instance) && fits_int(problem);
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
  }
  plan.backend = GemmBackend::cutlass;
  for (std::size_t row = 0; row < kCutlassInstances; ++row) {
    const CutlassInstance& instance = cutlass_instances()[row];
    if (!serves(instance, problem, plan)) continue;
    plan.instance = int(row);
    predict(problem, &instance, &plan);
    plans->push_back(plan);
  }
}

Status check_cuda_plan(const Problem& problem, const Plan& plan) {
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
  if (plan.backend == GemmBackend::cutlass) {
    fits = fits && plan.instance >= 0 && serves(cutlass_instances()[plan.instance], problem, plan);
  }
  if (!fits) {
    return Status::invalid("expected a plan that was made for " + to_string(problem) + ", but got " + plan.name() +
                           " of another problem");
  }
  return {};
}

}  // namespace convt_gemm

#include "plan/cpu_plans.h"

#include <algorithm>

#include "plan/arithmetic.h"
#include "plan/cpu_schedule.h"
#include "plan/work.h"

namespace convt_gemm {
namespace {

// Round figures of current server cores; they only make the prediction readable, a CPU has one plan.
constexpr double kCoreFlops = 90e9;        // float32, half of it in float64
constexpr double kMemoryBandwidth = 15e9;  // bytes/s of one core
constexpr double kCallSeconds = 2e-6;

/// Positions of a tile. More than the most and the weights, read once per tile, no longer matter; fewer than the least
/// and they matter too much. A tile of a few channels costs little cache, but each tile a fixed effort. With channels
/// last a tile is small, so that its outputs stay in the cache until every block of channels has been written.
constexpr std::int64_t kLeastPositions = 192;
constexpr std::int64_t kMostPositions = 1024;
constexpr std::int64_t kMostPositionsOfFewChannels = 4096;
constexpr std::int64_t kFewChannels = 8;
/// More than a core's cache keeps between two tiles.
constexpr std::int64_t kManyWeightBytes = 1 << 20;

std::int64_t accumulator_size(DType dtype) { return dtype == DType::float64 ? 8 : 4; }

/// Outputs of `positions` steps of the stride, or the whole axis if they cover it.
std::int64_t outputs_of(const Problem& problem, int a, std::int64_t positions) {
  const Axis axis = cpu_axis(problem.axes[a]).axis;
  const std::int64_t output = problem.axes[a].output();
  const std::int64_t padded = axis.padding % axis.stride + output;
  return positions >= ceil_div(padded, axis.stride) ? output : positions * axis.stride;
}

std::int64_t steps(const Problem& problem, int a) {
  const Axis axis = cpu_axis(problem.axes[a]).axis;
  return ceil_div(axis.padding % axis.stride + problem.axes[a].output(), axis.stride);
}

/// Positions whose packed inputs fill half of a core's cache, within those bounds.
std::int64_t wanted_positions(const Problem& problem, const DeviceTraits& traits) {
  const std::int64_t channels = problem.group_in_channels();
  const std::int64_t fit = traits.core_cache_bytes / 2 / (channels * accumulator_size(problem.dtype));
  if (problem.layout == Layout::channels_last) return kLeastPositions;
  return std::clamp(fit, kLeastPositions, channels <= kFewChannels ? kMostPositionsOfFewChannels : kMostPositions);
}

/// Cuts an axis of `length` into equal parts of about `wanted`.
std::int64_t even_part(std::int64_t length, std::int64_t wanted) {
  return ceil_div(length, ceil_div(length, std::max<std::int64_t>(wanted, 1)));
}

/// Positions fill the tile from the innermost axis outwards, then samples.
Piece ideal_piece(const Problem& problem, const DeviceTraits& traits) {
  std::int64_t wanted = wanted_positions(problem, traits);
  // A single tile reads weights right after packing them: where there are many, it may be somewhat too large.
  double all = double(problem.batch);
  for (int a = 0; a < kMaxAxes; ++a) all *= double(steps(problem, a));
  if (all <= 2.0 * double(wanted) && problem.weight_elements() * accumulator_size(problem.dtype) > kManyWeightBytes)
    wanted *= 2;
  Piece piece;
  for (int a = kMaxAxes - 1; a >= 0; --a) {
    const std::int64_t length = steps(problem, a);
    const std::int64_t part = even_part(length, wanted);
    piece.output[a] = outputs_of(problem, a, part);
    wanted /= part;
  }
  piece.batch = even_part(std::max<std::int64_t>(problem.batch, 1), wanted);
  return piece;
}

/// The next smaller piece, cut over samples first, then from the outermost axis inwards; false if it is the smallest.
bool shrink(const Problem& problem, Piece* piece) {
  if (piece->batch > 1) {
    piece->batch = ceil_div(piece->batch, 2);
    return true;
  }
  for (int a = 0; a < kMaxAxes; ++a) {
    const std::int64_t stride = cpu_axis(problem.axes[a]).axis.stride;
    const std::int64_t part = std::min(steps(problem, a), ceil_div(piece->output[a], stride));
    if (part == 1) continue;
    piece->output[a] = outputs_of(problem, a, ceil_div(part, 2));
    return true;
  }
  return false;
}

void predict(const Problem& problem, const CpuSchedule& schedule, int threads, Plan* plan) {
  const double accumulator = double(accumulator_size(problem.dtype)), tensors = tensor_bytes(problem);
  const double leads = double(schedule.rows_per_channel) * double(problem.out_channels) * double(problem.batch);
  double positions = 1;
  for (int a = 0; a < kMaxAxes; ++a) positions *= double(steps(problem, a));
  plan->bytes =
      tensors +
      2 * accumulator * (leads * positions + double(problem.input_elements()) + double(problem.weight_elements()));
  plan->flops = flops_of(problem);
  const double rate = kCoreFlops * threads / (problem.dtype == DType::float64 ? 2 : 1);
  plan->predicted_seconds = kCallSeconds + std::max(plan->flops / rate, tensors / (kMemoryBandwidth * threads));
}

}  // namespace

void append_cpu_plans(const Problem& problem, const DeviceTraits& traits, const PlanOptions& options,
                      std::vector<Plan>* plans) {
  if (problem.dtype == DType::float32 && options.precision != Precision::ieee) return;
  Plan plan;
  plan.device = Device::cpu;
  plan.algorithm = Algorithm::gemm_col2im;
  plan.backend = GemmBackend::cpu;
  plan.precision = Precision::ieee;
  plan.dtype = problem.dtype;
  plan.piece = ideal_piece(problem, traits);

  const std::size_t limit = std::size_t(std::max<std::int64_t>(options.workspace_limit, 0));
  const int threads = std::max(traits.threads, 1);
  const auto needed = [&](const CpuSchedule& schedule, int team) {
    const CpuWorkers workers = cpu_workers(schedule, team, limit);
    return schedule.workspace_bytes(workers.threads, workers.shared_weights);
  };
  // Smaller pieces before fewer threads.
  CpuSchedule schedule(problem, plan.piece);
  while (cpu_workers(schedule, threads, limit).threads < threads && shrink(problem, &plan.piece)) {
    schedule = CpuSchedule(problem, plan.piece);
  }
  plan.workspace_bytes = needed(schedule, threads);
  predict(problem, schedule, threads, &plan);
  plans->push_back(plan);
}

}  // namespace convt_gemm

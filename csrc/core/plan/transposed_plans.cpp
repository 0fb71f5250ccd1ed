#include "plan/transposed_plans.h"

#include <algorithm>
#include <cmath>

#include "plan/arithmetic.h"
#include "plan/fused_plans.h"
#include "plan/window_table.h"
#include "plan/work.h"

namespace convt_gemm {
namespace {

using namespace fused_plans;

constexpr double kClock = 1.7e9;
constexpr double kLaunch = 2.0e-6;           // seconds, with putting x into order
constexpr double kStart = 3500;              // cycles of a tile until its first products, and after its last ones
constexpr double kHalfPlaneProduct = 1.3;    // for each cycle of the tensor cores, several axes and taps in 16 bits; from 1.0 to 1.3 by problem, and rather too slow than taken too often
// A product of p positions takes p (at least 32) where a thread's columns are read together, else what its words take and a part of p, in 32 and in 16 bits.
constexpr double kSingleWords[2] = {60, 95}, kSinglePosition[2] = {0.76, 0.72};
constexpr double kSplitProduct = 0.49;       // for each cycle of the tensor cores where words are split in two; else 1
constexpr double kSplitTap = 430;            // and cycles of each tap, which is waited for
constexpr double kSharedByte = 1.0 / 44;     // cycles for each byte of a stage
constexpr double kChunk = 95;                // cycles of a chunk besides
constexpr double kLeastChunk = 925;          // of a chunk, however little it holds
constexpr double kPosition = 19;             // cycles of storing a tile, for each of its positions
constexpr double kPlanePosition = 40, kHalfPlanePosition = 30;  // of several axes, in 32 and in 16 bits
constexpr double kScattered = 90;            // the same where threads store what they have, and that is short pieces
constexpr double kExchanged = 27;            // or where sums of several blocks are added
constexpr double kNextCluster = 3000;        // cycles until a cluster begins where another one has ended
constexpr double kCopyBandwidth = 4.28e12;   // bytes/s

void predict(const Problem& problem, const TransposedInstance& instance, const TransposedGeometry& t, const DeviceTraits& traits, Plan* plan) {
  const ImplicitGeometry& g = t.g;
  plan->bytes = tensor_bytes(problem);
  plan->flops = flops_of(problem);
  const int positions = instance.tile.positions;
  const bool split = instance.precision == Precision::tf32x3;
  const double chunks = double(g.chunks) / t.w.splits;
  const double taps = double(g.taps) / g.tap_blocks;
  const int groups = instance.tile.columns / kGroupColumns;
  const bool planes = instance.tile.axes == Axes::many;
  const bool half = size_of(problem.dtype) == 2;
  const bool singles = !t.w.paired && !split;
  const double paired_product = std::max(positions, 32) * (planes && half && g.taps > 1 ? kHalfPlaneProduct : split ? 3 * kSplitProduct : 1);
  const double product = singles ? kSingleWords[half] + kSinglePosition[half] * positions : paired_product;
  const double products = groups * taps * (instance.tile.words / 8) * product / 2 + (split ? kSplitTap * taps : 0);
  const double load = kSharedByte * (g.x_bytes / (split ? 2 : 1) + g.weight_bytes);
  const double chunk = std::max({products, load, kLeastChunk}) + kChunk + (g.stages < 3 ? std::min(products, load) / 4 : 0);  // with two stages, one is not always there in time
  const double position = planes ? (half ? kHalfPlanePosition : kPlanePosition) / t.w.splits + (t.w.splits > 1 ? kExchanged : 0) : t.w.splits > 1 ? kExchanged : t.w.staged || g.residues >= kGroupColumns ? kPosition : kScattered;
  const double tile = kStart + chunks * chunk + position * positions;
  // The blocks of a cluster are in one part of the chip, whose multiprocessors are no multiple of four: some are left over.
  const std::int64_t at_once = t.w.splits <= 2 ? traits.multiprocessors / t.w.splits : traits.multiprocessors * 10 / (11 * t.w.splits);
  double waves = 0;
  for (int range = 0; range < t.w.ranges; ++range) waves += double(ceil_div(std::int64_t{range_of(t, range).g.tiles}, std::max<std::int64_t>(at_once, 1)));
  const double between = t.w.splits > 1 ? (waves - 1) * kNextCluster : 0;
  const double memory = plan->bytes / kCopyBandwidth;
  const double order = planes ? 2 * double(plan->workspace_bytes) * t.w.ranges / kCopyBandwidth : 0;  // x into the workspace; of one axis it is little
  plan->predicted_seconds = kLaunch * t.w.ranges + order + std::max((waves * tile + between) / kClock, memory);
}

}  // namespace

void append_transposed_plans(const Problem& problem, const DeviceTraits& traits, const PlanOptions& options, std::vector<Plan>* plans) {
  if (!runs_on(Family::sm90, traits.compute_capability)) return;
  for (std::size_t row = 0; row < kTransposedInstances; ++row) {
    const TransposedInstance& instance = transposed_instances()[row];
    if (!forms_products(instance, problem, options.precision)) continue;
    Plan plan = plan_of(instance, int(kImplicitInstances + row), problem, traits);
    for (const int splits : {1, 2, 4, 8}) {
      TransposedGeometry geometry;
      if (!make_transposed_geometry(problem, plan.precision, instance.tile, splits, traits, &geometry)) continue;
      // Of one axis no more than weights would be, were they put into order instead.
      const std::int64_t weights = problem.weight_elements() * std::int64_t(size_of(problem.dtype)) * (instance.precision == Precision::tf32x3 ? 2 : 1);
      const std::int64_t most = instance.tile.axes == Axes::many ? options.workspace_limit : std::min(weights, options.workspace_limit);
      if (!set_ranges(plan.precision, instance.tile, most, &geometry)) continue;
      plan.splits = splits;
      plan.workspace_bytes = std::size_t(packed_positions_bytes(plan.precision, instance.tile, geometry));
      predict(problem, instance, geometry, traits, &plan);
      plans->push_back(plan);
    }
  }
}

Status transposed_geometry_of(const Problem& problem, const Plan& plan, TransposedGeometry* geometry) {
  const Status kind = check_kind(problem, plan, int(kImplicitInstances), kFirstWindow, kFusedInstances);
  if (!kind.ok()) return kind;
  const TransposedInstance& instance = transposed_instance(plan.instance);
  const bool fits = forms_products(instance, problem, plan.precision) && runs_on(Family::sm90, plan.compute_capability) && plan.multiprocessors > 0 && plan.splits > 0 &&
                    plan.splits <= 8 && make_transposed_geometry(problem, plan.precision, instance.tile, plan.splits, traits_of(plan), geometry) &&
                    set_ranges(plan.precision, instance.tile, std::int64_t(plan.workspace_bytes), geometry);
  return fits ? Status{} : of_another_problem(problem, plan);
}

}  // namespace convt_gemm

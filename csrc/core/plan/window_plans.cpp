#include "plan/window_plans.h"

#include <algorithm>
#include <cmath>

#include "plan/arithmetic.h"
#include "plan/fused_plans.h"
#include "plan/window_table.h"
#include "plan/work.h"

namespace convt_gemm {
namespace {

using namespace fused_plans;

// Fitted to 40 measured times on one H200: see implicit/PERFORMANCE.md.
constexpr double kClock = 1.75e9;
constexpr double kLaunch = 3.5e-6;            // seconds, with loading the weights
constexpr double kStep = 200;               // cycles of a step: until its operands are there
constexpr double kProduct = 1.2;            // for each cycle of the tensor cores, which teams share; what is stored costs as much again
constexpr int kLeastProduct = 13;           // cycles of the tensor cores for the fewest columns
constexpr double kAnyPlace = 400;           // cycles of a tile more, if runs begin anywhere
// Times a tile's cycles where rows of x are no whole vectors: words are read one by one. tf32x3 has three products for as many reads; its factor was not fitted.
constexpr double kShifted = 1.4, kShifted16Bit = 2, kShiftedSplit = 1.15;
constexpr double kEnds = 1500;               // and cycles of a chunk at an end of a row, which is cleared there
constexpr double kCopyBandwidth = 4.28e12;  // bytes/s of device memory, read + written
constexpr double kMemorySlack = 1.1;        // times the least time of memory
constexpr double kOverlap = 2.38;           // the power mean of work and memory, as of the other fused kernels

void predict(const Problem& problem, const ImplicitInstance& instance, const ImplicitGeometry& g, Plan* plan) {
  plan->bytes = tensor_bytes(problem);
  plan->flops = flops_of(problem);
  const ImplicitTile& tile = instance.tile;
  const bool split = instance.precision == Precision::tf32x3;
  const double products = double(g.taps) * g.sets * tile.row_blocks * std::max(kLeastProduct, tile.columns / g.sets / 2) *
                          (split ? 3 : 1);  // cycles of a step
  // Of a tile: chunks of x, which lines share, and of weights for each line.
  const int lines = tile.window.lines, taps = g.outer[kLineAxis].taps.divisor();
  const double chunks = double(g.chunks) / taps * (taps + lines - 1), products_of_tile = double(g.chunks) * lines * products;
  const double shifted = g.vector_rows ? 1 : size_of(problem.dtype) == 2 ? kShifted16Bit : split ? kShiftedSplit : kShifted;
  const double cycles = shifted * (tile.words / 8) * (kStep * chunks + kProduct * g.teams * products_of_tile) + (g.any_place ? kAnyPlace * lines : 0);
  // Of all tiles as many as there are at both ends of each row; what the slowest team has is at one where rows are short.
  const double ends = g.vector_rows ? 0 : kEnds * double(g.chunks) * std::min(1.0, 2.0 / double(g.sample_tiles.divisor()));
  const double waves = double(ceil_div(g.tiles, std::int64_t{g.blocks} * g.teams));
  const double work = waves * (cycles + ends) / kClock, memory = kMemorySlack * plan->bytes / kCopyBandwidth;
  plan->predicted_seconds = kLaunch + std::pow(std::pow(work, kOverlap) + std::pow(memory, kOverlap), 1 / kOverlap);
}

}  // namespace

void append_window_plans(const Problem& problem, const DeviceTraits& traits, const PlanOptions& options, std::vector<Plan>* plans) {
  if (!runs_on(Family::sm90, traits.compute_capability)) return;
  for (std::size_t row = 0; row < kWindowInstances; ++row) {
    const ImplicitInstance& instance = window_instances()[row];
    ImplicitGeometry geometry;
    if (!forms_products(instance, problem, options.precision) || !make_window_geometry(problem, instance.precision, instance.tile, traits, &geometry)) continue;
    Plan plan = plan_of(instance, kFirstWindow + int(row), problem, traits);
    plan.workspace_bytes = std::size_t(window_workspace_bytes(geometry));
    if (std::int64_t(plan.workspace_bytes) > options.workspace_limit) continue;
    predict(problem, instance, geometry, &plan);
    plans->push_back(plan);
  }
}

Status window_geometry_of(const Problem& problem, const Plan& plan, ImplicitGeometry* geometry) {
  const Status kind = check_kind(problem, plan, kFirstWindow, kFusedInstances, kFusedInstances);
  if (!kind.ok()) return kind;
  const ImplicitInstance& instance = implicit_instance(plan.instance);
  const bool fits = forms_products(instance, problem, plan.precision) && runs_on(Family::sm90, plan.compute_capability) && plan.multiprocessors > 0 &&
                    make_window_geometry(problem, plan.precision, instance.tile, traits_of(plan), geometry) &&
                    window_workspace_bytes(*geometry) <= std::int64_t(plan.workspace_bytes);
  return fits ? Status{} : of_another_problem(problem, plan);
}

}  // namespace convt_gemm

#include "plan/implicit_plans.h"

#include <algorithm>

#include "plan/arithmetic.h"
#include "plan/implicit_table.h"

namespace convt_gemm {
namespace {

// The model's constants, for one H200 with 132 multiprocessors. Those marked (m) were measured on other kernels of this library
// or on its hardware; the others are estimates until the fused kernels have been measured. They only order plans.
constexpr double kCopyBandwidth = 4.28e12;     // bytes/s of device memory, read + written (m)
constexpr double kStoreBandwidth = 3.6e12;     // bytes/s, rows of any alignment (m)
constexpr double kCacheBandwidth = 5.5e12;     // bytes/s from the L2 cache into all multiprocessors
constexpr double kWeightBandwidth = 3.0e12;    // bytes/s of weights that threads put in order, all multiprocessors
constexpr double kSecondLoader = 1.6;          // times that, if two warpgroups load in turn
constexpr double kLaunch = 2.5e-6;             // seconds (m)
constexpr double kFill = 2e-6;                 // from a block's start to its first product, and from the last to its end
constexpr double kMultiprocessors = 132;

/// FLOP/s of the tensor cores at the columns of a tile; narrow tiles wait for the operand that comes from registers.
double tensor_rate(const ImplicitInstance& instance) {
  const bool half = size_of(instance.dtype) == 2, sm90 = instance.tile.family == Family::sm90;
  const double full = sm90 ? (half ? 560e12 : 330e12) : (half ? 240e12 : 130e12);
  const double narrow = sm90 ? (instance.tile.columns >= 128 ? 1.0 : instance.tile.columns >= 64 ? 0.75 : 0.45) : 1.0;
  return full * narrow / (instance.precision == Precision::tf32x3 ? 3 : 1);
}

void predict(const Problem& problem, const ImplicitInstance& instance, const ImplicitGeometry& g, Plan* plan) {
  const double item = double(size_of(problem.dtype));
  const double x = item * double(problem.input_elements()), y = item * double(problem.output_elements());
  const double weight = item * double(problem.weight_elements());
  plan->bytes = x + y + weight;
  plan->flops = 2.0 * double(problem.batch) * double(problem.input_positions()) * double(problem.in_channels) *
                double(problem.group_out_channels()) * double(problem.taps());

  // What one block does one after the other for each of its tiles; memory serves all blocks at once.
  const ImplicitTile& tile = instance.tile;
  const double depth = double(g.channel_blocks) * tile.words * (4 / item) * g.taps;
  const double products = 2.0 * g.team_rows * tile.columns * depth / (tensor_rate(instance) / kMultiprocessors);
  const double weights_of_tile = g.resident ? 0 : double(g.weight_bytes) * g.chunks;
  const double loads = (double(g.x_bytes) * g.chunks + weights_of_tile) / (kCacheBandwidth / kMultiprocessors);
  const double ordering = g.packed ? 0 : weights_of_tile / (kWeightBandwidth * (tile.loaders > 1 ? kSecondLoader : 1) / kMultiprocessors);
  const double tiles = double(ceil_div(g.tiles, g.blocks));
  const double blocks = tiles * std::max({products, loads, ordering}) +
                        (g.resident ? double(g.weight_bytes) * g.chunks / (kWeightBandwidth / kMultiprocessors) : 0);
  const double memory = (x + weight) / kCopyBandwidth + y / kStoreBandwidth;
  plan->predicted_seconds = kLaunch + kFill + std::max(memory, blocks);
  if (g.packed) {
    const double packed = double(packed_weight_bytes(g));
    plan->bytes += 2 * packed;
    plan->predicted_seconds += kLaunch + kFill + (weight + packed) / kCopyBandwidth;
  }
}

bool runs_on(Family family, int compute_capability) {
#ifdef CONVT_GEMM_NO_SM90A
  if (family == Family::sm90) return false;  // the build left these kernels out
#endif
  return family == Family::sm90 ? compute_capability == 90 : compute_capability >= 80;
}

bool serves(const ImplicitInstance& instance, const Problem& problem, Precision precision) {
  return instance.dtype == problem.dtype && instance.layout == problem.layout &&
         (problem.dtype != DType::float32 || instance.precision == precision);
}

DeviceTraits traits_of(const Plan& plan) {
  DeviceTraits traits;
  traits.device = Device::cuda;
  traits.compute_capability = plan.compute_capability;
  traits.multiprocessors = plan.multiprocessors;
  return traits;
}

}  // namespace

void append_implicit_plans(const Problem& problem, const DeviceTraits& traits, const PlanOptions& options,
                           std::vector<Plan>* plans) {
  for (std::size_t row = 0; row < kImplicitInstances; ++row) {
    const ImplicitInstance& instance = implicit_instances()[row];
    if (!serves(instance, problem, options.precision) || !runs_on(instance.tile.family, traits.compute_capability)) continue;
    Plan plan;
    plan.device = Device::cuda;
    plan.algorithm = Algorithm::implicit_gemm;
    plan.backend = GemmBackend::native;
    plan.precision = instance.precision;
    plan.dtype = problem.dtype;
    plan.instance = int(row);
    plan.compute_capability = traits.compute_capability;
    plan.multiprocessors = traits.multiprocessors;
    plan.piece = {problem.batch, {problem.axes[0].output(), problem.axes[1].output(), problem.axes[2].output()}};
    ImplicitGeometry geometry;
    if (!make_implicit_geometry(problem, plan.precision, instance.tile, traits, &geometry)) continue;
    for (bool packed : {false, true}) {
      geometry.packed = packed;
      if (packed_weight_bytes(geometry) > options.workspace_limit) continue;
      plan.packed_weight = packed;
      plan.workspace_bytes = std::size_t(packed_weight_bytes(geometry));
      predict(problem, instance, geometry, &plan);
      plans->push_back(plan);
    }
  }
}

Status implicit_geometry_of(const Problem& problem, const Plan& plan, ImplicitGeometry* geometry) {
  bool fits = plan.instance >= 0 && plan.instance < int(kImplicitInstances);
  if (fits) {
    const ImplicitInstance& instance = implicit_instances()[plan.instance];
    fits = plan.device == Device::cuda && serves(instance, problem, plan.precision) && runs_on(instance.tile.family, plan.compute_capability) &&
           plan.multiprocessors > 0 && make_implicit_geometry(problem, plan.precision, instance.tile, traits_of(plan), geometry);
  }
  if (fits) {
    geometry->packed = plan.packed_weight;
    fits = packed_weight_bytes(*geometry) <= std::int64_t(plan.workspace_bytes);
  }
  if (!fits) return Status::invalid("expected a plan that was made for " + to_string(problem) + ", but got one of another problem");
  return {};
}

}  // namespace convt_gemm

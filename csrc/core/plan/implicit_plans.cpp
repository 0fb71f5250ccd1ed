#include "plan/implicit_plans.h"

#include <algorithm>
#include <cmath>

#include "plan/arithmetic.h"
#include "plan/fused_plans.h"
#include "plan/window_table.h"
#include "plan/work.h"

namespace convt_gemm {
namespace {

using namespace fused_plans;

// The model's constants, fitted to 709 measured times of these kernels (23 problems, every instance) on one H200 with 132
// multiprocessors at 1.75 GHz; see implicit/PERFORMANCE.md. They predict a time within 13 % (root mean square); the plan that they choose
// takes 1.8 % longer than the best in the mean, 22 % at most.
constexpr double kCopyBandwidth = 4.28e12;  // bytes/s of device memory, read + written
constexpr double kMemorySlack = 1.35;       // times the least time of memory that these kernels take at their best
constexpr double kOverlap = 2.38;           // the power mean of work and memory: infinite if one hid the other wholly, 1 if they took turns
constexpr double kClock = 1.75e9;
constexpr double kLaunch = 7.1e-6;          // seconds, with filling and emptying the pipeline
constexpr double kPacking = 1.8e-6;         // seconds, besides its bytes
constexpr double kLastWave = 0.93;          // of what a last wave that is not full costs as if it were
// Cycles of a tile in a warpgroup that multiplies; columns count for each of its row blocks.
constexpr double kTile = 2330;
constexpr double kRawTile = 2450;
constexpr double kDirectTile = 1450;   // with Store::direct
constexpr double kDirectColumn = 18;   // a column of it, if each output is stored by itself
constexpr double kProduct = 3.30;      // for each cycle of the tensor cores
constexpr double kRawProduct = 2.23;   // the same where rows of x are multiplied as they lie in memory,
constexpr double kRawStep = 30;        // and for each product of 64 rows and 8 words, whose words have to be read and rounded
constexpr double kRawSplitProduct = 1.97, kRawSplitStep = 83;  // the same, split in two
constexpr double kChunk = 914;
constexpr double kRawChunk = 369;
constexpr double kFillColumn = 44;     // a column, if its outputs without taps are written anew for each tile
constexpr double kShortColumn = 56;    // a column, if runs are of one position
constexpr double kWithoutWgmma = 1.17;  // times all of this
// Cycles of a chunk in a warpgroup that loads.
constexpr double kLoad = 1560;
constexpr double kLoadedWord = 15.1;  // of each thread: a word of x where rows are aligned
constexpr double kLoadedElement = 35, kLoadedHalf = 52;  // an element where they are not, of 32 and of 16 bits
constexpr double kSplit = 26;         // more for it, if it is split in two
constexpr double kWeight = 33;        // an element of the weights of each thread
constexpr double kStreamedByte = 0.0286;  // a byte of weights that do not stay, whoever copies it
// Cycles of a chunk in a warp that loads rows of x as they lie in memory; the warps of a team take chunks in turn.
constexpr double kRawLoad = 2250;
constexpr double kRawItem = 830;  // for each of its lanes' items: a sample's part of a channel

double load_chunk(const ImplicitTile& tile, const ImplicitGeometry& g, double item, bool split) {
  const double threads = double(kWarpgroup) * tile.loaders / g.teams;  // of one team
  const double loaded = double(g.slots) * tile.words * (g.vector_rows ? 1 : 4 / item) / threads;
  const double weights = g.resident || g.packed ? 0 : g.weight_bytes / (item * (split ? 2 : 1)) / threads;
  return kLoad / (g.teams == 1 ? tile.loaders : 1) + ((g.vector_rows ? kLoadedWord : item == 2 ? kLoadedHalf : kLoadedElement) + (split ? kSplit : 0)) * loaded +
         kWeight * weights;
}

double load_raw_chunk(const ImplicitTile& tile, const ImplicitGeometry& g) {
  const int samples = g.sample_rows.divisor() < 2 * g.team_rows ? (g.team_rows - 1) / g.sample_rows.divisor() + 2 : 1;
  const int warps = std::min(g.stages, kWarpgroup / 32 * tile.loaders / g.teams);
  return (kRawLoad + kRawItem * double(ceil_div(std::int64_t{samples} * tile.words, 32))) / warps;
}

void predict(const Problem& problem, const ImplicitInstance& instance, const ImplicitGeometry& g, Plan* plan) {
  const double item = double(size_of(problem.dtype));
  const double weight = item * double(problem.weight_elements());
  plan->bytes = tensor_bytes(problem);
  plan->flops = flops_of(problem);

  const ImplicitTile& tile = instance.tile;
  const bool split = instance.precision == Precision::tf32x3;
  const double steps = double(g.channel_blocks) * g.taps * tile.words / 8 * tile.row_blocks;
  const double read_steps = steps * (1 + double(g.sets - 1) * g.tap_blocks / g.taps);  // a second set reads one more place of x
  const double products = steps * (split ? 3 : 1) * tile.columns / 2;
  const double columns = double(tile.columns) * tile.row_blocks;
  const double product = !g.raw_rows ? kProduct : split ? kRawSplitProduct : kRawProduct;
  const double step = !g.raw_rows ? 0 : split ? kRawSplitStep : kRawStep;
  const double tile_cycles = g.store == Store::direct ? kDirectTile + kDirectColumn * columns / (g.direct_outputs * g.direct_positions) : g.raw_rows ? kRawTile : kTile;
  const double multiply = (tile_cycles + product * products + step * read_steps + (g.raw_rows ? kRawChunk : kChunk) * g.chunks +
                           (g.fill && g.buffers * kColumnBlock < tile.columns ? kFillColumn * columns : 0) +
                           (g.store != Store::rows && g.store != Store::direct ? kShortColumn * columns : 0)) *
                          (tile.family == Family::sm80 ? kWithoutWgmma : 1);
  const double load = g.chunks * ((g.raw_rows ? load_raw_chunk(tile, g) : load_chunk(tile, g, item, split)) +
                                  (g.resident ? 0 : kStreamedByte * g.weight_bytes));
  const double teams = double(g.blocks) * g.teams;
  const double waves = kLastWave * double(ceil_div(g.tiles, std::int64_t{g.blocks} * g.teams)) + (1 - kLastWave) * g.tiles / teams;
  const double work = waves * std::max(multiply, load) / kClock, memory = kMemorySlack * plan->bytes / kCopyBandwidth;
  plan->predicted_seconds = kLaunch + std::pow(std::pow(work, kOverlap) + std::pow(memory, kOverlap), 1 / kOverlap);
  if (g.packed) {
    const double packed = double(packed_weight_bytes(g));
    plan->bytes += 2 * packed;
    plan->predicted_seconds += kPacking + (weight + packed) / kCopyBandwidth;
  }
}

bool serves(const ImplicitInstance& instance, const Problem& problem, Precision precision) {
  return forms_products(instance, problem, precision) && instance.layout == problem.layout;
}

}  // namespace

void append_implicit_plans(const Problem& problem, const DeviceTraits& traits, const PlanOptions& options,
                           std::vector<Plan>* plans) {
  for (std::size_t row = 0; row < kImplicitInstances; ++row) {
    const ImplicitInstance& instance = implicit_instances()[row];
    if (!serves(instance, problem, options.precision) || !runs_on(instance.tile.family, traits.compute_capability)) continue;
    Plan plan = plan_of(instance, int(row), problem, traits);
    ImplicitGeometry geometry;
    if (!make_implicit_geometry(problem, plan.precision, instance.tile, traits, &geometry)) continue;
    for (bool packed : {false, true}) {
      if (!packed && needs_packing(instance.tile, geometry)) continue;
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
  const Status kind = check_kind(problem, plan, 0, int(kImplicitInstances), kFusedInstances);
  if (!kind.ok()) return kind;
  const ImplicitInstance& instance = implicit_instances()[plan.instance];
  bool fits = serves(instance, problem, plan.precision) && runs_on(instance.tile.family, plan.compute_capability) &&
              plan.multiprocessors > 0 && make_implicit_geometry(problem, plan.precision, instance.tile, traits_of(plan), geometry);
  if (fits) {
    geometry->packed = plan.packed_weight;
    fits = packed_weight_bytes(*geometry) <= std::int64_t(plan.workspace_bytes);
  }
  return fits ? Status{} : of_another_problem(problem, plan);
}

}  // namespace convt_gemm

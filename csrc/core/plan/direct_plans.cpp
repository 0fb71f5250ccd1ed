#include "plan/direct_plans.h"

#include <algorithm>

#include "plan/arithmetic.h"
#include "plan/direct_columns.h"
#include "plan/direct_streamed.h"
#include "plan/fused_plans.h"
#include "plan/mma_columns.h"
#include "plan/work.h"
#include "util/residues.h"

namespace convt_gemm {
namespace {

/// Terms of the sum of one output, all added in turn. PyTorch's float32 kernels sum as many without a second level.
constexpr double kMostTerms = 512;
/// Terms times the output channels that need the same inputs: beyond this the work is a matrix product.
constexpr double kMostGroupTerms = 2048;

// Rates were fitted to times on one H200 (direct/PERFORMANCE.md), waits to random problems on one H100 (plan/PERFORMANCE.md); those of channels_last
// and float64 are counts of instructions, not measured.
constexpr double kBandwidth = 3.6e12;           // bytes/s, inputs read once and outputs written once, one axis
constexpr double kElementRate = 4.75e11;        // elements/s of inputs and outputs of any size, several axes
constexpr double kCacheBandwidth = 5e12;        // bytes/s from the L2 cache, where threads share inputs
constexpr double kWindowRate = 10e12;           // FLOP/s where outputs share loads: stride 1 or 2, no dilation
constexpr double kGatherRate = 2.2e12;          // FLOP/s where each output has loads of its own
constexpr double kGather16BitRate = 1.3e12;
constexpr double kChannelBlockRate = 10e12;     // FLOP/s where a thread has several channels at several outputs; lanes with fewer taps wait for the others
constexpr double kChannelsLastRate = 5e12;      // FLOP/s: weights are strided
constexpr double kLaunch = 2.4e-6;              // seconds
// Seconds of a thread's loads for an input channel and tap, which the next one's wait for: small problems take as long as one thread.
constexpr double kGatherWait = 0.12e-6, kGather16BitWait = 0.29e-6;
// The same for an input channel where outputs share loads; with a stride of 2 in 16 bits.
constexpr double kWindowWait = 0.25e-6, kWindow16BitWait = 0.52e-6, kPairs16BitWait = 0.19e-6;
// With a larger kernel its weights are no vectors, unless there is one input channel: for two taps of the last axis.
constexpr std::int64_t kVectorTaps = 4;
constexpr double kTapsWait = 0.34e-6, kTaps16BitWait = 0.42e-6;
constexpr double kTaps16BitRate = 4.5e12;  // FLOP/s

// The column kernel: counts of instructions, of cycles of shared memory and of the loads that a warp waits for.
constexpr double kMultiprocessors = 132;
constexpr double kClock = 1.7e9;
constexpr double kIssueEfficiency = 0.8;
constexpr double kWarpsInFlight = 16;     // of a multiprocessor
constexpr double kBatchSeconds = 0.21e-6;  // a warp's loads take twice as long, and two batches of them are in flight
constexpr double kMemoryWait = 1e-6;      // seconds of a load that misses the caches
constexpr double kBarriers = 0.1e-6;      // seconds: first loads, weights, last stores
constexpr double kChannelStore = 0.45e-6; // seconds of each output channel, which are stored in turn
constexpr double kWeightRead = 4;         // cycles of a multiprocessor for 16 bytes of weights that a warp reads,
constexpr double kManyWeights = 3;        // and times this with more than 16 columns, which few warps at a time are left for (measured)

// The streamed kernel: a launch, bytes/s of all blocks and of one, and what comes before the first and after the last weights. Fitted to 29 times
// on an H100 and an H200, within 20 % (root mean square).
constexpr double kStreamLaunch = 1.1e-6;     // seconds
constexpr double kStreamBandwidth = 3.9e12, kBlockBandwidth = 45e9;
constexpr double kStreamBatch = 0.7e-6;      // seconds that a thread waits for two batches of rows
constexpr double kStreamStage = 0.6e-6;      // or for two loads of inputs, which come first,
constexpr double kStreamRuns = 1.7e-6;       // if they lie otherwise in memory than they will in shared memory
constexpr double kStreamSum = 10e-9;         // of a column in one slot, which are added up in turn
constexpr double kStreamStore = 0.6e-6;      // of a thread's output, which it stores in turn
constexpr double kStreamIssue = 0.6 * 128;   // instructions of a multiprocessor's threads a cycle
constexpr double kStreamOverhead = 10;       // instructions of 16 bytes of weights besides products
// Columns by tensor cores.
constexpr double kCopyCycles = 8;          // of a multiprocessor for a row, however short
constexpr double kCopyBandwidth = 36;      // bytes a cycle into a multiprocessor
constexpr double kMmaReads = 16, kMmaWeightReads = 4;  // of shared memory for a chunk by a warp, and for each 16 columns
constexpr double kFirstLoads = 1.2e-6;     // seconds: a block's first rows and its weights

double terms_of(const Problem& problem) {
  double terms = double(problem.group_in_channels());
  for (const Axis& axis : problem.axes) terms *= double(residues_of(axis).most_taps);
  return terms;
}

void count(const Problem& problem, Plan* plan) {
  plan->bytes = tensor_bytes(problem);
  plan->flops = flops_of(problem);
}

bool has_many_taps(const Problem& problem) { return problem.axes[2].kernel > kVectorTaps && problem.group_in_channels() > 1; }

/// Seconds until a thread has all its terms.
double wait_of_thread(const Problem& problem, bool window) {
  const bool half = size_of(problem.dtype) == 2;
  const double terms = terms_of(problem);
  if (!window) return terms * (half ? kGather16BitWait : kGatherWait);
  const Axis& last = problem.axes[2];
  const std::int64_t taps = residues_of(last).most_taps;
  const double channels = terms / double(taps);  // and taps of the other axes
  if (has_many_taps(problem)) return channels * double(ceil_div(taps, std::int64_t{2})) * (half ? kTaps16BitWait : kTapsWait);
  return channels * (!half ? kWindowWait : last.stride == 1 ? kWindow16BitWait : kPairs16BitWait);
}

void predict_gather(const Problem& problem, Plan* plan) {
  const double item = double(size_of(problem.dtype));
  const double input = item * double(problem.input_elements()), output = item * double(problem.output_elements());
  const Axis& last = problem.axes[2];
  const bool window = last.dilation == 1 && last.stride <= 2;
  double rate = window ? (item == 2 && has_many_taps(problem) ? kTaps16BitRate : kWindowRate) : item == 2 ? kGather16BitRate : kGatherRate;
  if (problem.layout == Layout::channels_last) rate = kChannelsLastRate;
  if (problem.dtype == DType::float64) rate /= 2;
  const bool blocks = direct::channel_blocks_serve(problem, direct::kEnoughThreads);
  if (blocks) rate = kChannelBlockRate * double(last.kernel) / (double(last.stride) * double(residues_of(last).most_taps));
  // A thread has up to two channels of a group, or a block of them; threads of the others read the same inputs again.
  const double passes = double(ceil_div(problem.group_out_channels(), blocks ? direct::kBlockChannels : 2));
  const double cache = (passes * input + output) / kCacheBandwidth;
  const double memory = problem.rank == 1 ? plan->bytes / kBandwidth : (input + output) / item / kElementRate;
  const double arithmetic = plan->flops / rate;
  plan->predicted_seconds = std::max({memory, cache, arithmetic, wait_of_thread(problem, window)}) + kLaunch;
}

void predict_columns(const Problem& problem, Plan* plan) {
  const direct::ColumnGeometry g = direct::column_geometry(problem, direct::choose_column_shape(problem));
  const double words = problem.dtype == DType::float64 ? 2 : 1;  // of an accumulator
  const double positions = direct::column_positions(g.columns, std::size_t(4 * words)), sums = positions * g.columns;
  const double warps = std::max(1.0, double(g.blocks) * g.shape.slices * g.shape.splits);  // there are none without samples
  const double warp_channels = double(g.blocks) * g.shape.slices * double(problem.group_in_channels());

  // A warp has two batches of 16 loads under way.
  const double under_way = std::min(warps, kWarpsInFlight * kMultiprocessors) * 2 * 16 * direct::kWarpLanes * double(size_of(problem.dtype));
  const double memory = plan->bytes * std::max(1 / kBandwidth, kMemoryWait / under_way);
  // Of a warp for a channel. Weights are read 16 bytes at a time; float64 has
  // half as many units.
  const double reads = words * g.columns / 4, converted = size_of(problem.dtype) == 2 ? positions : 0;
  const double issued = words * sums + reads + positions + converted + 4;
  const double arithmetic = warp_channels * issued / (4 * kMultiprocessors * kClock * kIssueEfficiency);
  const double weights = warp_channels * kWeightRead * (g.columns > 16 ? kManyWeights : 1) * reads / (kMultiprocessors * kClock);
  const double rounds = double(ceil_div(std::int64_t(warps), std::int64_t(kWarpsInFlight * kMultiprocessors)));
  const double ahead = 16 / (positions * words);  // channels of a batch
  const double waiting = rounds * double(ceil_div(g.split_channels, std::int64_t(ahead))) * kBatchSeconds;
  // Written to shared memory and read again.
  const double exchange = warps * 2 * words * sums / (kMultiprocessors * kClock);
  plan->predicted_seconds = std::max({memory, arithmetic, weights, waiting}) + exchange + kChannelStore * double(problem.group_out_channels()) + kBarriers + kLaunch;
}

void predict_streamed(const Problem& problem, Plan* plan) {
  const direct::StreamedGeometry g = direct::streamed_geometry(problem);
  const double rounds = double(ceil_div(g.blocks, std::int64_t(kMultiprocessors)));
  const double block_bytes = double(g.lanes) * g.vector * double(problem.group_in_channels()) * double(size_of(problem.dtype));
  const double half = size_of(problem.dtype) == 2, instructions = g.vector * (g.positions + half) + kStreamOverhead;
  const double arithmetic = rounds * double(problem.group_in_channels()) * g.lanes * instructions / (kStreamIssue * kClock);
  const double loads = double(problem.group_in_channels()) * double(g.samples * problem.input_positions()) * double(size_of(problem.dtype)) / 16;
  const bool one_run = problem.layout == Layout::channels_first && g.samples == 1 && problem.input_positions() == g.positions;
  const double staging = rounds * double(ceil_div(std::int64_t(loads), std::int64_t{2} * g.threads())) * (one_run ? kStreamStage : kStreamRuns);
  const double outputs = double(g.samples * g.tile_channels) * double(problem.output_positions());
  const double sums = double(g.slots) * double(ceil_div(g.positions * g.columns(), g.threads())) * kStreamSum;
  const double stores = double(ceil_div(std::int64_t(outputs), std::int64_t{g.threads()})) * kStreamStore;
  const double waits = rounds * double(ceil_div(ceil_div(problem.group_in_channels(), std::int64_t(g.slots)), std::int64_t(2 * direct::kStreamedBatch)));
  plan->predicted_seconds = std::max({plan->bytes / kStreamBandwidth, rounds * block_bytes / kBlockBandwidth, arithmetic, waits * kStreamBatch}) + staging + rounds * (sums + stores) + kStreamLaunch;
}

void predict_mma_columns(const Problem& problem, Plan* plan) {
  const direct::MmaColumnGeometry g = direct::mma_column_geometry(problem, direct::choose_mma_column_shape(problem));
  const direct::ColumnGeometry& c = g.columns;
  const double blocks = double(ceil_div(c.blocks, std::int64_t(kMultiprocessors)));  // of a multiprocessor
  const double channels = double(problem.group_in_channels()), positions = std::min(double(c.own + c.reach), double(problem.axes[2].input));
  const double memory = plan->bytes / kBandwidth;
  const double copies = blocks * channels * std::max(kCopyCycles, double(size_of(problem.dtype)) * positions / kCopyBandwidth);
  const double reads = blocks * double(g.chunks) * c.shape.slices * (kMmaReads + kMmaWeightReads * c.columns / direct::kMmaColumns);
  // Blocks that are there at once wait together; the next ones wait while others of theirs work.
  const double rounds = double(ceil_div(std::int64_t(blocks), std::int64_t{direct::resident_mma_blocks(g)}));
  const double exchange = rounds * kChannelStore * double(problem.group_out_channels());
  plan->predicted_seconds = std::max(memory, std::max(copies, reads) / kClock) + rounds * kFirstLoads + exchange + kLaunch;
}

/// A kernel of the algorithm.
struct DirectKernel {
  const char* prefix;  ///< of its plans' names
  bool (*serves)(const Problem&, Precision);
  void (*predict)(const Problem&, Plan*);
  bool sm90_only = false;
};

/// Plan::instance is the row.
const DirectKernel kKernels[] = {
    {"direct_", [](const Problem& problem, Precision) { return direct_serves(problem); }, predict_gather},
    {"direct_columns_", [](const Problem& problem, Precision) { return direct::columns_serve(problem); }, predict_columns},
    {"direct_columns_mma_", direct::mma_columns_serve, predict_mma_columns, true},
    {"direct_streamed_", [](const Problem& problem, Precision) { return direct::streamed_serve(problem); }, predict_streamed},
};
constexpr int kCount = int(sizeof kKernels / sizeof *kKernels);
static_assert(kGatherInstance == 0 && kColumnsInstance == 1 && kMmaColumnsInstance == 2 && kStreamedInstance == 3 && kCount == 4, "in the order of kKernels");

}  // namespace

const char* direct_prefix(int instance) { return instance >= 0 && instance < kCount ? kKernels[instance].prefix : "direct_"; }

bool direct_serves(const Problem& problem) {
  const double terms = terms_of(problem);
  return terms <= kMostTerms && terms * double(problem.group_out_channels()) <= kMostGroupTerms;
}

void append_direct_plans(const Problem& problem, const DeviceTraits& traits, const PlanOptions& options,
                         std::vector<Plan>* plans) {
  if (traits.device != Device::cuda || traits.compute_capability < 80) return;
  Plan plan;
  plan.device = Device::cuda;
  plan.algorithm = Algorithm::direct;
  plan.backend = GemmBackend::native;
  plan.dtype = problem.dtype;
  plan.precision = problem.dtype == DType::float32 ? options.precision : Precision::ieee;
  // Everything at once: there is no workspace to cut for.
  plan.piece.batch = std::max<std::int64_t>(problem.batch, 1);
  for (int a = 0; a < kMaxAxes; ++a) plan.piece.output[a] = problem.axes[a].output();
  count(problem, &plan);
  for (plan.instance = 0; plan.instance < kCount; ++plan.instance) {
    const DirectKernel& kernel = kKernels[plan.instance];
    if ((kernel.sm90_only && !fused_plans::runs_on(Family::sm90, traits.compute_capability)) || !kernel.serves(problem, plan.precision)) continue;
    kernel.predict(problem, &plan);
    plans->push_back(plan);
  }
}

Status check_direct_plan(const Problem& problem, const Plan& plan) {
  if (plan.instance < 0 || plan.instance >= kCount) {
    return Status::invalid("expected plan.instance of a direct plan to be 0 to " + std::to_string(kCount - 1) + ", but got " + std::to_string(plan.instance));
  }
  if (plan.device != Device::cuda || plan.dtype != problem.dtype) {
    return Status::invalid("expected a CUDA plan for " + std::string(name_of(problem.dtype)) + ", but got " +
                           plan.name());
  }
  if (!kKernels[plan.instance].serves(problem, plan.precision)) {
    return Status::invalid("expected a plan that was made for " + to_string(problem) + ", but got " + plan.name() +
                           " of another problem");
  }
  return {};
}

}  // namespace convt_gemm

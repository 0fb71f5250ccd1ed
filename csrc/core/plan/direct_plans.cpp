#include "plan/direct_plans.h"

#include <algorithm>

#include "plan/arithmetic.h"
#include "util/residues.h"

namespace convt_gemm {
namespace {

/// Terms of the sum of one output, all added in turn. PyTorch's float32 kernels sum as many without a second level.
constexpr double kMostTerms = 512;
/// Terms times the output channels that need the same inputs: beyond this the work is a matrix product.
constexpr double kMostGroupTerms = 2048;

// Fitted to times on one H200 (direct/PERFORMANCE.md); those of channels_last and float64 are counts of instructions, not measured.
constexpr double kBandwidth = 3.6e12;           // bytes/s, inputs read once and outputs written once, one axis
constexpr double kElementRate = 4.75e11;        // elements/s of inputs and outputs of any size, several axes
constexpr double kCacheBandwidth = 5e12;        // bytes/s from the L2 cache, where threads share inputs
constexpr double kWindowRate = 10e12;           // FLOP/s where outputs share loads: stride 1 or 2, no dilation
constexpr double kGatherRate = 2.2e12;          // FLOP/s where each output has loads of its own
constexpr double kGather16BitRate = 1.3e12;
constexpr double kChannelsLastRate = 5e12;      // FLOP/s: weights are strided
constexpr double kLaunch = 2.5e-6;              // seconds

double terms_of(const Problem& problem) {
  double terms = double(problem.group_in_channels());
  for (const Axis& axis : problem.axes) terms *= double(residues_of(axis).most_taps);
  return terms;
}

void predict(const Problem& problem, Plan* plan) {
  const double item = double(size_of(problem.dtype));
  const double input = item * double(problem.input_elements()), output = item * double(problem.output_elements());
  plan->bytes = input + item * double(problem.weight_elements()) + output;
  plan->flops = 2.0 * double(problem.batch) * double(problem.input_positions()) * double(problem.in_channels) *
                double(problem.group_out_channels()) * double(problem.taps());

  const Axis& last = problem.axes[2];
  const bool window = last.dilation == 1 && last.stride <= 2;
  double rate = window ? kWindowRate : item == 2 ? kGather16BitRate : kGatherRate;
  if (problem.layout == Layout::channels_last) rate = kChannelsLastRate;
  if (problem.dtype == DType::float64) rate /= 2;
  // A thread has up to two channels of a group; threads of the others read the same inputs again.
  const double passes = double(ceil_div(problem.group_out_channels(), 2));
  const double cache = (passes * input + output) / kCacheBandwidth;
  const double memory = problem.rank == 1 ? plan->bytes / kBandwidth : (input + output) / item / kElementRate;
  const double arithmetic = plan->flops / rate;
  plan->predicted_seconds = std::max({memory, cache, arithmetic}) + kLaunch;
}

}  // namespace

bool direct_serves(const Problem& problem) {
  const double terms = terms_of(problem);
  return terms <= kMostTerms && terms * double(problem.group_out_channels()) <= kMostGroupTerms;
}

void append_direct_plans(const Problem& problem, const DeviceTraits& traits, const PlanOptions& options,
                         std::vector<Plan>* plans) {
  if (traits.device != Device::cuda || traits.compute_capability < 80 || !direct_serves(problem)) return;
  Plan plan;
  plan.device = Device::cuda;
  plan.algorithm = Algorithm::direct;
  plan.backend = GemmBackend::native;
  plan.dtype = problem.dtype;
  plan.precision = problem.dtype == DType::float32 ? options.precision : Precision::ieee;
  // Everything at once: there is no workspace to cut for.
  plan.piece.batch = std::max<std::int64_t>(problem.batch, 1);
  for (int a = 0; a < kMaxAxes; ++a) plan.piece.output[a] = problem.axes[a].output();
  predict(problem, &plan);
  plans->push_back(plan);
}

Status check_direct_plan(const Problem& problem, const Plan& plan) {
  if (plan.device != Device::cuda || plan.dtype != problem.dtype) {
    return Status::invalid("expected a CUDA plan for " + std::string(name_of(problem.dtype)) + ", but got " +
                           plan.name());
  }
  if (!direct_serves(problem)) {
    return Status::invalid("expected a plan that was made for " + to_string(problem) + ", but got " + plan.name() +
                           " of another problem");
  }
  return {};
}

}  // namespace convt_gemm

#include "convt_gemm/plan.h"

#include <algorithm>
#include <cstdio>

#include "plan/cpu_plans.h"
#include "plan/cuda_plans.h"
#include "plan/cutlass_table.h"
#include "plan/direct_plans.h"
#include "plan/gemm_tile.h"
#include "plan/implicit_plans.h"
#include "plan/implicit_table.h"
#include "plan/pieces.h"
#include "plan/transposed_plans.h"
#include "plan/transposed_table.h"
#include "plan/window_plans.h"
#include "plan/window_table.h"

namespace convt_gemm {
namespace {

/// "gemm_col2im_cublas" selects "gemm_col2im_cublas_tf32": a leading part that ends where an underscore follows.
bool selects(std::string_view wanted, const std::string& name) {
  if (wanted == "auto" || wanted == name) return true;
  return name.size() > wanted.size() && name.compare(0, wanted.size(), wanted) == 0 && name[wanted.size()] == '_';
}

std::vector<Plan> plans_of_every_algorithm(const Problem& problem, const DeviceTraits& traits, const PlanOptions& options) {
  std::vector<Plan> plans;
  if (traits.device == Device::cpu) {
    append_cpu_plans(problem, traits, options, &plans);
  } else {
    append_cuda_plans(problem, traits, options, &plans);
    append_direct_plans(problem, traits, options, &plans);
    append_implicit_plans(problem, traits, options, &plans);
    append_transposed_plans(problem, traits, options, &plans);
    append_window_plans(problem, traits, options, &plans);
  }
  std::stable_sort(plans.begin(), plans.end(),
                   [](const Plan& a, const Plan& b) { return a.predicted_seconds < b.predicted_seconds; });
  return plans;
}

/// Scaled to the unit that a person would use.
std::string scaled(double value, const char* unit) {
  static constexpr const char* kPrefix[] = {"", "k", "M", "G", "T"};
  int step = 0;
  while (value >= 1000 && step < 4) {
    value /= 1000;
    ++step;
  }
  char text[64];
  std::snprintf(text, sizeof text, "%.4g %s%s", value, kPrefix[step], unit);
  return text;
}

std::string duration(double seconds) {
  if (seconds < 1e-3) return scaled(seconds * 1e6, "us");
  return seconds < 1 ? scaled(seconds * 1e3, "ms") : scaled(seconds, "s");
}

}  // namespace

const char* name_of(Algorithm algorithm) {
  switch (algorithm) {
    case Algorithm::gemm_col2im:
      return "gemm_col2im";
    case Algorithm::direct:
      return "direct";
    case Algorithm::implicit_gemm:
      return "implicit_gemm";
  }
  return "unknown";
}

const char* name_of(GemmBackend backend) {
  switch (backend) {
    case GemmBackend::cpu:
      return "cpu";
    case GemmBackend::cublas:
      return "cublas";
    case GemmBackend::cutlass:
      return "cutlass";
    case GemmBackend::native:
      return "native";
  }
  return "unknown";
}

const char* name_of(Precision precision) {
  switch (precision) {
    case Precision::ieee:
      return "ieee";
    case Precision::tf32:
      return "tf32";
    case Precision::tf32x3:
      return "tf32x3";
  }
  return "unknown";
}

Status parse_precision(std::string_view name, Precision* precision) {
  for (Precision candidate : {Precision::ieee, Precision::tf32, Precision::tf32x3}) {
    if (name == name_of(candidate)) {
      *precision = candidate;
      return {};
    }
  }
  return Status::invalid("expected precision to be 'ieee', 'tf32' or 'tf32x3', but got '" + std::string(name) + "'");
}

std::string Plan::name() const {
  if (algorithm == Algorithm::direct) {
    return direct_prefix(instance) + std::string(instance == kMmaColumnsInstance && precision != Precision::ieee ? name_of(precision) : name_of(dtype));
  }
  if (algorithm == Algorithm::implicit_gemm && is_transposed(instance)) {
    return std::string("implicit_gemm_") + transposed_instance(instance).name + "_" + tile() + "_splits" + std::to_string(splits);
  }
  if (algorithm == Algorithm::implicit_gemm) {
    return std::string("implicit_gemm_") + implicit_instance(instance).name + (packed_weight ? "_packed_" : "_") + tile();
  }
  std::string text = std::string(name_of(algorithm)) + "_" + name_of(backend) + (joined ? "_joined_" : "_");
  if (instance >= 0) return text + cutlass_instances()[instance].name;
  return text + (precision == Precision::ieee ? name_of(dtype) : name_of(precision));
}

std::string Plan::tile() const {
  if (algorithm == Algorithm::direct) return "";
  if (algorithm == Algorithm::implicit_gemm && is_transposed(instance)) {
    const TransposedTile& tile = transposed_instance(instance).tile;
    return std::to_string(tile.positions) + "x" + std::to_string(tile.columns) + "x" + std::to_string(tile.words);
  }
  if (algorithm == Algorithm::implicit_gemm) {
    const ImplicitTile& tile = implicit_instance(instance).tile;
    return std::to_string(tile.rows) + "x" + std::to_string(tile.columns) + "x" + std::to_string(tile.words);
  }
  if (backend != GemmBackend::native && instance < 0) return "";
  const GemmTile tile = backend == GemmBackend::native ? kNativeTile : cutlass_instances()[instance].tile;
  return std::to_string(tile.rows) + "x" + std::to_string(tile.positions) + "x" + std::to_string(tile.depth);
}

std::vector<Plan> enumerate_plans(const Problem& problem, const DeviceTraits& traits, const PlanOptions& options) {
  std::vector<Plan> plans = plans_of_every_algorithm(problem, traits, options);
  if (options.algorithm != "auto") {
    plans.erase(std::remove_if(plans.begin(), plans.end(),
                               [&](const Plan& plan) { return !selects(options.algorithm, plan.name()); }),
                plans.end());
  }
  return plans;
}

Status choose_plan(const Problem& problem, const DeviceTraits& traits, const PlanOptions& options, Plan* plan) {
  if (options.workspace_limit < 0) {
    return Status::invalid("expected workspace_limit to be non-negative, but got " + std::to_string(options.workspace_limit));
  }
  const Status valid = validate(problem);
  if (!valid.ok()) return valid;
  const std::vector<Plan> plans = plans_of_every_algorithm(problem, traits, options);
  for (const Plan& candidate : plans) {
    if (options.algorithm == "auto" || selects(options.algorithm, candidate.name())) {
      *plan = candidate;
      return {};
    }
  }
  const std::string device = traits.device == Device::cpu ? "cpu" : "cuda";
  if (traits.device == Device::cuda && plans.empty() && traits.compute_capability < 80) {
    return Status::unsupported("expected a GPU of compute capability 8.0 or later, but got " +
                               std::to_string(traits.compute_capability / 10) + "." +
                               std::to_string(traits.compute_capability % 10));
  }
  if (plans.empty()) {
    return Status::invalid("precision '" + std::string(name_of(options.precision)) + "' has no plan for " +
                           name_of(problem.dtype) + " on " + device + "; expected 'ieee' there");
  }
  std::string legal;
  for (const Plan& candidate : plans) legal += ", '" + candidate.name() + "'";
  return Status::invalid("expected algorithm to be 'auto'" + legal + " or a leading part of these names, but got '" +
                         std::string(options.algorithm) + "' for " + to_string(problem) + " on " + device);
}

std::string describe(const Problem& problem, const Plan& plan) {
  std::string text = plan.name() + "\n  problem    " + to_string(problem) + "\n  pieces     " +
                     std::to_string(count_pieces(problem, plan.piece)) + " of " + std::to_string(plan.piece.batch) +
                     " samples x outputs ";
  for (int i = 0; i < problem.rank; ++i) {
    text += (i ? "," : "") + std::to_string(plan.piece.output[kMaxAxes - problem.rank + i]);
  }
  text += "\n  workspace  " + scaled(double(plan.workspace_bytes), "B") + "\n  traffic    " + scaled(plan.bytes, "B") +
          "\n  arithmetic " + scaled(plan.flops, "FLOP") + "\n  predicted  " + duration(plan.predicted_seconds);
  return text;
}

}  // namespace convt_gemm

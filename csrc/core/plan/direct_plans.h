#pragma once
#include <vector>

#include "convt_gemm/plan.h"

namespace convt_gemm {

/// Plan::instance of a direct plan: a kernel that gathers every output from the input (direct_kernel.cuh, or channel_blocks_kernel.cuh where direct::channel_blocks_serve() says so),
/// the one that sums columns (columns_kernel.cuh), the one that does so with tensor cores (mma_columns_kernel.cuh), or the one that streams weights (streamed_kernel.cuh).
inline constexpr int kGatherInstance = 0;
inline constexpr int kColumnsInstance = 1;
inline constexpr int kMmaColumnsInstance = 2;
inline constexpr int kStreamedInstance = 3;
/// "direct_", "direct_columns_", ...: a plan's name without its dtype.
const char* direct_prefix(int instance);

/// Whether the gathering kernel takes the problem: an output needs few multiply-adds, so that neither its rounding error
/// nor the lack of a GEMM matters. For the others ask direct::columns_serve(), direct::mma_columns_serve() and direct::streamed_serve().
bool direct_serves(const Problem& problem);

/// Adds the direct plans that are legal. float32 is plain float32 under every precision; the plan keeps the one asked
/// for.
void append_direct_plans(const Problem& problem, const DeviceTraits& traits, const PlanOptions& options,
                         std::vector<Plan>* plans);

/// Whether a plan of the direct algorithm can run the problem.
Status check_direct_plan(const Problem& problem, const Plan& plan);

}  // namespace convt_gemm

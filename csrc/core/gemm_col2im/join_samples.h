#pragma once
// Plan::joined: the positions of all samples side by side.
#include <cstddef>
#include <cstdint>

#include "convt_gemm/exec.h"

namespace convt_gemm {

/// Copies x [batch, channels, positions] to `joined` [channels, batch, positions], on the device; elements have `element` bytes: 2, 4 or 8. At most 2^30 of them.
Status join_samples(const void* x, std::int64_t batch, std::int64_t channels, std::int64_t positions, std::size_t element, void* joined, const CudaContext& context);

}  // namespace convt_gemm

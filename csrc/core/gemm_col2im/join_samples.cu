#include "gemm_col2im/join_samples.h"

#include <cuda_runtime.h>

#include <string>

#include "plan/arithmetic.h"
#include "util/fast_div.h"
#include "util/kernel_order.cuh"

namespace convt_gemm {
namespace {

constexpr int kThreads = 256, kElements = 4;  // of a thread, a block apart: as many loads are under way

template <class Element>
__global__ void __launch_bounds__(kThreads) join_samples_kernel(const Element* __restrict__ x, FastDiv<std::int32_t> by_positions, FastDiv<std::int32_t> by_batch, int channels,
                                                                int elements, Element* __restrict__ joined) {
  gpu::wait_for_kernel_before();
  const int first = static_cast<int>(blockIdx.x) * (kThreads * kElements) + static_cast<int>(threadIdx.x), positions = by_positions.divisor();
  Element value[kElements];
#pragma unroll
  for (int i = 0; i < kElements; ++i) {
    const int to = first + i * kThreads;
    const int row = by_positions.quotient(to), channel = by_batch.quotient(row), sample = row - channel * by_batch.divisor();
    if (to < elements) value[i] = x[(sample * channels + channel) * positions + to - row * positions];
  }
#pragma unroll
  for (int i = 0; i < kElements; ++i) {
    const int to = first + i * kThreads;
    if (to < elements) joined[to] = value[i];
  }
}

template <class Element>
cudaError_t launch(const void* x, std::int64_t batch, std::int64_t channels, std::int64_t positions, void* joined, cudaStream_t stream) {
  const std::int64_t elements = batch * channels * positions;
  const auto blocks = static_cast<unsigned>(ceil_div(elements, kThreads * kElements));
  return launch_early({blocks, kThreads, 0, stream}, join_samples_kernel<Element>, static_cast<const Element*>(x), FastDiv<std::int32_t>(positions), FastDiv<std::int32_t>(batch),
                      int(channels), int(elements), static_cast<Element*>(joined));
}

}  // namespace

Status join_samples(const void* x, std::int64_t batch, std::int64_t channels, std::int64_t positions, std::size_t element, void* joined, const CudaContext& context) {
  const auto stream = static_cast<cudaStream_t>(context.stream);
  const cudaError_t error = element == 2   ? launch<std::uint16_t>(x, batch, channels, positions, joined, stream)
                            : element == 4 ? launch<std::uint32_t>(x, batch, channels, positions, joined, stream)
                                           : launch<std::uint64_t>(x, batch, channels, positions, joined, stream);
  if (error != cudaSuccess) return Status::failure(std::string("joining samples: ") + cudaGetErrorString(error));
  return {};
}

}  // namespace convt_gemm

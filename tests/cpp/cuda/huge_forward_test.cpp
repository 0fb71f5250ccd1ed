// More than 2^31 input positions, or fewer in several channels, for real: mostly zeros, with a few inputs where an index of 32 bits
// would go astray.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cuda/plan_runner.h"
#include "support/problems.h"

namespace convt_gemm::testing {
namespace {

class HugeForward : public NeedsGpu {};

/// Device memory without an initial value.
struct Allocation {
  explicit Allocation(std::size_t bytes) { failed = cudaMalloc(&data, bytes) != cudaSuccess; }
  ~Allocation() {
    cudaFree(data);
    if (failed) static_cast<void>(cudaGetLastError());
  }
  Allocation(const Allocation&) = delete;
  Allocation& operator=(const Allocation&) = delete;
  void* data = nullptr;
  bool failed = false;
};

/// Marks inputs of the first and of the last channel, the only ones whose weights are not zero.
void expect_marks(std::int64_t channels, std::int64_t inputs, const std::vector<std::int64_t>& marked) {
  Problem problem = make_problem(1, channels, 1, {{inputs, 2, 1}});
  problem.dtype = DType::bfloat16;
  const std::int64_t outputs = problem.output_positions();
  const Allocation input(std::size_t(problem.input_elements()) * 2), output(std::size_t(outputs) * 2);
  const Allocation workspace{std::size_t(kDefaultWorkspaceLimit)};
  if (input.failed || output.failed || workspace.failed) GTEST_SKIP() << "not enough device memory";
  std::vector<double> weights(std::size_t(2 * channels));  // [channel][tap]
  weights[0] = 1, weights[1] = 2, weights[std::size_t(2 * channels - 2)] = 3, weights[std::size_t(2 * channels - 1)] = 4;
  const DeviceArray weight(encode(problem.dtype, weights));

  const cudaStream_t stream = Machine::get().stream();
  check_cuda(cudaMemsetAsync(input.data, 0, std::size_t(problem.input_elements()) * 2, stream), "clear");
  const auto put = [&](std::int64_t element, double value) {
    const Bytes bytes = encode(problem.dtype, {value});
    check_cuda(
        cudaMemcpyAsync(static_cast<char*>(input.data) + element * 2, bytes.data(), 2, cudaMemcpyHostToDevice, stream),
        "upload");
    Machine::get().synchronize();
  };
  for (std::int64_t i : marked) {
    put(i, 1);
    put((channels - 1) * inputs + i, 5);
  }
  for (const Plan& plan : plans_of(problem, Precision::ieee)) {
    SCOPED_TRACE(describe(problem, plan));
    ASSERT_LE(plan.workspace_bytes, std::size_t(kDefaultWorkspaceLimit));
    check_cuda(cudaMemsetAsync(output.data, 0xff, std::size_t(outputs) * 2, stream), "fill with NaN");
    CudaContext context;
    context.stream = stream;
    context.cublas_handle = Machine::get().cublas();
    context.workspace = workspace.data;
    context.workspace_bytes = plan.workspace_bytes;
    const Status status = forward(problem, plan, {input.data, weight.data(), nullptr, output.data}, context);
    ASSERT_TRUE(status.ok()) << status.message;
    for (std::int64_t i : marked) {
      // Taps of input i: 1*1 + 5*3 at output i, 1*2 + 5*4 at output i + 1, zeros around.
      const std::int64_t begin = std::max<std::int64_t>(i - 1, 0), end = std::min(i + 3, outputs);
      Bytes got(std::size_t(end - begin) * 2);
      check_cuda(cudaMemcpyAsync(got.data(), static_cast<char*>(output.data) + begin * 2, got.size(),
                                 cudaMemcpyDeviceToHost, stream),
                 "download");
      Machine::get().synchronize();
      std::vector<double> want;
      for (std::int64_t o = begin; o < end; ++o) want.push_back(o == i ? 16 : o == i + 1 ? 22 : 0);
      EXPECT_EQ(decode(problem.dtype, got), want) << "around input " << i;
    }
  }
}

TEST_F(HugeForward, IndicesGoBeyond32Bits) {
  constexpr std::int64_t kInputs = (std::int64_t{1} << 31) + 1024;
  expect_marks(2, kInputs, {0, (std::int64_t{1} << 30) + 7, (std::int64_t{1} << 31) - 1, kInputs - 1});
}

/// Rows have 32-bit indices, but not their channels.
TEST_F(HugeForward, ChannelsGoBeyond32Bits) {
  constexpr std::int64_t kInputs = (std::int64_t{1} << 28) + 1;
  expect_marks(9, kInputs, {0, (std::int64_t{1} << 27) + 7, kInputs - 1});
}

}  // namespace
}  // namespace convt_gemm::testing

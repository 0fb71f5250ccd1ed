// Times every CUDA plan of the project's cases without torch: the quickest loop for kernel work.
//
//   convt_gemm_benchmark [name part, or "1d"] [algorithm] [dtype] [workspace limit in MiB]...
//
// "" stands for any name, algorithm "auto" for all plans, and a leading part of plan names selects plans; the dtype is
// float32 (all its precisions) if not given. For each plan and limit: median time of a launch and the problem's floor; with the
// workspace limit given, also the share of the measured copy bandwidth that col2im alone reaches over its own bytes (columns
// read once, output written once).
#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "col2im/cuda_col2im.h"
#include "convt_gemm/convt_gemm.h"
#include "plan/pieces.h"
#include "support/cases.h"

using namespace convt_gemm;

namespace {

#define CHECK_CUDA(call)                                                                             \
  do {                                                                                               \
    const cudaError_t error_ = (call);                                                               \
    if (error_ != cudaSuccess) {                                                                     \
      std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString(error_));           \
      std::exit(1);                                                                                  \
    }                                                                                                \
  } while (0)

class DeviceBuffer {
 public:
  explicit DeviceBuffer(std::size_t bytes) { CHECK_CUDA(cudaMalloc(&data_, std::max<std::size_t>(bytes, 256))); }
  ~DeviceBuffer() { cudaFree(data_); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  void* get() const { return data_; }

 private:
  void* data_ = nullptr;
};

/// Random values below 2 in magnitude in any dtype: products of zeros draw less power and run faster than real data.
void fill_random(void* device, std::size_t bytes) {
  std::vector<unsigned> block(std::min<std::size_t>(bytes / 4 + 1, 1 << 22));
  unsigned state = 12345;
  for (unsigned& word : block) {
    state = state * 1664525u + 1013904223u;
    word = state & 0xbfffbfffu;  // without the exponent's highest bit in either half
  }
  for (std::size_t i = 0; i < bytes; i += block.size() * 4) {
    CHECK_CUDA(cudaMemcpy(static_cast<char*>(device) + i, block.data(), std::min(block.size() * 4, bytes - i), cudaMemcpyHostToDevice));
  }
}

/// Of one call, in a row of calls that takes about a millisecond.
double median_ms(const std::function<void()>& run, int repeats = 11) {
  cudaEvent_t begin, end;
  CHECK_CUDA(cudaEventCreate(&begin));
  CHECK_CUDA(cudaEventCreate(&end));
  const auto time = [&](int calls) {
    float ms = 0;
    CHECK_CUDA(cudaEventRecord(begin));
    for (int i = 0; i < calls; ++i) run();
    CHECK_CUDA(cudaEventRecord(end));
    CHECK_CUDA(cudaEventSynchronize(end));
    CHECK_CUDA(cudaEventElapsedTime(&ms, begin, end));
    return ms / float(calls);
  };
  time(2);
  const int calls = std::max(1, std::min(100, int(1.0f / time(2))));
  std::vector<float> times(repeats);
  for (float& ms : times) ms = time(calls);
  CHECK_CUDA(cudaEventDestroy(begin));
  CHECK_CUDA(cudaEventDestroy(end));
  std::sort(times.begin(), times.end());
  return times[std::size_t(repeats / 2)];
}

double copy_bandwidth() {
  const std::size_t bytes = std::size_t{2} << 30;
  DeviceBuffer from(bytes), to(bytes);
  const double ms = median_ms([&] { CHECK_CUDA(cudaMemcpyAsync(to.get(), from.get(), bytes, cudaMemcpyDeviceToDevice)); });
  return 2.0 * double(bytes) / ms * 1e3;
}

void time_col2im(const Problem& problem, const Plan& plan, const Tensors& tensors, const CudaContext& context, double bandwidth) {
  Col2imPiece piece;
  piece.batch = {0, plan.piece.batch};
  double columns = double(problem.out_channels) * problem.taps() * piece.batch.size();
  double outputs = double(problem.out_channels) * piece.batch.size();
  for (int a = 0; a < kMaxAxes; ++a) {
    piece.output[a] = {0, plan.piece.output[a]};
    piece.input[a] = inputs_of(problem.axes[a], piece.output[a]);
    columns *= piece.input[a].size();
    outputs *= piece.output[a].size();
  }
  const double ms = median_ms([&] {
    if (!cuda_col2im(problem, piece, context.workspace, tensors, context).ok()) std::exit(1);
  });
  const double bytes = double(column_size(problem.dtype)) * columns + double(size_of(problem.dtype)) * outputs;
  std::printf("    col2im alone, one piece: %.4f ms for %.0f MB: %.2f TB/s, %.0f %% of copy\n", ms, bytes / 1e6, bytes / ms / 1e9,
              100 * bytes / (ms * 1e-3) / bandwidth);
}

bool is_wanted(const testing::NamedProblem& named, const std::string& wanted) {
  return wanted == "1d" ? named.problem.rank == 1 : named.name.find(wanted) != std::string::npos;
}

void time_plans(const Problem& problem, const PlanOptions& options, const DeviceTraits& traits, cublasHandle_t handle, bool col2im,
                double bandwidth) {
  const std::size_t size = size_of(problem.dtype);
  DeviceBuffer x(size * problem.input_elements()), w(size * problem.weight_elements()), y(size * problem.output_elements());
  fill_random(x.get(), size * problem.input_elements());
  fill_random(w.get(), size * problem.weight_elements());
  for (const Plan& plan : enumerate_plans(problem, traits, options)) {
    DeviceBuffer workspace(plan.workspace_bytes);
    const Tensors tensors{x.get(), w.get(), nullptr, y.get()};
    CudaContext context;
    context.cublas_handle = handle;
    context.workspace = workspace.get();
    context.workspace_bytes = plan.workspace_bytes;
    const double ms = median_ms([&] {
      const Status status = forward(problem, plan, tensors, context);
      if (!status.ok()) {
        std::fprintf(stderr, "%s\n", status.message.c_str());
        std::exit(1);
      }
    });
    std::printf("  %-66s %8.4f ms (model %.4f), %.1f TFLOP/s\n", plan.name().c_str(), ms, plan.predicted_seconds * 1e3,
                plan.flops / ms / 1e9);
    if (col2im && plan.backend == GemmBackend::cublas) time_col2im(problem, plan, tensors, context, bandwidth);
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "", algorithm = argc > 2 ? argv[2] : "auto", dtype = argc > 3 ? argv[3] : "float32";
  std::vector<std::int64_t> limits;
  for (int i = 4; i < argc; ++i) limits.push_back(std::atoll(argv[i]) << 20);
  const bool col2im = !limits.empty();
  if (limits.empty()) limits.push_back(kDefaultWorkspaceLimit);

  cublasHandle_t handle = nullptr;
  if (cublasCreate(&handle) != CUBLAS_STATUS_SUCCESS) return 1;
  const double bandwidth = copy_bandwidth();
  std::printf("copy %.2f TB/s\n", bandwidth / 1e12);
  int major = 0, minor = 0;
  DeviceTraits traits;
  traits.device = Device::cuda;
  CHECK_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
  CHECK_CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0));
  CHECK_CUDA(cudaDeviceGetAttribute(&traits.multiprocessors, cudaDevAttrMultiProcessorCount, 0));
  traits.compute_capability = 10 * major + minor;

  for (const testing::NamedProblem& named : testing::cases()) {
    if (!is_wanted(named, name)) continue;
    Problem problem = named.problem;
    problem.bias = false;
    for (const DType candidate : {DType::float32, DType::float64, DType::bfloat16, DType::float16}) {
      if (dtype == name_of(candidate)) problem.dtype = candidate;
    }
    const double bytes = double(size_of(problem.dtype)) *
                         double(problem.input_elements() + problem.weight_elements() + problem.output_elements());
    std::printf("%s: %s, tensors at copy bandwidth %.4f ms\n", named.name.c_str(), to_string(problem).c_str(), bytes / bandwidth * 1e3);
    for (const std::int64_t limit : limits) {
      for (const Precision precision : {Precision::tf32, Precision::tf32x3, Precision::ieee}) {
        if (problem.dtype != DType::float32 && precision != Precision::ieee) continue;
        PlanOptions options;
        options.precision = precision;
        options.algorithm = algorithm;
        options.workspace_limit = limit;
        time_plans(problem, options, traits, handle, col2im, bandwidth);
      }
    }
  }
  cublasDestroy(handle);
  return 0;
}

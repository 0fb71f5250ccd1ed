// Times every CUDA plan of a few problems without torch: the quickest loop for kernel work.
//
//   convt_gemm_benchmark [name part] [workspace limit in MiB]...
//
// For each plan and limit: median time, the problem's floor, and for col2im alone the share of the measured copy bandwidth
// that it reaches over its own bytes (columns read once, output written once).
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

struct Named {
  const char* name;
  Problem problem;
};

Problem problem_1d(std::int64_t n, std::int64_t ci, std::int64_t co, Axis axis, std::int64_t groups = 1) {
  Problem p;
  p.batch = n, p.in_channels = ci, p.out_channels = co, p.groups = groups;
  p.axis(0) = axis;
  return p;
}

Problem problem_2d(std::int64_t n, std::int64_t ci, std::int64_t co, Axis axis0, Axis axis1) {
  Problem p;
  p.rank = 2, p.batch = n, p.in_channels = ci, p.out_channels = co;
  p.axis(0) = axis0, p.axis(1) = axis1;
  return p;
}

Problem problem_3d(std::int64_t n, std::int64_t ci, std::int64_t co, Axis axis0, Axis axis1, Axis axis2) {
  Problem p;
  p.rank = 3, p.batch = n, p.in_channels = ci, p.out_channels = co;
  p.axis(0) = axis0, p.axis(1) = axis1, p.axis(2) = axis2;
  return p;
}

std::vector<Named> problems() {
  return {
      {"reference", problem_1d(16, 32, 64, {131072, 3, 2, 1, 0, 2})},
      {"kernelbench-64", problem_1d(64, 128, 128, {65536, 3, 1, 0, 0, 1})},
      {"vocoder-k2s", problem_1d(12, 192, 96, {8448, 4, 2, 1, 0, 1})},
      {"sam-k-is-s", problem_2d(64, 64, 32, {128, 2, 2, 0, 0, 1}, {128, 2, 2, 0, 0, 1})},
      {"stylegan", problem_2d(4, 64, 32, {512, 3, 2, 0, 0, 1}, {512, 3, 2, 0, 0, 1})},
      {"nnu-net", problem_3d(2, 64, 32, {80, 2, 2, 0, 0, 1}, {160, 2, 2, 0, 0, 1}, {160, 2, 2, 0, 0, 1})},
  };
}

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

/// Random values: products of zeros draw less power and run faster than real data.
void fill_random(void* device, std::size_t count) {
  std::vector<float> block(std::min<std::size_t>(count, 1 << 22));
  unsigned state = 12345;
  for (float& value : block) {
    state = state * 1664525u + 1013904223u;
    value = float(state >> 8) / float(1 << 24) - 0.5f;
  }
  for (std::size_t i = 0; i < count; i += block.size()) {
    const std::size_t n = std::min(block.size(), count - i);
    CHECK_CUDA(cudaMemcpy(static_cast<float*>(device) + i, block.data(), n * sizeof(float), cudaMemcpyHostToDevice));
  }
}

double median_ms(const std::function<void()>& run, int repeats = 15) {
  cudaEvent_t begin, end;
  CHECK_CUDA(cudaEventCreate(&begin));
  CHECK_CUDA(cudaEventCreate(&end));
  for (int i = 0; i < 3; ++i) run();
  std::vector<float> times(repeats);
  for (float& time : times) {
    CHECK_CUDA(cudaEventRecord(begin));
    run();
    CHECK_CUDA(cudaEventRecord(end));
    CHECK_CUDA(cudaEventSynchronize(end));
    CHECK_CUDA(cudaEventElapsedTime(&time, begin, end));
  }
  CHECK_CUDA(cudaEventDestroy(begin));
  CHECK_CUDA(cudaEventDestroy(end));
  std::sort(times.begin(), times.end());
  return times[repeats / 2];
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
  const double bytes = 4 * (columns + outputs);
  std::printf("    col2im alone, one piece: %.4f ms for %.0f MB: %.2f TB/s, %.0f %% of copy\n", ms, bytes / 1e6, bytes / ms / 1e9,
              100 * bytes / (ms * 1e-3) / bandwidth);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string filter = argc > 1 ? argv[1] : "";
  std::vector<std::int64_t> limits;
  for (int i = 2; i < argc; ++i) limits.push_back(std::atoll(argv[i]) << 20);
  if (limits.empty()) limits.push_back(kDefaultWorkspaceLimit);

  cublasHandle_t handle = nullptr;
  if (cublasCreate(&handle) != CUBLAS_STATUS_SUCCESS) return 1;
  const double bandwidth = copy_bandwidth();
  std::printf("copy %.2f TB/s\n", bandwidth / 1e12);
  DeviceTraits traits;
  traits.device = Device::cuda;

  for (const Named& named : problems()) {
    if (std::string(named.name).find(filter) == std::string::npos) continue;
    const Problem& problem = named.problem;
    const double tensor_bytes = 4.0 * (problem.input_elements() + problem.weight_elements() + problem.output_elements());
    std::printf("%s: %s, tensors at copy bandwidth %.4f ms\n", named.name, to_string(problem).c_str(),
                tensor_bytes / bandwidth * 1e3);
    DeviceBuffer x(4 * problem.input_elements()), w(4 * problem.weight_elements()), y(4 * problem.output_elements());
    fill_random(x.get(), problem.input_elements());
    fill_random(w.get(), problem.weight_elements());
    for (const std::int64_t limit : limits) {
      for (const Precision precision : {Precision::tf32, Precision::tf32x3, Precision::ieee}) {
        PlanOptions options;
        options.precision = precision;
        options.workspace_limit = limit;
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
          std::printf("  %4lld MiB %-62s %8.4f ms (model %.4f), %.1f TFLOP/s\n", static_cast<long long>(limit >> 20),
                      plan.name().c_str(), ms, plan.predicted_seconds * 1e3, plan.flops / ms / 1e9);
          if (precision == Precision::tf32 && plan.backend == GemmBackend::cublas) {
            time_col2im(problem, plan, tensors, context, bandwidth);
          }
        }
      }
    }
  }
  cublasDestroy(handle);
  return 0;
}

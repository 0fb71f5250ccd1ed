#pragma once
// The GPU that the tests run on: traits, a stream of its own and a cuBLAS handle set to it.
#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "convt_gemm/plan.h"

namespace convt_gemm::testing {

inline void check_cuda(cudaError_t error, const char* what) {
  if (error != cudaSuccess) ADD_FAILURE() << what << ": " << cudaGetErrorString(error);
}

class Machine {
 public:
  static Machine& get() {
    static Machine machine;
    return machine;
  }

  /// Empty if there is a device, else why not.
  const std::string& missing() const { return missing_; }
  const DeviceTraits& traits() const { return traits_; }
  cudaStream_t stream() const { return stream_; }
  cublasHandle_t cublas() const { return cublas_; }
  void synchronize() const { check_cuda(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

 private:
  Machine() {
    int devices = 0;
    const cudaError_t error = cudaGetDeviceCount(&devices);
    if (error != cudaSuccess || devices == 0) {
      missing_ = std::string("no CUDA device: ") + cudaGetErrorString(error);
      return;
    }
    int major = 0, minor = 0, l2_bytes = 0;
    check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "compute capability");
    check_cuda(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0), "compute capability");
    check_cuda(cudaDeviceGetAttribute(&traits_.multiprocessors, cudaDevAttrMultiProcessorCount, 0), "multiprocessors");
    check_cuda(cudaDeviceGetAttribute(&l2_bytes, cudaDevAttrL2CacheSize, 0), "L2 size");
    traits_.device = Device::cuda;
    traits_.compute_capability = 10 * major + minor;
    traits_.l2_bytes = l2_bytes;
    // Not ordered with the default stream: work that strays there is caught by what it overtakes.
    check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    if (cublasCreate(&cublas_) != CUBLAS_STATUS_SUCCESS || cublasSetStream(cublas_, stream_) != CUBLAS_STATUS_SUCCESS) {
      ADD_FAILURE() << "cuBLAS gives no handle";
    }
  }
  ~Machine() {
    if (cublas_ != nullptr) cublasDestroy(cublas_);
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }

  std::string missing_;
  DeviceTraits traits_;
  cudaStream_t stream_ = nullptr;
  cublasHandle_t cublas_ = nullptr;
};

/// Skips without a device; fails instead where CONVT_GEMM_REQUIRE_GPU=1 says that there must be one.
class NeedsGpu : public virtual ::testing::Test {
 protected:
  void SetUp() override {
    const std::string& missing = Machine::get().missing();
    if (missing.empty()) return;
    const char* require = std::getenv("CONVT_GEMM_REQUIRE_GPU");
    ASSERT_FALSE(require != nullptr && std::string(require) == "1") << missing;
    GTEST_SKIP() << missing;
  }
};

}  // namespace convt_gemm::testing

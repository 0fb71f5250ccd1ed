#include "direct/streamed_launch.cuh"

namespace convt_gemm {
namespace direct {

template cudaError_t launch_streamed<float>(const Problem&, const Tensors&, cudaStream_t);
template cudaError_t launch_streamed<double>(const Problem&, const Tensors&, cudaStream_t);
template cudaError_t launch_streamed<BFloat16>(const Problem&, const Tensors&, cudaStream_t);
template cudaError_t launch_streamed<Float16>(const Problem&, const Tensors&, cudaStream_t);

}  // namespace direct
}  // namespace convt_gemm

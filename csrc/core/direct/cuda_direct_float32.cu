#include "direct/direct_launch.cuh"

namespace convt_gemm {
namespace direct {

template cudaError_t launch<float>(const Problem&, const Tensors&, cudaStream_t);

}  // namespace direct
}  // namespace convt_gemm

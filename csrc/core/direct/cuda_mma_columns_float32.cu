#include "direct/mma_columns_launch.cuh"

namespace convt_gemm {
namespace direct {

template cudaError_t launch_mma_columns<float>(const Problem&, const Tensors&, cudaStream_t);

}  // namespace direct
}  // namespace convt_gemm

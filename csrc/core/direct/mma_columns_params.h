#pragma once
// What mma_columns_kernel.cuh is told. Host code without CUDA, so that tests take the same way as the GPU.
#include <cstdint>

#include "convt_gemm/exec.h"
#include "direct/columns_dispatch.h"
#include "plan/mma_columns.h"

namespace convt_gemm {
namespace direct {

struct MmaColumnParams {
  ColumnParams columns;
  std::int32_t chunks, stages, row_pitch, weight_bytes;  ///< as in MmaColumnGeometry
  std::int64_t input_bytes;                              ///< of all of x
  const void *input, *weight, *bias;                     ///< no bias if null
  void* output;
};

inline MmaColumnParams mma_column_params(const Problem& problem, const MmaColumnGeometry& g, const Tensors& tensors) {
  MmaColumnParams p;
  p.columns = column_params(problem, g.columns);
  p.chunks = std::int32_t(g.chunks);
  p.stages = std::int32_t(g.stages);
  p.row_pitch = std::int32_t(g.row_pitch);
  p.weight_bytes = std::int32_t(g.weight_bytes);
  p.input_bytes = problem.input_elements() * std::int64_t(size_of(problem.dtype));
  p.input = tensors.input;
  p.weight = tensors.weight;
  p.bias = problem.bias ? tensors.bias : nullptr;
  p.output = tensors.output;
  return p;
}

}  // namespace direct
}  // namespace convt_gemm

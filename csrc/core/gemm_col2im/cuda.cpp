#include "gemm_col2im/cuda.h"

#include <algorithm>

#include "col2im/cuda_col2im.h"
#include "gemm/cuda_gemm.h"
#include "gemm_col2im/join_samples.h"
#include "plan/pieces.h"

namespace convt_gemm {
namespace {

const void* at(const void* base, std::int64_t elements, std::size_t size) {
  return static_cast<const char*>(base) + elements * std::int64_t(size);
}

/// A run of input positions that is one matrix operand: contiguous in x and in the column buffer.
struct Run {
  std::int64_t x = 0;        // first position in x, all axes flattened
  std::int64_t columns = 0;  // the same position in the box of the column buffer
  std::int64_t positions = 0;
};

/// The box of inputs as runs. Axes inside the innermost cut one are whole, so a run covers them and the cut axis; there is one
/// run for each index of the axes outside it, and just one run if at most the outermost axis is cut.
template <class Visit>
Status for_each_run(const Problem& problem, const std::array<Range, kMaxAxes>& input, Visit visit) {
  int cut = 0;
  for (int a = 0; a < kMaxAxes; ++a) {
    if (input[a].size() != problem.axes[a].input) cut = a;
  }
  std::int64_t inner = 1, outer = 1;
  for (int a = cut + 1; a < kMaxAxes; ++a) inner *= problem.axes[a].input;
  for (int a = 0; a < cut; ++a) outer *= input[a].size();
  Run run;
  run.positions = input[cut].size() * inner;
  for (std::int64_t i = 0; i < outer; ++i) {
    std::int64_t position = 0, rest = i, scale = 1;
    for (int a = cut - 1; a >= 0; --a) {
      position += (input[a].begin + rest % input[a].size()) * scale;
      rest /= input[a].size();
      scale *= problem.axes[a].input;
    }
    run.x = (position * problem.axes[cut].input + input[cut].begin) * inner;
    run.columns = i * run.positions;
    Status status = visit(run);
    if (!status.ok()) return status;
  }
  return {};
}

/// The products of one run: over the samples of the piece and the groups, as few batched calls as strides allow.
Status gemm_run(const Problem& problem, const Plan& plan, Range batch, std::int64_t box, const Run& run,
                const Tensors& tensors, const CudaContext& context) {
  const std::size_t item = size_of(problem.dtype);
  const std::int64_t positions = problem.input_positions();
  const std::int64_t depth = problem.group_in_channels();
  const bool first = problem.layout == Layout::channels_first;

  BatchedGemm gemm;
  gemm.rows = problem.group_out_channels() * problem.taps();
  gemm.positions = run.positions;
  gemm.depth = depth;
  gemm.weight_stride = gemm.rows;
  gemm.x_layout = problem.layout;
  gemm.x_stride = first ? positions : problem.in_channels;
  gemm.columns_stride = box;

  const std::int64_t x_sample = problem.in_channels * positions;
  const std::int64_t x_group = first ? depth * positions : depth;
  const std::int64_t weight_group = depth * gemm.rows;
  const std::int64_t columns_group = gemm.rows * box;
  const std::int64_t columns_sample = columns_group * problem.groups;
  const bool batch_samples = batch.size() >= problem.groups;
  const std::int64_t inner = batch_samples ? batch.size() : problem.groups;
  const std::int64_t outer = batch_samples ? problem.groups : batch.size();
  gemm.x_batch_stride = batch_samples ? x_sample : x_group;
  gemm.weight_batch_stride = batch_samples ? 0 : weight_group;
  gemm.columns_batch_stride = batch_samples ? columns_sample : columns_group;

  for (std::int64_t o = 0; o < outer; ++o) {
    for (std::int64_t i = 0; i < inner; i += kMaxGemmBatch) {
      const std::int64_t sample = batch_samples ? i : o, group = batch_samples ? o : i;
      gemm.batch = std::min(kMaxGemmBatch, inner - i);
      gemm.weight = at(tensors.weight, group * weight_group, item);
      gemm.x = at(tensors.input,
                  (batch.begin + sample) * x_sample + group * x_group + run.x * (first ? 1 : problem.in_channels), item);
      gemm.columns = const_cast<void*>(
          at(context.workspace, sample * columns_sample + group * columns_group + run.columns, column_size(problem.dtype)));
      Status status = cuda_gemm(plan, gemm, context);
      if (!status.ok()) return status;
    }
  }
  return {};
}

/// Fills the columns of a piece, whose samples lie side by side, with one product for each group.
Status fill_joined_columns(const Problem& problem, const Plan& plan, Range batch, const Tensors& tensors, const CudaContext& context) {
  const std::size_t item = size_of(problem.dtype);
  const std::int64_t positions = problem.input_positions(), sample = problem.in_channels * positions;
  void* const x = static_cast<char*>(context.workspace) + std::int64_t(plan.workspace_bytes) - joined_bytes(problem, plan.piece.batch);
  const Status status = join_samples(at(tensors.input, batch.begin * sample, item), batch.size(), problem.in_channels, positions, item, x, context);
  if (!status.ok()) return status;
  BatchedGemm gemm;
  gemm.rows = problem.group_out_channels() * problem.taps();
  gemm.positions = batch.size() * positions;
  gemm.depth = problem.group_in_channels();
  gemm.batch = problem.groups;
  gemm.weight = tensors.weight, gemm.weight_stride = gemm.rows, gemm.weight_batch_stride = gemm.depth * gemm.rows;
  gemm.x = x, gemm.x_layout = Layout::channels_first, gemm.x_stride = gemm.positions, gemm.x_batch_stride = gemm.depth * gemm.positions;
  gemm.columns = context.workspace, gemm.columns_stride = gemm.positions, gemm.columns_batch_stride = gemm.rows * gemm.positions;
  return cuda_gemm(plan, gemm, context);
}

/// Fills the columns of the inputs that a piece's outputs are made of, run by run; there may be none.
Status fill_columns(const Problem& problem, const Plan& plan, const Col2imPiece& piece, const Tensors& tensors, const CudaContext& context) {
  std::int64_t box = 1;
  for (const Range& range : piece.input) box *= range.size();
  if (box == 0) return {};
  return for_each_run(problem, piece.input, [&](const Run& run) { return gemm_run(problem, plan, piece.batch, box, run, tensors, context); });
}

Status run_piece(const Problem& problem, const Plan& plan, const Col2imPiece& piece, const Tensors& tensors, const CudaContext& context) {
  const Status status = plan.joined ? fill_joined_columns(problem, plan, piece.batch, tensors, context) : fill_columns(problem, plan, piece, tensors, context);
  return status.ok() ? cuda_col2im(problem, piece, context.workspace, tensors, context) : status;
}

}  // namespace

Status gemm_col2im_cuda(const Problem& problem, const Plan& plan, const Tensors& tensors, const CudaContext& context) {
  const auto& step = plan.piece.output;
  const auto range = [](std::int64_t begin, std::int64_t extent, std::int64_t end) {
    return Range{begin, std::min(begin + extent, end)};
  };
  const auto& axes = problem.axes;
  Col2imPiece piece;
  piece.joined = plan.joined;
  for (std::int64_t n = 0; n < problem.batch; n += plan.piece.batch) {
    piece.batch = range(n, plan.piece.batch, problem.batch);
    for (std::int64_t o0 = 0; o0 < axes[0].output(); o0 += step[0]) {
      for (std::int64_t o1 = 0; o1 < axes[1].output(); o1 += step[1]) {
        for (std::int64_t o2 = 0; o2 < axes[2].output(); o2 += step[2]) {
          piece.output = {range(o0, step[0], axes[0].output()), range(o1, step[1], axes[1].output()),
                          range(o2, step[2], axes[2].output())};
          for (int a = 0; a < kMaxAxes; ++a) piece.input[a] = inputs_of(axes[a], piece.output[a]);
          Status status = run_piece(problem, plan, piece, tensors, context);
          if (!status.ok()) return status;
        }
      }
    }
  }
  return {};
}

}  // namespace convt_gemm

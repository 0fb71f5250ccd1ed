// col2im by itself: random columns, any piece, against a plain scatter.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "col2im/cuda_col2im.h"
#include "cuda/plan_runner.h"
#include "support/problems.h"

namespace convt_gemm::testing {
namespace {

std::int64_t box_of(const std::array<Range, kMaxAxes>& ranges) {
  return ranges[0].size() * ranges[1].size() * ranges[2].size();
}

/// Adds every column to its output, then the bias; `columns` are [batch, channels, taps, box of inputs], or joined. The result is
/// the whole output in bytes, NaN wherever the piece does not write.
Bytes scattered(const Problem& p, const Col2imPiece& piece, const std::vector<double>& columns,
                const std::vector<double>& bias) {
  const std::int64_t inputs = box_of(piece.input), outputs = box_of(piece.output);
  const std::size_t size = size_of(p.dtype);
  Bytes result(std::size_t(p.output_elements()) * size, GuardedMemory::kNaN);
  std::vector<double> sums(static_cast<std::size_t>(outputs));
  for (std::int64_t n = 0; n < piece.batch.size(); ++n) {
    for (std::int64_t c = 0; c < p.out_channels; ++c) {
      std::fill(sums.begin(), sums.end(), p.bias ? bias[std::size_t(c)] : 0.0);
      for (std::int64_t tap = 0; tap < p.taps(); ++tap) {
        for (std::int64_t i = 0; i < inputs; ++i) {
          std::int64_t rest_tap = tap, rest_i = i, target = 0, scale = 1;
          bool within = true;
          for (std::size_t a = kMaxAxes; a-- > 0;) {
            const std::int64_t input = piece.input[a].begin + rest_i % piece.input[a].size();
            const std::int64_t output =
                input * p.axes[a].stride + rest_tap % p.axes[a].kernel * p.axes[a].dilation - p.axes[a].padding;
            within = within && output >= piece.output[a].begin && output < piece.output[a].end;
            target += (output - piece.output[a].begin) * scale;
            scale *= piece.output[a].size();
            rest_i /= piece.input[a].size();
            rest_tap /= p.axes[a].kernel;
          }
          const std::int64_t row = piece.joined ? (c * p.taps() + tap) * piece.batch.size() + n : (n * p.out_channels + c) * p.taps() + tap;
          if (within) sums[std::size_t(target)] += columns[std::size_t(row * inputs + i)];
        }
      }
      const Bytes values = encode(p.dtype, sums);
      for (std::int64_t o = 0; o < outputs; ++o) {
        const std::int64_t o2 = piece.output[2].begin + o % piece.output[2].size();
        const std::int64_t o1 = piece.output[1].begin + o / piece.output[2].size() % piece.output[1].size();
        const std::int64_t o0 = piece.output[0].begin + o / piece.output[2].size() / piece.output[1].size();
        const std::int64_t position = (o0 * p.axes[1].output() + o1) * p.axes[2].output() + o2;
        const std::int64_t sample = piece.batch.begin + n;
        const std::int64_t element = p.layout == Layout::channels_first
                                         ? (sample * p.out_channels + c) * p.output_positions() + position
                                         : (sample * p.output_positions() + position) * p.out_channels + c;
        std::memcpy(&result[std::size_t(element) * size], &values[std::size_t(o) * size], size);
      }
    }
  }
  return result;
}

/// The whole problem, and pieces that end inside the batch and inside each axis.
std::vector<Col2imPiece> pieces_of(const Problem& problem) {
  Col2imPiece whole;
  whole.batch = {0, problem.batch};
  for (std::size_t a = 0; a < kMaxAxes; ++a) whole.output[a] = {0, problem.axes[a].output()};
  std::vector<Col2imPiece> pieces{whole};
  const auto cut = [&](auto change) {
    Col2imPiece piece = whole;
    change(piece);
    pieces.push_back(piece);
  };
  if (problem.batch > 1) cut([](Col2imPiece& piece) { piece.batch.begin = 1; });
  if (problem.layout == Layout::channels_first) {
    cut([](Col2imPiece& piece) { piece.joined = true; });
    if (problem.batch > 1) cut([](Col2imPiece& piece) { piece.batch.begin = 1, piece.joined = true; });
  }
  for (std::size_t a = 0; a < kMaxAxes; ++a) {
    const std::int64_t output = problem.axes[a].output();
    if (output < 3) continue;
    cut([&](Col2imPiece& piece) { piece.output[a] = {output / 3, output}; });
    cut([&](Col2imPiece& piece) { piece.output[a] = {1, output - 1}; });
    cut([&](Col2imPiece& piece) {
      piece.output[a] = {output / 2, output / 2 + 1};
      piece.batch = {problem.batch - 1, problem.batch};
    });
  }
  for (Col2imPiece& piece : pieces) {
    for (std::size_t a = 0; a < kMaxAxes; ++a) piece.input[a] = inputs_of(problem.axes[a], piece.output[a]);
  }
  return pieces;
}

class Col2im : public NeedsGpu, public ::testing::WithParamInterface<NamedProblem> {};

TEST_P(Col2im, EveryPieceIsTheScatter) {
  for (DType dtype : {DType::float32, DType::bfloat16, DType::float16, DType::float64}) {
    for (Layout layout : kLayouts) {
      const Problem problem = in(GetParam().problem, dtype, layout);
      for (const Col2imPiece& piece : pieces_of(problem)) {
        const std::int64_t inputs = box_of(piece.input);
        SCOPED_TRACE(to_string(problem) + " outputs " + std::to_string(piece.output[0].begin) + "," +
                     std::to_string(piece.output[1].begin) + "," + std::to_string(piece.output[2].begin) + " to " +
                     std::to_string(piece.output[0].end) + "," + std::to_string(piece.output[1].end) + "," +
                     std::to_string(piece.output[2].end));
        const std::vector<double> columns =
            integers(piece.batch.size() * problem.out_channels * problem.taps() * inputs, 5, 9);
        const std::vector<double> bias = integers(problem.out_channels, 6);
        const DeviceArray device_columns(encode(dtype == DType::float64 ? DType::float64 : DType::float32, columns));
        const DeviceArray device_bias(encode(dtype, bias));
        const Bytes want = scattered(problem, piece, columns, bias);
        for (const std::int64_t enough_threads : {kCol2imThreads, std::int64_t{1}}) {  // one: as many channels a thread as there may be
          GuardedMemory& output = PlanRunner::output();
          output.reset(std::size_t(problem.output_elements()) * size_of(dtype));
          Tensors tensors;
          tensors.bias = problem.bias ? device_bias.data() : nullptr;
          tensors.output = output.data();
          CudaContext context;
          context.stream = Machine::get().stream();
          const Status status = cuda_col2im(problem, piece, device_columns.data(), tensors, context, enough_threads);
          ASSERT_TRUE(status.ok()) << status.message;
          Machine::get().synchronize();
          ASSERT_TRUE(output.guards_intact());
          // Bytes, not values: what the piece does not own must keep its NaN.
          const Bytes got = output.read();
          if (got == want) continue;
          const auto first =
              std::size_t(std::mismatch(got.begin(), got.end(), want.begin()).first - got.begin()) / size_of(dtype);
          FAIL() << "enough threads: " << enough_threads << ", first difference at element " << first << ": got " << decode(dtype, got)[first]
                 << ", expected " << decode(dtype, want)[first];
        }
      }
    }
  }
}

std::vector<NamedProblem> problems_with_batch() {
  std::vector<NamedProblem> problems = small_problems();
  problems.erase(std::remove_if(problems.begin(), problems.end(),
                                [](const NamedProblem& named) { return named.problem.batch == 0; }),
                 problems.end());
  return problems;
}

INSTANTIATE_TEST_SUITE_P(Small, Col2im, ::testing::ValuesIn(problems_with_batch()), ProblemName());
INSTANTIATE_TEST_SUITE_P(WideIndex, Col2im, ::testing::ValuesIn(wide_index_problems()), ProblemName());

}  // namespace
}  // namespace convt_gemm::testing

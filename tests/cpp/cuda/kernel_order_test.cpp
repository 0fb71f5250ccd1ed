// Calls in a row, each of which reads what the one before it wrote and writes what that one read. Kernels start before the one ahead of them in the stream is done
// (util/kernel_order.cuh) and have to wait by themselves, which no test of a single call sees. The same calls with the host waiting for each are the oracle.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "cuda/plan_runner.h"
#include "support/problems.h"

namespace convt_gemm::testing {
namespace {

/// What a call reads of the output of the call before it.
enum class Operand { input, weight, bias };

constexpr Operand kOperands[] = {Operand::input, Operand::weight, Operand::bias};

std::ostream& operator<<(std::ostream& to, Operand operand) {
  return to << (operand == Operand::input ? "input" : operand == Operand::weight ? "weight" : "bias");
}

/// Operands of which the given one has the variance of an output that it makes with the others, so that values neither grow nor vanish from call to call.
Operands operands_for(const Problem& problem, Operand chained) {
  Operands operands = uniform_operands(problem);
  const double terms = double(problem.group_in_channels() * problem.taps() * problem.input_positions()) / double(problem.output_positions());
  for (double& value : chained == Operand::weight ? operands.input : operands.weight) value *= std::sqrt(3 / std::max(1.0, terms));
  return operands;
}

/// Two buffers take turns: a call has its operand in one and writes its output to the other.
class Calls {
 public:
  Calls(const Problem& problem, Operand chained) : Calls(problem, chained, operands_for(problem, chained)) {}
  ~Calls() {
    for (void* buffer : buffers_) cudaFree(buffer);
  }
  Calls(const Calls&) = delete;
  Calls& operator=(const Calls&) = delete;

  /// Both buffers as the first call finds them, and room for the plans' workspaces.
  void reset(const std::vector<Plan>& plans) const {
    std::size_t workspace = 0;
    for (const Plan& plan : plans) workspace = std::max(workspace, plan.workspace_bytes);
    PlanRunner::workspace().reset(workspace);
    for (void* buffer : buffers_) {
      check_cuda(cudaMemcpyAsync(buffer, initial_.data(), bytes_, cudaMemcpyDeviceToDevice, Machine::get().stream()), "reset");
    }
  }

  /// One call for each plan. `in_turn`: the host waits for each.
  void enqueue(const std::vector<Plan>& plans, bool in_turn) const {
    for (std::size_t i = 0; i < plans.size(); ++i) {
      const auto* const from = static_cast<const unsigned char*>(buffers_[i % 2]) + operand_offset_;
      Tensors tensors{input_.data(), weight_.data(), bias_.data(), buffers_[1 - i % 2]};
      (chained_ == Operand::input ? tensors.input : chained_ == Operand::weight ? tensors.weight : tensors.bias) = from;
      CudaContext context;
      context.stream = Machine::get().stream();
      if (plans[i].backend == GemmBackend::cublas) context.cublas_handle = Machine::get().cublas();
      context.workspace = PlanRunner::workspace().data();
      context.workspace_bytes = plans[i].workspace_bytes;
      const Status status = forward(problem_, plans[i], tensors, context);
      ASSERT_TRUE(status.ok()) << status.message;
      if (in_turn) Machine::get().synchronize();
    }
  }

  /// Both buffers after all calls.
  Bytes result() const {
    Bytes bytes(2 * bytes_);
    for (std::size_t i = 0; i < 2; ++i) {
      check_cuda(cudaMemcpyAsync(bytes.data() + i * bytes_, buffers_[i], bytes_, cudaMemcpyDeviceToHost, Machine::get().stream()), "download");
    }
    Machine::get().synchronize();
    EXPECT_TRUE(PlanRunner::workspace().guards_intact()) << "written beside the workspace";
    return bytes;
  }

 private:
  Calls(const Problem& problem, Operand chained, const Operands& operands)
      : problem_(problem),
        chained_(chained),
        output_bytes_(std::size_t(problem.output_elements()) * size_of(problem.dtype)),
        operand_bytes_(elements_of(operands, chained).size() * size_of(problem.dtype)),
        // The end of the output, which is what is written last, or all of it; aligned as memory of its own would be.
        operand_offset_(output_bytes_ > operand_bytes_ ? (output_bytes_ - operand_bytes_) / kAlignment * kAlignment : 0),
        bytes_(std::max(output_bytes_, operand_offset_ + operand_bytes_)),
        input_(encode(problem.dtype, operands.input)),
        weight_(encode(problem.dtype, operands.weight)),
        bias_(encode(problem.dtype, operands.bias)),
        initial_(encode(problem.dtype, uniform(std::int64_t(bytes_ / size_of(problem.dtype)), 4))) {
    for (void*& buffer : buffers_) check_cuda(cudaMalloc(&buffer, bytes_), "cudaMalloc");
  }

  static const std::vector<double>& elements_of(const Operands& operands, Operand operand) {
    return operand == Operand::input ? operands.input : operand == Operand::weight ? operands.weight : operands.bias;
  }

  static constexpr std::size_t kAlignment = 256;

  Problem problem_;
  Operand chained_;
  std::size_t output_bytes_, operand_bytes_, operand_offset_, bytes_;
  DeviceArray input_, weight_, bias_, initial_;
  void* buffers_[2] = {};
};

/// Calls that are enqueued one after the other, and the same ones in a graph, against the same ones in turn.
void expect_in_order(const Calls& calls, const std::vector<Plan>& plans) {
  constexpr int kRepetitions = 2;
  const cudaStream_t stream = Machine::get().stream();
  calls.reset(plans);
  calls.enqueue(plans, true);
  const Bytes want = calls.result();
  for (int repetition = 0; repetition < kRepetitions; ++repetition) {
    calls.reset(plans);
    calls.enqueue(plans, false);
    ASSERT_TRUE(calls.result() == want) << "calls in a row";
  }
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  calls.enqueue(plans, false);
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
  for (int repetition = 0; repetition < kRepetitions; ++repetition) {
    calls.reset(plans);
    ASSERT_EQ(cudaGraphLaunch(executable, stream), cudaSuccess);
    ASSERT_TRUE(calls.result() == want) << "calls in a graph";
  }
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
}

class KernelOrder : public NeedsGpu, public ::testing::WithParamInterface<NamedProblem> {};

TEST_P(KernelOrder, CallsSeeWhatTheCallBeforeWrote) {
  for (const Arithmetic& arithmetic : every_arithmetic()) {
    for (Layout layout : kLayouts) {
      const Problem problem = in(GetParam().problem, arithmetic.dtype, layout);
      const std::vector<Plan> plans = plans_of(problem, arithmetic.precision);
      ASSERT_FALSE(plans.empty());
      for (Operand chained : kOperands) {
        const Calls calls(problem, chained);
        for (const Plan& plan : plans) {
          SCOPED_TRACE(::testing::Message() << chained << " of " << describe(problem, plan));
          // Behind itself, behind the planner's choice, which mostly is one that lets the next kernel start early, and ahead of it.
          ASSERT_NO_FATAL_FAILURE(expect_in_order(calls, {plan, plan, plans[0], plan, plan, plans[0]}));
        }
        SCOPED_TRACE(::testing::Message() << chained << " of all plans, one after the other, of " << to_string(problem));
        ASSERT_NO_FATAL_FAILURE(expect_in_order(calls, plans));
        ASSERT_NO_FATAL_FAILURE(expect_in_order(calls, std::vector<Plan>(plans.rbegin(), plans.rend())));
      }
    }
  }
}

/// Every kernel that starts early is among their plans. They are small: where few blocks are at work, others can start before those are done.
INSTANTIATE_TEST_SUITE_P(
    Calls, KernelOrder,
    ::testing::Values(NamedProblem{"more_weights_than_positions", make_problem(1, 256, 128, {{72, 16, 8, 4}}, 1, true)},
                      NamedProblem{"odd_stride", make_problem(1, 256, 128, {{72, 10, 5, 3, 1}}, 1, true)},
                      NamedProblem{"long_rows", make_problem(1, 32, 48, {{3072, 4, 2, 1}}, 1, true)},
                      NamedProblem{"odd_rows", make_problem(3, 37, 29, {{1001, 5, 3, 1, 1}}, 1, true)},
                      NamedProblem{"depthwise", make_problem(1, 256, 256, {{400, 3, 2, 1, 1}}, 256, true)},
                      NamedProblem{"few_columns", make_problem(1, 256, 1, {{1600, 16, 8, 8}}, 1, true)},
                      NamedProblem{"frames", make_problem(4, 11, 1, {{2000, 20, 5}}, 1, true)},
                      NamedProblem{"few_positions", make_problem(1, 256, 128, {{2, 16, 8}}, 1, true)},
                      NamedProblem{"planes", make_problem(2, 64, 48, {{24, 4, 2, 1}, {28, 4, 2, 1}}, 1, true)},
                      NamedProblem{"small_planes", make_problem(2, 128, 96, {{8, 4, 2, 1}, {8, 4, 2, 1}}, 1, true)},
                      NamedProblem{"volumes", make_problem(1, 32, 24, {{8, 2, 2}, {10, 2, 2}, {12, 2, 2}}, 1, true)}),
    ProblemName());

}  // namespace
}  // namespace convt_gemm::testing

// A call under stream capture: it must neither allocate nor wait, and its replay must give the same values.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include "cuda/plan_runner.h"
#include "support/problems.h"

namespace convt_gemm::testing {
namespace {

class SmallGraph : public NeedsGpu {};

TEST_F(SmallGraph, ReplaysEveryPlan) {
  const Problem base = make_problem(3, 16, 24, {{40, 4, 2, 1}}, 2, true);
  const Operands operands = integer_operands(base);
  const cudaStream_t stream = Machine::get().stream();
  for (const Arithmetic& arithmetic : every_arithmetic()) {
    for (Layout layout : kLayouts) {
      const Problem problem = in(base, arithmetic.dtype, layout);
      const PlanRunner runner(problem, operands);
      for (std::int64_t limit : {kDefaultWorkspaceLimit, std::int64_t{20000}}) {
        for (const Plan& plan : plans_of(problem, arithmetic.precision, limit)) {
          SCOPED_TRACE(describe(problem, plan));
          const Bytes want = runner.run(plan);  // also loads the kernels
          runner.reset(plan);
          Machine::get().synchronize();
          cudaGraph_t graph = nullptr;
          cudaGraphExec_t executable = nullptr;
          ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
          const Status status = forward(problem, plan, runner.tensors(), runner.context(plan));
          ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
          ASSERT_TRUE(status.ok()) << status.message;
          EXPECT_TRUE(PlanRunner::output().untouched()) << "capture must not run";
          ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
          for (int replay = 0; replay < 2; ++replay) {
            runner.reset(plan);
            ASSERT_EQ(cudaGraphLaunch(executable, stream), cudaSuccess);
            EXPECT_EQ(runner.finish(), want);
          }
          cudaGraphExecDestroy(executable);
          cudaGraphDestroy(graph);
        }
      }
    }
  }
}

}  // namespace
}  // namespace convt_gemm::testing

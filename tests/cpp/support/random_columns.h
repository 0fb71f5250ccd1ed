#pragma once
// Random problems for the kernels of few output channels.
#include <algorithm>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <random>
#include <vector>

#include "convt_gemm/problem.h"

namespace convt_gemm::testing {

/// One to three axes of any stride, dilation and padding, with groups, at most eight output channels a group and one of `in_channels`, that `serves` takes.
inline Problem random_column_problem(std::mt19937_64* random, const std::vector<DType>& dtypes, std::initializer_list<std::int64_t> in_channels,
                                     const std::function<bool(const Problem&)>& serves) {
  const auto below = [&](std::int64_t end) { return std::int64_t((*random)() % std::uint64_t(end)); };
  const auto one_of = [&](std::initializer_list<std::int64_t> values) { return values.begin()[below(std::int64_t(values.size()))]; };
  for (;;) {
    Problem problem;
    problem.rank = int(one_of({1, 1, 2, 3}));
    problem.batch = one_of({1, 1, 2, 3});
    problem.groups = one_of({1, 1, 2, 3});
    problem.in_channels = problem.groups * one_of(in_channels);
    problem.out_channels = problem.groups * one_of({1, 1, 1, 2, 3, 5, 8});
    problem.bias = below(2) == 0;
    problem.dtype = dtypes[std::size_t(below(std::int64_t(dtypes.size())))];
    for (int i = 0; i < problem.rank; ++i) {
      Axis& axis = problem.axis(i);
      const bool last = i + 1 == problem.rank;
      axis.input = last ? one_of({1, 2, 1 + below(300), 1 + below(300)}) : 1 + below(5);
      axis.kernel = 1 + below(last ? 20 : 3);
      axis.stride = one_of({1, 2, 2, 3, 4, 5, 8, 1 + below(40)});
      axis.dilation = one_of({1, 1, 1, 2, 3, 5});
      axis.output_padding = below(std::max(axis.stride, axis.dilation));
      axis.padding = one_of({0, 1, below(7), below(40)});
    }
    const double products = double(problem.batch * problem.input_positions()) * double(problem.weight_elements());
    if (validate(problem).ok() && problem.output_elements() < 30000 && products < 1e6 && serves(problem)) return problem;
  }
}

}  // namespace convt_gemm::testing

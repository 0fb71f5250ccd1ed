#pragma once
// A loop on the threads of a CpuContext.
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

#include "convt_gemm/exec.h"

namespace convt_gemm {

/// Calls body(begin, end, thread) on disjoint ranges that cover [0, count), on up to `threads` threads: the context's,
/// or ones that are started and joined here. Where no thread can be started, the caller does the work.
template <typename Body>
void parallel_for(const CpuContext& context, std::int64_t count, int threads, const Body& body) {
  if (threads <= 1) {
    body(std::int64_t{0}, count, 0);
    return;
  }
  if (context.parallel_for != nullptr) {
    const auto call = [](void* arg, std::int64_t begin, std::int64_t end, int thread) {
      (*static_cast<const Body*>(arg))(begin, end, thread);
    };
    context.parallel_for(count, threads, call, const_cast<Body*>(&body));
    return;
  }
  std::vector<std::thread> team;
  team.reserve(std::size_t(threads - 1));
  std::int64_t begin = 0;
  for (int t = 0; t + 1 < threads; ++t) {
    const std::int64_t end = count * (t + 1) / threads;
    try {
      team.emplace_back([&body, begin, end, t] { body(begin, end, t); });
    } catch (const std::system_error&) {
      break;
    }
    begin = end;
  }
  body(begin, count, threads - 1);
  for (std::thread& thread : team) thread.join();
}

}  // namespace convt_gemm

#pragma once
// What a call of the library returns instead of throwing: the core never raises, prints or exits.
#include <string>
#include <utility>

namespace convt_gemm {

enum class StatusCode {
  ok,
  invalid_argument,  ///< the caller's values are wrong; the message names argument, value and expectation
  not_supported,     ///< legal values that no plan of this build or device serves
  runtime_error,     ///< the CUDA runtime or cuBLAS reported a failure
};

struct [[nodiscard]] Status {
  StatusCode code = StatusCode::ok;
  std::string message;

  bool ok() const { return code == StatusCode::ok; }

  static Status invalid(std::string message) { return {StatusCode::invalid_argument, std::move(message)}; }
  static Status unsupported(std::string message) { return {StatusCode::not_supported, std::move(message)}; }
  static Status failure(std::string message) { return {StatusCode::runtime_error, std::move(message)}; }
};

}  // namespace convt_gemm

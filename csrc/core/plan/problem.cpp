#include "convt_gemm/problem.h"

#include <algorithm>
#include <initializer_list>
#include <limits>

namespace convt_gemm {
namespace {

/// Largest element count of a tensor: byte counts of every dtype still fit int64.
constexpr std::int64_t kMaxElements = std::numeric_limits<std::int64_t>::max() / 16;

bool product_fits(std::initializer_list<std::int64_t> factors, std::int64_t limit) {
  std::int64_t product = 1;
  for (std::int64_t factor : factors) {
    if (factor == 0) return true;
  }
  for (std::int64_t factor : factors) {
    if (factor > limit / product) return false;
    product *= factor;
  }
  return true;
}

std::string on_axis(const Problem& problem, int i) {
  return problem.rank == 1 ? std::string() : " on axis " + std::to_string(i);
}

Status check_axis(const Problem& problem, int i) {
  const Axis& axis = problem.axis(i);
  const std::string where = on_axis(problem, i);
  const auto positive = [&](const char* name, std::int64_t value) {
    return Status::invalid("expected " + std::string(name) + " to be positive, but got " + std::to_string(value) + where);
  };
  const auto non_negative = [&](const char* name, std::int64_t value) {
    return Status::invalid("expected " + std::string(name) + " to be non-negative, but got " + std::to_string(value) + where);
  };
  if (axis.input <= 0) return positive("input size", axis.input);
  if (axis.kernel <= 0) return positive("kernel size", axis.kernel);
  if (axis.stride <= 0) return positive("stride", axis.stride);
  if (axis.dilation <= 0) return positive("dilation", axis.dilation);
  if (axis.padding < 0) return non_negative("padding", axis.padding);
  if (axis.output_padding < 0) return non_negative("output_padding", axis.output_padding);
  if (axis.output_padding >= axis.stride && axis.output_padding >= axis.dilation) {
    return Status::invalid("output padding must be smaller than either stride or dilation, but got output_padding " +
                           std::to_string(axis.output_padding) + ", stride " + std::to_string(axis.stride) + ", dilation " +
                           std::to_string(axis.dilation) + where);
  }
  // Everything that output() multiplies stays far inside int64.
  constexpr std::int64_t kMaxExtent = std::int64_t{1} << 60;
  if (!product_fits({axis.input, axis.stride}, kMaxExtent) || !product_fits({axis.kernel, axis.dilation}, kMaxExtent) ||
      axis.padding > kMaxExtent) {
    return Status::invalid("expected an output size below 2^60, but input " + std::to_string(axis.input) + ", kernel " +
                           std::to_string(axis.kernel) + ", stride " + std::to_string(axis.stride) + ", padding " +
                           std::to_string(axis.padding) + ", dilation " + std::to_string(axis.dilation) + " exceed it" + where);
  }
  if (axis.output() <= 0) {
    return Status::invalid("expected a positive output size, but input " + std::to_string(axis.input) + ", kernel " +
                           std::to_string(axis.kernel) + ", stride " + std::to_string(axis.stride) + ", padding " +
                           std::to_string(axis.padding) + ", output_padding " + std::to_string(axis.output_padding) +
                           ", dilation " + std::to_string(axis.dilation) + " give " + std::to_string(axis.output()) + where);
  }
  return {};
}

}  // namespace

std::size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::float64:
      return 8;
    case DType::float32:
      return 4;
    case DType::bfloat16:
    case DType::float16:
      return 2;
  }
  return 0;
}

const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::float32:
      return "float32";
    case DType::float64:
      return "float64";
    case DType::bfloat16:
      return "bfloat16";
    case DType::float16:
      return "float16";
  }
  return "unknown";
}

const char* name_of(Layout layout) { return layout == Layout::channels_first ? "channels_first" : "channels_last"; }

Status validate(const Problem& problem) {
  if (problem.rank < 1 || problem.rank > kMaxAxes) {
    return Status::invalid("expected rank 1, 2 or 3, but got " + std::to_string(problem.rank));
  }
  for (int i = 0; i < kMaxAxes - problem.rank; ++i) {
    if (!(problem.axes[i] == Axis{})) {
      return Status::invalid("expected the axes before the last " + std::to_string(problem.rank) + " to be Axis{}");
    }
  }
  if (problem.batch < 0) {
    return Status::invalid("expected batch to be non-negative, but got " + std::to_string(problem.batch));
  }
  if (problem.groups <= 0) {
    return Status::invalid("expected groups to be positive, but got " + std::to_string(problem.groups));
  }
  if (problem.in_channels <= 0 || problem.in_channels % problem.groups != 0) {
    return Status::invalid("expected in_channels to be a positive multiple of groups " + std::to_string(problem.groups) +
                           ", but got " + std::to_string(problem.in_channels));
  }
  if (problem.out_channels <= 0 || problem.out_channels % problem.groups != 0) {
    return Status::invalid("expected out_channels to be a positive multiple of groups " + std::to_string(problem.groups) +
                           ", but got " + std::to_string(problem.out_channels));
  }
  for (int i = 0; i < problem.rank; ++i) {
    Status status = check_axis(problem, i);
    if (!status.ok()) return status;
  }
  const auto& a = problem.axes;
  if (!product_fits({problem.batch, problem.in_channels, a[0].input, a[1].input, a[2].input}, kMaxElements) ||
      !product_fits({problem.in_channels, problem.group_out_channels(), a[0].kernel, a[1].kernel, a[2].kernel}, kMaxElements) ||
      !product_fits({problem.batch, problem.out_channels, a[0].output(), a[1].output(), a[2].output()}, kMaxElements)) {
    return Status::invalid("expected fewer than 2^59 elements in input, weight and output, but got " + to_string(problem));
  }
  return {};
}

std::string to_string(const Problem& problem) {
  const auto list = [&](auto value) {
    std::string text;
    for (int i = 0; i < problem.rank; ++i) text += (i ? "," : "") + std::to_string(value(problem.axis(i)));
    return text;
  };
  return std::to_string(problem.rank) + "-D " + name_of(problem.dtype) + " N" + std::to_string(problem.batch) + " C" +
         std::to_string(problem.in_channels) + "->" + std::to_string(problem.out_channels) + " I" +
         list([](const Axis& a) { return a.input; }) + " K" + list([](const Axis& a) { return a.kernel; }) + " S" +
         list([](const Axis& a) { return a.stride; }) + " P" + list([](const Axis& a) { return a.padding; }) + " R" +
         list([](const Axis& a) { return a.output_padding; }) + " D" + list([](const Axis& a) { return a.dilation; }) + " G" +
         std::to_string(problem.groups) + " -> O" + list([](const Axis& a) { return a.output(); }) +
         (problem.bias ? " bias" : "") + (problem.layout == Layout::channels_last ? " channels_last" : "");
}

}  // namespace convt_gemm

#include "arguments.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <string_view>
#include <system_error>

namespace convt_gemm::torch_bindings {
namespace {

using torch::headeronly::ScalarType;

std::string list(const std::int64_t* values, std::int64_t count) {
  std::string text = "[";
  for (std::int64_t i = 0; i < count; ++i) text += (i ? ", " : "") + std::to_string(values[i]);
  return text + "]";
}

DType to_dtype(ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return DType::float32;
    case ScalarType::Double:
      return DType::float64;
    case ScalarType::BFloat16:
      return DType::bfloat16;
    case ScalarType::Half:
      return DType::float16;
    default:
      fail("expected input to be float32, float64, bfloat16 or float16, but got ",
                      torch::headeronly::toString(type));
  }
}

void check_length(const char* name, Values values, std::int64_t rank) {
  CONVT_GEMM_CHECK(std::int64_t(values.size()) == rank, "expected ", name, " to have ", rank, " values, one for each spatial axis, but got ",
                  list(values.data(), std::int64_t(values.size())));
}

bool same_device(const Tensor& a, const Tensor& b) { return a.is_cuda() == b.is_cuda() && a.get_device_index() == b.get_device_index(); }

std::string device_of(const Tensor& tensor) {
  return tensor.is_cuda() ? "cuda:" + std::to_string(tensor.get_device_index()) : "cpu";
}

void check_like_input(const char* name, const Tensor& tensor, const Tensor& input) {
  CONVT_GEMM_CHECK(same_device(tensor, input), "expected ", name, " to be on the input's device ", device_of(input), ", but got ",
                  device_of(tensor));
  CONVT_GEMM_CHECK(tensor.scalar_type() == input.scalar_type(), "expected ", name, " to have the input's dtype ",
                  torch::headeronly::toString(input.scalar_type()), ", but got ",
                  torch::headeronly::toString(tensor.scalar_type()));
}

/// Dense as [batch, positions..., channels] and not also dense as [batch, channels, positions...].
bool is_channels_last(const Tensor& tensor) {
  const std::int64_t dims = tensor.dim();
  if (dims < 4 || tensor.is_contiguous()) return false;
  const auto sizes = tensor.sizes();
  const auto strides = tensor.strides();
  std::int64_t expected = 1;
  const auto matches = [&](std::int64_t d) {
    if (sizes[d] != 1 && strides[d] != expected) return false;
    expected *= sizes[d];
    return true;
  };
  if (!matches(1)) return false;
  for (std::int64_t d = dims - 1; d >= 2; --d) {
    if (!matches(d)) return false;
  }
  return matches(0);
}

/// Uninitialised memory on the device of `like`. On the CPU through the dispatcher, since the shim's own allocation there passes by
/// torch.utils.deterministic.fill_uninitialized_memory, which finds reads of what nobody wrote; on CUDA the shim honours it.
Tensor empty_strided(const Tensor& like, std::int64_t dims, const std::int64_t* sizes, const std::int64_t* strides,
                     ScalarType dtype) {
  using torch::headeronly::IntHeaderOnlyArrayRef;
  using torch::stable::detail::from;
  if (!like.is_cuda()) {
    std::array<StableIValue, 7> stack{from(like),         from(IntHeaderOnlyArrayRef(sizes, dims)),
                                      from(IntHeaderOnlyArrayRef(strides, dims)),
                                      from(std::optional<ScalarType>(dtype)),
                                      from(std::optional<torch::headeronly::Layout>()),
                                      from(std::optional<torch::stable::Device>()), from(std::optional<bool>())};
    STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::new_empty_strided", "", stack.data(), TORCH_ABI_VERSION));
    return torch::stable::detail::to<Tensor>(stack[0]);
  }
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(dims, sizes, strides, torch::stable::detail::to<std::int32_t>(from(dtype)),
                               aoti_torch_device_type_cuda(), like.get_device_index(), &handle));
  return Tensor(handle);
}

}  // namespace

void raise_unless_ok(const Status& status) { CONVT_GEMM_CHECK(status.ok(), status.message); }

Problem make_problem(const std::int64_t* input_size, std::int64_t input_dims, const std::int64_t* weight_size,
                     std::int64_t weight_dims, const Geometry& geometry) {
  const std::int64_t rank = weight_dims - 2;
  CONVT_GEMM_CHECK(rank >= 1 && rank <= kMaxAxes,
                  "expected weight to be [in_channels, out_channels/groups, kernel...] with 3, 4 or 5 dimensions, but got size ",
                  list(weight_size, weight_dims));
  CONVT_GEMM_CHECK(input_dims == weight_dims, "expected input to be [batch, in_channels, positions...] with ", weight_dims,
                  " dimensions like the weight, but got size ", list(input_size, input_dims));
  check_length("stride", geometry.stride, rank);
  check_length("padding", geometry.padding, rank);
  check_length("output_padding", geometry.output_padding, rank);
  check_length("dilation", geometry.dilation, rank);
  CONVT_GEMM_CHECK(geometry.groups > 0, "expected groups to be positive, but got ", geometry.groups);
  CONVT_GEMM_CHECK(input_size[1] == weight_size[0], "expected input of size ", list(input_size, input_dims), " to have ",
                  weight_size[0], " channels like the weight of size ", list(weight_size, weight_dims), ", but got ", input_size[1],
                  " channels");
  Problem problem;
  problem.rank = int(rank);
  problem.batch = input_size[0];
  problem.in_channels = input_size[1];
  problem.groups = geometry.groups;
  problem.out_channels = weight_size[1] * geometry.groups;
  for (int i = 0; i < rank; ++i) {
    problem.axis(i) = {input_size[2 + i],    weight_size[2 + i],         geometry.stride[i],
                       geometry.padding[i], geometry.output_padding[i], geometry.dilation[i]};
  }
  return problem;
}

Problem make_problem(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, const Geometry& geometry) {
  const auto input_size = input.sizes();
  const auto weight_size = weight.sizes();
  check_like_input("weight", weight, input);
  Problem problem = make_problem(input_size.data(), std::int64_t(input_size.size()), weight_size.data(),
                                 std::int64_t(weight_size.size()), geometry);
  problem.dtype = to_dtype(input.scalar_type());
  problem.bias = bias.has_value();
  if (problem.bias) {
    check_like_input("bias", *bias, input);
    const auto bias_size = bias->sizes();
    CONVT_GEMM_CHECK(bias_size.size() == 1 && bias_size[0] == problem.out_channels, "expected bias to be of size [",
                    problem.out_channels, "], but got ", list(bias_size.data(), std::int64_t(bias_size.size())));
  }
  problem.layout = is_channels_last(input) ? Layout::channels_last : Layout::channels_first;
  raise_unless_ok(validate(problem));
  return problem;
}

PlanOptions make_options(const std::string& algorithm, const std::string& precision, std::int64_t workspace_limit) {
  PlanOptions options;
  options.algorithm = algorithm;
  options.workspace_limit = workspace_limit;
  raise_unless_ok(parse_precision(precision, &options.precision));
  return options;
}

Settings::Settings(const std::string& text) {
  const char *at = text.data(), *const end = at + text.size();
  std::size_t count = 0;
  while (count < numbers_.size() && at != end && (*at == '-' || (*at >= '0' && *at <= '9'))) {
    const auto [behind, error] = std::from_chars(at, end, numbers_[count]);
    if (error != std::errc() || behind == end || *behind != ' ') break;
    at = behind + 1, ++count;
  }
  const char* const space = std::find(at, end, ' ');
  CONVT_GEMM_CHECK(count >= 6 && count % 4 == 2 && space != end, "expected settings to be numbers for 1 to ", kMaxAxes,
                   " axes, a precision and an algorithm, but got '", text, "'");
  axes_ = (count - 2) / 4;
  options_.workspace_limit = numbers_[count - 1];
  raise_unless_ok(parse_precision(std::string_view(at, std::size_t(space - at)), &options_.precision));
  options_.algorithm = std::string_view(space + 1, std::size_t(end - space - 1));
}

Geometry Settings::geometry() const {
  const auto values = [&](std::size_t k) { return Values(numbers_.data() + k * axes_, axes_); };
  return {values(0), values(1), values(2), numbers_[4 * axes_], values(3)};
}

Tensor dense(const Tensor& tensor, Layout layout) {
  Tensor result = tensor;
  if (layout == Layout::channels_first && !tensor.is_contiguous()) result = torch::stable::contiguous(tensor);
  // A view may begin anywhere in its storage; the kernels load 16 bytes at a time.
  if (reinterpret_cast<std::uintptr_t>(result.const_data_ptr()) % 16 != 0) result = torch::stable::clone(result);
  return result;
}

Tensor empty_output(const Tensor& input, const Problem& problem) {
  const int dims = problem.rank + 2;
  std::array<std::int64_t, kMaxAxes + 2> sizes{problem.batch, problem.out_channels}, strides{};
  for (int i = 0; i < problem.rank; ++i) sizes[2 + i] = problem.axis(i).output();
  std::int64_t stride = 1;
  const auto place = [&](int d) {
    strides[d] = stride;
    stride *= sizes[d] > 0 ? sizes[d] : 1;
  };
  if (problem.layout == Layout::channels_last) place(1);
  for (int d = dims - 1; d >= 2; --d) place(d);
  if (problem.layout == Layout::channels_first) place(1);
  place(0);
  return empty_strided(input, dims, sizes.data(), strides.data(), input.scalar_type());
}

Tensor empty_workspace(const Tensor& input, std::size_t bytes) {
  const std::int64_t size = std::int64_t(bytes), stride = 1;
  return empty_strided(input, 1, &size, &stride, ScalarType::Byte);
}

}  // namespace convt_gemm::torch_bindings

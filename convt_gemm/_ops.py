"""What the compiled operator needs of Python: fake kernel, gradients, forward-mode derivatives, batching, autocast."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad

from ._library import library

DEFAULT_WORKSPACE_LIMIT = 512 << 20
"""Bytes; the schema's own default."""

_DTYPES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}

_op = torch.ops.convt_gemm.conv_transpose.default
_packed_op = torch.ops.convt_gemm.conv_transpose_packed.default
_packed_op = getattr(_packed_op, "_op", _packed_op)  # without the Python frame of an OpOverload's call
_plans_op = torch.ops.convt_gemm.conv_transpose_plans.default
_remember_op = torch.ops.convt_gemm.remember_plan.default
_tuned_op = torch.ops.convt_gemm.tuned_plans.default
_forget_op = torch.ops.convt_gemm.forget_plans.default
_below_autograd = torch._C._AutoDispatchBelowAutograd
_functorch_level = torch._C._functorch.peek_interpreter_stack
_plain_types = (Tensor, torch.nn.Parameter)
_is_compiling = torch.compiler.is_compiling
_is_any_autocast_enabled = torch._C._is_any_autocast_enabled
_dispatch_modes = torch._C._len_torch_dispatch_stack
_is_function_mode_enabled = torch._C._is_torch_function_mode_enabled
_tracing_state = torch._C._get_tracing_state


def conv_transpose(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
    algorithm: str,
    precision: str,
    workspace_limit: int,
) -> Tensor:
    """``torch.ops.convt_gemm.conv_transpose``, by the shortest way.

    The autograd and autocast kernels below are Python and cost more host time than everything else together. Plain
    tensors outside of functorch, modes, tracing and compilation need none of what those are for, so they go straight to
    the compiled operator, by its packed form: cast first under autocast, and under an autograd node if a derivative is
    wanted. Everything else takes the whole road through the dispatcher.
    """
    rest = (stride, padding, output_padding, groups, dilation, algorithm, precision, workspace_limit)
    if (
        type(input) not in _plain_types
        or type(weight) not in _plain_types
        or (bias is not None and type(bias) not in _plain_types)
        or _is_compiling()
        or _functorch_level() is not None
        or _dispatch_modes()
        or _is_function_mode_enabled()
        or _tracing_state() is not None
    ):
        return _op(input, weight, bias, *rest)
    if _is_any_autocast_enabled():
        device = input.device.type
        if device in _AUTOCAST_KEYS and torch.is_autocast_enabled(device):
            tensors = _cast_for_autocast(device, input, weight, bias)
            with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST_KEYS[device]):
                return _with_derivatives(None, *tensors, *rest)
    if _wants_derivative(input, weight, bias):
        return _ConvTranspose.apply(None, input, weight, bias, *rest)
    return _short_call(input, weight, bias, *rest)


def _short_call(input: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    """The compiled operator below autograd, from outside of the dispatcher."""
    _, _, _, groups, _, algorithm, precision, workspace_limit = rest
    if type(groups) is int and type(workspace_limit) is int and type(algorithm) is str and precision in _PRECISIONS:
        try:
            settings = _pack(*rest)
        except TypeError:  # not hashable, as symbolic sizes are not
            pass
        else:
            return _packed_op(input, weight, bias, settings)
    with _below_autograd():  # where what is no legal argument is refused
        return _op(input, weight, bias, *rest)


def conv_transpose_plans(*arguments: Any) -> str:
    """``torch.ops.convt_gemm.conv_transpose_plans``: a JSON array of plans, best first."""
    return _plans_op(*arguments)


def remember_plan(*arguments: Any) -> None:
    """``torch.ops.convt_gemm.remember_plan``: a plan's name that ``"auto"`` takes for exactly one problem."""
    _remember_op(*arguments)


def tuned_plans() -> str:
    """``torch.ops.convt_gemm.tuned_plans``: a JSON array of what is remembered, in no particular order."""
    return _tuned_op()


def forget_plans() -> None:
    """``torch.ops.convt_gemm.forget_plans``: nothing is remembered any more."""
    _forget_op()


def _wants_derivative(input: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    if torch.is_grad_enabled() and (
        input.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    ):
        return True
    return forward_ad._current_level >= 0


# --- the packed operator


_PRECISIONS = ("ieee", "tf32", "tf32x3")


@lru_cache(maxsize=1024)
def _pack(
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    output_padding: tuple[int, ...],
    groups: int,
    dilation: tuple[int, ...],
    algorithm: str,
    precision: str,
    workspace_limit: int,
) -> str:
    """The packed operator's ``settings``: what is no tensor, with spaces between. Calls repeat, so most are found."""
    numbers = (*stride, *padding, *output_padding, *dilation, groups, workspace_limit)
    return " ".join((*(f"{number:d}" for number in numbers), precision, algorithm))


def _unpacked(input: Tensor, weight: Tensor, bias: Tensor | None, settings: str) -> Tensor:
    """The packed operator on devices that have no kernel of their own: the operator answers for them."""
    words = settings.split(" ")
    at = next(index for index, word in enumerate(words) if word in _PRECISIONS)
    *numbers, groups, workspace_limit = map(int, words[:at])
    axes = len(numbers) // 4
    stride, padding, output_padding, dilation = (numbers[k * axes : (k + 1) * axes] for k in range(4))
    precision, algorithm = words[at], " ".join(words[at + 1 :])
    return _op(
        input, weight, bias, stride, padding, output_padding, groups, dilation, algorithm, precision, workspace_limit
    )


# A key that is passed over costs less host time than a guard that excludes it. Who calls has seen to derivatives.
library.impl("conv_transpose_packed", torch.library.fallthrough_kernel, "Autograd")
library.impl("conv_transpose_packed", _unpacked, "CompositeExplicitAutograd")


# --- fake kernel


@torch.library.register_fake("convt_gemm::conv_transpose", lib=library)
def _fake(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
    algorithm: str = "auto",
    precision: str = "ieee",
    workspace_limit: int = DEFAULT_WORKSPACE_LIMIT,
) -> Tensor:
    """Refuses what the compiled operator refuses, in its words, and has its output's size and strides."""
    _check_like_input("weight", weight, input)
    torch._check(
        input.dtype in _DTYPES,
        lambda: f"expected input to be float32, float64, bfloat16 or float16, but got {_scalar_type(input.dtype)}",
    )
    memory_format = torch.contiguous_format
    last = _CHANNELS_LAST.get(input.dim())
    if last is not None and input.is_contiguous(memory_format=last) and not input.is_contiguous():
        memory_format = last
    geometry = (stride, padding, output_padding, groups, dilation)
    if all(
        type(n) is int for n in (*input.shape, *weight.shape, *stride, *padding, *output_padding, groups, *dilation)
    ):
        # The planner makes the compiled operator's own checks of sizes, algorithm, precision and workspace limit. A
        # meta tensor does not say for which device it stands, so that only its sizes can be judged.
        meta = input.device.type == "meta"
        _plans_op(
            input.shape,
            weight.shape,
            bias is not None,
            *geometry,
            _DTYPES[input.dtype],
            memory_format is not torch.contiguous_format,
            "cpu" if meta else input.device.type,
            "auto" if meta else algorithm,
            "ieee" if meta else precision,
            workspace_limit,
            [],
        )
    else:
        _check_symbolic(input, weight, *geometry)
    out_channels = weight.shape[1] * groups
    if bias is not None:
        _check_like_input("bias", bias, input)
        torch._check(
            bias.dim() == 1 and bias.shape[0] == out_channels,
            lambda: f"expected bias to be of size [{out_channels}], but got {list(bias.shape)}",
        )
    axes = zip(input.shape[2:], weight.shape[2:], stride, padding, output_padding, dilation, strict=True)
    positions = [_axis_output(*axis) for axis in axes]
    size = (input.shape[0], out_channels, *positions)
    return torch.empty(size, dtype=input.dtype, device=input.device, memory_format=memory_format)


def _check_like_input(name: str, tensor: Tensor, input: Tensor) -> None:
    torch._check(
        tensor.device == input.device,
        lambda: f"expected {name} to be on the input's device {input.device}, but got {tensor.device}",
    )
    torch._check(
        tensor.dtype == input.dtype,
        lambda: (
            f"expected {name} to have the input's dtype {_scalar_type(input.dtype)}, "
            f"but got {_scalar_type(tensor.dtype)}"
        ),
    )


def _scalar_type(dtype: torch.dtype) -> str:
    """The C++ name of a dtype: "Float" for float32."""
    return torch.empty(0, dtype=dtype, device="cpu").type().removeprefix("torch.").removesuffix("Tensor")


def _axis_output(input: int, kernel: int, stride: int, padding: int, output_padding: int, dilation: int) -> int:
    return (input - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1


def _check_symbolic(
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
) -> None:
    """What has to hold of sizes that are not numbers yet; torch turns it into guards or run-time assertions."""
    check = torch._check
    rank = weight.dim() - 2
    check(
        1 <= rank <= 3 and input.dim() == weight.dim(), lambda: "expected input and weight of 3, 4 or 5 dimensions each"
    )
    lists = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
    for name, values in lists.items():
        check(
            len(values) == rank, lambda name=name: f"expected {name} to have {rank} values, one for each spatial axis"
        )
    check(groups > 0, lambda: "expected groups to be positive")
    check(
        input.shape[1] == weight.shape[0], lambda: f"expected input to have {weight.shape[0]} channels like the weight"
    )
    check(weight.shape[0] > 0 and weight.shape[1] > 0, lambda: "expected in_channels and out_channels to be positive")
    check(weight.shape[0] % groups == 0, lambda: "expected in_channels to be a multiple of groups")
    for i, k, s, p, r, d in zip(input.shape[2:], weight.shape[2:], *lists.values(), strict=True):
        check(i > 0, lambda: "expected input size to be positive")
        check(k > 0, lambda: "expected kernel size to be positive")
        check(s > 0, lambda: "expected stride to be positive")
        check(d > 0, lambda: "expected dilation to be positive")
        check(p >= 0, lambda: "expected padding to be non-negative")
        check(r >= 0, lambda: "expected output_padding to be non-negative")
        check(r < torch.sym_max(s, d), lambda: "output padding must be smaller than either stride or dilation")
        check(_axis_output(i, k, s, p, r, d) > 0, lambda: "expected a positive output size")


# --- derivatives


class _ConvTranspose(torch.autograd.function._SingleLevelFunction):
    """The autograd kernel's node.

    A single-level function, because the dispatcher has already peeled the functorch levels off when the kernel runs.
    """

    @staticmethod
    def forward(ctx: Any, keyset: Any, input: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
        if _functorch_level() is None:
            output = _redispatch(keyset, input, weight, bias, *rest)
        else:
            # Function.apply has switched both derivative modes off; the functorch levels below this one still need
            # them.
            with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
                output = _redispatch(keyset, input, weight, bias, *rest)
        ctx.save_for_backward(input, weight)
        ctx.save_for_forward(input, weight)
        ctx.rest = rest
        ctx.bias_sizes = None if bias is None else list(bias.shape)
        ctx.output_size = output.shape
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        stride, padding, output_padding, groups, dilation = ctx.rest[:5]
        grads = torch.ops.aten.convolution_backward(
            grad,
            input,
            weight,
            ctx.bias_sizes,
            stride,
            padding,
            dilation,
            True,
            output_padding,
            groups,
            list(ctx.needs_input_grad[1:4]),
        )
        return (None, *grads, *(None for _ in ctx.rest))

    @staticmethod
    def jvp(
        ctx: Any, _: None, d_input: Tensor | None, d_weight: Tensor | None, d_bias: Tensor | None, *rest: None
    ) -> Tensor:
        input, weight = ctx.saved_tensors
        terms = []
        if d_input is not None:
            terms.append(_op(d_input, weight, None, *ctx.rest))
        if d_weight is not None:
            terms.append(_op(input, d_weight, None, *ctx.rest))
        if d_bias is not None:
            terms.append(d_bias.reshape(-1, *(1 for _ in ctx.output_size[2:])).expand(ctx.output_size))
        return sum(terms[1:], start=terms[0])


def _redispatch(keyset: Any | None, *arguments: Any) -> Tensor:
    if keyset is None:
        return _short_call(*arguments)
    with _below_autograd():
        return _op.redispatch(keyset & torch._C._after_autograd_keyset, *arguments)


def _with_derivatives(keyset: Any | None, input: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    """The operator below autograd, with a node above it if a derivative is wanted. No keyset: not in the dispatcher."""
    if not _wants_derivative(input, weight, bias):
        return _redispatch(keyset, input, weight, bias, *rest)
    if _functorch_level() is None:
        return _ConvTranspose.apply(keyset, input, weight, bias, *rest)
    with enable_single_level_autograd_function():
        return _ConvTranspose.apply(keyset, input, weight, bias, *rest)


library.impl("conv_transpose", _with_derivatives, "Autograd", with_keyset=True)


# --- batching


def _vmap(
    info: Any,
    in_dims: tuple[Any, ...],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
    *rest: Any,
) -> tuple[Tensor, int]:
    """A batch of inputs is a larger batch; a batch of weights is more groups."""
    input_dim, weight_dim, bias_dim = in_dims[:3]
    count = info.batch_size
    if weight_dim is None and bias_dim is None:
        input = input.movedim(input_dim, 0)
        output = _op(input.flatten(0, 1), weight, bias, stride, padding, output_padding, groups, dilation, *rest)
        return output.unflatten(0, (count, -1 if count else 0)), 0

    def batched(tensor: Tensor, dim: int | None, to: int) -> Tensor:
        if dim is not None:
            return tensor.movedim(dim, to)
        return tensor.unsqueeze(to).expand(*tensor.shape[:to], count, *tensor.shape[to:])

    output = _op(
        batched(input, input_dim, 1).flatten(1, 2),
        batched(weight, weight_dim, 0).flatten(0, 1),
        None if bias is None else batched(bias, bias_dim, 0).flatten(),
        stride,
        padding,
        output_padding,
        groups * count,
        dilation,
        *rest,
    )
    return output.unflatten(1, (count, -1)), 1


torch.library.register_vmap("convt_gemm::conv_transpose", _vmap, lib=library)


# --- autocast


_AUTOCAST_KEYS = {
    "cpu": torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU),
    "cuda": torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCUDA),
}


def _cast_for_autocast(device: str, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """As torch casts for its own convolutions: floating tensors of the device, float64 excepted."""
    dtype = torch.get_autocast_dtype(device)
    return tuple(
        tensor
        if tensor is None
        or tensor.device.type != device
        or not tensor.is_floating_point()
        or tensor.dtype is torch.float64
        else tensor.to(dtype)
        for tensor in tensors
    )


def _register_autocast(device: str, key: str) -> None:
    def autocast(input: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST_KEYS[device]):
            return _op(*_cast_for_autocast(device, input, weight, bias), *rest)

    library.impl("conv_transpose", autocast, key)


_register_autocast("cuda", "AutocastCUDA")
_register_autocast("cpu", "AutocastCPU")

"""Transposed convolutions in the argument order of ``torch.nn.functional``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import _ops

__all__ = [
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "get_workspace_limit",
    "set_workspace_limit",
]

_workspace_limit = _ops.DEFAULT_WORKSPACE_LIMIT
_fp32_precision = torch._C._get_fp32_precision_getter


def set_workspace_limit(nbytes: int) -> None:
    """Bounds the column workspace of every later call that does not say otherwise.

    A problem whose columns need more is cut into pieces; it is never refused, and one output's columns are always
    taken. The default is 512 MiB.

    Args:
        nbytes: bytes, not negative.

    Raises:
        TypeError: ``nbytes`` is not an int.
        ValueError: ``nbytes`` is negative.
    """
    global _workspace_limit
    if type(nbytes) is not int:
        raise TypeError(f"expected nbytes to be an int, but got {nbytes!r}")
    if nbytes < 0:
        raise ValueError(f"expected nbytes to be non-negative, but got {nbytes}")
    _workspace_limit = nbytes


def get_workspace_limit() -> int:
    """The bound of the column workspace in bytes, see :func:`set_workspace_limit`."""
    return _workspace_limit


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
    *,
    algorithm: str = "auto",
    precision: str = "auto",
    workspace_limit: int | None = None,
) -> Tensor:
    """Transposed convolution over one axis, as :func:`torch.nn.functional.conv_transpose1d`.

    Args:
        input: ``(N, C_in, L)`` or ``(C_in, L)``; float32, float64, bfloat16 or float16.
        weight: ``(C_in, C_out / groups, K)``, of the input's dtype and device.
        bias: ``(C_out,)``, of the input's dtype and device, or None.
        stride, padding, output_padding, dilation: an int, or a sequence with one int per axis.
        groups: divides both channel counts.
        algorithm: ``"auto"`` (the plan that :func:`convt_gemm.tune` found the fastest for this problem, if it was asked
            to, else the planner's choice), the name of a plan of :func:`convt_gemm.planning.enumerate_plans`, or a
            leading part of names that ends at an underscore, such as ``"gemm_col2im"``.
        precision: how float32 products are formed: ``"ieee"``, ``"tf32"``, ``"tf32x3"`` (three TF32 products, the error
            of plain float32), or ``"auto"``, which on CUDA follows ``torch.backends.cudnn.conv.fp32_precision`` (and so
            ``torch.backends.cudnn.allow_tf32``): ``"tf32"`` when TF32 is on, else ``"tf32x3"``. ``torch.compile`` reads
            the flag once, when it traces. Other dtypes and the CPU compute as ``"ieee"``.
        workspace_limit: bytes of the column workspace for this call; None takes :func:`get_workspace_limit`.

    Returns:
        ``(N, C_out, O)`` or ``(C_out, O)`` with
        ``O = (L - 1) * stride - 2 * padding + dilation * (K - 1) + output_padding + 1``, in the input's memory format.

    Raises:
        TypeError: an argument is of the wrong type.
        RuntimeError: the arguments do not make a legal problem, or no plan serves it; the message names the argument,
            what came and what was expected.
    """
    return _conv_transpose(
        1, input, weight, bias, stride, padding, output_padding, groups, dilation, algorithm, precision, workspace_limit
    )


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
    *,
    algorithm: str = "auto",
    precision: str = "auto",
    workspace_limit: int | None = None,
) -> Tensor:
    """Transposed convolution over two axes, as :func:`torch.nn.functional.conv_transpose2d`.

    ``input`` is ``(N, C_in, H, W)`` or ``(C_in, H, W)``, ``weight`` is ``(C_in, C_out / groups, K_h, K_w)``. A
    channels_last input gives a channels_last output. Everything else is as in :func:`conv_transpose1d`.
    """
    return _conv_transpose(
        2, input, weight, bias, stride, padding, output_padding, groups, dilation, algorithm, precision, workspace_limit
    )


def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
    *,
    algorithm: str = "auto",
    precision: str = "auto",
    workspace_limit: int | None = None,
) -> Tensor:
    """Transposed convolution over three axes, as :func:`torch.nn.functional.conv_transpose3d`.

    ``input`` is ``(N, C_in, D, H, W)`` or ``(C_in, D, H, W)``, ``weight`` is ``(C_in, C_out / groups, K_d, K_h, K_w)``.
    A channels_last_3d input gives a channels_last_3d output. Everything else is as in :func:`conv_transpose1d`.
    """
    return _conv_transpose(
        3, input, weight, bias, stride, padding, output_padding, groups, dilation, algorithm, precision, workspace_limit
    )


def _conv_transpose(
    rank: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    output_padding: int | Sequence[int],
    groups: int,
    dilation: int | Sequence[int],
    algorithm: str,
    precision: str,
    workspace_limit: int | None,
) -> Tensor:
    try:
        dims, dtype, on_cuda = input.dim(), input.dtype, input.is_cuda
    except AttributeError:
        raise TypeError(
            f"conv_transpose{rank}d(): expected input to be a Tensor, but got {type(input).__name__}"
        ) from None
    if dims != rank + 2 and dims != rank + 1:
        raise RuntimeError(
            f"expected {rank + 1}D (unbatched) or {rank + 2}D (batched) input to conv_transpose{rank}d, "
            f"but got input of size {list(input.shape)}"
        )
    output = _ops.conv_transpose(
        input if dims == rank + 2 else input.unsqueeze(0),
        weight,
        bias,
        per_axis("stride", stride, rank),
        per_axis("padding", padding, rank),
        per_axis("output_padding", output_padding, rank),
        groups,
        per_axis("dilation", dilation, rank),
        algorithm,
        _default_precision(on_cuda, dtype) if precision == "auto" else precision,
        _workspace_limit if workspace_limit is None else workspace_limit,
    )
    return output if dims == rank + 2 else output.squeeze(0)


def per_axis(name: str, value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    """``value`` as one int per axis; an int, or a sequence of one, stands for all axes."""
    if type(value) is int:
        return (value,) * rank
    if type(value) is tuple and len(value) == rank:  # as layers have it; the rest of this function costs more host time
        for entry in value:
            if type(entry) is not int:
                break
        else:
            return value
    values = (value,) if isinstance(value, torch.SymInt) else value
    if type(values) is not tuple and not isinstance(values, Sequence):
        raise TypeError(f"expected {name} to be an int or a sequence of ints, but got {value!r}")
    for entry in values:
        if type(entry) is not int and not isinstance(entry, torch.SymInt):
            raise TypeError(f"expected {name} to be an int or a sequence of ints, but got {value!r}")
    if len(values) == rank:
        return tuple(values)
    if len(values) == 1:
        return tuple(values) * rank
    raise RuntimeError(f"expected {name} to be an int or a sequence of {rank} ints, one per axis, but got {value!r}")


def resolve_precision(precision: str, device: str, dtype: torch.dtype) -> str:
    """The operator's precision: ``"auto"`` becomes what torch's flags ask for."""
    return _default_precision(device == "cuda", dtype) if precision == "auto" else precision


def _default_precision(on_cuda: bool, dtype: torch.dtype) -> str:
    if not on_cuda or dtype is not torch.float32:
        return "ieee"
    return "tf32" if _cudnn_allows_tf32() else "tf32x3"


@torch.compiler.assume_constant_result
def _cudnn_allows_tf32() -> bool:
    # What cuDNN's own convolutions read, as torch.backends.cudnn.conv.fp32_precision has it: through that attribute it
    # costs several times as much, every call. The getter of the older flag, allow_tf32, raises when both kinds of flag
    # are set.
    return _fp32_precision("cuda", "conv") == "tf32"

"""What would run, and why: the plans of a problem, without running one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from . import _ops, functional
from .modules import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d

__all__ = ["Plan", "enumerate_plans", "explain"]


@dataclass(frozen=True)
class Plan:
    """One way to compute a problem. ``name`` is a legal ``algorithm`` argument and spells every choice."""

    name: str
    algorithm: str
    backend: str
    precision: str
    tile: Any
    """The GEMM's tile; empty where the back end picks its own."""
    piece: Any
    """How much of the problem goes through the column buffer at a time."""
    workspace_bytes: int
    bytes: float
    """Memory traffic, column buffer included."""
    flops: float
    """Multiplications and additions."""
    predicted_seconds: float
    """The planner's estimate; orders plans, promises nothing."""
    description: str


def enumerate_plans(
    input_size: Sequence[int],
    weight_size: Sequence[int],
    *,
    bias: bool = False,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    device: str | torch.device = "cpu",
    algorithm: str = "auto",
    precision: str = "auto",
    workspace_limit: int | None = None,
    device_traits: Sequence[int] = (),
) -> list[Plan]:
    """Every legal plan for a problem, best predicted first; runs nothing and needs no GPU.

    Args:
        input_size: ``(N, C_in, *positions)`` or ``(C_in, *positions)``.
        weight_size: ``(C_in, C_out / groups, *kernel)``; its length says how many axes there are.
        bias: whether there is a bias.
        stride, padding, output_padding, groups, dilation, algorithm, precision, workspace_limit: as in
            :func:`convt_gemm.functional.conv_transpose1d`.
        dtype: float32, float64, bfloat16 or float16.
        channels_last: whether input and output are channels_last.
        device: ``"cpu"`` or ``"cuda"``.
        device_traits: of the machine to plan for: ``()`` for this one (a default where it has no such device), or
            ``(compute_capability, multiprocessors, l2_bytes)`` for cuda, ``(threads, core_cache_bytes)`` for cpu.

    Raises:
        RuntimeError: the arguments do not make a legal problem, or no plan serves it.
    """
    rank = len(weight_size) - 2
    input_size = tuple(input_size)
    if len(input_size) == rank + 1:
        input_size = (1, *input_size)
    device_type = torch.device(device).type
    text = _ops.conv_transpose_plans(
        input_size,
        tuple(weight_size),
        bias,
        functional.per_axis("stride", stride, rank),
        functional.per_axis("padding", padding, rank),
        functional.per_axis("output_padding", output_padding, rank),
        groups,
        functional.per_axis("dilation", dilation, rank),
        str(dtype).removeprefix("torch."),
        channels_last,
        device_type,
        algorithm,
        functional.resolve_precision(precision, device_type, dtype),
        functional.get_workspace_limit() if workspace_limit is None else workspace_limit,
        list(device_traits),
    )
    return [Plan(**row) for row in json.loads(text)]


def explain(layer_or_problem: nn.Module | Mapping[str, Any], x: Tensor | Sequence[int]) -> str:
    """Text that lists the plans for a problem, which one runs and why, and what is left to torch.

    Args:
        layer_or_problem: one of this package's layers, a ``torch.nn.ConvTranspose1d/2d/3d``, or a mapping of the
            functional's keyword arguments with ``weight`` (a tensor or its size) and, as needed, ``bias`` (a tensor or
            a bool), ``dtype``, ``device`` and ``channels_last``.
        x: the input or its size. A tensor also gives dtype, device and memory format.

    Raises:
        TypeError: ``layer_or_problem`` is none of these.
        RuntimeError: the arguments do not make a legal problem, or no plan serves it.
    """
    problem = _problem_of(layer_or_problem)
    weight = problem.pop("weight")
    weight_size = tuple(weight.shape if isinstance(weight, Tensor) else weight)
    source = x if isinstance(x, Tensor) else weight
    if isinstance(source, Tensor):
        problem = {"dtype": source.dtype, "device": source.device.type, **problem}
    if isinstance(x, Tensor):
        problem.setdefault("channels_last", _is_channels_last(x))
    bias = problem.pop("bias", None)
    input_size = tuple(x.shape if isinstance(x, Tensor) else x)
    plans = enumerate_plans(input_size, weight_size, bias=bias is not None and bias is not False, **problem)
    return _report(layer_or_problem, input_size, weight_size, problem, plans)


def _problem_of(layer_or_problem: nn.Module | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(layer_or_problem, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        layer = layer_or_problem
        names = ("weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
        problem = {name: getattr(layer, name) for name in names}
        problem |= {name: getattr(layer, name, "auto") for name in ("algorithm", "precision")}
        return problem
    if isinstance(layer_or_problem, Mapping):
        if "weight" not in layer_or_problem:
            raise TypeError(
                f"expected the problem to have `weight`, a tensor or its size, but got {sorted(layer_or_problem)}"
            )
        return dict(layer_or_problem)
    raise TypeError(
        "expected layer_or_problem to be a ConvTranspose1d/2d/3d or a mapping of the functional's keyword arguments, "
        f"but got {type(layer_or_problem).__name__}"
    )


def _is_channels_last(x: Tensor) -> bool:
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())
    return last is not None and x.is_contiguous(memory_format=last) and not x.is_contiguous()


def _report(
    subject: nn.Module | Mapping[str, Any],
    input_size: tuple[int, ...],
    weight_size: tuple[int, ...],
    problem: Mapping[str, Any],
    plans: Sequence[Plan],
) -> str:
    dtype = problem.get("dtype", torch.float32)
    device = torch.device(problem.get("device", "cpu")).type
    wanted = problem.get("precision", "auto")
    used = functional.resolve_precision(wanted, device, dtype)
    lines = [
        f"{type(subject).__name__ if isinstance(subject, nn.Module) else 'problem'}: input {input_size}, "
        f"weight {weight_size}, {str(dtype).removeprefix('torch.')} on {device}"
    ]
    if isinstance(subject, nn.Module) and not isinstance(subject, (ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)):
        lines.append("this is torch's own layer: it runs torch's kernels until convt_gemm.replace() has seen it")
    if wanted == "auto" and device == "cuda" and dtype is torch.float32:
        state = "allows" if used == "tf32" else "does not allow"
        lines.append(f"precision: auto -> {used}, because torch.backends.cudnn.conv.fp32_precision {state} TF32")
    else:
        lines.append(f"precision: {wanted}" + (f" -> {used}" if wanted != used else ""))
    limit = problem.get("workspace_limit") or functional.get_workspace_limit()
    lines.append(f"workspace limit: {limit / 2**20:g} MiB; algorithm: {problem.get('algorithm', 'auto')}")
    lines.append(f"{len(plans)} legal plan{'s' if len(plans) != 1 else ''}, least predicted time first:")
    width = max((len(plan.name) for plan in plans), default=0)
    for plan in plans:
        mark = "*" if plan is plans[0] else " "
        lines.append(
            f" {mark} {plan.name:{width}}  predicted {plan.predicted_seconds * 1e6:10.1f} us  "
            f"workspace {plan.workspace_bytes / 2**20:8.2f} MiB  traffic {plan.bytes / 1e6:10.2f} MB  "
            f"{plan.flops / 1e9:8.3f} GFLOP"
        )
    if plans:
        lines.append(f"chosen: {plans[0].name}, the least predicted time of the legal plans")
        lines += [f"  {line}" for line in plans[0].description.splitlines()]
    lines.append("gradients: delegated to aten::convolution_backward, torch's own kernels")
    return "\n".join(lines)

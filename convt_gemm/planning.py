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
    tuned: bool = False
    """Whether a call with ``algorithm="auto"`` takes this plan because :func:`convt_gemm.tune` found it the fastest."""


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
    """Every legal plan for a problem, in the planner's order; runs nothing and needs no GPU.

    Args:
        input_size: ``(N, C_in, *positions)`` or ``(C_in, *positions)``.
        weight_size: ``(C_in, C_out / groups, *kernel)``; its length says how many axes there are.
        bias: whether there is a bias.
        stride, padding, output_padding, groups, dilation, algorithm, precision, workspace_limit: as in
            :func:`convt_gemm.functional.conv_transpose1d`.
        dtype: float32, float64, bfloat16 or float16.
        channels_last: whether input and output are channels_last.
        device: ``"cpu"`` or ``"cuda"``, or a ``torch.device`` of these types.
        device_traits: of the machine to plan for: ``()`` for this one (an H200 where it has no GPU), or
            ``(compute_capability, multiprocessors, l2_bytes)`` for cuda, ``(threads, core_cache_bytes)`` for cpu.

    Raises:
        RuntimeError: the arguments do not make a legal problem, or no plan serves it.
    """
    arguments = problem_arguments(
        input_size,
        weight_size,
        bias=bias,
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        groups=groups,
        dilation=dilation,
        dtype=dtype,
        channels_last=channels_last,
        device=device,
    )
    device_type = torch.device(device).type
    text = _ops.conv_transpose_plans(
        *arguments,
        algorithm,
        functional.resolve_precision(precision, device_type, dtype),
        functional.get_workspace_limit() if workspace_limit is None else workspace_limit,
        list(device_traits) or traits_of(device),
    )
    return [Plan(**row) for row in json.loads(text)]


def problem_arguments(
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
) -> tuple[Any, ...]:
    """The arguments that the operators without tensors have in common, from ``input_size`` to ``device``."""
    rank = len(weight_size) - 2
    input_size = tuple(input_size)
    if len(input_size) == rank + 1:
        input_size = (1, *input_size)
    return (
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
        torch.device(device).type,
    )


def traits_of(device: str | torch.device) -> list[int]:
    """``device_traits`` of a device of this machine: those of a GPU; none for a CPU, which the operator knows."""
    device = torch.device(device)
    if device.type != "cuda" or not torch.cuda.is_available():
        return []
    properties = torch.cuda.get_device_properties(device)
    return [10 * properties.major + properties.minor, properties.multi_processor_count, properties.L2_cache_size]


@dataclass(frozen=True)
class Subject:
    """What :func:`explain` and :func:`convt_gemm.tune` are asked about."""

    name: str
    """The layer's class, or ``"problem"``."""
    input: Tensor | None
    """With a batch; None if only its size is known, as for weight and bias."""
    input_size: tuple[int, ...]
    """As the caller gave it, with or without a batch."""
    weight: Tensor | None
    weight_size: tuple[int, ...]
    bias: Tensor | None
    arguments: dict[str, Any]
    """Keyword arguments of :func:`enumerate_plans`; what was not said is not in it."""

    @property
    def dtype(self) -> torch.dtype:
        return self.arguments.get("dtype", torch.float32)

    @property
    def device(self) -> torch.device:
        return torch.device(self.arguments.get("device", "cpu"))

    @property
    def precision(self) -> str:
        """Not ``"auto"``: what that stands for here."""
        return functional.resolve_precision(self.arguments.get("precision", "auto"), self.device.type, self.dtype)

    @property
    def workspace_limit(self) -> int:
        """Bytes."""
        limit = self.arguments.get("workspace_limit")
        return functional.get_workspace_limit() if limit is None else limit

    def plans(self) -> list[Plan]:
        return enumerate_plans(self.input_size, self.weight_size, **self.arguments)

    def __str__(self) -> str:
        return (
            f"{self.name}: input {self.input_size}, weight {self.weight_size}, "
            f"{str(self.dtype).removeprefix('torch.')} on {self.device.type}"
        )


def subject_of(layer_or_problem: nn.Module | Mapping[str, Any], x: Tensor | Sequence[int] | None) -> Subject:
    """Reads the arguments of :func:`explain`, which see."""
    arguments = _problem_of(layer_or_problem)
    x = arguments.pop("input", None) if x is None else x
    arguments.pop("input", None)
    if x is None:
        raise TypeError("expected x, or `input` of the problem, to be a tensor or its size, but got None")
    weight, bias = arguments.pop("weight"), arguments.pop("bias", None)
    weight_size = tuple(weight.shape if isinstance(weight, Tensor) else weight)
    source = x if isinstance(x, Tensor) else weight
    if isinstance(source, Tensor):
        arguments = {"dtype": source.dtype, "device": source.device, **arguments}
    batched = None
    if isinstance(x, Tensor):
        batched = x if x.dim() != len(weight_size) - 1 else x.unsqueeze(0)
        arguments.setdefault("channels_last", is_channels_last(batched))
    arguments["bias"] = bias is not None and bias is not False
    return Subject(
        name=type(layer_or_problem).__name__ if isinstance(layer_or_problem, nn.Module) else "problem",
        input=batched,
        input_size=tuple(x.shape if isinstance(x, Tensor) else x),
        weight=weight if isinstance(weight, Tensor) else None,
        weight_size=weight_size,
        bias=bias if isinstance(bias, Tensor) else None,
        arguments=arguments,
    )


def explain(layer_or_problem: nn.Module | Mapping[str, Any], x: Tensor | Sequence[int] | None = None) -> str:
    """Text that lists the plans for a problem, which one runs and why, and what is left to torch.

    Args:
        layer_or_problem: one of this package's layers, a ``torch.nn.ConvTranspose1d/2d/3d``, or a mapping of the
            functional's keyword arguments with ``weight`` (a tensor or its size) and, as needed, ``bias`` (a tensor or
            a bool), ``dtype``, ``device`` and ``channels_last``.
        x: the input or its size. A tensor also gives dtype, device and memory format. A mapping may have it as
            ``input``.

    Raises:
        TypeError: ``layer_or_problem`` is none of these.
        RuntimeError: the arguments do not make a legal problem, or no plan serves it.
    """
    subject = subject_of(layer_or_problem, x)
    return _report(layer_or_problem, subject, subject.plans())


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


def is_channels_last(x: Tensor) -> bool:
    """Whether a batched tensor is dense in channels_last order and not also in the plain one."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())
    return last is not None and x.is_contiguous(memory_format=last) and not x.is_contiguous()


def _report(layer_or_problem: nn.Module | Mapping[str, Any], subject: Subject, plans: Sequence[Plan]) -> str:
    wanted, used = subject.arguments.get("precision", "auto"), subject.precision
    lines = [str(subject)]
    ours = (ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)
    if isinstance(layer_or_problem, nn.Module) and not isinstance(layer_or_problem, ours):
        lines.append("this is torch's own layer: it runs torch's kernels until convt_gemm.replace() has seen it")
    if wanted == "auto" and subject.device.type == "cuda" and subject.dtype is torch.float32:
        state = "allows" if used == "tf32" else "does not allow"
        lines.append(f"precision: auto -> {used}, because torch.backends.cudnn.conv.fp32_precision {state} TF32")
    else:
        lines.append(f"precision: {wanted}" + (f" -> {used}" if wanted != used else ""))
    algorithm = subject.arguments.get("algorithm", "auto")
    lines.append(f"workspace limit: {subject.workspace_limit / 2**20:g} MiB; algorithm: {algorithm}")
    lines.append(f"{len(plans)} legal plan{'s' if len(plans) != 1 else ''}, in the planner's order:")
    width = max((len(plan.name) for plan in plans), default=0)
    chosen = next((plan for plan in plans if plan.tuned), plans[0] if plans else None)
    for plan in plans:
        mark = "*" if plan is chosen else " "
        lines.append(
            f" {mark} {plan.name:{width}}  predicted {plan.predicted_seconds * 1e6:10.1f} us  "
            f"workspace {plan.workspace_bytes / 2**20:8.2f} MiB  traffic {plan.bytes / 1e6:10.2f} MB  "
            f"{plan.flops / 1e9:8.3f} GFLOP" + ("  tuned" if plan.tuned else "")
        )
    if chosen is not None:
        why = "tuned: remembered as the fastest" if chosen.tuned else "the planner's own choice"
        lines.append(f"chosen: {chosen.name}, {why}")
        lines += [f"  {line}" for line in chosen.description.splitlines()]
    lines.append("gradients: delegated to aten::convolution_backward, torch's own kernels")
    return "\n".join(lines)

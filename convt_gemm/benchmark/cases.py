"""The problems that the package is measured on: layers of published models and KernelBench level 1."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from typing import Any

import torch

_TUPLE_FIELDS = ("input_size", "kernel_size", "stride", "padding", "output_padding", "dilation")


@dataclass(frozen=True)
class Case:
    """One transposed convolution, dtype and device left open.

    ``input_size`` to ``dilation`` have one entry per spatial axis. ``mode`` says where the sizes come from: ``train``,
    ``infer`` or ``stream`` of the published model, empty for KernelBench. ``recorded`` holds PyTorch's milliseconds
    on one H200 by precision (``ieee``, ``tf32``, ``bfloat16``) for the case as published; a scaled case has none.
    """

    name: str
    ndim: int
    batch: int
    in_channels: int
    out_channels: int
    input_size: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    bias: bool
    mode: str
    source: str
    note: str
    recorded: Mapping[str, float] = field(default_factory=dict, compare=False, repr=False)

    def output_size(self) -> tuple[int, ...]:
        """The output's spatial size."""
        axes = zip(
            self.input_size,
            self.kernel_size,
            self.stride,
            self.padding,
            self.output_padding,
            self.dilation,
            strict=True,
        )
        return tuple((i - 1) * s - 2 * p + d * (k - 1) + r + 1 for i, k, s, p, r, d in axes)

    def input_shape(self) -> tuple[int, ...]:
        """``(batch, in_channels, *input_size)``."""
        return (self.batch, self.in_channels, *self.input_size)

    def weight_shape(self) -> tuple[int, ...]:
        """``(in_channels, out_channels / groups, *kernel_size)``, PyTorch's layout."""
        return (self.in_channels, self.out_channels // self.groups, *self.kernel_size)

    def output_shape(self) -> tuple[int, ...]:
        """``(batch, out_channels, *output_size)``."""
        return (self.batch, self.out_channels, *self.output_size())

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of ``conv_transpose{1,2,3}d`` that are not tensors."""
        return {
            "stride": self.stride,
            "padding": self.padding,
            "output_padding": self.output_padding,
            "groups": self.groups,
            "dilation": self.dilation,
        }

    def flops(self) -> int:
        """Multiplications and additions that reach the output.

        Products that padding crops away are not counted, since nothing obliges an algorithm to form them: the floor
        made of this number stays below every correct algorithm's time.
        """
        outputs = self.output_size()
        pairs = 1
        for axis, output in enumerate(outputs):
            pairs *= sum(self._inputs_in_range(axis, tap, output) for tap in range(self.kernel_size[axis]))
        return 2 * self.batch * self.in_channels * (self.out_channels // self.groups) * pairs

    def _inputs_in_range(self, axis: int, tap: int, output: int) -> int:
        """How many input positions i of the axis have 0 <= i*stride + tap*dilation - padding < output."""
        stride = self.stride[axis]
        shift = tap * self.dilation[axis] - self.padding[axis]
        first = max(0, -(shift // stride))
        last = min(self.input_size[axis] - 1, (output - 1 - shift) // stride)
        return max(0, last - first + 1)

    def bytes(self, dtype: torch.dtype) -> int:
        """Bytes that have to move: input, weight and bias read once, output written once."""
        elements = math.prod(self.input_shape()) + math.prod(self.weight_shape()) + math.prod(self.output_shape())
        return (elements + (self.out_channels if self.bias else 0)) * dtype.itemsize

    def scaled(self, flops: float) -> Case:
        """The case made smaller until it needs at most ``flops``, as far as that is possible.

        Channels, kernel, stride, padding, dilation and groups stay; first the batch shrinks, then the positions, all
        axes by the same factor, no axis below the least size that gives an output. Never larger than the case itself.
        """
        if not flops > 0:
            raise ValueError(f"flops: expected a positive number, got {flops}")
        case = self
        if case.flops() > flops and case.batch > 1:
            case = replace(case, batch=max(1, int(case.batch * flops / case.flops())))
        while case.flops() > flops:
            factor = (flops / case.flops()) ** (1 / case.ndim)
            sizes = tuple(
                max(case._least_input(axis), min(int(size * factor), size - 1))
                for axis, size in enumerate(case.input_size)
            )
            if sizes == case.input_size:
                break
            case = replace(case, input_size=sizes)
        return case if case == self else replace(case, recorded={})

    def _least_input(self, axis: int) -> int:
        """The least input size of the axis that leaves at least one output, never above the size that the case has."""
        reach = self.dilation[axis] * (self.kernel_size[axis] - 1) + self.output_padding[axis] - 2 * self.padding[axis]
        return min(self.input_size[axis], max(1, 1 - reach // self.stride[axis]))

    def suites(self) -> tuple[str, ...]:
        """Names of the suites that the case belongs to."""
        return tuple(name for name, contains in SUITES.items() if contains(self))

    def problem(self) -> str:
        """One line such as ``1-D N16 C32->64 I131072 K3 S2 P1 D2 -> O262145``; fields at their default are left out."""

        def extent(values: tuple[int, ...]) -> str:
            return str(values[0]) if len(set(values)) == 1 and len(values) > 1 else "x".join(map(str, values))

        parts = [f"{self.ndim}-D", f"N{self.batch}", f"C{self.in_channels}->{self.out_channels}"]
        parts += ["I" + "x".join(map(str, self.input_size)), "K" + extent(self.kernel_size)]
        optional = (
            ("S", self.stride, 1),
            ("P", self.padding, 0),
            ("R", self.output_padding, 0),
            ("D", self.dilation, 1),
        )
        parts += [letter + extent(values) for letter, values, default in optional if set(values) != {default}]
        if self.groups > 1:
            parts.append(f"G{self.groups}")
        return " ".join(parts) + " -> O" + "x".join(map(str, self.output_size()))


_SMOKE = frozenset(
    {
        "kernelbench-l1-72",
        "kernelbench-l1-75",
        "kernelbench-l1-79",
        "encodec-24k.decoder.convtr3-infer",
        "mimi.upsample.convtr-infer",
        "cyclegan-resnet_9blocks.up-256->128-train",
        "nnu-net-resencl-toothfairy2.decoder.transpconvs.0-train",
    }
)


def _is_small(case: Case) -> bool:
    """Little enough work for a kernel launch to be a good part of the time."""
    return case.flops() < 4e9 and case.bytes(torch.float32) < 40e6


SUITES: dict[str, Callable[[Case], bool]] = {
    "all": lambda case: True,
    "kernelbench": lambda case: case.name.startswith("kernelbench-"),
    "audio": lambda case: case.ndim == 1,
    "image": lambda case: case.ndim == 2,
    "volume": lambda case: case.ndim == 3,
    "small": _is_small,
    "reference": lambda case: case.name == "kernelbench-l1-79",
    "smoke": lambda case: case.name in _SMOKE,
}
"""What each suite's name selects."""


def _load() -> tuple[Case, ...]:
    text = resources.files(__package__).joinpath("cases.json").read_text(encoding="utf-8")
    rows = json.loads(text)["cases"]
    return tuple(Case(**{**row, **{key: tuple(row[key]) for key in _TUPLE_FIELDS}}) for row in rows)


CASES: tuple[Case, ...] = _load()
"""Every problem, in the order of the data file: KernelBench first, then 1-D, 2-D and 3-D layers of published models."""

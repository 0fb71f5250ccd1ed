"""Random tensors for a case."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import torch

from .cases import Case


@dataclass(frozen=True)
class Tensors:
    """What a transposed convolution reads."""

    input: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None

    def clone(self) -> Tensors:
        return Tensors(self.input.clone(), self.weight.clone(), None if self.bias is None else self.bias.clone())


def make_tensors(case: Case, dtype: torch.dtype, device: torch.device, layout: str) -> Tensors:
    """Normal values of about unit size in the output, the same ones each time for a case and a kind of device."""
    generator = torch.Generator(device).manual_seed(zlib.crc32(case.name.encode()))

    def normal(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape, device=device, dtype=torch.float32, generator=generator)

    products = case.in_channels // case.groups * math.prod(case.kernel_size)
    weight = (normal(case.weight_shape()) / math.sqrt(products)).to(dtype)
    bias = normal((case.out_channels,)).to(dtype) if case.bias else None
    return Tensors(_in_layout(normal(case.input_shape()).to(dtype), layout), _in_layout(weight, layout), bias)


def _in_layout(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    if layout == "channels_first" or tensor.dim() not in formats:
        return tensor
    return tensor.contiguous(memory_format=formats[tensor.dim()])

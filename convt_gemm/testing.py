"""Oracles for transposed convolutions: the definition in float64, inputs that are exact, error bounds, random problems.

Nothing here uses a convolution of torch's or a plan of this package's, so that both can be judged by it.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "LAYOUTS",
    "Errors",
    "Problem",
    "assert_accurate",
    "assert_exact",
    "in_layout",
    "largest_errors",
    "nan_filled_memory",
    "pytorch_precision",
    "random_problem",
    "reference",
    "reference_chunks",
    "small_integers",
    "truncate_to_tf32",
]

_CHUNK_ELEMENTS = 1 << 28
LAYOUTS = ("contiguous", "channels_last", "sliced", "unaligned", "transposed", "expanded")
"""What :func:`in_layout` can make of a tensor."""


@dataclass(frozen=True)
class Problem:
    """A transposed convolution, dtype and device left open. One entry per spatial axis from input_size to dilation."""

    batch: int
    in_channels: int
    out_channels: int
    input_size: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    bias: bool = False
    layout: str = "contiguous"
    """The input's, one of :data:`LAYOUTS`."""
    workspace_limit: int | None = None
    seed: int = 0

    @property
    def rank(self) -> int:
        return len(self.input_size)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.batch, self.in_channels, *self.input_size)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.in_channels, self.out_channels // self.groups, *self.kernel_size)

    @property
    def depth(self) -> int:
        """The most products that one output can be the sum of."""
        return self.in_channels // self.groups * math.prod(self.kernel_size)

    @property
    def geometry(self) -> dict[str, object]:
        """The functional's keyword arguments that are neither tensors nor options."""
        return {
            "stride": self.stride,
            "padding": self.padding,
            "output_padding": self.output_padding,
            "groups": self.groups,
            "dilation": self.dilation,
        }

    def integers(self, dtype: torch.dtype, device: str | torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
        """Input, weight and bias for the exact oracle, see :func:`small_integers`; the input in its layout."""
        generator = torch.Generator(device).manual_seed(self.seed)
        make = {"depth": self.depth, "dtype": dtype, "generator": generator}
        bias = small_integers((self.out_channels,), **make) if self.bias else None
        weight = small_integers(self.weight_shape, **make)
        return in_layout(small_integers(self.input_shape, **make), self.layout), weight, bias

    def normals(self, dtype: torch.dtype, device: str | torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
        """Input, weight and bias of normal values, scaled so that outputs are of about unit size."""
        generator = torch.Generator(device).manual_seed(self.seed)

        def normal(shape: Sequence[int]) -> Tensor:
            return torch.randn(tuple(shape), generator=generator, device=device, dtype=torch.float32)

        bias = normal((self.out_channels,)).to(dtype) if self.bias else None
        weight = (normal(self.weight_shape) / math.sqrt(self.depth)).to(dtype)
        return in_layout(normal(self.input_shape).to(dtype), self.layout), weight, bias


def random_problem(seed: int) -> Problem:
    """A small legal problem, the same one each time for a seed."""
    rng = random.Random(seed)
    rank = rng.choice((1, 1, 2, 3))
    most = {1: 40, 2: 11, 3: 6}[rank]
    groups = rng.choice((1, 1, 1, 2, 3, 5))
    in_channels, out_channels = groups * rng.randint(1, 9), groups * rng.randint(1, 9)
    axes = []
    while len(axes) < rank:
        size, kernel, stride, dilation = rng.randint(1, most), rng.randint(1, 5), rng.randint(1, 5), rng.randint(1, 3)
        output_padding = rng.randrange(max(stride, dilation))
        full = (size - 1) * stride + dilation * (kernel - 1) + output_padding + 1
        padding = rng.randint(0, min((full - 1) // 2, dilation * kernel))
        axes.append((size, kernel, stride, padding, output_padding, dilation))
    input_size, kernel_size, strides, paddings, output_paddings, dilations = zip(*axes, strict=True)
    return Problem(
        batch=rng.choice((0, 1, 1, 2, 3)),
        in_channels=in_channels,
        out_channels=out_channels,
        input_size=input_size,
        kernel_size=kernel_size,
        stride=strides,
        padding=paddings,
        output_padding=output_paddings,
        dilation=dilations,
        groups=groups,
        bias=rng.random() < 0.5,
        layout=rng.choice(LAYOUTS),
        workspace_limit=rng.choice((None, None, 0, 1 << 10, 1 << 14)),
        seed=seed,
    )


def reference_chunks(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Iterator[tuple[slice, Tensor]]:
    """The definition in float64, a few samples at a time so that memory stays bounded.

    Per tap, one product of the tap's weights with all inputs is added to the outputs that the tap reaches: a matrix
    product and a strided addition, whose formula is that of the definition, ``o = i * stride + k * dilation -
    padding``.

    Args: as in :func:`convt_gemm.functional.conv_transpose1d`, batched, 1 to 3 axes, any floating dtype.

    Yields:
        A slice of the batch and its outputs, ``(samples, out_channels, *positions)`` in float64.
    """
    rank = weight.dim() - 2
    strides, paddings, output_paddings, dilations = (
        (value,) * rank if isinstance(value, int) else tuple(value)
        for value in (stride, padding, output_padding, dilation)
    )
    axes = zip(input.shape[2:], weight.shape[2:], strides, output_paddings, dilations, strict=True)
    # Before padding crops it, the output begins where the first tap of the first input falls.
    full = [(i - 1) * s + d * (k - 1) + r + 1 for i, k, s, r, d in axes]
    kept = tuple(slice(p, size - p) for p, size in zip(paddings, full, strict=True))
    in_channels, out_channels = weight.shape[0] // groups, weight.shape[1]
    weights = weight.detach().double().unflatten(0, (groups, in_channels))
    samples = max(1, _CHUNK_ELEMENTS // max(1, groups * out_channels * math.prod(full)))
    for begin in range(0, max(1, input.shape[0]), samples):
        chunk = slice(begin, begin + samples)
        columns = input.detach()[chunk].double().flatten(2).unflatten(1, (groups, in_channels))
        output = columns.new_zeros((columns.shape[0], groups, out_channels, *full))
        for tap in itertools.product(*(range(size) for size in weight.shape[2:])):
            reached = tuple(
                slice(k * d, k * d + (i - 1) * s + 1, s)
                for k, d, i, s in zip(tap, dilations, input.shape[2:], strides, strict=True)
            )
            products = weights[(..., *tap)].transpose(1, 2) @ columns
            output[(..., *reached)] += products.unflatten(-1, input.shape[2:])
        output = output[(..., *kept)].flatten(1, 2)
        if bias is not None:
            output = output + bias.detach().double().reshape(-1, *(1 for _ in range(rank)))
        yield chunk, output


def reference(input: Tensor, weight: Tensor, bias: Tensor | None = None, **geometry: object) -> Tensor:
    """All of :func:`reference_chunks` in one float64 tensor."""
    return torch.cat([output for _, output in reference_chunks(input, weight, bias, **geometry)])


def small_integers(shape: Sequence[int], *, depth: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Random integers such that every order of summing ``depth`` products is exact, so that results compare bitwise.

    For 16-bit dtypes, values are -1, 0 and 1, thinned out until sums stay far (ten standard deviations) below the 256
    that bfloat16 holds exactly. Other dtypes get -8 to 8: exact as TF32 operands and in float32 sums. The values are
    drawn on the generator's device.
    """
    device = generator.device
    if dtype.itemsize > 2:
        return torch.randint(-8, 9, tuple(shape), generator=generator, device=device).to(dtype)
    signs = torch.randint(0, 2, tuple(shape), generator=generator, device=device, dtype=torch.int8) * 2 - 1
    density = min(2 / 3, 25 / math.sqrt(depth))
    keep = torch.rand(tuple(shape), generator=generator, device=device) < density
    return (signs * keep).to(dtype)


def in_layout(tensor: Tensor, layout: str) -> Tensor:
    """The same values, otherwise laid out: one of :data:`LAYOUTS`.

    ``sliced`` is a window of a larger tensor, ``unaligned`` begins one element into its storage, ``transposed`` has its
    last axis outermost, ``expanded`` repeats one sample with stride 0 (its values are those of the first sample).
    """
    if layout == "contiguous":
        return tensor.contiguous()
    if layout == "channels_last":
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        return tensor.contiguous(memory_format=formats.get(tensor.dim(), torch.contiguous_format))
    if layout == "sliced":
        larger = tensor.new_full([size + 3 for size in tensor.shape], torch.nan)
        window = larger[tuple(slice(1, 1 + size) for size in tensor.shape)]
        return window.copy_(tensor)
    if layout == "unaligned":
        storage = tensor.new_full((tensor.numel() + 1,), torch.nan)
        return storage[1:].view(tensor.shape).copy_(tensor)
    if layout == "transposed":
        return tensor.movedim(-1, 0).contiguous().movedim(0, -1)
    if layout == "expanded":
        return tensor[:1].expand(tensor.shape) if tensor.shape[0] else tensor
    raise ValueError(f"expected layout to be one of {LAYOUTS}, but got {layout!r}")


def truncate_to_tf32(tensor: Tensor) -> Tensor:
    """float32 values as tensor cores read them in TF32: the last 13 bits of the mantissa are dropped."""
    return (tensor.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)


@dataclass(frozen=True)
class Errors:
    """Largest absolute errors of results by name, and the largest absolute value of the reference."""

    errors: dict[str, float]
    largest: float


def largest_errors(
    results: Mapping[str, Tensor], input: Tensor, weight: Tensor, bias: Tensor | None = None, **geometry: object
) -> Errors:
    """The largest absolute error of each result against the float64 reference; NaN counts as infinite."""
    errors = dict.fromkeys(results, 0.0)
    largest = 0.0
    for chunk, expected in reference_chunks(input, weight, bias, **geometry):
        if expected.numel() == 0:
            continue
        largest = max(largest, expected.abs().max().item())
        for name, result in results.items():
            error = (result.detach()[chunk].double() - expected).abs_().max().item()
            errors[name] = max(errors[name], math.inf if math.isnan(error) else error)
    return Errors(errors, largest)


def assert_exact(
    results: Mapping[str, Tensor], input: Tensor, weight: Tensor, bias: Tensor | None = None, **geometry: object
) -> None:
    """Every result, of whatever dtype, equals the reference rounded to that dtype, element for element.

    Raises:
        AssertionError: with the first name and place that differ.
    """
    for chunk, expected in reference_chunks(input, weight, bias, **geometry):
        for name, result in results.items():
            rounded = expected.to(result.dtype)
            got = result.detach()[chunk]
            if got.shape != rounded.shape:
                raise AssertionError(f"{name}: expected shape {tuple(rounded.shape)}, got {tuple(got.shape)}")
            if not torch.equal(got, rounded):
                wrong = got != rounded
                where = wrong.nonzero()[0].tolist()
                raise AssertionError(
                    f"{name}: {int(wrong.sum())} of {wrong.numel()} elements differ, the first at {where} (chunk from "
                    f"sample {chunk.start}): expected {rounded[tuple(where)].item()}, got {got[tuple(where)].item()}"
                )


def assert_accurate(
    result: Tensor,
    pytorch: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    precision: str = "ieee",
    **geometry: object,
) -> None:
    """``max|result - ref64| <= 2 * max|pytorch - ref64| + tiny``, with torch's result at the same precision.

    tiny is a unit in the last place of the largest output; for float64, where the reference rounds too, times half the
    root of the number of summands; for tf32x3 the unit is that of the 22 bits that two TF32 values hold. With
    ``precision="tf32"`` the error of exactly summed TF32 operands stands in for torch's where that is larger: cuDNN does
    not use TF32 for every problem.

    Raises:
        AssertionError: with the errors.
    """
    found = largest_errors({"result": result, "pytorch": pytorch}, input, weight, bias, **geometry)
    error, baseline = found.errors["result"], found.errors["pytorch"]
    depth = weight.shape[0] // int(geometry.get("groups", 1)) * math.prod(weight.shape[2:])
    summing = 0.5 * math.sqrt(depth) if result.dtype == torch.float64 else 0.0
    unit = torch.finfo(result.dtype).eps
    tiny = found.largest * max(2.0**-21 if precision == "tf32x3" else unit, unit * summing)
    if precision == "tf32" and error > 2 * baseline + tiny:
        rounded = (truncate_to_tf32(input.detach()), truncate_to_tf32(weight.detach()))
        for chunk, expected in reference_chunks(input, weight, bias, **geometry):
            emulated = next(iter(reference_chunks(rounded[0][chunk], rounded[1], bias, **geometry)))[1]
            baseline = max(baseline, (emulated - expected).abs_().max().item())
    if not error <= 2 * baseline + tiny:
        raise AssertionError(
            f"largest error {error:.3e}, torch's {baseline:.3e}, allowed {2 * baseline + tiny:.3e} "
            f"(largest output {found.largest:.3e})"
        )


@contextmanager
def nan_filled_memory() -> Iterator[None]:
    """Memory that torch hands out uninitialised is full of NaN inside: outputs and workspaces, on CPU and CUDA."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = fill
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


@contextmanager
def pytorch_precision(precision: str) -> Iterator[None]:
    """torch's own CUDA convolutions form float32 products in TF32 inside (``"tf32"``), or do not (anything else)."""
    flags = torch.backends.cudnn.conv
    before = flags.fp32_precision
    flags.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        yield
    finally:
        flags.fp32_precision = before

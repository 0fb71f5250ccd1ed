"""What several test files share: dtypes and precisions of a device, problems with something special about them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from convt_gemm import functional
from convt_gemm.benchmark.cases import Case
from convt_gemm.planning import Plan, enumerate_plans
from convt_gemm.testing import Problem, in_layout

FUNCTIONS: dict[int, Callable[..., torch.Tensor]] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}
TORCH_FUNCTIONS: dict[int, Callable[..., torch.Tensor]] = {
    1: torch.nn.functional.conv_transpose1d,
    2: torch.nn.functional.conv_transpose2d,
    3: torch.nn.functional.conv_transpose3d,
}

_ON_CUDA = [
    (torch.float32, "ieee"),
    (torch.float32, "tf32"),
    (torch.float32, "tf32x3"),
    (torch.float64, "ieee"),
    (torch.bfloat16, "ieee"),
    (torch.float16, "ieee"),
]


def computations(device: str) -> list[tuple[torch.dtype, str]]:
    """Every dtype and precision that the device computes in."""
    if device == "cuda":
        return _ON_CUDA
    return [(torch.float32, "ieee"), (torch.float64, "ieee"), (torch.bfloat16, "ieee"), (torch.float16, "ieee")]


def problem_of(case: Case) -> Problem:
    """A case of the benchmark as a problem."""
    return Problem(
        batch=case.batch,
        in_channels=case.in_channels,
        out_channels=case.out_channels,
        input_size=case.input_size,
        kernel_size=case.kernel_size,
        stride=case.stride,
        padding=case.padding,
        output_padding=case.output_padding,
        dilation=case.dilation,
        groups=case.groups,
        bias=case.bias,
    )


def plans_of(problem: Problem, dtype: torch.dtype, precision: str, device: str) -> list[Plan]:
    """Every legal plan for a problem in the layout that it names."""
    # What is dense in both orders (one channel, one position, nothing at all) counts as contiguous.
    x = in_layout(torch.empty(problem.input_shape, device="meta"), problem.layout)
    channels_last = problem.rank > 1 and problem.layout == "channels_last" and not x.is_contiguous()
    return enumerate_plans(
        problem.input_shape,
        problem.weight_shape,
        bias=problem.bias,
        **problem.geometry,
        dtype=dtype,
        channels_last=channels_last,
        device=device,
        precision=precision,
        workspace_limit=problem.workspace_limit,
    )


def _problem(
    input_size: tuple[int, ...],
    kernel_size: int | tuple[int, ...],
    *,
    channels: tuple[int, int] = (6, 4),
    batch: int = 2,
    stride: int = 1,
    padding: int = 0,
    output_padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = True,
    layout: str = "contiguous",
    workspace_limit: int | None = None,
) -> Problem:
    rank = len(input_size)
    return Problem(
        batch=batch,
        in_channels=channels[0],
        out_channels=channels[1],
        input_size=input_size,
        kernel_size=kernel_size if isinstance(kernel_size, tuple) else (kernel_size,) * rank,
        stride=(stride,) * rank,
        padding=(padding,) * rank,
        output_padding=(output_padding,) * rank,
        dilation=(dilation,) * rank,
        groups=groups,
        bias=bias,
        layout=layout,
        workspace_limit=workspace_limit,
    )


SPECIAL: dict[str, Problem] = {
    "all-ones": _problem((1,), 1, channels=(1, 1), batch=1, bias=False),
    "one-position": _problem((1, 1), 3, stride=2),
    "primes": _problem((31,), 7, channels=(13, 11), batch=3, stride=5, padding=2),
    "primes-2d": _problem((7, 11), (3, 5), channels=(7, 5), stride=3, padding=1, output_padding=2),
    "primes-3d": _problem((3, 5, 7), (2, 3, 1), channels=(5, 3), stride=2, output_padding=1),
    "stride-above-kernel": _problem((9,), 2, stride=5, output_padding=4),
    "kernel-is-stride": _problem((16, 16), 2, channels=(32, 16), stride=2),
    "kernel-is-twice-stride": _problem((100,), 16, channels=(24, 12), batch=1, stride=8, padding=4),
    "dilation-with-stride": _problem((10, 9), 3, stride=3, dilation=2, padding=2),
    "dilation-multiple-of-stride": _problem((20,), 3, stride=2, dilation=4, padding=1),
    "output-padding-by-dilation": _problem((8,), 3, dilation=3, output_padding=2),
    "padding-crops-most": _problem((9,), 5, padding=5, stride=2),
    "padding-above-kernel": _problem((12,), 2, padding=4, stride=2),
    "long-kernel": _problem((5,), 257, channels=(3, 2), stride=64),
    "groups": _problem((8, 8), 3, channels=(6, 9), groups=3, stride=2, padding=1, output_padding=1),
    "depthwise": _problem((33,), 4, channels=(12, 12), groups=12, stride=2, padding=1),
    "depthwise-multiplier": _problem((5, 6), 3, channels=(4, 12), groups=4, stride=2),
    "one-output-channel": _problem((64,), 16, channels=(8, 1), stride=8, padding=4),
    "one-input-channel": _problem((64,), 16, channels=(1, 8), stride=8, padding=4),
    "empty-batch": _problem((7,), 3, batch=0, stride=2),
    "empty-batch-3d": _problem((2, 3, 4), 3, batch=0, stride=2),
    "channels-last": _problem((6, 7), 3, channels=(8, 16), stride=2, padding=1, layout="channels_last"),
    "channels-last-odd": _problem((5, 3), 4, channels=(5, 3), stride=2, padding=1, layout="channels_last"),
    "channels-last-3d": _problem((3, 4, 5), 3, channels=(4, 6), stride=2, layout="channels_last"),
    "channels-last-groups": _problem((5, 6), 3, channels=(6, 4), groups=2, stride=2, layout="channels_last"),
    "channels-last-pieces": _problem((17, 9), 3, stride=2, layout="channels_last", workspace_limit=4096),
    "sliced": _problem((14, 9), 3, stride=2, layout="sliced"),
    "unaligned": _problem((37,), 4, stride=2, padding=1, layout="unaligned"),
    "transposed": _problem((15,), 4, stride=2, layout="transposed"),
    "expanded": _problem((15,), 4, batch=3, stride=2, layout="expanded"),
    "odd-rows": _problem((4099,), 3, channels=(16, 8), batch=1, stride=2, padding=1, dilation=2),
    "least-workspace": _problem((23,), 4, stride=2, padding=1, workspace_limit=0),
    "least-workspace-2d": _problem((7, 5), 3, stride=2, padding=1, workspace_limit=0),
    "least-workspace-3d": _problem((3, 4, 3), 3, stride=2, workspace_limit=0, batch=1),
    "many-pieces": _problem((1000,), 5, batch=3, stride=3, padding=2, workspace_limit=20_000),
    "tile-sized": _problem((256,), 4, channels=(128, 64), batch=1, stride=2, padding=1),
    "tile-sized-2d": _problem((16, 16), 4, channels=(64, 64), stride=2, padding=1, bias=False),
}
"""Problems that have been wrong somewhere before, or could be, by what is special about them."""

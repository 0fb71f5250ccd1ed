"""What is refused: before any launch, with the same words in eager mode and under fake tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from problems import FUNCTIONS, TORCH_FUNCTIONS
from torch._subclasses.fake_tensor import FakeTensorMode

import convt_gemm
from convt_gemm import functional

Make = Callable[[tuple[int, ...]], torch.Tensor]


@dataclass(frozen=True)
class Bad:
    """A call that must fail. All of `names` are in the message: the argument, what came and what was expected."""

    names: tuple[str, ...]
    input: tuple[int, ...] = (2, 6, 8)
    weight: tuple[int, ...] = (6, 4, 3)
    bias: tuple[int, ...] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    dtypes: tuple[torch.dtype, torch.dtype, torch.dtype] = (torch.float32,) * 3
    error: type[Exception] = RuntimeError
    torch_accepts: bool = False
    """Not compared with torch: that depends on its back end, ours refuses by design, or the argument is only ours."""


BAD = {
    "rank too low": Bad(("input", "[8]"), input=(8,)),
    "rank too high": Bad(("input", "[1, 2, 6, 8]"), input=(1, 2, 6, 8)),
    "rank too high 2d": Bad(("input", "[1, 1, 6, 8, 8]"), input=(1, 1, 6, 8, 8), weight=(6, 4, 3, 3)),
    "weight rank": Bad(("weight", "dimensions"), weight=(6, 4, 3, 3, 3, 3), arguments={"rank": 1}),
    "weight of another rank": Bad(("input", "[2, 6, 8]", "4 dimensions"), weight=(6, 4, 3, 3), arguments={"rank": 1}),
    "channels": Bad(("input", "6 channels", "7"), input=(2, 7, 8)),
    "channels unbatched": Bad(("input", "6 channels", "7"), input=(7, 8)),
    "groups": Bad(("in_channels", "groups 4", "6"), arguments={"groups": 4}),
    "groups zero": Bad(("groups", "positive", "0"), arguments={"groups": 0}),
    "groups negative": Bad(("groups", "positive", "-1"), arguments={"groups": -1}),
    "stride zero": Bad(("stride", "positive", "0"), arguments={"stride": 0}),
    "stride negative": Bad(("stride", "positive", "-2"), arguments={"stride": -2}),
    "stride count": Bad(("stride", "(1, 2)"), arguments={"stride": (1, 2)}),
    "dilation zero": Bad(("dilation", "positive", "0"), arguments={"dilation": 0}),
    "dilation count": Bad(("dilation", "(1, 1, 1)"), arguments={"dilation": (1, 1, 1)}),
    "padding negative": Bad(("padding", "non-negative", "-1"), arguments={"padding": -1}),
    "padding count": Bad(("padding", "(0, 0)"), arguments={"padding": (0, 0)}),
    "output_padding negative": Bad(("output_padding", "non-negative", "-1"), arguments={"output_padding": -1}),
    "output_padding": Bad(("output_padding 2", "stride 2", "dilation 1"), arguments={"output_padding": 2, "stride": 2}),
    "output_padding on one axis": Bad(
        ("output_padding 1", "axis 1"),
        input=(2, 6, 4, 4),
        weight=(6, 4, 3, 3),
        arguments={"output_padding": (0, 1), "stride": (2, 1)},
    ),  # fmt: skip
    "output negative": Bad(("output", "padding 9", "-8"), arguments={"padding": 9}),
    "output empty": Bad(("output", "padding 5", "0"), arguments={"padding": 5}, torch_accepts=True),
    "input empty": Bad(("input size", "positive", "0"), input=(2, 6, 0)),
    "kernel empty": Bad(("kernel size", "positive", "0"), weight=(6, 4, 0)),
    "no input channels": Bad(("in_channels", "0"), input=(2, 0, 8), weight=(0, 4, 3)),
    "no output channels": Bad(("out_channels", "0"), weight=(6, 0, 3)),
    "bias size": Bad(("bias", "[4]", "[3]"), bias=(3,)),
    "bias rank": Bad(("bias", "[4]", "[4, 1]"), bias=(4, 1)),
    "weight dtype": Bad(("weight", "Float", "Double"), dtypes=(torch.float32, torch.float64, torch.float32)),
    "bias dtype": Bad(
        ("bias", "Float", "Double"), bias=(4,), dtypes=(torch.float32, torch.float32, torch.float64), torch_accepts=True
    ),
    "integers": Bad(("input", "float32", "Long"), dtypes=(torch.int64,) * 3, torch_accepts=True),
    "complex": Bad(("input", "float32", "ComplexFloat"), dtypes=(torch.complex64,) * 3, torch_accepts=True),
    "algorithm": Bad(("algorithm", "'magic'", "'auto'"), arguments={"algorithm": "magic"}, torch_accepts=True),
    "algorithm cut inside a word": Bad(
        ("algorithm", "'gemm_col'", "'auto'"), arguments={"algorithm": "gemm_col"}, torch_accepts=True
    ),
    "precision": Bad(("precision", "'fp8'", "'tf32'"), arguments={"precision": "fp8"}, torch_accepts=True),
    "workspace_limit": Bad(("workspace_limit", "-1"), arguments={"workspace_limit": -1}, torch_accepts=True),
    "stride type": Bad(("stride", "1.5"), arguments={"stride": 1.5}, error=TypeError),
    "stride entries": Bad(("stride", "1.5"), arguments={"stride": (1.5,)}, error=TypeError),
    "padding type": Bad(("padding", "'same'"), arguments={"padding": "same"}, error=TypeError),
}


def call(bad: Bad, functions: dict[int, Callable[..., torch.Tensor]], device: str) -> torch.Tensor:
    arguments = dict(bad.arguments)
    rank = arguments.pop("rank", len(bad.weight) - 2)
    sizes = (bad.input, bad.weight, bad.bias)
    tensors = [
        None if size is None else torch.zeros(size, dtype=dtype, device=device)
        for size, dtype in zip(sizes, bad.dtypes, strict=True)
    ]
    return functions[rank](*tensors, **arguments)


def message_of(function: Callable[[], Any], error: type[Exception]) -> str:
    with pytest.raises(error) as caught:
        function()
    return str(caught.value).split("\n")[0]


@pytest.mark.parametrize("name", BAD)
def test_refused_alike_in_eager_and_fake(name, device):
    bad = BAD[name]
    message = message_of(lambda: call(bad, FUNCTIONS, device), bad.error)
    for part in bad.names:
        assert part in message, f"expected {part!r} in {message!r}"
    with FakeTensorMode():
        assert message_of(lambda: call(bad, FUNCTIONS, device), bad.error) == message


@pytest.mark.parametrize("name", [name for name, bad in BAD.items() if not bad.torch_accepts])
def test_torch_refuses_it_too(name):
    with pytest.raises(BAD[name].error):
        call(BAD[name], TORCH_FUNCTIONS, "cpu")


@pytest.mark.parametrize("name", ["stride zero", "channels", "groups", "output negative", "output_padding"])
def test_refused_under_meta(name):
    message_of(lambda: call(BAD[name], FUNCTIONS, "meta"), RuntimeError)


@pytest.mark.parametrize("name", ["stride zero", "channels", "output_padding", "algorithm", "weight dtype"])
def test_refused_while_compiling(name, device):
    compiled = torch.compile(lambda: call(BAD[name], FUNCTIONS, device), backend="eager")
    with pytest.raises(Exception, match="expected|must be"):
        compiled()


@pytest.mark.parametrize("which", [0, 1, 2])
def test_not_a_tensor(which):
    arguments = [torch.zeros(1, 2, 4), torch.zeros(2, 3, 3), torch.zeros(3)]
    arguments[which] = [1.0, 2.0]
    with pytest.raises((TypeError, RuntimeError), match=("input", "weight", "bias")[which]):
        functional.conv_transpose1d(*arguments)


@pytest.mark.parametrize(("places", "name"), [("gcc", "weight"), ("cgc", "weight"), ("ggc", "bias"), ("ccg", "bias")])
def test_mixed_devices(places, name, cuda):
    """Each letter says where a tensor is: g on the GPU, c on the CPU."""
    sizes = ((1, 2, 4), (2, 3, 3), (3,))
    tensors = [torch.zeros(size, device=cuda if at == "g" else "cpu") for size, at in zip(sizes, places, strict=True)]
    message = message_of(lambda: functional.conv_transpose1d(*tensors), RuntimeError)
    assert name in message and "cuda:0" in message and "cpu" in message
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(tensor) for tensor in tensors]
        assert message_of(lambda: functional.conv_transpose1d(*fakes), RuntimeError) == message


def test_tf32_on_the_cpu():
    with pytest.raises(RuntimeError, match="precision.*'tf32'.*cpu"):
        functional.conv_transpose1d(torch.zeros(1, 2, 4), torch.zeros(2, 3, 3), precision="tf32")


def test_a_cublas_plan_on_the_cpu():
    with pytest.raises(RuntimeError, match="algorithm.*'gemm_col2im_cublas'"):
        functional.conv_transpose1d(torch.zeros(1, 2, 4), torch.zeros(2, 3, 3), algorithm="gemm_col2im_cublas")


@pytest.mark.parametrize(("value", "error"), [(-1, ValueError), (1.5, TypeError), ("1", TypeError), (None, TypeError)])
def test_workspace_limit(value, error):
    before = convt_gemm.get_workspace_limit()
    with pytest.raises(error, match="nbytes"):
        convt_gemm.set_workspace_limit(value)
    assert convt_gemm.get_workspace_limit() == before


def test_nothing_is_launched_for_a_bad_call(cuda):
    x = torch.zeros(1, 2, 4, device=cuda)
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    with pytest.raises(RuntimeError, match="channels"):
        functional.conv_transpose1d(x, x)
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before

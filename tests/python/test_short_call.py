"""The way that plain eager calls take through the packed operator, and what must not take it."""

from __future__ import annotations

import pytest
import torch
from problems import FUNCTIONS, SPECIAL
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from convt_gemm import functional

PACKED = torch.ops.convt_gemm.conv_transpose_packed.default
PUBLIC = torch.ops.convt_gemm.conv_transpose.default


def names_of(profile: torch.profiler.profile) -> set[str]:
    return {event.key for event in profile.key_averages() if event.key.startswith("convt_gemm::")}


def profiled(function, *arguments) -> set[str]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        function(*arguments)
    return names_of(profile)


def tensors(device: str, **options) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, 4, 5, device=device, **options), torch.randn(4, 3, 3, device=device, **options)


@pytest.mark.parametrize("name", SPECIAL)
def test_same_bits_as_the_operator(name, device):
    problem = SPECIAL[name]
    arguments = problem.normals(torch.float32, device)
    geometry = [problem.geometry[key] for key in ("stride", "padding", "output_padding", "groups", "dilation")]
    expected = PUBLIC(*arguments, *geometry)
    assert torch.equal(FUNCTIONS[problem.rank](*arguments, **problem.geometry, precision="ieee"), expected)


def test_every_argument_arrives(device):
    """Three axes with no value twice: what a wrong order would give is another size, or no size at all."""
    x, w = torch.randn(2, 6, 3, 4, 5, device=device), torch.randn(6, 2, 4, 3, 5, device=device)
    geometry = {
        "stride": (5, 4, 3),
        "padding": (4, 2, 1),
        "output_padding": (3, 1, 2),
        "dilation": (2, 3, 1),
        "groups": 3,
    }
    y = functional.conv_transpose3d(x, w, **geometry, precision="ieee", algorithm="gemm_col2im")
    expected = torch.nn.functional.conv_transpose3d(x.cpu().double(), w.cpu().double(), **geometry)
    torch.testing.assert_close(y.cpu().double(), expected, rtol=1e-4, atol=1e-4)
    assert profiled(lambda: functional.conv_transpose3d(x, w, **geometry)) == {"convt_gemm::conv_transpose_packed"}


@pytest.mark.parametrize("call", ["no_grad", "inference", "backward", "autocast"])
def test_plain_tensors_take_it(call, device):
    x, w = tensors(device)
    w.requires_grad_(call != "autocast")
    if call == "no_grad":
        with torch.no_grad():
            names = profiled(functional.conv_transpose1d, x, w)
    elif call == "inference":
        with torch.inference_mode():
            names = profiled(functional.conv_transpose1d, x, w)
    elif call == "backward":
        names = profiled(lambda: functional.conv_transpose1d(x, w).sum().backward())
        assert w.grad is not None
    else:
        with torch.autocast(device, torch.bfloat16):
            names = profiled(functional.conv_transpose1d, x, w)
            assert functional.conv_transpose1d(x, w).dtype is torch.bfloat16
    assert names == {"convt_gemm::conv_transpose_packed"}


def test_modes_see_the_public_operator(device):
    seen = []

    class Dispatched(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            seen.append(function)
            return function(*arguments, **(options or {}))

    class Called(TorchFunctionMode):
        def __torch_function__(self, function, types, arguments=(), options=None):
            seen.append(function)
            return function(*arguments, **(options or {}))

    for mode in (Dispatched, Called):
        seen.clear()
        with mode():
            functional.conv_transpose1d(*tensors(device))
        assert PUBLIC in seen and PACKED not in seen


def test_traced_function_has_gradients(device):
    x, w = tensors(device, requires_grad=True)

    def function(x, w):
        return functional.conv_transpose1d(x, w, stride=2)

    with torch.no_grad():
        traced = torch.jit.trace(function, (x, w), check_trace=False)
    assert "conv_transpose_packed" not in str(traced.graph)
    expected = torch.autograd.grad(function(x, w).square().sum(), (x, w))
    actual = torch.autograd.grad(traced(x, w).square().sum(), (x, w))
    torch.testing.assert_close(actual, expected)


def test_negative_view(device):
    """Such a tensor's memory holds the values with the other sign; the dispatcher sees to that."""
    x, w = tensors(device)
    assert torch.equal(functional.conv_transpose1d(torch._neg_view(x), w), functional.conv_transpose1d(-x, w))


def test_meta_has_the_operators_answer():
    x, w = tensors("meta")
    assert PACKED(x, w, None, "2 1 0 1 1 0 ieee auto").shape == functional.conv_transpose1d(x, w, None, 2, 1).shape
    for message in (
        lambda: PACKED(x, w, None, "0 1 0 1 1 0 ieee auto"),
        lambda: functional.conv_transpose1d(x, w, None, 0),
    ):
        with pytest.raises(RuntimeError, match="expected stride to be positive, but got 0"):
            message()


@pytest.mark.parametrize("groups", [1.0, "1", None, [1]])
def test_groups_of_another_type(groups, device):
    x, w = tensors(device)
    functional.conv_transpose1d(x, w, groups=1)  # whose settings are kept; 1.0 is equal to 1
    with pytest.raises(RuntimeError, match="groups"):
        functional.conv_transpose1d(x, w, groups=groups)


@pytest.mark.parametrize("algorithm", ["", " ", "auto ", "gemm col2im", "direct\n", "auto ieee"])
def test_algorithm_with_spaces(algorithm, device):
    with pytest.raises(RuntimeError, match=f"algorithm.*'{algorithm}'"):
        functional.conv_transpose1d(*tensors(device), algorithm=algorithm)


@pytest.mark.parametrize(
    "settings",
    [
        "",
        "-",
        "ieee auto",
        "- - - - - - ieee auto",
        "1 0 0 1 1 ieee auto",
        "1 0 0 1 1 0 ieee",
        "1 0 0 1 1 0 fp8 auto",
        "1 0 0 1 1 x ieee auto",
        "1 0 0 1 1 0ieee auto",
        "1 0 0 1 1 99999999999999999999 ieee auto",
        "1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 ieee auto",
    ],
)
def test_settings_that_nobody_packed(settings, device):
    with pytest.raises(RuntimeError, match="expected (settings|precision|stride)"):
        PACKED(*tensors(device), None, settings)


def test_every_setting_on_a_device_without_a_kernel():
    """No value twice: what a wrong order would give is another size, or no size at all."""
    x, w = torch.empty(2, 6, 5, 7, device="meta"), torch.empty(6, 2, 4, 3, device="meta")
    geometry = {"stride": (5, 4), "padding": (3, 2), "output_padding": (1, 0), "dilation": (7, 6), "groups": 3}
    y = PACKED(x, w, None, "5 4 3 2 1 0 7 6 3 9 tf32 gemm_col2im")
    assert y.shape == functional.conv_transpose2d(x, w, **geometry).shape

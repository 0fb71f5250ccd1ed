"""The oracle itself: the definition, written once more and worse; and a formula that is wrong."""

from __future__ import annotations

import itertools

import pytest
import torch
from problems import SPECIAL, TORCH_FUNCTIONS

from convt_gemm.testing import (
    LAYOUTS,
    assert_accurate,
    assert_exact,
    in_layout,
    nan_filled_memory,
    random_problem,
    reference,
    small_integers,
    truncate_to_tf32,
)


def by_definition(x, w, bias, stride, padding, output_padding, groups, dilation):
    """One product at a time, in plain Python."""
    rank = x.dim() - 2
    axes = list(zip(x.shape[2:], w.shape[2:], stride, padding, output_padding, dilation, strict=True))
    size = [(i - 1) * s - 2 * p + d * (k - 1) + r + 1 for i, k, s, p, r, d in axes]
    in_group, out_group = x.shape[1] // groups, w.shape[1]
    y = torch.zeros(x.shape[0], out_group * groups, *size, dtype=torch.float64)
    for n, ci, co in itertools.product(range(x.shape[0]), range(x.shape[1]), range(out_group)):
        for i in itertools.product(*map(range, x.shape[2:])):
            for k in itertools.product(*map(range, w.shape[2:])):
                o = tuple(i[a] * stride[a] + k[a] * dilation[a] - padding[a] for a in range(rank))
                if all(0 <= o[a] < size[a] for a in range(rank)):
                    y[(n, ci // in_group * out_group + co, *o)] += x[(n, ci, *i)] * w[(ci, co, *k)]
    return y if bias is None else y + bias.reshape(-1, *[1] * rank)


@pytest.mark.parametrize("seed", range(4000, 4012))
def test_reference_is_the_definition(seed):
    problem = random_problem(seed)
    x, w, bias = problem.integers(torch.float64, "cpu")
    x, w, geometry = x[:1], w[:, :2], problem.geometry
    bias = None if bias is None else torch.arange(float(w.shape[1] * problem.groups), dtype=torch.float64)
    assert torch.equal(reference(x, w, bias, **geometry), by_definition(x, w, bias, **geometry))


@pytest.mark.parametrize("name", SPECIAL)
def test_reference_is_pytorch_in_float64(name):
    problem = SPECIAL[name]
    x, w, bias = problem.integers(torch.float64, "cpu")
    assert torch.equal(
        reference(x, w, bias, **problem.geometry), TORCH_FUNCTIONS[problem.rank](x, w, bias, **problem.geometry)
    )


def wrong_formula(x, w, stride, padding, dilation):
    """Sometimes passed around: `i = (o + 2P - kD) / S`, no divisibility test, the weight read as [out, in, kernel]."""
    size = (x.shape[2] - 1) * stride - 2 * padding + dilation * (w.shape[2] - 1) + 1
    y = torch.zeros(x.shape[0], w.shape[0], size, dtype=x.dtype)
    for o, k in itertools.product(range(size), range(w.shape[2])):
        i = (o + 2 * padding - k * dilation) // stride
        if 0 <= i < x.shape[2]:
            y[:, :, o] += x[:, :, i] @ w[:, :, k].T
    return y


def test_the_wrong_index_formula_differs():
    x = torch.tensor([[[1.0, 2.0]]], dtype=torch.float64)
    w = torch.tensor([[[1.0, 10.0, 100.0]]], dtype=torch.float64)
    right = torch.tensor([[[10.0, 102.0, 20.0]]], dtype=torch.float64)
    assert torch.equal(reference(x, w, stride=2, padding=1), right)
    assert torch.equal(TORCH_FUNCTIONS[1](x, w, stride=2, padding=1), right)
    assert not torch.equal(wrong_formula(x, w, 2, 1, 1), right)


def test_integers_stay_exact_in_16_bits():
    generator = torch.Generator().manual_seed(0)
    for depth in (1, 100, 10_000):
        a, b = (small_integers((50, depth), depth=depth, dtype=torch.bfloat16, generator=generator) for _ in range(2))
        assert (a.double() @ b.double().T).abs().max() <= 256
        assert a.abs().max() == 1


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 4, 5), (2, 3, 4, 5, 2), (0, 3, 5)])
def test_layouts_keep_values(layout, shape):
    tensor = torch.randn(shape)
    other = in_layout(tensor, layout)
    assert other.shape == tensor.shape
    assert torch.equal(other, tensor[:1].expand(shape) if layout == "expanded" and shape[0] else tensor)


def test_assertions_notice_a_wrong_element():
    x, w = torch.randn(2, 3, 9, dtype=torch.float32), torch.randn(3, 4, 4)
    y = TORCH_FUNCTIONS[1](x, w, stride=2)
    assert_accurate(y, y.clone(), x, w, stride=(2,))
    for wrong in (1e-2, torch.nan):
        bad = y.clone()
        bad[1, 2, 3] += wrong
        with pytest.raises(AssertionError, match="largest error"):
            assert_accurate(bad, y, x, w, stride=(2,))
        with pytest.raises(AssertionError, match="differ"):
            assert_exact({"bad": bad}, x, w, stride=(2,))


def test_truncation_keeps_ten_bits():
    values = torch.tensor([1.0, 1 + 2**-10, 1 + 2**-11, -(1 + 2**-10 + 2**-12), 2049.0])
    assert truncate_to_tf32(values).tolist() == [1.0, 1 + 2**-10, 1.0, -(1 + 2**-10), 2048.0]


def test_uninitialised_memory_is_nan(device):
    with nan_filled_memory():
        assert torch.empty(1000, device=device).isnan().all()
        assert torch.empty(1000, device=device, dtype=torch.uint8).view(torch.float16).isnan().all()

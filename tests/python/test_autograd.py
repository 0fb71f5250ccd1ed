"""Gradients of every kind that torch's own functions have."""

from __future__ import annotations

import pytest
import torch
from problems import FUNCTIONS, SPECIAL, TORCH_FUNCTIONS
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap

SMALL = {
    1: ((2, 4, 5), (4, 3, 3), (6,), {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}),
    2: ((2, 2, 3, 2), (2, 2, 2, 3), (2,), {"stride": (2, 1), "padding": (0, 1), "dilation": (1, 2)}),
    3: ((1, 2, 2, 3, 2), (2, 1, 2, 2, 2), (1,), {"stride": 2, "padding": 1, "dilation": 2, "output_padding": 1}),
}


def small(rank, device="cpu", requires_grad=True):
    *sizes, arguments = SMALL[rank]
    tensors = [torch.randn(s, dtype=torch.float64, device=device, requires_grad=requires_grad) for s in sizes]
    return tensors, arguments


def ours(rank):
    return lambda x, w, b=None: FUNCTIONS[rank](x, w, b, **SMALL[rank][-1])


def pytorchs(rank):
    return lambda x, w, b=None: TORCH_FUNCTIONS[rank](x, w, b, **SMALL[rank][-1])


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_gradcheck(rank, device):
    tensors, _ = small(rank, device)
    # aten::convolution_backward, which still computes the gradients, differs between runs on CUDA.
    tolerance = {"nondet_tol": 1e-12} if device == "cuda" else {}
    assert gradcheck(ours(rank), tensors, check_forward_ad=True, **tolerance)
    assert gradcheck(ours(rank), tensors[:2], **tolerance)
    assert gradgradcheck(ours(rank), tensors, check_fwd_over_rev=True, fast_mode=True, **tolerance)


@pytest.mark.parametrize(
    "wanted", [(True, False, False), (False, True, False), (False, False, True), (True, False, True)]
)
def test_only_what_is_wanted(wanted, device):
    tensors, _ = small(1, device, requires_grad=False)
    for tensor, want in zip(tensors, wanted, strict=True):
        tensor.requires_grad_(want)
    ours(1)(*tensors).square().sum().backward()
    assert tuple(tensor.grad is not None for tensor in tensors) == wanted
    assert gradcheck(ours(1), tensors, fast_mode=True)


@pytest.mark.parametrize("name", ["groups", "primes-3d", "channels-last", "sliced", "empty-batch", "expanded"])
def test_gradients_are_pytorchs(name, device):
    problem = SPECIAL[name]
    gradients = []
    for functions in (FUNCTIONS, TORCH_FUNCTIONS):
        tensors = [t.detach().requires_grad_() for t in problem.integers(torch.float64, device)]
        output = functions[problem.rank](*tensors, **problem.geometry)
        (output * torch.arange(output.numel(), device=device).reshape(output.shape).remainder(7)).sum().backward()
        gradients.append([t.grad for t in tensors])
    for mine, theirs in zip(*gradients, strict=True):
        assert torch.equal(mine, theirs)


def test_no_graph_without_need(device):
    tensors, _ = small(1, device)
    with torch.no_grad():
        assert not ours(1)(*tensors).requires_grad
    with torch.inference_mode():
        assert ours(1)(*tensors).is_inference()
    assert not ours(1)(*[t.detach() for t in tensors]).requires_grad
    assert ours(1)(*tensors).requires_grad


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_functional_transforms(rank):
    tensors, _ = small(rank, requires_grad=False)
    tangents = [torch.randn_like(t) for t in tensors]
    x, w, b = tensors
    transforms = {
        "grad": lambda f: grad(lambda *t: f(*t).square().sum(), argnums=(0, 1, 2))(x, w, b),
        "jvp": lambda f: jvp(f, (x, w, b), tuple(tangents)),
        "jacrev": lambda f: jacrev(f, argnums=1)(x, w, b),
        "jacfwd": lambda f: jacfwd(f, argnums=1)(x, w, b),
        "hessian": lambda f: hessian(lambda w: f(x, w, b).square().sum())(w),
        "grad of grad": lambda f: grad(lambda w: grad(lambda x: f(x, w, b).pow(3).sum())(x).square().sum())(w),
    }
    for name, transform in transforms.items():
        torch.testing.assert_close(transform(ours(rank)), transform(pytorchs(rank)), msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(
    "in_dims", [(0, None, None), (None, 1, None), (None, None, 1), (0, 2, 1), (3, None, 0), (2, 0, None)]
)
def test_vmap(in_dims):
    tensors, _ = small(1, requires_grad=False)
    batched = [
        t if dim is None else torch.stack([t * scale for scale in (1.0, -2.0, 0.5, 3.0)], dim)
        for t, dim in zip(tensors, in_dims, strict=True)
    ]
    torch.testing.assert_close(vmap(ours(1), in_dims)(*batched), vmap(pytorchs(1), in_dims)(*batched))
    per_sample = vmap(grad(lambda w, x: ours(1)(x, w).square().sum()), (None, 0))
    expected = vmap(grad(lambda w, x: pytorchs(1)(x, w).square().sum()), (None, 0))
    xs = torch.randn(4, *tensors[0].shape, dtype=torch.float64)
    torch.testing.assert_close(per_sample(tensors[1], xs), expected(tensors[1], xs))


def test_a_leaf_inside_vmap_still_gets_its_gradient():
    (x, w, _), _ = small(1)
    xs = torch.randn(3, *x.shape, dtype=torch.float64)
    vmap(lambda x: ours(1)(x, w))(xs).square().sum().backward()
    mine, w.grad = w.grad, None
    vmap(lambda x: pytorchs(1)(x, w))(xs).square().sum().backward()
    torch.testing.assert_close(mine, w.grad)


def test_functional_call_of_a_layer():
    import convt_gemm

    layer = convt_gemm.ConvTranspose1d(3, 2, 3, stride=2)
    doubled = {name: 2 * value for name, value in layer.named_parameters()}
    x = torch.randn(1, 3, 5)
    torch.testing.assert_close(functional_call(layer, doubled, (x,)), 2 * layer(x))


def test_checkpoint():
    from torch.utils.checkpoint import checkpoint

    tensors, _ = small(1)
    checkpoint(lambda *t: ours(1)(*t).square().sum(), *tensors, use_reentrant=False).backward()
    mine = [t.grad.clone() for t in tensors]
    for tensor in tensors:
        tensor.grad = None
    ours(1)(*tensors).square().sum().backward()
    assert all(torch.equal(a, t.grad) for a, t in zip(mine, tensors, strict=True))

"""How the CUDA half behaves on the device: streams, graphs, devices, flags, launches."""

from __future__ import annotations

import pytest
import torch

import convt_gemm
from convt_gemm import functional
from convt_gemm.planning import enumerate_plans
from convt_gemm.testing import assert_exact, small_integers

GEOMETRY = {"stride": 2, "padding": 1}


@pytest.fixture
def tensors(cuda):
    generator = torch.Generator(cuda).manual_seed(1)
    make = {"depth": 256, "dtype": torch.float32, "generator": generator}
    return small_integers((4, 64, 500), **make), small_integers((64, 32, 4), **make), small_integers((32,), **make)


def algorithms(tensors) -> list[str]:
    x, w, _ = tensors
    return [
        plan.name for plan in enumerate_plans(x.shape, w.shape, bias=True, **GEOMETRY, device="cuda", precision="tf32")
    ]


def test_side_stream(tensors):
    expected = functional.conv_transpose1d(*tensors, **GEOMETRY)
    for algorithm in algorithms(tensors):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            torch.cuda._sleep(20_000_000)
            x = tensors[0] * 2
            y = functional.conv_transpose1d(x, *tensors[1:], **GEOMETRY, algorithm=algorithm, precision="tf32")
        stream.synchronize()
        bias = tensors[2][:, None]
        assert torch.equal(y - bias, (expected - bias) * 2), algorithm


def test_cuda_graph(tensors):
    x, w, bias = (t.clone() for t in tensors)
    for algorithm in algorithms(tensors):
        arguments = {**GEOMETRY, "algorithm": algorithm, "precision": "tf32"}
        warmup = torch.cuda.Stream()
        warmup.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warmup):
            functional.conv_transpose1d(x, w, bias, **arguments)
        torch.cuda.current_stream().wait_stream(warmup)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = functional.conv_transpose1d(x, w, bias, **arguments)
        for factor in (1, 2, 3):
            x.copy_(tensors[0] * factor)
            graph.replay()
            assert_exact({algorithm: y}, x, w, bias, **GEOMETRY)


def test_two_runs_are_equal_bit_for_bit(tensors):
    x, w, bias = (torch.randn_like(t) for t in tensors)
    for algorithm in algorithms(tensors):
        runs = [
            functional.conv_transpose1d(x, w, bias, **GEOMETRY, algorithm=algorithm, precision="tf32") for _ in range(5)
        ]
        assert all(torch.equal(runs[0], run) for run in runs[1:]), algorithm


def test_other_device(cuda):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    x, w = torch.randn(1, 4, 9, device="cuda:1"), torch.randn(4, 3, 3, device="cuda:1")
    y = functional.conv_transpose1d(x, w)
    assert y.device == x.device and torch.cuda.current_device() == 0


def test_precision_follows_torchs_flags(tensors):
    x, w, bias = (torch.randn_like(t) for t in tensors)

    def same(precision: str) -> bool:
        auto = functional.conv_transpose1d(x, w, bias, **GEOMETRY)
        return torch.equal(auto, functional.conv_transpose1d(x, w, bias, **GEOMETRY, precision=precision))

    torch.backends.cudnn.conv.fp32_precision = "tf32"
    assert same("tf32")
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    assert same("tf32x3") and not same("tf32")


def test_sixteen_bits_ignore_the_precision(tensors):
    x, w, bias = (t.bfloat16() for t in tensors)
    y = functional.conv_transpose1d(x, w, bias, **GEOMETRY)
    assert torch.equal(y, functional.conv_transpose1d(x, w, bias, **GEOMETRY, precision="tf32x3"))


def test_no_host_synchronisation(tensors):
    functional.conv_transpose1d(*tensors, **GEOMETRY)
    torch.cuda.synchronize()
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        functional.conv_transpose1d(*tensors, **GEOMETRY)
    finally:
        torch.cuda.set_sync_debug_mode(mode)


def test_backward_on_the_gpu(tensors):
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    for function in (functional.conv_transpose1d, torch.nn.functional.conv_transpose1d):
        x, w, bias = (t.clone().requires_grad_() for t in tensors)
        function(x, w, bias, **GEOMETRY).square().sum().backward()
        if function is functional.conv_transpose1d:
            mine = x.grad, w.grad, bias.grad
        else:
            torch.testing.assert_close(mine, (x.grad, w.grad, bias.grad))


def test_layer_on_the_gpu(cuda):
    layer = convt_gemm.ConvTranspose3d(4, 3, 3, stride=2).to(cuda).half()
    x = torch.randn(2, 4, 3, 5, 4, device=cuda, dtype=torch.float16)
    theirs = torch.nn.ConvTranspose3d(4, 3, 3, stride=2).to(cuda).half()
    theirs.load_state_dict(layer.state_dict())
    # torch adds the bias after it has rounded the sum.
    torch.testing.assert_close(layer(x), theirs(x), atol=4e-3, rtol=2e-3)

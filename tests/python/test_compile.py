"""Everything that traces: opcheck, fake tensors, torch.compile, torch.export, make_fx; and autocast."""

from __future__ import annotations

import shutil

import pytest
import torch
import torch._dynamo.testing  # which torch does not load by itself
from problems import FUNCTIONS, SPECIAL, TORCH_FUNCTIONS
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import convt_gemm
from convt_gemm import functional
from convt_gemm.testing import small_integers

OP = torch.ops.convt_gemm.conv_transpose.default


@pytest.mark.parametrize(
    "name", ["primes", "groups", "primes-3d", "channels-last", "channels-last-3d", "sliced", "empty-batch"]
)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(name, requires_grad, device):
    problem = SPECIAL[name]
    x, w, bias = (t.requires_grad_(requires_grad) for t in problem.normals(torch.float32, device))
    geometry = problem.geometry
    torch.library.opcheck(
        OP,
        (x, w, bias, *(geometry[key] for key in ("stride", "padding", "output_padding", "groups", "dilation"))),
        {"precision": "ieee"},
    )


@pytest.mark.parametrize("name", SPECIAL)
def test_fake_output_is_the_real_ones(name, device):
    problem = SPECIAL[name]
    tensors = problem.normals(torch.float32, device)
    real = FUNCTIONS[problem.rank](*tensors, **problem.geometry)
    with FakeTensorMode() as mode:
        fake = FUNCTIONS[problem.rank](
            *[None if t is None else mode.from_tensor(t) for t in tensors], **problem.geometry
        )
    assert (fake.shape, fake.stride(), fake.dtype, fake.device) == (real.shape, real.stride(), real.dtype, real.device)


def test_meta_tensors():
    y = functional.conv_transpose2d(
        torch.empty(2, 4, 5, 6, device="meta"), torch.empty(4, 3, 3, 3, device="meta"), stride=2
    )
    assert y.shape == (2, 3, 11, 13) and y.is_meta


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_compile_with_dynamic_sizes(rank, device):
    layer = getattr(convt_gemm, f"ConvTranspose{rank}d")(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2).to(
        device
    )
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=counter)
    for batch, size in ((2, 5), (3, 8), (4, 11)):
        inputs = [
            torch.randn(batch, 4, *(size for _ in range(rank)), device=device, requires_grad=True) for _ in range(2)
        ]
        with torch.no_grad():
            inputs[1].copy_(inputs[0])
        outputs = [module(x) for module, x in zip((compiled, layer), inputs, strict=True)]
        for output in outputs:
            output.square().sum().backward()
        assert torch.equal(*outputs)
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    assert counter.frame_count == 1


def test_compile_refuses_nothing_it_should_not(device):
    def function(x, w):
        return functional.conv_transpose1d(x.relu(), w, None, 2, algorithm="gemm_col2im").relu()

    x, w = torch.randn(2, 3, 7, device=device), torch.randn(3, 4, 5, device=device)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(compiled(x, w), function(x, w))
    with torch.inference_mode():
        assert torch.equal(compiled(x, w), function(x, w))


@pytest.mark.skipif(not (shutil.which("cc") or shutil.which("gcc")), reason="triton needs a C compiler")
def test_compile_with_inductor(cuda):
    layer = convt_gemm.ConvTranspose2d(8, 8, 4, stride=2, padding=1).to(cuda).to(memory_format=torch.channels_last)
    model = torch.nn.Sequential(layer, torch.nn.ReLU())
    x = torch.randn(2, 8, 9, 10, device=cuda).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        assert torch.equal(torch.compile(model, fullgraph=True)(x), model(x))


def test_workspace_limit_while_compiled(device):
    function = torch.compile(lambda x, w: functional.conv_transpose1d(x, w), fullgraph=True, backend="eager")
    x, w = (
        torch.randint(-3, 4, (2, 3, 50), device=device).float(),
        torch.randint(-3, 4, (3, 4, 5), device=device).float(),
    )
    expected = functional.conv_transpose1d(x, w)
    for limit in (0, 1 << 12, 1 << 20):
        convt_gemm.set_workspace_limit(limit)
        assert torch.equal(function(x, w), expected)


def test_export(device):
    layer = convt_gemm.ConvTranspose2d(4, 6, (3, 2), stride=2).to(device)
    batch, height = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("height", min=2, max=512)
    program = torch.export.export(
        layer, (torch.randn(2, 4, 5, 5, device=device),), dynamic_shapes=({0: batch, 2: height},)
    )
    assert OP in [node.target for node in program.graph.nodes]
    x = torch.randn(3, 4, 9, 5, device=device)
    assert torch.equal(program.module()(x), layer(x))


def test_export_survives_a_file(tmp_path):
    layer = convt_gemm.ConvTranspose1d(3, 2, 4, stride=2)
    x = torch.randn(1, 3, 6)
    torch.export.save(torch.export.export(layer, (x,)), tmp_path / "layer.pt2")
    assert torch.equal(torch.export.load(tmp_path / "layer.pt2").module()(x), layer(x))


@pytest.mark.parametrize("tracing_mode", ["real", "fake", "symbolic"])
def test_make_fx(tracing_mode):
    x, w = torch.randn(2, 3, 7), torch.randn(3, 4, 5)
    graph = make_fx(lambda x, w: functional.conv_transpose1d(x, w, stride=2), tracing_mode=tracing_mode)(x, w)
    assert torch.equal(graph(x, w), functional.conv_transpose1d(x, w, stride=2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("grad", [False, True])
def test_autocast(dtype, grad, device):
    make = {"depth": 20, "dtype": torch.bfloat16, "generator": torch.Generator(device).manual_seed(3)}
    tensors = [small_integers(size, **make).float().requires_grad_(grad) for size in ((2, 4, 9), (4, 3, 5), (3,))]
    with torch.autocast(device, dtype=dtype):
        mine = functional.conv_transpose1d(*tensors, stride=2)
        theirs = torch.nn.functional.conv_transpose1d(*tensors, stride=2)
        assert mine.dtype == theirs.dtype == dtype
        doubles = [t.detach().double() for t in tensors]
        assert functional.conv_transpose1d(*doubles).dtype == torch.float64
        with torch.autocast(device, enabled=False):
            assert functional.conv_transpose1d(*tensors).dtype == torch.float32
        op_alone = OP(*tensors, (2,), (0,), (0,), 1, (1,))
        assert torch.equal(op_alone, mine)
    assert torch.equal(mine, theirs)
    if grad:
        ours, torchs = (torch.autograd.grad(result.float().sum(), tensors) for result in (mine, theirs))
        assert all(gradient.dtype == torch.float32 for gradient in ours)
        assert all(torch.equal(a, b) for a, b in zip(ours, torchs, strict=True))


def test_autocast_joins_mixed_dtypes(device):
    x, w = torch.randn(2, 4, 9, device=device, dtype=torch.bfloat16), torch.randn(4, 3, 5, device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        assert functional.conv_transpose1d(x, w).dtype == torch.bfloat16
        compiled = torch.compile(functional.conv_transpose1d, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(x, w), functional.conv_transpose1d(x, w))


def test_subclasses_and_modes_see_the_operator():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Record(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.seen = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.seen.append(function)
            return function(*args, **(kwargs or {}))

    class Tagged(torch.Tensor):
        pass

    x, w = torch.randn(1, 2, 4), torch.randn(2, 3, 3)
    for requires_grad in (False, True):
        with Record() as record:
            functional.conv_transpose1d(x, w.requires_grad_(requires_grad))
        assert OP in record.seen
    assert type(functional.conv_transpose1d(x.as_subclass(Tagged), w.detach())) is Tagged
    assert type(TORCH_FUNCTIONS[1](x.as_subclass(Tagged), w.detach())) is Tagged

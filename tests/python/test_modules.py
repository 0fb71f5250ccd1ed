"""The layers, and replace()."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import convt_gemm

LAYERS = {
    1: (convt_gemm.ConvTranspose1d, nn.ConvTranspose1d),
    2: (convt_gemm.ConvTranspose2d, nn.ConvTranspose2d),
    3: (convt_gemm.ConvTranspose3d, nn.ConvTranspose3d),
}
ARGUMENTS = {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2, "dilation": 2}


def example(rank: int, batch: int = 2) -> torch.Tensor:
    return torch.randint(-4, 5, (batch, 4, *(5, 4, 3)[:rank])).double()


def whole(module: nn.Module) -> nn.Module:
    """The same module in float64 with small integers as parameters, so that results compare bit for bit."""
    with torch.no_grad():
        for parameter in module.double().parameters():
            parameter.copy_(torch.randint(-4, 5, parameter.shape))
    return module


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_same_constructor_state_and_result(rank, bias, device):
    ours, theirs = LAYERS[rank]
    torch.manual_seed(1)
    mine = ours(4, 6, 3, bias=bias, **ARGUMENTS, device=device)
    torch.manual_seed(1)
    other = theirs(4, 6, 3, bias=bias, **ARGUMENTS, device=device)
    assert isinstance(mine, theirs)
    assert mine.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), other.parameters(), strict=True))
    mine.double().load_state_dict(whole(other).state_dict())
    x = example(rank).to(device)
    assert torch.equal(mine(x), other(x))
    assert torch.equal(mine(x[0]), other(x[0]))
    assert repr(mine) == repr(other)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_output_size(rank):
    ours, theirs = LAYERS[rank]
    mine, other = whole(ours(4, 2, 3, stride=3)), theirs(4, 2, 3, stride=3).double()
    other.load_state_dict(mine.state_dict())
    x = example(rank)
    least = [(size - 1) * 3 + 3 for size in x.shape[2:]]
    for extra in (0, 1, 2):
        size = [s + extra for s in least]
        assert mine(x, size).shape[2:] == torch.Size(size)
        assert torch.equal(mine(x, output_size=size), other(x, output_size=size))
        assert torch.equal(mine(x, [2, 2, *size]), other(x, [2, 2, *size]))
    for bad in ([s + 3 for s in least], [s - 1 for s in least], least + [1, 1, 1]):
        with pytest.raises(ValueError, match="output_size|output size"):
            mine(x, bad)


def test_padding_mode_is_refused():
    layer = convt_gemm.ConvTranspose1d(2, 2, 3)
    layer.padding_mode = "reflect"
    with pytest.raises(ValueError, match="zeros.*reflect"):
        layer(torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match="zeros"):
        convt_gemm.ConvTranspose2d(2, 2, 3, padding_mode="reflect")


def test_algorithm_and_precision_of_a_layer():
    layer = convt_gemm.ConvTranspose1d(2, 2, 3)
    layer.algorithm = "gemm_col2im"
    assert "algorithm=gemm_col2im" in repr(layer)
    assert layer(torch.zeros(1, 2, 3)).shape == (1, 2, 5)
    layer.algorithm = "magic"
    with pytest.raises(RuntimeError, match="'magic'"):
        layer(torch.zeros(1, 2, 3))
    other = convt_gemm.ConvTranspose1d(2, 2, 3)
    assert other.algorithm == other.precision == "auto"
    other.precision = "tf32"
    with pytest.raises(RuntimeError, match="'tf32'"):
        other(torch.zeros(1, 2, 3))


class Decoder(nn.Module):
    """Everything that a model may do with its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.ConvTranspose1d(4, 4, 4, 2, 1)
        self.same = self.shared
        self.blocks = nn.ModuleList([nn.ConvTranspose1d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv1d(4, 4, 3, padding=1)])
        self.head = nn.Sequential(nn.Sequential(nn.ConvTranspose1d(4, 2, 3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.same(self.shared(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def test_replace_keeps_everything_but_the_class(device):
    model = whole(Decoder()).to(device)
    x = example(1).to(device)
    expected = model(x)
    model.head.eval()
    model.blocks[0].weight.requires_grad_(False)
    parameters = dict(model.named_parameters())
    calls = []
    model.shared.register_forward_hook(lambda *_: calls.append("forward"))
    model.shared.register_forward_pre_hook(lambda *_: calls.append("pre"))
    model.blocks[0].mark = object()
    mark = model.blocks[0].mark

    assert convt_gemm.replace(model) is model
    assert type(model.shared) is convt_gemm.ConvTranspose1d
    assert model.same is model.shared
    assert type(model.blocks[2]) is nn.Conv1d and type(model.blocks[1]) is nn.ReLU
    after = dict(model.named_parameters())
    assert after.keys() == parameters.keys() and all(after[name] is parameters[name] for name in parameters)
    assert model.blocks[0].mark is mark
    assert not model.blocks[0].weight.requires_grad
    assert model.training and not model.head[0][0].training
    assert torch.equal(model(x), expected)
    assert calls == ["pre", "forward"] * 2
    assert convt_gemm.replace(model) is model and type(model.shared) is convt_gemm.ConvTranspose1d


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_replace_of_a_layer_itself(rank):
    ours, theirs = LAYERS[rank]
    layer = whole(theirs(4, 6, 3, **ARGUMENTS))
    x = example(rank)
    expected = layer(x)
    assert convt_gemm.replace(layer) is layer and type(layer) is ours
    assert torch.equal(layer(x), expected)


def test_replace_leaves_other_peoples_classes():
    class Mine(nn.ConvTranspose1d):
        def forward(self, x, output_size=None):
            return super().forward(x, output_size) + 1

    model = nn.Sequential(
        Mine(4, 4, 3), nn.LazyConvTranspose1d(4, 3), nn.Identity(), convt_gemm.ConvTranspose1d(4, 4, 3)
    )
    classes = [type(module) for module in model]
    convt_gemm.replace(model)
    assert [type(module) for module in model] == classes


def test_replace_keeps_an_own_forward():
    model = nn.Sequential(nn.ConvTranspose1d(4, 4, 3))
    model[0].forward = lambda x: x * 2
    convt_gemm.replace(model)
    assert torch.equal(model(torch.ones(1, 4, 3)), torch.full((1, 4, 3), 2.0))


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("dim", [0, 1, None])
def test_replace_with_weight_norm_as_hook(rank, dim):
    with pytest.warns(FutureWarning):
        model = nn.Sequential(nn.utils.weight_norm(LAYERS[rank][1](4, 2, 3, stride=2).double(), dim=dim))
    x = example(rank)
    expected = model(x)
    convt_gemm.replace(model)
    assert type(model[0]) is LAYERS[rank][0]
    torch.testing.assert_close(model(x), expected)
    with torch.no_grad():
        model[0].weight_g.mul_(2)
    bias = model[0].bias.reshape(-1, *[1] * rank)
    torch.testing.assert_close(model(x) - bias, 2 * (expected - bias))
    nn.utils.remove_weight_norm(model[0])
    assert isinstance(model[0].weight, nn.Parameter)
    torch.testing.assert_close(model(x) - bias, 2 * (expected - bias))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_replace_with_weight_norm_as_parametrization(rank):
    wrap = nn.utils.parametrizations.weight_norm
    model = nn.Sequential(wrap(LAYERS[rank][1](4, 2, 3, stride=2).double()), wrap(nn.Linear(3, 3)).double())
    untouched = type(model[1])
    x = example(rank)
    expected, state = model[0](x), model.state_dict()
    parameters = list(model.parameters())
    convt_gemm.replace(model)
    assert isinstance(model[0], LAYERS[rank][0])
    assert type(model[1]) is untouched
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    torch.testing.assert_close(model[0](x), expected)
    assert model.state_dict().keys() == state.keys()
    model.load_state_dict(state)
    with torch.no_grad():
        model[0].parametrizations.weight.original0.mul_(2)
    bias = model[0].bias.reshape(-1, *[1] * rank)
    torch.testing.assert_close(model[0](x) - bias, 2 * (expected - bias))
    twin = copy.deepcopy(model)
    torch.testing.assert_close(twin[0](x), model[0](x))
    nn.utils.parametrize.remove_parametrizations(model[0], "weight")
    assert type(model[0]) is LAYERS[rank][0]
    torch.testing.assert_close(model[0](x) - bias, 2 * (expected - bias))


def test_replace_then_parametrize():
    layer = convt_gemm.replace(nn.ConvTranspose1d(4, 2, 3).double())
    x = example(1)
    expected = layer(x)
    nn.utils.parametrizations.weight_norm(layer)
    torch.testing.assert_close(layer(x), expected)
    assert isinstance(layer, convt_gemm.ConvTranspose1d)


def test_replace_with_two_parametrizations_and_a_subclass():
    class Mine(nn.ConvTranspose1d):
        pass

    model = nn.Sequential(nn.ConvTranspose1d(4, 4, 3).double(), Mine(4, 4, 3).double())
    for layer in model:
        nn.utils.parametrizations.weight_norm(layer)
        nn.utils.parametrize.register_parametrization(layer, "bias", nn.Identity())
    classes = [type(layer) for layer in model]
    x = example(1)
    expected = model(x)
    convt_gemm.replace(model)
    assert isinstance(model[0], convt_gemm.ConvTranspose1d) and type(model[1]) is classes[1]
    torch.testing.assert_close(model(x), expected)


def test_copies_and_files():
    model = convt_gemm.replace(whole(Decoder()))
    x = example(1)
    expected = model(x)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert type(twin.shared) is convt_gemm.ConvTranspose1d and twin.same is twin.shared
        assert torch.equal(twin(x), expected)
    plain = Decoder().double()
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(plain(x), expected)


def test_replace_trains():
    torch.manual_seed(2)
    model = Decoder().double()
    twin = convt_gemm.replace(copy.deepcopy(model))
    for module in (model, twin):
        optimizer = torch.optim.SGD(module.parameters(), 0.01)
        for _ in range(3):
            optimizer.zero_grad()
            module(example(1) * 0 + 0.5).square().mean().backward()
            optimizer.step()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_replace_needs_a_module():
    with pytest.raises(TypeError, match="torch.nn.Module.*list"):
        convt_gemm.replace([nn.ConvTranspose1d(1, 1, 1)])


def test_a_model_on_the_meta_device():
    with torch.device("meta"):
        model = convt_gemm.replace(nn.Sequential(nn.ConvTranspose2d(4, 2, 3)))
    assert model[0].weight.is_meta
    assert model(torch.empty(1, 4, 5, 5, device="meta")).shape == (1, 2, 7, 7)


@pytest.mark.parametrize("bias", [True, False])
def test_parameters_that_are_put_in_for_a_call(bias):
    layer = convt_gemm.ConvTranspose1d(3, 2, 4, stride=2, bias=bias)
    x = torch.randn(1, 3, 5)
    others = {name: torch.randn_like(parameter) for name, parameter in layer.named_parameters()}
    expected = convt_gemm.functional.conv_transpose1d(x, others["weight"], others.get("bias"), stride=2)
    assert torch.equal(torch.func.functional_call(layer, others, x), expected)
    del layer.weight
    layer.weight = others["weight"]  # an attribute, no parameter, as pruning and sharding have it
    torch.testing.assert_close(
        layer(x), convt_gemm.functional.conv_transpose1d(x, others["weight"], layer.bias, stride=2)
    )

"""Plans and explain, which need no GPU, not even for CUDA plans."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from problems import SPECIAL, computations, plans_of, problem_of
from torch import nn

import convt_gemm
from convt_gemm.benchmark.cases import CASES, Case
from convt_gemm.planning import Plan, enumerate_plans

H200 = (90, 132, 60 << 20)
A100 = (80, 108, 40 << 20)
MIB = 1 << 20


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_has_plans_within_the_limit(case: Case, device):
    for dtype, precision in computations(device):
        for limit in (None, 64 * MIB):
            problem = dataclasses.replace(problem_of(case), workspace_limit=limit)
            plans = plans_of(problem, dtype, precision, device)
            assert plans
            for plan in plans:
                assert plan.workspace_bytes <= (limit or 512 * MIB) + MIB, plan
                assert plan.flops >= case.flops() > 0
                assert plan.predicted_seconds > 0
                assert plan.name in plan.description
                assert plan.name.startswith(plan.algorithm)
                if plan.algorithm == "gemm_col2im":
                    assert plan.backend in plan.name
            times = [plan.predicted_seconds for plan in plans]
            assert times == sorted(times)  # the fastest comes first
            assert len({plan.name for plan in plans}) == len(plans)


def test_both_back_ends_are_planned_for_cuda():
    for dtype, precision in computations("cuda"):
        backends = {plan.backend for plan in plans_of(SPECIAL["tile-sized"], dtype, precision, "cuda")}
        assert "cutlass" in backends, (dtype, precision)
        # cuBLAS has no product of three TF32 products.
        assert ("cublas" in backends) == (precision != "tf32x3"), (dtype, precision)


@pytest.mark.parametrize("traits", [H200, A100])
def test_names_select_plans(traits):
    arguments = {"device": "cuda", "precision": "tf32", "stride": 2, "device_traits": traits}
    plans = enumerate_plans((8, 64, 500), (64, 32, 4), **arguments)
    for plan in plans:
        assert enumerate_plans((8, 64, 500), (64, 32, 4), **arguments, algorithm=plan.name) == [plan]
    words = plans[-1].name.split("_")
    for count in range(2, len(words)):
        prefix = "_".join(words[:count])
        selected = enumerate_plans((8, 64, 500), (64, 32, 4), **arguments, algorithm=prefix)
        assert selected == [plan for plan in plans if plan.name == prefix or plan.name.startswith(prefix + "_")]


def test_more_than_two_to_the_31_elements_are_planned():
    for device in ("cpu", "cuda"):
        for size, channels in ((1 << 33, 1), (1 << 20, 1 << 14)):
            plans = enumerate_plans((2, channels, size), (channels, 1, 4), stride=2, device=device)
            assert plans and all(plan.workspace_bytes <= 513 * MIB for plan in plans)


def test_sizes_that_overflow_are_refused():
    with pytest.raises(RuntimeError, match="expected"):
        enumerate_plans((1, 1, 1 << 61), (1, 1, 4), stride=16)
    with pytest.raises(RuntimeError, match="expected"):
        enumerate_plans((1 << 40, 1 << 20, 5), (1 << 20, 1, 4))


def test_the_limit_set_for_all_calls_is_planned_with():
    def workspace(**limit):
        sizes = {"stride": 2, "device": "cuda", "algorithm": "gemm_col2im", **limit}
        return enumerate_plans((8, 64, 50_000), (64, 64, 4), **sizes)[0].workspace_bytes

    before = workspace()
    convt_gemm.set_workspace_limit(4 * MIB)
    assert convt_gemm.get_workspace_limit() == 4 * MIB
    assert workspace() <= 5 * MIB < before
    assert workspace(workspace_limit=512 * MIB) == before


def test_unbatched_and_expanded_arguments():
    assert enumerate_plans((4, 9, 9), (4, 2, 3, 3), stride=2) == enumerate_plans(
        (1, 4, 9, 9), (4, 2, 3, 3), stride=(2, 2)
    )


def test_device_traits():
    few = enumerate_plans((4, 32, 999), (32, 32, 4), device="cpu", device_traits=(1, 1 << 20))
    many = enumerate_plans((4, 32, 999), (32, 32, 4), device="cpu", device_traits=(32, 1 << 20))
    assert few[0].predicted_seconds >= many[0].predicted_seconds
    for device, traits in (("cpu", (1,)), ("cuda", (90, 132))):
        with pytest.raises(RuntimeError, match="device_traits"):
            enumerate_plans((4, 32, 999), (32, 32, 4), device=device, device_traits=traits)
    with pytest.raises(RuntimeError, match="device"):
        enumerate_plans((4, 32, 999), (32, 32, 4), device="meta")


def test_plans_are_values():
    plan = enumerate_plans((1, 2, 3), (2, 2, 2))[0]
    assert isinstance(plan, Plan)
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.name = "other"


@pytest.mark.parametrize("precision", ["tf32", "ieee"])
def test_auto_follows_torchs_flag(precision):
    torch.backends.cudnn.conv.fp32_precision = precision
    expected = {"tf32": "tf32", "ieee": "tf32x3"}[precision]
    assert {plan.precision for plan in enumerate_plans((1, 8, 9), (8, 8, 3), device="cuda")} == {expected}
    assert {plan.precision for plan in enumerate_plans((1, 8, 9), (8, 8, 3), device="cpu")} == {"ieee"}
    half = enumerate_plans((1, 8, 9), (8, 8, 3), device="cuda", dtype=torch.float16)
    assert {plan.precision for plan in half} == {"ieee"}


def test_auto_follows_the_older_flag_and_mixtures():
    def precision() -> str:
        return enumerate_plans((1, 8, 9), (8, 8, 3), device="cuda")[0].precision

    allowed, whole = torch.backends.cudnn.allow_tf32, torch.backends.fp32_precision
    try:
        torch.backends.cudnn.allow_tf32 = False
        assert precision() == "tf32x3"
        torch.backends.cudnn.allow_tf32 = True
        assert precision() == "tf32"
        # Both kinds of flag set: torch's own getter of the older one raises now.
        torch.backends.fp32_precision = "ieee"
        torch.backends.cudnn.conv.fp32_precision = "none"
        assert precision() == "tf32x3"
    finally:
        torch.backends.fp32_precision = whole
        torch.backends.cudnn.allow_tf32 = allowed


def test_explain_a_layer(device):
    layer = convt_gemm.ConvTranspose1d(8, 4, 4, stride=2).to(device)
    x = torch.randn(2, 8, 50, device=device)
    text = convt_gemm.explain(layer, x)
    plans = enumerate_plans(x.shape, layer.weight.shape, bias=True, stride=2, device=device)
    for plan in plans:
        assert plan.name in text
    assert f"chosen: {plans[0].name}" in text
    assert "aten::convolution_backward" in text
    assert convt_gemm.explain(layer, (2, 8, 50)) == text
    assert convt_gemm.explain(layer, x[0]).splitlines()[1:2] == text.splitlines()[1:2]


def test_explain_says_when_torch_runs():
    layer = nn.ConvTranspose2d(8, 4, 4, stride=2)
    text = convt_gemm.explain(layer, (1, 8, 5, 5))
    assert "replace()" in text
    assert "replace()" not in convt_gemm.explain(convt_gemm.replace(layer), (1, 8, 5, 5))


def test_explain_a_parametrized_layer():
    layer = convt_gemm.replace(nn.utils.parametrizations.weight_norm(nn.ConvTranspose1d(8, 4, 4)))
    assert "replace()" not in convt_gemm.explain(layer, (1, 8, 5))


def test_explain_a_problem():
    text = convt_gemm.explain({"weight": (8, 4, 4), "bias": True, "stride": 2, "device": "cuda"}, (2, 8, 50))
    assert "cublas" in text and "cutlass" in text and "fp32_precision" in text
    last = torch.randn(2, 8, 5, 6).contiguous(memory_format=torch.channels_last)
    assert "channels_last" in convt_gemm.explain({"weight": torch.randn(8, 4, 3, 3)}, last)
    assert "channels_last" not in convt_gemm.explain({"weight": torch.randn(8, 4, 3, 3)}, last.contiguous())


def test_explain_follows_the_layers_own_choices():
    layer = convt_gemm.ConvTranspose1d(8, 4, 4)
    layer.algorithm = "magic"
    with pytest.raises(RuntimeError, match="'magic'"):
        convt_gemm.explain(layer, (1, 8, 5))


@pytest.mark.parametrize("subject", [nn.Conv1d(2, 2, 3), {"stride": 2}, 7])
def test_explain_refuses(subject):
    with pytest.raises(TypeError, match="expected"):
        convt_gemm.explain(subject, (1, 2, 3))


def test_operator_refuses_the_wrong_number_of_axes():
    for geometry in ([1, 1], []):
        with pytest.raises(RuntimeError, match="stride.*spatial axis"):
            torch.ops.convt_gemm.conv_transpose(
                torch.zeros(1, 1, 3), torch.zeros(1, 1, 3), None, geometry, [0], [0], 1, [1]
            )

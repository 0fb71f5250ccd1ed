"""Results: exact and relative oracle over special problems and over every case of the benchmark, with every plan."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from problems import FUNCTIONS, SPECIAL, TORCH_FUNCTIONS, computations, plans_of, problem_of

from convt_gemm.benchmark.cases import CASES, Case
from convt_gemm.testing import Problem, assert_accurate, assert_exact, in_layout, nan_filled_memory, pytorch_precision

FLOPS = {"cpu": 1e6, "cuda": 3e8}
"""How much work a case is scaled down to where every plan runs it."""


def run_every_plan(
    problem: Problem, dtype: torch.dtype, precision: str, device: str, tensors
) -> dict[str, torch.Tensor]:
    """The result of each legal plan, which finds NaN in its output and workspace; two runs agree bit for bit."""
    results = {}
    for plan in plans_of(problem, dtype, precision, device):
        options = {"algorithm": plan.name, "precision": precision, "workspace_limit": problem.workspace_limit}
        with nan_filled_memory():
            first = FUNCTIONS[problem.rank](*tensors, **problem.geometry, **options)
            second = FUNCTIONS[problem.rank](*tensors, **problem.geometry, **options)
        assert torch.equal(first, second), f"{plan.name} differs between two runs"
        results[f"{plan.name} ({dtype}, {precision})"] = first
    assert results, f"no plan for {problem}"
    return results


def check_every_plan(problem: Problem, device: str) -> None:
    # All dtypes get the same values, those that are exact in 16 bits, so that one reference serves all of them.
    values = problem.integers(torch.bfloat16, device)
    results: dict[str, torch.Tensor] = {}
    for dtype, precision in computations(device):
        tensors = [None if v is None else v.to(dtype) for v in values]
        tensors[0] = in_layout(tensors[0], problem.layout)
        results |= run_every_plan(problem, dtype, precision, device, tensors)
    assert_exact(results, *values, **problem.geometry)


@pytest.mark.parametrize("name", SPECIAL)
def test_special_problems_with_every_plan(name, device):
    check_every_plan(SPECIAL[name], device)


@pytest.mark.parametrize("name", SPECIAL)
def test_special_problems_with_larger_integers(name, device):
    problem = SPECIAL[name]
    for precision in [p for dtype, p in computations(device) if dtype == torch.float32]:
        tensors = problem.integers(torch.float32, device)
        assert_exact(run_every_plan(problem, torch.float32, precision, device, tensors), *tensors, **problem.geometry)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cases_with_every_plan(case: Case, device):
    check_every_plan(problem_of(case.scaled(FLOPS[device])), device)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cases_channels_last(case: Case, device):
    if case.ndim == 1:
        pytest.skip("a 1-D tensor has no channels_last layout")
    check_every_plan(dataclasses.replace(problem_of(case.scaled(FLOPS[device] / 4)), layout="channels_last"), device)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cases_are_as_accurate_as_pytorch(case: Case, device):
    problem = problem_of(case.scaled(FLOPS[device]))
    for dtype, precision in computations(device):
        tensors = problem.normals(dtype, device)
        with pytorch_precision(precision):
            pytorch = TORCH_FUNCTIONS[problem.rank](*tensors, **problem.geometry)
        for name, result in run_every_plan(problem, dtype, precision, device, tensors).items():
            try:
                assert_accurate(result, pytorch, *tensors, precision=precision, **problem.geometry)
            except AssertionError as error:
                raise AssertionError(f"{name}: {error}") from None


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cases_at_full_size(case: Case, cuda):
    """The plan that runs by default, once per precision, on the published sizes."""
    problem = problem_of(case)
    values = problem.integers(torch.bfloat16, cuda)
    results = {}
    for dtype, precision in computations(cuda):
        tensors = [None if v is None else v.to(dtype) for v in values]
        results[f"{dtype}, {precision}"] = FUNCTIONS[problem.rank](*tensors, **problem.geometry, precision=precision)
    assert_exact(results, *values, **problem.geometry)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_extra_memory_stays_within_the_limit(case: Case, cuda):
    problem = problem_of(case)
    limit = 64 << 20
    tensors = problem.normals(torch.float32, cuda)
    # The first call also allocates cuBLAS' own workspace, which torch keeps.
    FUNCTIONS[problem.rank](*tensors, **problem.geometry, workspace_limit=limit)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_stats()["requested_bytes.all.current"]
    output = FUNCTIONS[problem.rank](*tensors, **problem.geometry, workspace_limit=limit)
    extra = torch.cuda.memory_stats()["requested_bytes.all.peak"] - before - output.numel() * output.element_size()
    assert extra <= limit + (1 << 20), f"{extra} bytes beside the output, limit {limit}"


def test_unbatched_input(device):
    for name in ("primes", "groups", "primes-3d"):
        problem = SPECIAL[name]
        x, w, bias = problem.integers(torch.float32, device)
        y = FUNCTIONS[problem.rank](x[0], w, bias, **problem.geometry)
        assert torch.equal(y, FUNCTIONS[problem.rank](x[:1], w, bias, **problem.geometry)[0])


@pytest.mark.parametrize("layout", ["channels_last", "sliced", "unaligned", "transposed"])
@pytest.mark.parametrize("name", ["primes-2d", "groups", "tile-sized-2d", "primes"])
def test_weight_and_bias_layouts(name, layout, device):
    problem = SPECIAL[name]
    x, w, bias = problem.integers(torch.float32, device)
    w = in_layout(w, layout)
    bias = None if bias is None else torch.stack([bias, bias], dim=1)[:, 0]
    assert_exact({layout: FUNCTIONS[problem.rank](x, w, bias, **problem.geometry)}, x, w, bias, **problem.geometry)


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_output_keeps_the_memory_format(memory_format, device):
    x = torch.randn(2, 6, 5, 7, device=device).contiguous(memory_format=memory_format)
    y = FUNCTIONS[2](x, torch.randn(6, 3, 3, 3, device=device), stride=2)
    assert y.is_contiguous(memory_format=memory_format)


def test_default_plan_is_the_first(device):
    problem = SPECIAL["tile-sized"]
    tensors = problem.normals(torch.float32, device)
    precision = "tf32" if device == "cuda" else "ieee"
    best = plans_of(problem, torch.float32, precision, device)[0]
    by_default = FUNCTIONS[1](*tensors, **problem.geometry, precision=precision)
    assert torch.equal(by_default, FUNCTIONS[1](*tensors, **problem.geometry, precision=precision, algorithm=best.name))


def test_thread_count_does_not_change_the_result():
    problem = SPECIAL["many-pieces"]
    tensors = problem.normals(torch.float32, "cpu")
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(FUNCTIONS[1](*tensors, **problem.geometry))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_more_than_two_to_the_31_outputs(cuda):
    if torch.cuda.get_device_properties(0).total_memory < 24 << 30:
        pytest.skip("needs 24 GiB of GPU memory")
    length = (1 << 29) + 5
    x = torch.randint(-1, 2, (1, 1, length), device=cuda, dtype=torch.int8).to(torch.bfloat16)
    w = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]], device=cuda, dtype=torch.bfloat16)
    y = FUNCTIONS[1](x, w, stride=4)
    assert y.shape[2] == 4 * length > 1 << 31
    for at in (0, length // 2, length - 1000):
        expected = (x[0, 0, at : at + 1000, None] * w[0, 0]).flatten()
        assert torch.equal(y[0, 0, 4 * at : 4 * (at + 1000)], expected)

"""Tuning: measuring plans, remembering one, and keeping what is remembered in files.

A CPU has one plan, so which of several is used is seen with CUDA's plans, which planning and the table know without
a GPU.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from problems import FUNCTIONS, SPECIAL, computations, plans_of
from torch._dynamo.testing import CompileCounterWithBackend

import convt_gemm
from convt_gemm import functional, planning, tuning
from convt_gemm.planning import Plan

H200 = (90, 132, 60 << 20)
A100 = (80, 108, 40 << 20)
SIZES = ((8, 64, 500), (64, 32, 4))
ARGUMENTS = {"bias": True, "stride": 2, "padding": 1, "device": "cuda", "precision": "tf32"}
GPU = {"device": "cuda", "compute_capability": 90, "multiprocessors": 132}


@pytest.fixture(autouse=True)
def _empty_table() -> Iterator[None]:
    convt_gemm.forget_tuned()
    yield
    convt_gemm.forget_tuned()


def gpu_plans(traits: tuple[int, ...] = H200, **changes: Any) -> list[Plan]:
    """Plans of the files' one problem on a GPU that need not be there."""
    return planning.enumerate_plans(*SIZES, **{**ARGUMENTS, **changes}, device_traits=traits)


def gpu_problem(**changes: Any) -> dict[str, Any]:
    return {"weight": SIZES[1], **ARGUMENTS, "device_traits": H200, **changes}


def remember(
    plan: str,
    *,
    sizes: tuple[tuple[int, ...], tuple[int, ...]] = SIZES,
    bias: bool = True,
    stride: int = 2,
    dtype: str = "float32",
    channels_last: bool = False,
    device: str = "cuda",
    precision: str = "tf32",
    traits: tuple[int, ...] = H200,
) -> None:
    """By the operator itself, as tune() does after measuring."""
    rank = len(sizes[1]) - 2
    geometry = ([stride] * rank, [1] * rank, [0] * rank, 1, [1] * rank)
    torch.ops.convt_gemm.remember_plan(
        *sizes, bias, *geometry, dtype, channels_last, device, precision, list(traits), plan
    )


def chosen(text: str) -> str:
    return next(line for line in text.splitlines() if line.startswith("chosen: "))


# --- the table


def test_a_remembered_plan_is_chosen_and_forgotten():
    plans = gpu_plans()
    assert len(plans) > 2 and not any(plan.tuned for plan in plans)
    before = convt_gemm.explain(gpu_problem(), SIZES[0])
    for other in (plans[-1].name, plans[1].name, plans[0].name):
        remember(other)
        assert [plan.name for plan in gpu_plans() if plan.tuned] == [other]
        text = convt_gemm.explain(gpu_problem(), SIZES[0])
        assert chosen(text).startswith(f"chosen: {other}, tuned")
        assert [line.split()[1] for line in text.splitlines() if line.endswith("  tuned")] == [other]
        assert len(tuning.tuned_plans()) == 1
    convt_gemm.forget_tuned()
    assert convt_gemm.explain(gpu_problem(), SIZES[0]) == before
    assert "tuned" not in before and tuning.tuned_plans() == []


def test_tuning_changes_nothing_else_of_a_plan():
    plans = gpu_plans()
    remember(plans[-1].name)
    assert [dataclasses.replace(plan, tuned=False) for plan in gpu_plans()] == plans


@pytest.mark.parametrize(
    "changes",
    [
        {"stride": 3},
        {"padding": 0},
        {"output_padding": 1},
        {"dilation": 2},
        {"groups": 2},
        {"bias": False},
        {"dtype": torch.bfloat16},
        {"precision": "tf32x3"},
        {"device": "cpu", "precision": "ieee", "device_traits": (2, 1 << 20)},
        {"device_traits": A100},
        {"device_traits": (90, 114, 50 << 20)},
        {"algorithm": "gemm_col2im"},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_another_problem_is_planned_as_before(changes):
    arguments = {**ARGUMENTS, "device_traits": H200, **changes}
    before = planning.enumerate_plans(*SIZES, **arguments)
    remember(gpu_plans()[-1].name)
    assert planning.enumerate_plans(*SIZES, **arguments) == before


@pytest.mark.parametrize("sizes", [((7, 64, 500), SIZES[1]), ((8, 64, 501), SIZES[1]), (SIZES[0], (64, 32, 5))])
def test_another_size_is_planned_as_before(sizes):
    remember(gpu_plans()[-1].name)
    assert not any(plan.tuned for plan in planning.enumerate_plans(*sizes, **ARGUMENTS, device_traits=H200))


def test_layouts_are_told_apart():
    sizes = ((2, 64, 16, 16), (64, 32, 4, 4))

    def tuned(channels_last: bool) -> list[str]:
        arguments = {**ARGUMENTS, "channels_last": channels_last, "device_traits": H200}
        return [plan.name for plan in planning.enumerate_plans(*sizes, **arguments) if plan.tuned]

    plans = planning.enumerate_plans(*sizes, **ARGUMENTS, channels_last=True, device_traits=H200)
    remember(plans[-1].name, sizes=sizes, channels_last=True)
    assert tuned(True) == [plans[-1].name] and tuned(False) == []


def test_caches_are_not_part_of_what_is_remembered():
    remember(gpu_plans()[-1].name)
    assert any(plan.tuned for plan in gpu_plans((90, 132, 50 << 20)))


def test_precision_matters_for_float32_only():
    plans = gpu_plans(dtype=torch.float16, precision="ieee")
    remember(plans[-1].name, dtype="float16", precision="tf32")
    assert [plan.name for plan in gpu_plans(dtype=torch.float16, precision="tf32x3") if plan.tuned] == [plans[-1].name]
    assert tuning.tuned_plans()[0]["precision"] == "ieee"


def test_a_plan_that_the_limit_forbids_falls_back_to_the_planners():
    least = {plan.name for plan in gpu_plans(workspace_limit=0)}
    forbidden = [plan.name for plan in gpu_plans(workspace_limit=1 << 40) if plan.name not in least]
    assert forbidden
    for name in forbidden:
        remember(name)
        assert [plan.name for plan in gpu_plans(workspace_limit=1 << 40) if plan.tuned] == [name]
        few = gpu_plans(workspace_limit=0)
        assert not any(plan.tuned for plan in few)
        assert chosen(convt_gemm.explain(gpu_problem(workspace_limit=0), SIZES[0])).startswith(
            f"chosen: {few[0].name}, the planner's"
        )


@pytest.mark.parametrize("plan", ["magic", "auto", "gemm_col2im", "gemm_col2im_cpu_float32", ""])
def test_a_plan_that_is_not_the_problems_is_refused(plan):
    with pytest.raises(RuntimeError, match=f"expected plan to be one of '.*gemm_col2im.*but got '{plan}'"):
        remember(plan)
    assert tuning.tuned_plans() == []


def test_an_illegal_problem_is_not_remembered():
    for changes in ({"stride": 0}, {"dtype": "int64"}, {"device": "meta"}, {"precision": "fp8"}, {"traits": (90,)}):
        with pytest.raises(RuntimeError, match="expected"):
            remember("gemm_col2im_cublas_tf32", **changes)
    assert tuning.tuned_plans() == []


def test_threads_remember_compute_and_forget():
    """Sanity under concurrency: every reading is a whole state, and nothing deadlocks."""
    names = [plan.name for plan in gpu_plans()]
    x, w = torch.randn(2, 4, 9), torch.randn(4, 3, 3)
    expected = functional.conv_transpose1d(x, w)

    def work(index: int) -> None:
        for turn in range(60):
            if index % 3 == 0:
                remember(names[(index + turn) % len(names)], sizes=((8 + turn % 5, 64, 500), SIZES[1]))
            elif index % 3 == 1:
                assert [plan.name for plan in gpu_plans() if plan.tuned] in ([], *([name] for name in names))
                assert all(entry["plan"] in names for entry in tuning.tuned_plans())
            elif turn % 20 == 19:
                convt_gemm.forget_tuned()
            assert torch.equal(functional.conv_transpose1d(x, w), expected)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))


# --- tune


@pytest.mark.parametrize(
    "name", ["primes", "channels-last", "channels-last-3d", "groups", "sliced", "all-ones", "least-workspace"]
)
def test_every_plan_is_measured_and_the_fastest_is_used(name, device):
    problem = SPECIAL[name]
    for dtype, precision in computations(device):
        x, w, bias = problem.normals(dtype, device)
        arguments = {"weight": w, "bias": bias, **problem.geometry, "workspace_limit": problem.workspace_limit}
        found = convt_gemm.tune(arguments, x, precision=precision, repeats=3)
        plans = plans_of(problem, dtype, precision, device)
        assert sorted(row.plan for row in found.measurements) == sorted(plan.name for plan in plans)
        assert [row.seconds for row in found.measurements] == sorted(row.seconds for row in found.measurements)
        assert [row.chosen for row in found.measurements] == [True] + [False] * (len(plans) - 1)
        assert all(row.seconds > 0 and row.predicted_seconds > 0 for row in found.measurements)
        assert found.measurements[0].samples == 3 and {row.samples for row in found.measurements} <= {1, 3}
        for row in found.measurements:
            assert row.plan in str(found)
        assert [plan.name for plan in plans_of(problem, dtype, precision, device) if plan.tuned] == [found.plan]
        options = {"precision": precision, "workspace_limit": problem.workspace_limit}
        assert f"chosen: {found.plan}, tuned" in convt_gemm.explain({**arguments, **options}, x)
        tuned, named = (
            FUNCTIONS[problem.rank](x, w, bias, **problem.geometry, **options, algorithm=algorithm)
            for algorithm in ("auto", found.plan)
        )
        assert torch.equal(tuned, named)


def test_tune_a_layer_and_sizes(device):
    layer = convt_gemm.ConvTranspose2d(8, 4, 3, stride=2).to(device)
    x = torch.randn(2, 8, 9, 9, device=device, requires_grad=True)
    found = convt_gemm.tune(layer, x, repeats=2)
    assert found.problem.startswith("ConvTranspose2d: input (2, 8, 9, 9)")
    entries = tuning.tuned_plans()
    assert len(entries) == 1 and entries[0]["device"] == device and entries[0]["bias"]
    assert x.grad is None and layer.weight.grad is None
    assert convt_gemm.explain(layer, x).count("tuned") == 2
    convt_gemm.tune(layer, (2, 8, 9, 9), repeats=1)
    sizes = {"input": (2, 8, 9, 9), "weight": (8, 4, 3, 3), "bias": True, "stride": 2, "device": device}
    convt_gemm.tune(sizes, repeats=1)
    convt_gemm.tune(sizes, (2, 8, 9, 9), repeats=1, workspace_limit=1 << 20)
    assert [{**entry, "plan": None} for entry in tuning.tuned_plans()] == [{**entry, "plan": None} for entry in entries]
    assert convt_gemm.explain(sizes) == convt_gemm.explain(sizes, (2, 8, 9, 9))


def test_unbatched_and_torchs_own_layer():
    layer = torch.nn.ConvTranspose3d(4, 3, 2)
    convt_gemm.tune(layer, torch.randn(4, 5, 6, 7), repeats=1)
    assert [entry["input_size"] for entry in tuning.tuned_plans()] == [[1, 4, 5, 6, 7]]


def test_channels_last_that_is_also_plain_counts_as_plain():
    sizes = {"weight": (1, 3, 2, 2), "channels_last": True}
    convt_gemm.tune(sizes, (2, 1, 5, 6), repeats=1)
    assert not tuning.tuned_plans()[0]["channels_last"]
    convt_gemm.tune({"weight": (4, 3, 2, 2), "channels_last": True}, (2, 4, 5, 6), repeats=1)
    assert [entry["channels_last"] for entry in tuning.tuned_plans()] == [False, True]


def test_autocast_does_not_change_what_is_tuned():
    layer = convt_gemm.ConvTranspose1d(4, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        convt_gemm.tune(layer, (1, 4, 9), repeats=1)
    assert [entry["dtype"] for entry in tuning.tuned_plans()] == ["float32"]


def test_tuning_leaves_the_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    convt_gemm.tune({"weight": (4, 3, 3)}, (1, 4, 9), repeats=1)
    assert torch.equal(torch.rand(3), expected)


def test_the_thread_count_is_part_of_what_is_remembered():
    threads = torch.get_num_threads()
    layer = convt_gemm.ConvTranspose1d(4, 3, 3)
    convt_gemm.tune(layer, (1, 4, 9), repeats=1)
    try:
        torch.set_num_threads(threads + 1)
        assert "tuned" not in convt_gemm.explain(layer, (1, 4, 9))
    finally:
        torch.set_num_threads(threads)
    assert "tuned" in convt_gemm.explain(layer, (1, 4, 9))


@pytest.mark.parametrize(
    ("problem", "size", "options", "error", "words"),
    [
        ({"weight": (4, 3, 3)}, (0, 4, 9), {}, ValueError, "batch"),
        ({"weight": (4, 3, 3)}, (1, 5, 9), {}, RuntimeError, "4 channels"),
        ({"weight": (4, 3, 3)}, (1, 4, 9), {"repeats": 0}, ValueError, "repeats"),
        ({"weight": (4, 3, 3)}, (1, 4, 9), {"repeats": 1.5}, TypeError, "repeats"),
        ({"weight": (4, 3, 3)}, (1, 4, 9), {"precision": "fp8"}, RuntimeError, "'fp8'"),
        ({"weight": (4, 3, 3)}, (1, 4, 9), {"workspace_limit": -1}, RuntimeError, "-1"),
        ({"weight": (4, 3, 3), "algorithm": "gemm_col2im"}, (1, 4, 9), {}, ValueError, "algorithm.*'gemm_col2im'"),
        ({"weight": (4, 3, 3), "device_traits": (2, 1)}, (1, 4, 9), {}, ValueError, "device_traits"),
        ({"weight": (4, 3, 3)}, None, {}, TypeError, "expected x"),
        ({"stride": 2}, (1, 4, 9), {}, TypeError, "weight"),
        (7, (1, 4, 9), {}, TypeError, "layer_or_problem"),
    ],
)
def test_tune_refuses(problem, size, options, error, words):
    with pytest.raises(error, match=words):
        convt_gemm.tune(problem, size, **options)
    assert tuning.tuned_plans() == []


@pytest.mark.parametrize("defect", ["wrong", "nan", "shape", "error"])
def test_a_plan_that_fails_or_disagrees_is_a_defect(defect, monkeypatch):
    """Plans of a GPU, stood in for by the CPU's, of which the last does wrong."""
    real, names = functional.conv_transpose1d, [plan.name for plan in gpu_plans()]

    def computed(*tensors: torch.Tensor, algorithm: str, **arguments: Any) -> torch.Tensor:
        result = real(*tensors, **arguments)
        if algorithm != names[-1]:
            return result
        if defect == "error":
            raise RuntimeError("launch failed")
        if defect == "shape":
            return result[..., 1:]
        result[1, 2, 3] = torch.nan if defect == "nan" else result[1, 2, 3] + 0.01
        return result

    plans = [dataclasses.replace(gpu_plans()[0], name=name) for name in names]
    monkeypatch.setattr(functional, "conv_transpose1d", computed)
    monkeypatch.setattr(planning, "enumerate_plans", lambda *sizes, **arguments: plans)
    problem = {"weight": SIZES[1], "bias": True, "stride": 2}
    with pytest.raises(RuntimeError, match=f"(?s){names[-1]}.*defect of convt_gemm"):
        convt_gemm.tune(problem, SIZES[0], repeats=1)
    assert tuning.tuned_plans() == []


def test_plans_that_are_far_too_slow_are_timed_once(monkeypatch):
    import time

    real, names = functional.conv_transpose1d, [plan.name for plan in gpu_plans()][:3]
    delays = dict(zip(names, (0.04, 0.02, 0.6), strict=True))  # long, so that a loaded machine does not change their order
    calls = dict.fromkeys(names, 0)

    def computed(*tensors: torch.Tensor, algorithm: str, **arguments: Any) -> torch.Tensor:
        calls[algorithm] += 1
        time.sleep(delays[algorithm])
        return real(*tensors, **arguments)

    plans = [dataclasses.replace(gpu_plans()[0], name=name) for name in names]
    remembered = []
    monkeypatch.setattr(functional, "conv_transpose1d", computed)
    monkeypatch.setattr(planning, "enumerate_plans", lambda *sizes, **arguments: plans)
    monkeypatch.setattr(tuning._ops, "remember_plan", lambda *arguments: remembered.append(arguments[-1]))
    found = convt_gemm.tune({"weight": (4, 3, 3)}, (1, 4, 9), repeats=4)
    assert [row.plan for row in found.measurements] == [names[1], names[0], names[2]]
    assert [row.samples for row in found.measurements] == [4, 4, 1]
    assert calls[names[2]] == 2  # one whose result is compared, one that is timed
    assert remembered == [found.plan] == [names[1]]


# --- the table and everything that traces


def test_compiled_code_with_dynamic_sizes_asks_the_table(device):
    layer = convt_gemm.ConvTranspose1d(8, 4, 4, stride=2).to(device)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=counter)
    with torch.no_grad():
        for size in (16, 20, 24):
            x = torch.randn(2, 8, size, device=device)
            before = compiled(x)
            assert torch.equal(before, layer(x))
            convt_gemm.tune(layer, x, repeats=1)
            assert torch.equal(compiled(x), layer(x))
            convt_gemm.forget_tuned()
            assert torch.equal(compiled(x), before)
    assert counter.frame_count == 1


def test_opcheck_with_entries(device):
    problem = SPECIAL["primes"]
    x, w, bias = problem.normals(torch.float32, device)
    convt_gemm.tune({"weight": w, "bias": bias, **problem.geometry}, x, precision="ieee", repeats=1)
    keys = ("stride", "padding", "output_padding", "groups", "dilation")
    torch.library.opcheck(
        torch.ops.convt_gemm.conv_transpose.default,
        (x, w, bias, *(problem.geometry[key] for key in keys)),
        {"precision": "ieee"},
    )


@pytest.fixture
def layer_on_gpu(cuda) -> tuple[convt_gemm.ConvTranspose1d, torch.Tensor]:
    layer = convt_gemm.ConvTranspose1d(64, 32, 4, stride=2, padding=1, device=cuda)
    layer.precision = "tf32"
    return layer, torch.randn(8, 64, 500, device=cuda)


def test_a_remembered_plan_is_what_the_gpu_runs(layer_on_gpu):
    layer, x = layer_on_gpu
    properties = torch.cuda.get_device_properties(x.device)
    traits = (10 * properties.major + properties.minor, properties.multi_processor_count, properties.L2_cache_size)

    def run(algorithm: str) -> tuple[torch.Tensor, int]:
        layer.algorithm = algorithm
        layer(x)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        output = layer(x)
        return output, torch.cuda.max_memory_allocated() - before

    with torch.no_grad():
        named = {plan.name: run(plan.name) for plan in gpu_plans(traits)}
        assert len(named) > 1
        for name, (output, peak) in named.items():
            remember(name, traits=traits)
            tuned, tuned_peak = run("auto")
            assert torch.equal(tuned, output) and tuned_peak == peak, name


def test_a_cuda_graph_is_captured_with_the_tuned_plan(layer_on_gpu):
    layer, x = layer_on_gpu
    convt_gemm.tune(layer, x, repeats=2)
    with torch.no_grad():
        expected = layer(x)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            layer(x)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = layer(x)
        convt_gemm.forget_tuned()
        y.zero_()
        graph.replay()
        assert torch.equal(y, expected)


def test_tuning_in_a_captured_graph_is_refused(layer_on_gpu):
    layer, x = layer_on_gpu
    with torch.no_grad():
        layer(x)
        with pytest.raises(RuntimeError, match="captured"), torch.cuda.graph(torch.cuda.CUDAGraph()):
            convt_gemm.tune(layer, x)


# --- files


def entry(**changes: Any) -> dict[str, Any]:
    """A CPU's, as save_tuned() writes it."""
    return {
        "device": "cpu",
        "threads": 3,
        "dtype": "float32",
        "precision": "ieee",
        "channels_last": False,
        "input_size": [2, 4, 9],
        "weight_size": [4, 3, 3],
        "bias": True,
        "stride": [2],
        "padding": [1],
        "output_padding": [0],
        "groups": 1,
        "dilation": [1],
        "plan": "gemm_col2im_cpu_float32",
        **changes,
    }


def gpu_entry(**changes: Any) -> dict[str, Any]:
    made = {**entry(precision="tf32", plan=gpu_plans()[-1].name), **GPU, "input_size": [8, 64, 500]}
    made |= {"weight_size": [64, 32, 4]}
    del made["threads"]
    return {**made, **changes}


def write(path: Any, *entries: Any, **changes: Any) -> Any:
    path.write_text(json.dumps({"version": 1, "torch": "2.11", "devices": [], "plans": list(entries), **changes}))
    return path


def test_saved_and_loaded(tmp_path):
    path = tmp_path / "tuned.json"
    for size in (9, 12, 10):
        convt_gemm.tune({"weight": (4, 3, 3), "stride": 2}, (1, 4, size), repeats=1)
    convt_gemm.tune({"weight": (4, 3, 3, 2)}, (1, 4, 7, 8), repeats=1)
    entries = tuning.tuned_plans()
    assert [found["input_size"][2] for found in entries] == [9, 10, 12, 7]
    convt_gemm.save_tuned(path)
    text = path.read_text()
    assert json.loads(text)["plans"] == entries
    assert sum('"plan":' in line for line in text.splitlines()) == 4
    names = [device["name"] for device in json.loads(text)["devices"]]
    assert len(names) == 1 and names[0]
    convt_gemm.forget_tuned()
    assert convt_gemm.load_tuned(path) == (4, 0)
    assert tuning.tuned_plans() == entries
    convt_gemm.save_tuned(str(path))
    assert path.read_text() == text
    assert [found.name for found in tmp_path.iterdir()] == ["tuned.json"]


def test_an_empty_table_is_saved_and_loaded(tmp_path):
    convt_gemm.save_tuned(tmp_path / "tuned.json")
    assert convt_gemm.load_tuned(tmp_path / "tuned.json") == (0, 0)


def test_a_file_of_another_process(tmp_path):
    path = tmp_path / "tuned.json"
    code = (
        "import convt_gemm, sys; convt_gemm.tune({'weight': (4, 3, 3)}, (1, 4, 9), repeats=1); "
        "convt_gemm.save_tuned(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, cwd=tmp_path)
    assert tuning.tuned_plans() == []
    assert convt_gemm.load_tuned(path) == (1, 0)
    assert len(tuning.tuned_plans()) == 1


def test_loading_merges(tmp_path):
    first, second = entry(), entry(threads=5)
    convt_gemm.load_tuned(write(tmp_path / "a.json", first))
    assert convt_gemm.load_tuned(write(tmp_path / "b.json", second, first)) == (2, 0)
    assert tuning.tuned_plans() == [first, second]


def test_devices_that_are_not_here_are_skipped(tmp_path):
    others = [gpu_entry(compute_capability=70), gpu_entry(multiprocessors=131), gpu_entry(plan="of a later version")]
    others[-1]["compute_capability"] = 123
    assert convt_gemm.load_tuned(write(tmp_path / "tuned.json", *others, entry())) == (1, 3)
    assert tuning.tuned_plans() == [entry()]


def test_a_gpus_entries_are_loaded_where_it_is(cuda, tmp_path):
    properties = torch.cuda.get_device_properties(cuda)
    here = {
        "compute_capability": 10 * properties.major + properties.minor,
        "multiprocessors": properties.multi_processor_count,
    }
    made = gpu_entry(**here, plan="gemm_col2im_cublas_tf32")
    assert convt_gemm.load_tuned(write(tmp_path / "tuned.json", made)) == (1, 0)
    assert tuning.tuned_plans() == [made]
    convt_gemm.save_tuned(tmp_path / "tuned.json")
    assert json.loads((tmp_path / "tuned.json").read_text())["devices"][0]["name"] == properties.name
    with pytest.raises(ValueError, match=r"plans\[0\].*'magic'"):
        convt_gemm.load_tuned(write(tmp_path / "tuned.json", {**made, "plan": "magic"}))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (7, "object, but got 7"),
        (entry(plan="magic"), "'magic'"),
        (entry(plan="gemm_col2im"), "one of 'gemm_col2im_cpu_float32', but got 'gemm_col2im'"),
        (entry(colour="red"), "colour"),
        ({name: value for name, value in entry().items() if name != "stride"}, "stride"),
        (entry(device="tpu"), "'tpu'"),
        (entry(device=["cpu"]), "device"),
        (entry(device="cuda"), "compute_capability"),
        (entry(stride=2), "stride.*list"),
        (entry(stride=["2"]), "stride"),
        (entry(stride=[True]), "stride"),
        (entry(stride=[1 << 70]), "stride"),
        (entry(stride=[0]), "stride"),
        (entry(groups="1"), "groups.*int"),
        (entry(bias=1), "bias.*bool"),
        (entry(dtype="int64"), "int64"),
        (entry(precision="tf32"), "tf32"),
        (entry(input_size=[2, 5, 9]), "channels"),
        (entry(input_size=[]), "input"),
        (entry(weight_size=[]), "weight"),
    ],
    ids=str,
)
def test_a_wrong_entry_is_named_and_nothing_is_added(wrong, words, tmp_path):
    path = write(tmp_path / "tuned.json", entry(), wrong)
    with pytest.raises(ValueError, match=rf"(?s)tuned\.json: plans\[1\].*{words}"):
        convt_gemm.load_tuned(path)
    assert tuning.tuned_plans() == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "JSON"),
        ("{", "JSON"),
        ('{"version": 1, "plans": [', "JSON"),
        ("[]", "version 1, but got 'list'"),
        ("{}", "version 1, but got None"),
        ('{"version": 2, "torch": "", "devices": [], "plans": []}', "version 1, but got 2"),
        ('{"version": 1, "torch": "", "devices": []}', "plans"),
        ('{"version": 1, "torch": "", "devices": [], "plans": {}}', "plans"),
        ('{"version": 1, "torch": "", "devices": [], "plans": [], "more": 1}', "more"),
    ],
)
def test_what_is_no_such_file_is_refused(text, words, tmp_path):
    path = tmp_path / "tuned.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"tuned\.json: .*{words}"):
        convt_gemm.load_tuned(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="JSON"):
        convt_gemm.load_tuned(path)


def test_files_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(FileNotFoundError):
        convt_gemm.load_tuned(tmp_path / "none.json")
    with pytest.raises(OSError):
        convt_gemm.save_tuned(tmp_path / "none" / "tuned.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        convt_gemm.save_tuned(tmp_path / "folder")
    assert [found.name for found in tmp_path.iterdir()] == ["folder"]

"""The benchmark: its cases, floors, verdicts, files and exit codes, on the CPU."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("click")
pytest.importorskip("rich")

from click.testing import CliRunner, Result

import convt_gemm
from convt_gemm.benchmark import CASES, SUITES, Case, floors
from convt_gemm.benchmark.checking import check_results, poisoned_result
from convt_gemm.benchmark.cli import main
from convt_gemm.benchmark.compare import compare_reports
from convt_gemm.benchmark.floors import KNOWN
from convt_gemm.benchmark.results import Report, ReportError, geometric_mean
from convt_gemm.benchmark.settings import Setting, SettingError, resolve_settings
from convt_gemm.benchmark.tensors import Tensors, make_tensors
from convt_gemm.benchmark.timing import CpuTimer, UnstableResultError, make_timer
from convt_gemm.testing import truncate_to_tf32

CPU = torch.device("cpu")
BY_NAME = {case.name: case for case in CASES}
REFERENCE = BY_NAME["kernelbench-l1-79"]
FLOAT32 = Setting(torch.float32, "ieee")
TF32 = Setting(torch.float32, "tf32")
IDS = [case.name for case in CASES]


def invoke(*arguments: str | Path) -> Result:
    """The command line in this process, on the CPU and as fast as it can be."""
    return CliRunner().invoke(main, ["--device", "cpu", "--seconds", "0", "--scale", "0.005", *map(str, arguments)])


class TestCases:
    def test_all_are_there(self):
        assert len(CASES) == len(BY_NAME) == 54
        assert {dims: sum(case.ndim == dims for case in CASES) for dims in (1, 2, 3)} == {1: 23, 2: 21, 3: 10}

    def test_suites(self):
        sizes = {suite: sum(suite in case.suites() for case in CASES) for suite in SUITES}
        assert sizes["all"] == 54
        assert sizes["kernelbench"] == 9
        assert sizes["audio"] + sizes["image"] + sizes["volume"] == 54
        assert sizes["reference"] == 1 and "reference" in REFERENCE.suites()
        assert 3 <= sizes["smoke"] <= 10
        assert 0 < sizes["small"] < 54

    @pytest.mark.parametrize("case", CASES, ids=IDS)
    def test_output_is_pytorchs(self, case: Case):
        x = torch.empty(case.input_shape(), device="meta")
        w = torch.empty(case.weight_shape(), device="meta")
        function = getattr(torch.nn.functional, f"conv_transpose{case.ndim}d")
        assert function(x, w, **case.arguments()).shape == case.output_shape()

    @pytest.mark.parametrize(
        ("name", "output"),
        [
            ("kernelbench-l1-79", (262145,)),
            ("kernelbench-l1-75", (257, 766)),
            ("kernelbench-l1-72", (24, 48, 96)),
            ("videogpt-vq-vae.decoder.convts.0-train", (8, 64, 64)),
            ("fsrcnn-x4.last_part-infer", (1080, 1920)),
        ],
    )
    def test_output_size(self, name: str, output: tuple[int, ...]):
        assert BY_NAME[name].output_size() == output

    def test_one_line(self):
        assert REFERENCE.problem() == "1-D N16 C32->64 I131072 K3 S2 P1 D2 -> O262145"
        assert BY_NAME["kernelbench-l1-72"].problem() == "3-D N8 C32->32 I12x24x48 K3x5x7 S2 P1x2x3 R1 G4 -> O24x48x96"

    def test_bytes(self):
        elements = 16 * 32 * 131072 + 32 * 64 * 3 + 16 * 64 * 262145
        assert REFERENCE.bytes(torch.float32) == 4 * elements
        assert REFERENCE.bytes(torch.bfloat16) == 2 * elements
        depthwise = BY_NAME["kokoro-82m.decoder.decode.3.pool-infer"]
        assert depthwise.bytes(torch.float64) == 8 * (1090 * 400 + 1090 * 3 + 1090 * 800 + 1090)


class TestFlops:
    def test_reference_problem(self):
        # Padding 1 crops two of the 3 * 131072 products of a row: tap 0 of the first input, tap 2 of the last.
        assert REFERENCE.flops() == 2 * 16 * 32 * 64 * (3 * 131072 - 2)

    @pytest.mark.parametrize("case", CASES, ids=IDS)
    def test_counts_the_products_that_reach_the_output(self, case: Case):
        case = case.scaled(2e7)
        pairs = 1
        for axis, output in enumerate(case.output_size()):
            places = (
                i * case.stride[axis] + k * case.dilation[axis] - case.padding[axis]
                for i in range(case.input_size[axis])
                for k in range(case.kernel_size[axis])
            )
            pairs *= sum(0 <= place < output for place in places)
        assert case.flops() == 2 * case.batch * case.in_channels * case.out_channels // case.groups * pairs


class TestScaling:
    @pytest.mark.parametrize("flops", [1e6, 5e7, 2e8])
    @pytest.mark.parametrize("case", CASES, ids=IDS)
    def test_keeps_the_layer_and_bounds_the_work(self, case: Case, flops: float):
        scaled = case.scaled(flops)
        for name in (
            "in_channels",
            "out_channels",
            "kernel_size",
            "stride",
            "padding",
            "output_padding",
            "dilation",
            "groups",
        ):
            assert getattr(scaled, name) == getattr(case, name)
        assert 1 <= scaled.batch <= case.batch
        assert all(1 <= now <= before for now, before in zip(scaled.input_size, case.input_size, strict=True))
        assert all(size >= 1 for size in scaled.output_size())
        assert scaled.flops() <= case.flops()
        smallest = case.scaled(1e-9)
        assert scaled.flops() <= flops or scaled.input_size == smallest.input_size

    def test_batch_goes_first(self):
        assert REFERENCE.scaled(REFERENCE.flops() / 4).batch == 4
        assert REFERENCE.scaled(REFERENCE.flops() / 4).input_size == REFERENCE.input_size
        quarter = REFERENCE.scaled(REFERENCE.flops() / 64)
        assert quarter.batch == 1
        assert quarter.input_size[0] == pytest.approx(131072 / 4, rel=1e-3)

    def test_small_enough_cases_stay(self):
        assert REFERENCE.scaled(1e15) is REFERENCE

    def test_recorded_times_do_not_follow(self):
        assert REFERENCE.recorded["tf32"] == 1.5774
        assert not REFERENCE.scaled(1e8).recorded

    def test_refuses_nonsense(self):
        with pytest.raises(ValueError, match="flops: expected a positive number, got 0"):
            REFERENCE.scaled(0)


class TestFloors:
    H200 = KNOWN[0]

    def test_reference_problem(self):
        assert self.H200.floor_seconds(REFERENCE, TF32) == pytest.approx(0.314e-3, rel=2e-3)
        # Bound by memory in tf32x3 as well: 25.8 GFLOP at a third of 356 TFLOP/s take 0.217 ms.
        assert self.H200.floor_seconds(REFERENCE, Setting(torch.float32, "tf32x3")) == pytest.approx(0.314e-3, rel=2e-3)
        assert self.H200.floor_seconds(REFERENCE, Setting(torch.float32, "ieee")) == pytest.approx(
            25.77e9 / 51e12, rel=2e-3
        )
        assert self.H200.floor_seconds(REFERENCE, Setting(torch.bfloat16, "ieee")) == pytest.approx(0.157e-3, rel=2e-3)

    def test_bound_by_arithmetic(self):
        case = BY_NAME["kernelbench-l1-57"]
        flops = 2 * 8 * 64 * 64 * 9 * 1024**2
        assert self.H200.floor_seconds(case, TF32) == pytest.approx(flops / 356e12)

    def test_below_everything_that_was_recorded(self):
        for case in CASES:
            assert self.H200.floor_seconds(case, TF32) * 1e3 < case.recorded["tf32"]
            assert self.H200.floor_seconds(case, Setting(torch.bfloat16, "ieee")) * 1e3 < case.recorded["bfloat16"]


class TestSettings:
    def test_like_with_like(self):
        assert resolve_settings(["float32"], ["auto"], CPU) == (Setting(torch.float32, "ieee"),)
        cuda = torch.device("cuda")
        labels = [s.label for s in resolve_settings(["float32", "bfloat16"], ["ieee", "tf32", "tf32x3"], cuda)]
        assert labels == ["float32/ieee", "float32/tf32", "float32/tf32x3", "bfloat16"]

    def test_flags_follow_the_precision_and_come_back(self):
        before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
        for setting, tf32 in (
            (TF32, True),
            (Setting(torch.float32, "tf32x3"), False),
            (Setting(torch.float64, "ieee"), False),
        ):
            with setting.pytorch_flags():
                assert torch.backends.cudnn.benchmark
                assert torch.backends.cudnn.allow_tf32 == tf32
        assert (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark) == before

    def test_tf32_needs_cuda_and_float32(self):
        with pytest.raises(SettingError, match="tf32 exists on CUDA only"):
            resolve_settings(["float32"], ["tf32"], CPU)
        with pytest.raises(SettingError, match="tf32 exists for float32 only"):
            resolve_settings(["bfloat16"], ["tf32"], torch.device("cuda"))


def pytorch(case: Case, tensors):
    function = getattr(torch.nn.functional, f"conv_transpose{case.ndim}d")
    return function(tensors.input, tensors.weight, tensors.bias, **case.arguments())


class TestChecking:
    def test_tensors_repeat(self):
        case = REFERENCE.scaled(1e6)
        first, second = (make_tensors(case, torch.float32, CPU, "channels_first") for _ in range(2))
        assert torch.equal(first.input, second.input) and torch.equal(first.weight, second.weight)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
    def test_a_small_error_is_found(self, dtype: torch.dtype):
        case = REFERENCE.scaled(1e7)
        tensors = make_tensors(case, dtype, CPU, "channels_first")
        right = pytorch(case, tensors)
        wrong = right.clone()
        wrong[0, 3, 7] += 8 * torch.finfo(dtype).eps * wrong.abs().max() * (100 if dtype == torch.float64 else 1)
        checks = check_results(case, Setting(dtype, "ieee"), tensors, {"right": right.clone(), "wrong": wrong}, right)
        assert checks["right"].ok and not checks["wrong"].ok

    def test_tf32_may_cost_what_its_operands_cost(self):
        # PyTorch may use TF32 and here does not: an honest TF32 result passes all the same, a worse one does not.
        case = REFERENCE.scaled(1e7)
        tensors = make_tensors(case, torch.float32, CPU, "channels_first")
        right = pytorch(case, tensors)
        truncated = Tensors(truncate_to_tf32(tensors.input), truncate_to_tf32(tensors.weight), None)
        results = {"tf32": pytorch(case, truncated), "worse": right * 1.01}
        checks = check_results(case, TF32, tensors, results, right)
        assert checks["tf32"].ok and not checks["worse"].ok
        assert checks["tf32"].tf32_error > 100 * checks["tf32"].pytorch_error
        assert not check_results(case, FLOAT32, tensors, results, right)["tf32"].ok

    def test_the_last_sample_counts(self):
        case = Case(**{**vars(REFERENCE.scaled(1e6)), "batch": 3})
        tensors = make_tensors(case, torch.float32, CPU, "channels_first")
        right = pytorch(case, tensors)
        wrong = right.clone()
        wrong[-1, -1, -1] = math.nan
        checks = check_results(case, FLOAT32, tensors, {"wrong": wrong}, right)
        assert checks["wrong"].error == math.inf and not checks["wrong"].ok

    def test_shape_and_dtype_count(self):
        case = REFERENCE.scaled(1e6)
        tensors = make_tensors(case, torch.float32, CPU, "channels_first")
        right = pytorch(case, tensors)
        with pytest.raises(ValueError, match="float64"):
            check_results(case, FLOAT32, tensors, {"ours": right.double()}, right)
        with pytest.raises(ValueError, match="expected"):
            check_results(case, FLOAT32, tensors, {"ours": right[..., :-1]}, right)

    def test_memory_is_poisoned(self):
        case = REFERENCE.scaled(1e6)
        tensors = make_tensors(case, torch.float32, CPU, "channels_first")
        assert poisoned_result(lambda t: torch.empty(case.output_shape()), tensors).isnan().all()
        assert not torch.are_deterministic_algorithms_enabled()


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path, Path]:
    """One run of the smoke suite, its JSON file and its plot."""
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("benchmark")
    json_path, plot_path = folder / "run.json", folder / "run.png"
    return invoke("--suite", "smoke", "--json", json_path, "--plot", plot_path), json_path, plot_path


class TestTiming:
    def test_interleaves(self):
        calls: list[str] = []

        def contestant(name: str):
            def call(tensors: Tensors) -> torch.Tensor:
                calls.append(name)
                return tensors.input

            return call

        tensors = make_tensors(REFERENCE.scaled(1e6), torch.float32, CPU, "channels_first")
        timer = CpuTimer(budget=0)
        timer.least_sample_seconds = 0
        timings = timer.measure({"a": contestant("a"), "b": contestant("b")}, tensors)
        assert timings["a"].samples == timings["b"].samples == 5
        assert "".join(calls).endswith("abbaabbaab")

    def test_measures(self):
        def call(tensors: Tensors) -> torch.Tensor:
            time.sleep(0.002)
            return tensors.input

        tensors = make_tensors(REFERENCE.scaled(1e6), torch.float32, CPU, "channels_first")
        timing = make_timer(CPU, 0.05).measure({"sleep": call}, tensors)["sleep"]
        assert 0.002 <= timing.seconds < 0.05
        assert timing.samples > 5 and timing.calls_per_sample == 1


class TestCommandLine:
    def test_smoke_suite(self, smoke: tuple[Result, Path, Path]):
        result, json_path, _ = smoke
        assert result.exit_code == 0, result.output
        assert "geometric mean" in result.output
        document = json.loads(json_path.read_text())
        assert document["environment"]["torch"] == torch.__version__
        assert document["options"]["suites"] == ["smoke"]
        assert len(document["results"]) == sum("smoke" in case.suites() for case in CASES)
        for row in document["results"]:
            assert row["status"] == "ok"
            assert row["plan"] == row["plan_details"]["name"]
            assert row["ratio"] == pytest.approx(row["pytorch"]["seconds"] / row["ours"]["seconds"])
        ratios = [row["ratio"] for row in document["results"]]
        assert document["summary"]["ratio_geometric_mean"] == pytest.approx(geometric_mean(ratios))

    def test_json_round_trip(self, smoke: tuple[Result, Path, Path], tmp_path: Path):
        report = Report.read(smoke[1])
        report.write(tmp_path / "again.json")
        assert (tmp_path / "again.json").read_text() == smoke[1].read_text()
        assert Report.read(tmp_path / "again.json") == report

    def test_plot(self, smoke: tuple[Result, Path, Path]):
        assert smoke[2].read_bytes().startswith(b"\x89PNG")
        assert smoke[2].stat().st_size > 10_000

    def test_comparison(self, smoke: tuple[Result, Path, Path], tmp_path: Path):
        document = json.loads(smoke[1].read_text())
        for row in document["results"]:
            row["ours"]["seconds"] *= 3
        document["results"][0]["status"] = "wrong"
        (tmp_path / "slow.json").write_text(json.dumps(document))
        now = Report.read(smoke[1])
        comparison = compare_reports(Report.read(tmp_path / "slow.json"), now)
        assert len(comparison.pairs) == len(now.results) - 1
        assert comparison.ours_change() == pytest.approx(3)
        assert comparison.pytorch_change() == 1
        assert (comparison.only_before, comparison.only_now) == (0, 1)

    def test_compare_option(self, smoke: tuple[Result, Path, Path]):
        result = invoke("--suite", "reference", "--compare", smoke[1])
        assert result.exit_code == 0, result.output
        assert "Change since the earlier report" in result.output
        assert "over 1 pairs" in result.output
        assert (
            f"not compared: {len(Report.read(smoke[1]).results) - 1} results of the earlier report only"
            in result.output
        )

    def test_wrong_result(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        def wrong(input, weight, bias, **arguments):
            geometry = {key: arguments[key] for key in ("stride", "padding", "output_padding", "groups", "dilation")}
            output = torch.nn.functional.conv_transpose1d(input, weight, bias, **geometry)
            output[..., -1] += 1e-3
            return output

        monkeypatch.setattr(convt_gemm.functional, "conv_transpose1d", wrong)
        result = invoke("--suite", "reference", "--json", tmp_path / "run.json")
        assert result.exit_code == 1
        assert "wrong: kernelbench-l1-79" in result.output and "largest error" in result.output
        assert Report.read(tmp_path / "run.json").results[0].status == "wrong"

    def test_unwritten_result(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        case = REFERENCE.scaled(0.005e9)
        monkeypatch.setattr(
            convt_gemm.functional, "conv_transpose1d", lambda *_, **__: torch.empty(case.output_shape())
        )
        result = invoke("--suite", "reference", "--json", tmp_path / "run.json")
        assert result.exit_code == 1
        assert Report.read(tmp_path / "run.json").results[0].check.error == math.inf

    def test_failing_case_does_not_end_the_run(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        def broken(*_, **__):
            raise RuntimeError("out of order")

        monkeypatch.setattr(convt_gemm.functional, "conv_transpose1d", broken)
        result = invoke("--case", "kernelbench-l1-7[59]", "--json", tmp_path / "run.json")
        assert result.exit_code == 1
        assert "error: kernelbench-l1-79" in result.output and "RuntimeError: out of order" in result.output
        statuses = {row.case.name: row.status for row in Report.read(tmp_path / "run.json").results}
        assert statuses == {"kernelbench-l1-75": "ok", "kernelbench-l1-79": "error"}

    def test_each_plan(self, tmp_path: Path):
        result = invoke("--suite", "reference", "--algorithm", "each", "--json", tmp_path / "run.json")
        assert result.exit_code == 0, result.output
        case = REFERENCE.scaled(0.005e9)
        plans = convt_gemm.planning.enumerate_plans(case.input_shape(), case.weight_shape(), **case.arguments())
        assert [row.plan for row in Report.read(tmp_path / "run.json").results] == [plan.name for plan in plans]

    def test_plan_by_the_beginning_of_its_name(self, tmp_path: Path):
        result = invoke("--suite", "reference", "--algorithm", "gemm_col2im", "--json", tmp_path / "run.json")
        assert result.exit_code == 0, result.output
        assert Report.read(tmp_path / "run.json").results[0].plan.startswith("gemm_col2im_")

    def test_channels_last(self):
        result = invoke("--case", "cyclegan*", "--case", "nnu-net*0-train", "--layout", "channels_last")
        assert result.exit_code == 0, result.output

    @pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
    def test_dtypes(self, dtype: str, tmp_path: Path):
        result = invoke("--suite", "smoke", "--dtype", dtype, "--json", tmp_path / "run.json")
        assert result.exit_code == 0, result.output
        assert {row.setting for row in Report.read(tmp_path / "run.json").results} == {dtype}

    def test_list(self):
        result = CliRunner().invoke(main, ["--list", "--suite", "kernelbench"])
        assert result.exit_code == 0
        assert result.output.count("KernelBench level 1, problem") == 9

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--suite", "none"], "none"),
            (["--case", "nothing-of-the-kind"], "no case is called 'nothing-of-the-kind'"),
            (["--dtype", "int8"], "int8"),
            (["--precision", "tf32"], "tf32 exists on CUDA only"),
            (["--device", "tpu"], "expected cpu, cuda or cuda:N, got 'tpu'"),
            (["--suite", "reference", "--algorithm", "no_such_plan"], "no selected case has a plan for no_such_plan"),
            (["--compare", "no-such-file.json"], "no-such-file.json"),
            (["--json", "no-such-folder/run.json"], "no such folder"),
            (["--plot", "run.unknown"], "run.unknown"),
            (["--scale", "0"], "--scale"),
        ],
    )
    def test_bad_usage(self, arguments: list[str], message: str):
        result = invoke(*arguments)
        assert result.exit_code == 2
        assert message in " ".join(result.output.replace("│", " ").split())

    def test_compare_refuses_another_file(self, tmp_path: Path):
        (tmp_path / "other.json").write_text('{"results": []}')
        result = invoke("--compare", tmp_path / "other.json")
        assert result.exit_code == 2
        with pytest.raises(ReportError, match="not a report of this benchmark"):
            Report.read(tmp_path / "other.json")

    def test_module_runs(self, tmp_path: Path):
        command = [sys.executable, "-m", "convt_gemm.benchmark", "--help"]
        result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        assert "python -m convt_gemm.benchmark" in result.stdout

    def test_says_what_is_missing(self):
        code = (
            "import runpy, sys; sys.modules['rich'] = None; sys.argv = ['benchmark'];"
            "runpy.run_module('convt_gemm.benchmark', run_name='__main__')"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
        assert result.returncode == 2
        assert "needs rich: pip install 'convt_gemm[benchmark]'" in result.stderr


@pytest.mark.skipif(not convt_gemm.cuda_available(), reason="needs a GPU")
class TestCuda:
    @pytest.mark.parametrize(
        "arguments", [[], ["--precision", "tf32x3"], ["--dtype", "bfloat16"], ["--algorithm", "each"]]
    )
    def test_smoke_suite(self, arguments: list[str], tmp_path: Path):
        common = ["--device", "cuda", "--suite", "smoke", "--seconds", "0", "--json", str(tmp_path / "run.json")]
        result = CliRunner().invoke(main, [*common, *arguments])
        assert result.exit_code == 0, result.output
        report = Report.read(tmp_path / "run.json")
        assert report.environment["cudnn"] and report.environment["driver"]
        for row in report.results:
            assert row.ours.plain_seconds > 0 and row.ours.host_seconds > 0
            assert row.extra_bytes <= report.options["workspace_limit"]
            assert row.floor_seconds > 0

    def test_a_result_that_changes_is_noticed(self):
        device = torch.device("cuda")
        tensors = make_tensors(REFERENCE.scaled(1e6), torch.float32, device, "channels_first")
        timer = make_timer(device, 0, stable=["random"])
        with pytest.raises(UnstableResultError, match="random: the replay of a CUDA graph gave other bits"):
            timer.measure({"random": lambda t: torch.rand_like(t.input)}, tensors)

    def test_unknown_gpus_are_measured(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(floors, "KNOWN", ())
        ceilings = floors.ceilings_of(torch.device("cuda"), [TF32, Setting(torch.float64, "ieee")])
        assert ceilings.copy_bytes_per_second > 1e10
        assert set(ceilings.flops_per_second) == {"tf32", "float64"}


def test_geometric_mean():
    assert geometric_mean([1.0, 4.0]) == pytest.approx(2.0)
    assert geometric_mean([None, 3.0]) == pytest.approx(3.0)
    assert geometric_mean([]) is None

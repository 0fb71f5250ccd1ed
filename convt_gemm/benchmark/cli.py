"""The command line: which cases, how they are measured, where the results go."""

from __future__ import annotations

import importlib.util
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

import convt_gemm

from .cases import CASES, SUITES, Case
from .compare import compare_reports, comparison_lines, comparison_table
from .environment import describe_environment, one_line
from .floors import ceilings_of
from .results import Report, ReportError, Result
from .runner import EACH, Runner
from .settings import DTYPES, LAYOUTS, PRECISIONS, Setting, SettingError, resolve_settings
from .table import result_table, summary_lines

_OUTPUT_FILE = click.Path(dir_okay=False, writable=True, path_type=Path)
_INPUT_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_CPU_GFLOP = 0.2
_WIDTH_OF_A_FILE = 240


@click.command(context_settings={"show_default": True, "max_content_width": 110})
@click.option(
    "--suite",
    "suites",
    multiple=True,
    type=click.Choice(list(SUITES)),
    help="Cases to measure; repeat for more. [default: all]",
)
@click.option(
    "--case",
    "names",
    multiple=True,
    metavar="NAME",
    help="Single cases, by name or pattern ('hifi-gan*'), instead of suites.",
)
@click.option(
    "--dtype", "dtypes", multiple=True, type=click.Choice(list(DTYPES)), default=["float32"], help="Repeat for more."
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(["auto", *PRECISIONS]),
    default=["auto"],
    help="How float32 products are formed; repeat for more. auto follows PyTorch's TF32 flag on CUDA.",
)
@click.option(
    "--algorithm",
    "algorithms",
    multiple=True,
    metavar="NAME",
    default=["auto"],
    help=f"auto, a plan's name or the beginning of one, or {EACH} (every legal plan of every case); repeat for more.",
)
@click.option("--layout", type=click.Choice(LAYOUTS), default=LAYOUTS[0], help="Memory format of 2-D and 3-D tensors.")
@click.option("--device", default=None, help="cpu, cuda or cuda:N. [default: cuda if convt_gemm can use it]")
@click.option(
    "--scale",
    "gflop",
    type=click.FloatRange(min=0, min_open=True),
    default=None,
    metavar="GFLOP",
    help="Shrink cases above this much work: first the batch, then the positions. "
    f"[default: {_CPU_GFLOP} on a CPU, none on CUDA]",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0),
    default=0.3,
    help="Measuring time for each contestant of each case.",
)
@click.option(
    "--workspace-limit",
    "workspace_mib",
    type=click.IntRange(min=1),
    default=None,
    metavar="MIB",
    help="Bound of the column buffer. [default: the package's own]",
)
@click.option("--json", "json_path", type=_OUTPUT_FILE, help="Write all parameters, versions and results here.")
@click.option(
    "--plot", "plot_path", type=_OUTPUT_FILE, help="Draw the results here (.png, .svg, .pdf); needs matplotlib."
)
@click.option("--compare", "compare_path", type=_INPUT_FILE, help="An earlier --json file to compare with.")
@click.option("--list", "list_only", is_flag=True, help="Print the selected cases and stop.")
def main(
    suites: tuple[str, ...],
    names: tuple[str, ...],
    dtypes: tuple[str, ...],
    precisions: tuple[str, ...],
    algorithms: tuple[str, ...],
    layout: str,
    device: str | None,
    gflop: float | None,
    seconds: float,
    workspace_mib: int | None,
    json_path: Path | None,
    plot_path: Path | None,
    compare_path: Path | None,
    list_only: bool,
) -> None:
    """Measure convt_gemm against PyTorch, side by side in one run, and check every result against float64.

    Exit code 1 if a result is wrong or a case fails, 2 for bad usage.
    """
    console = Console(highlight=False) if sys.stdout.isatty() else Console(width=_WIDTH_OF_A_FILE, highlight=False)
    cases = _select(suites, names)
    target = _device(device)
    if gflop is None and target.type == "cpu":
        gflop = _CPU_GFLOP
    if gflop is not None:
        cases = [case.scaled(gflop * 1e9) for case in cases]
    if list_only:
        console.print(_case_table(cases))
        return
    try:
        settings = resolve_settings(dtypes, precisions, target)
        earlier = None if compare_path is None else Report.read(compare_path)
    except (SettingError, ReportError) as error:
        raise click.UsageError(str(error)) from error
    _check_outputs(json_path, plot_path)

    limit = convt_gemm.get_workspace_limit() if workspace_mib is None else workspace_mib << 20
    environment = describe_environment(target)
    console.print(one_line(environment))
    ceilings = ceilings_of(target, settings)
    if ceilings is not None:
        console.print(f"floor: {ceilings.copy_bytes_per_second / 1e12:.2f} TB/s copy, {ceilings.origin}")
    runner = Runner(target, layout, tuple(dict.fromkeys(algorithms)), seconds, limit, ceilings)
    results = _run(runner, cases, settings, console)
    options = {
        "suites": list(suites),
        "cases": list(names),
        "settings": [setting.label for setting in settings],
        "algorithms": list(algorithms),
        "layout": layout,
        "device": str(target),
        "scale_gflop": gflop,
        "seconds": seconds,
        "workspace_limit": limit,
    }
    report = Report(environment, options, tuple(results))
    # Files first: nothing that happens while printing can lose a long run.
    if json_path is not None:
        report.write(json_path)
    _print(console, report, earlier, limit)
    if plot_path is not None:
        _plot(report, plot_path)
    if results and all(result.status == "skipped" for result in results):
        raise click.UsageError(f"algorithm: no selected case has a plan for {', '.join(algorithms)}")
    if any(result.failed for result in results):
        sys.exit(1)


def _select(suites: tuple[str, ...], names: tuple[str, ...]) -> list[Case]:
    for name in names:
        if not any(fnmatchcase(case.name, name) for case in CASES):
            raise click.BadParameter(f"no case is called {name!r}; --list prints all names", param_hint="--case")
    wanted = suites or (() if names else ("all",))
    return [
        case
        for case in CASES
        if any(SUITES[suite](case) for suite in wanted) or any(fnmatchcase(case.name, name) for name in names)
    ]


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if convt_gemm.cuda_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise click.BadParameter(f"expected cpu, cuda or cuda:N, got {name!r}", param_hint="--device") from error
    if device.type not in ("cpu", "cuda"):
        raise click.BadParameter(f"expected cpu, cuda or cuda:N, got {name!r}", param_hint="--device")
    if device.type == "cuda":
        if not convt_gemm.cuda_available():
            message = "no GPU to use: PyTorch sees none, or convt_gemm was built without CUDA"
            raise click.BadParameter(message, param_hint="--device")
        if (device.index or 0) >= torch.cuda.device_count():
            message = f"expected a device below cuda:{torch.cuda.device_count()}, got {name!r}"
            raise click.BadParameter(message, param_hint="--device")
        device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        torch.cuda.set_device(device)
    return device


def _check_outputs(json_path: Path | None, plot_path: Path | None) -> None:
    """Finds out before the run, not after it, that its results could not be kept."""
    for option, path in (("--json", json_path), ("--plot", plot_path)):
        if path is not None and not path.parent.is_dir():
            raise click.BadParameter(f"no such folder: {path.parent}", param_hint=option)
    if plot_path is not None:
        if importlib.util.find_spec("matplotlib") is None:
            raise click.UsageError("--plot needs matplotlib: pip install 'convt_gemm[benchmark]'")
        from matplotlib.backend_bases import FigureCanvasBase

        known = FigureCanvasBase.get_supported_filetypes()
        if plot_path.suffix.lstrip(".").lower() not in known:
            expected = ", ".join(f".{suffix}" for suffix in sorted(known))
            raise click.BadParameter(
                f"expected a file name that ends in one of {expected}, got {plot_path.name}", param_hint="--plot"
            )


def _run(runner: Runner, cases: list[Case], settings: tuple[Setting, ...], console: Console) -> list[Result]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    results: list[Result] = []
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(cases) * len(settings))
        for setting in settings:
            for case in cases:
                progress.update(task, description=f"{case.name} {setting.label}")
                results += runner.run(case, setting)
                progress.advance(task)
    return results


def _print(console: Console, report: Report, earlier: Report | None, limit: int) -> None:
    console.print(result_table(report.results, width=console.width))
    for line in summary_lines(report.results, limit):
        console.print(line, markup=False, soft_wrap=True)
    if earlier is not None:
        comparison = compare_reports(earlier, report)
        if comparison.pairs:
            console.print(comparison_table(comparison))
        for line in comparison_lines(comparison):
            console.print(line, markup=False, soft_wrap=True)


def _plot(report: Report, path: Path) -> None:
    from .plot import write_plot  # matplotlib is needed for this alone

    try:
        write_plot(report, path)
    except ValueError as error:
        click.echo(f"no plot: {error}", err=True)


def _case_table(cases: list[Case]) -> Table:
    table = Table(header_style="bold")
    for header in ("case", "problem", "GFLOP", "suites", "source"):
        table.add_column(header, overflow="fold", justify="right" if header == "GFLOP" else "left")
    for case in cases:
        suites = ", ".join(name for name in case.suites() if name != "all")
        table.add_row(case.name, case.problem(), f"{case.flops() / 1e9:.3f}", suites, case.source)
    return table

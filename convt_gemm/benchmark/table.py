"""The results as a table for a terminal."""

from __future__ import annotations

import os.path
from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from .results import Result, summarize

# Columns that go first on a narrow terminal; the JSON file has everything.
_WIDTH_WITH_PROBLEM = 180
_WIDTH_WITH_COSTS = 125
# Interquartile range over median from which a timing deserves a warning.
_STEADY = 0.2


def result_table(results: Sequence[Result], *, width: int) -> Table:
    """One row per result; columns that no result fills (floor, host time and memory on a CPU) are left out."""
    on_cuda = any(result.floor_seconds is not None for result in results)
    several_settings = len({result.setting for result in results}) > 1
    with_problem = width >= _WIDTH_WITH_PROBLEM
    with_costs = on_cuda and width >= _WIDTH_WITH_COSTS
    prefix = _common_prefix([result.plan for result in results if result.plan])
    table = Table(header_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("case", overflow="fold", min_width=24)
    if several_settings:
        table.add_column("dtype", no_wrap=True)
    if with_problem:
        table.add_column("problem", overflow="fold", min_width=30)
    table.add_column(f"plan {prefix}…" if prefix else "plan", overflow="fold", min_width=12)
    for header in ("ours ms", "PyTorch ms", "ratio"):
        table.add_column(header, justify="right", no_wrap=True)
    if on_cuda:
        for header in ("floor ms", "floor/time"):
            table.add_column(header, justify="right", no_wrap=True)
    if with_costs:
        for header in ("host µs, PyTorch's", "extra MiB, PyTorch's"):
            table.add_column(header, justify="right")
    table.add_column("check", no_wrap=True)
    for result in results:
        cells: list[str | Text] = [escape(result.case.name)]
        cells += [result.setting] if several_settings else []
        cells += [result.case.problem()] if with_problem else []
        cells += [result.plan.removeprefix(prefix) if result.plan else f"({result.algorithm})"]
        cells += [_milliseconds(timing and timing.seconds) for timing in (result.ours, result.pytorch)]
        cells += [_ratio(result.ratio)]
        if on_cuda:
            cells += [_milliseconds(result.floor_seconds), _percent(result.floor_fraction)]
        if with_costs:
            cells += [_pair([timing and timing.host_seconds for timing in (result.ours, result.pytorch)], 1e6)]
            cells += [_pair([result.extra_bytes, result.pytorch_extra_bytes], 2**-20)]
        cells += [_check(result)]
        table.add_row(*cells)
    return table


def summary_lines(results: Sequence[Result], workspace_limit: int) -> list[str]:
    """Geometric means, least values, memory and counts; then one line for each failure."""
    summary = summarize(results)
    lines = []
    if summary["ratio_geometric_mean"]:
        lines.append(
            f"PyTorch / ours: geometric mean {summary['ratio_geometric_mean']:.3f}, least {summary['ratio_least']:.3f}"
            f" ({_name_of_least(results, 'ratio')})"
        )
    if summary["floor_fraction_geometric_mean"]:
        lines.append(
            f"floor / time:   geometric mean {summary['floor_fraction_geometric_mean']:.1%},"
            f" least {summary['floor_fraction_least']:.1%} ({_name_of_least(results, 'floor_fraction')})"
        )
    if summary["extra_bytes_most"] is not None:
        lines.append(
            f"extra memory:   at most {summary['extra_bytes_most'] / 2**20:.1f} MiB,"
            f" workspace limit {workspace_limit / 2**20:.1f} MiB"
        )
    right = summary["results"] - summary["wrong"] - summary["errors"] - summary["skipped"]
    lines.append(
        f"results:        {right} right, {summary['wrong']} wrong, {summary['errors']} failed,"
        f" {summary['skipped']} skipped"
    )
    unsteady = sum(_is_unsteady(result) for result in results)
    if unsteady:
        lines.append(
            f"unsteady:       {unsteady} results vary by more than {_STEADY:.0%} within the run; is the machine busy?"
        )
    return lines + [_failure(result) for result in results if result.status != "ok"]


def _is_unsteady(result: Result) -> bool:
    return any(timing is not None and timing.spread > _STEADY for timing in (result.ours, result.pytorch))


def _failure(result: Result) -> str:
    where = f"{result.case.name} ({result.case.problem()}, {result.setting}, {result.plan or result.algorithm})"
    if result.status == "wrong" and result.check is not None:
        check = result.check
        return (
            f"wrong: {where}: largest error {check.error:.3e} against float64, allowed {check.tolerance:.3e}"
            f" (PyTorch's own {check.pytorch_error:.3e})"
        )
    return f"{result.status}: {where}: {result.message}"


def _name_of_least(results: Sequence[Result], attribute: str) -> str:
    measured = [result for result in results if result.status == "ok" and getattr(result, attribute) is not None]
    least = min(measured, key=lambda result: getattr(result, attribute))
    return f"{least.case.name}, {least.setting}"


def _check(result: Result) -> Text:
    if result.status == "ok" and result.check is not None:
        # The error as a share of what is allowed says how close a passing result is.
        share = result.check.error / result.check.tolerance if result.check.tolerance else 0.0
        return Text(f"ok {share:.2f}", style="green")
    return Text(result.status, style="yellow" if result.status == "skipped" else "bold red")


def _ratio(value: float | None) -> Text:
    return Text("") if value is None else Text(f"{value:.2f}", style="green" if value >= 1 else "red")


def _common_prefix(names: Sequence[str]) -> str:
    """What all plan names begin with, up to an underscore: it is said once, in the column's header."""
    return os.path.commonprefix(list(names)).rpartition("_")[0] + "_" if len(set(names)) > 1 else ""


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:.4f}" if seconds < 0.1 else f"{seconds * 1e3:.2f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _pair(values: Sequence[float | None], unit: float) -> str:
    """Ours and PyTorch's: ``12.5, 30.1``."""
    return (
        ""
        if any(value is None for value in values)
        else ", ".join(f"{value * unit:.1f}" for value in values if value is not None)
    )

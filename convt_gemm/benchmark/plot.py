"""One picture of a report: every case with PyTorch, convt_gemm and the floor on a logarithmic time axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from .environment import one_line
from .results import Report, Result, geometric_mean

_GROUPS = (
    ("KernelBench level 1", "kernelbench"),
    ("Audio, 1-D", "audio"),
    ("Images, 2-D", "image"),
    ("Volumes, 3-D", "volume"),
)
_PYTORCH = "#9a6324"
_OURS = "#0b6e99"
_FLOOR = "#b8bcc2"
_FLOOR_EDGE = "#7d848c"
_SLOWER = "#c0392b"
_INK = "#22262b"
_MUTED = "#6b7178"
_NAME_LENGTH = 44


@dataclass(frozen=True)
class _Row:
    """A line of the picture: a case, or the heading of a group with all its cases."""

    label: str
    names: tuple[str, ...]
    is_heading: bool


def write_plot(report: Report, path: Path) -> None:
    """Draws the report and writes it in the format that the path's suffix names.

    One panel per dtype, precision, layout and algorithm; of ``each`` the fastest plan of a case is shown.

    Raises:
        ValueError: the report has no result that is right, or matplotlib does not know the suffix.
    """
    panels = _panels(report)
    if not panels:
        raise ValueError("no result to plot: nothing was measured, or nothing was right")
    rows = _rows(panels)
    height = 2.2 + 0.215 * len(rows)
    figure = Figure(figsize=(3.2 + 6.8 * len(panels), height), facecolor="white", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.06, rect=(0, 0.62 / height, 1, 1 - (0.62 + 0.12) / height))
    figure.suptitle("Transposed convolutions: convt_gemm beside PyTorch", fontsize=13, fontweight="bold", color=_INK)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, results) in zip(axes, panels.items(), strict=True):
        _draw_panel(ax, title, rows, results, with_names=ax is axes[0])
    _draw_legend(figure, any(result.floor_seconds for results in panels.values() for result in results.values()))
    caption = one_line(report.environment)
    left_out = sum(result.failed for result in report.results)
    if left_out:
        caption += f"; {left_out} wrong or failed results are left out"
    figure.text(0.5, 0.12 / height, caption, ha="center", va="bottom", fontsize=8, color=_MUTED)
    with matplotlib.rc_context({"svg.hashsalt": "convt_gemm"}):
        figure.savefig(path, dpi=150)


def _panels(report: Report) -> dict[str, dict[str, Result]]:
    """Per panel's title, the result to draw for each case's name."""
    panels: dict[str, dict[str, Result]] = {}
    several_layouts = len({result.layout for result in report.results}) > 1
    several_algorithms = len({result.algorithm for result in report.results}) > 1
    for result in report.results:
        if result.status != "ok" or result.ours is None or result.pytorch is None:
            continue
        parts = [result.setting] + [result.layout] * several_layouts + [result.algorithm] * several_algorithms
        cases = panels.setdefault(", ".join(parts), {})
        known = cases.get(result.case.name)
        if known is None or _seconds(result)[0] < _seconds(known)[0]:
            cases[result.case.name] = result
    return panels


def _rows(panels: Mapping[str, Mapping[str, Result]]) -> list[_Row]:
    """A heading for each group that has cases, below it its cases, PyTorch's slowest first; the same for all panels."""
    first: dict[str, Result] = {}
    for results in panels.values():
        first = {**results, **first}
    rows: list[_Row] = []
    drawn: set[str] = set()
    for heading, suite in _GROUPS:
        names = [name for name, result in first.items() if suite in result.case.suites() and name not in drawn]
        if names:
            names.sort(key=lambda name: -_seconds(first[name])[1])
            drawn.update(names)
            rows.append(_Row(heading, tuple(names), is_heading=True))
            rows += [_Row(_shorten(name), (name,), is_heading=False) for name in names]
    return rows


def _draw_panel(ax: Axes, title: str, rows: Sequence[_Row], results: Mapping[str, Result], *, with_names: bool) -> None:
    times = [time for r in results.values() for time in (*_seconds(r), r.floor_seconds) if time]
    low, high = min(times) * 1e3 / 1.6, max(times) * 1e3 * 1.6
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    for y, row in enumerate(rows):
        drawn = [results[name] for name in row.names if name in results]
        if row.is_heading:
            ax.axhspan(y - 0.5, y + 0.5, color="#eef1f4", lw=0, zorder=0)
            ax.annotate(
                row.label,
                (0.008, y),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=8.5,
                fontweight="bold",
                color=_INK,
            )
        elif drawn:
            _draw_times(ax, y, drawn[0], low)
        mean = geometric_mean(result.ratio for result in drawn)
        if mean is not None:
            color = _INK if row.is_heading else _OURS if mean >= 1 else _SLOWER
            ax.annotate(
                f"{mean:.2f}×",
                (1.012, y),
                xycoords=("axes fraction", "data"),
                va="center",
                fontsize=8.5 if row.is_heading else 8,
                fontweight="bold" if row.is_heading else "normal",
                color=color,
            )
    labels = ["" if row.is_heading or not with_names else row.label for row in rows]
    ax.set_yticks(range(len(rows)), labels, fontsize=8, color=_INK)
    ax.tick_params(axis="y", length=0, pad=6)
    ax.tick_params(axis="x", labelsize=8, colors=_INK)
    ax.xaxis.set_major_locator(LogLocator(base=10, numticks=12))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.grid(axis="x", which="major", color="#dfe3e7", lw=0.8, zorder=0)
    ax.grid(axis="x", which="minor", color="#f1f3f5", lw=0.6, zorder=0)
    ax.set_axisbelow(True)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set_color("#c4c9cf")
    ax.set_xlabel("milliseconds per call (log scale)", fontsize=9, color=_INK)
    ax.annotate("PyTorch ÷ ours", (1.012, -0.006), xycoords="axes fraction", va="top", fontsize=7, color=_MUTED)
    mean = geometric_mean(result.ratio for result in results.values())
    ax.set_title(
        f"{title}: {mean:.2f}× PyTorch's speed (geometric mean of {len(results)})",
        fontsize=10,
        color=_INK,
        loc="left",
        pad=8,
    )


def _draw_times(ax: Axes, y: int, result: Result, low: float) -> None:
    ours, pytorch = (seconds * 1e3 for seconds in _seconds(result))
    if result.floor_seconds:
        floor = result.floor_seconds * 1e3
        ax.barh(y, floor - low, left=low, height=0.62, color=_FLOOR, alpha=0.45, lw=0, zorder=1)
        ax.plot([floor, floor], [y - 0.31, y + 0.31], color=_FLOOR_EDGE, lw=1.3, solid_capstyle="butt", zorder=2)
    color = _OURS if ours <= pytorch else _SLOWER
    ax.plot([ours, pytorch], [y, y], color=color, lw=2.0, alpha=0.35, zorder=2)
    ax.plot(pytorch, y, "o", ms=5.5, mfc="white", mec=_PYTORCH, mew=1.6, zorder=3)
    ax.plot(ours, y, "o", ms=5.5, color=color, zorder=4)


def _draw_legend(figure: Figure, with_floor: bool) -> None:
    point = {"marker": "o", "ls": "", "ms": 6}
    handles = [
        Line2D([], [], mfc="white", mec=_PYTORCH, mew=1.6, label="PyTorch", **point),
        Line2D([], [], color=_OURS, label="convt_gemm, faster", **point),
        Line2D([], [], color=_SLOWER, label="convt_gemm, slower", **point),
    ]
    if with_floor:
        handles.append(
            Line2D(
                [],
                [],
                color=_FLOOR_EDGE,
                marker="|",
                ls="",
                ms=10,
                mew=1.6,
                label="floor: memory or arithmetic limit of this GPU",
            )
        )
    figure.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, 0.3 / figure.get_figheight()),
        ncols=len(handles),
        frameon=False,
        fontsize=9,
        labelcolor=_INK,
    )


def _seconds(result: Result) -> tuple[float, float]:
    """Ours and PyTorch's; only results that have both are drawn."""
    assert result.ours is not None and result.pytorch is not None
    return result.ours.seconds, result.pytorch.seconds


def _shorten(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH // 2 - 1]}…{name[-_NAME_LENGTH // 2 :]}"

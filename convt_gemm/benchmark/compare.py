"""An earlier report beside this one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from .results import Report, Result, geometric_mean


@dataclass(frozen=True)
class Comparison:
    """Results of both reports that measured the same thing, and how many of either have no partner."""

    pairs: tuple[tuple[Result, Result], ...]
    only_before: int
    only_now: int

    def ours_change(self) -> float | None:
        """Geometric mean of our earlier time over our time now: above 1 where convt_gemm became faster."""
        return geometric_mean(_change(before, now, "ours") for before, now in self.pairs)

    def pytorch_change(self) -> float | None:
        """The same of PyTorch's times; away from 1 it says that machine or versions changed, not convt_gemm."""
        return geometric_mean(_change(before, now, "pytorch") for before, now in self.pairs)


def compare_reports(before: Report, now: Report) -> Comparison:
    """Pairs results of equal case, problem, setting, layout and algorithm; only those that are right in both."""
    earlier = _right(before.results)
    current = _right(now.results)
    pairs = tuple((earlier[key], current[key]) for key in current if key in earlier)
    return Comparison(pairs, len(earlier) - len(pairs), len(current) - len(pairs))


def comparison_table(comparison: Comparison) -> Table:
    """Per case: our time before and now, the change, and the ratio to PyTorch before and now."""
    table = Table(title="Change since the earlier report", header_style="bold")
    table.add_column("case", overflow="fold")
    table.add_column("dtype", no_wrap=True)
    for header in ("before ms", "now ms", "before/now", "PyTorch's", "ratio before", "ratio now"):
        table.add_column(header, justify="right", no_wrap=True)
    for before, now in comparison.pairs:
        change = _change(before, now, "ours")
        table.add_row(
            escape(now.case.name),
            now.setting,
            f"{before.ours.seconds * 1e3:.4f}" if before.ours else "",
            f"{now.ours.seconds * 1e3:.4f}" if now.ours else "",
            Text(f"{change:.3f}", style="green" if change >= 1.02 else "red" if change <= 0.98 else ""),
            f"{_change(before, now, 'pytorch'):.3f}",
            f"{before.ratio:.2f}",
            f"{now.ratio:.2f}",
        )
    return table


def comparison_lines(comparison: Comparison) -> list[str]:
    """Geometric means and what could not be compared."""
    lines = []
    ours, pytorch = comparison.ours_change(), comparison.pytorch_change()
    if ours is not None and pytorch is not None:
        lines.append(
            f"before / now: geometric mean {ours:.3f} (PyTorch's own {pytorch:.3f}) over {len(comparison.pairs)} pairs"
        )
    if comparison.only_before or comparison.only_now:
        lines.append(
            f"not compared: {comparison.only_before} results of the earlier report only,"
            f" {comparison.only_now} of this run only"
        )
    return lines


def _right(results: Sequence[Result]) -> dict[tuple[str, ...], Result]:
    return {result.key(): result for result in results if result.status == "ok" and result.ours and result.pytorch}


def _change(before: Result, now: Result, which: str) -> float:
    return getattr(before, which).seconds / getattr(now, which).seconds

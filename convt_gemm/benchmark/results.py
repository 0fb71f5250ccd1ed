"""What a run found, and the JSON file that it is kept in."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .cases import Case
from .checking import Check
from .timing import Timing

_FORMAT = 1
_TUPLE_FIELDS = ("input_size", "kernel_size", "stride", "padding", "output_padding", "dilation")


class ReportError(ValueError):
    """A file that is no report of this benchmark."""


@dataclass(frozen=True)
class Result:
    """One case, setting and algorithm.

    ``status`` is ``ok``, ``wrong`` (measured, but the result failed the check), ``error`` (something raised) or
    ``skipped`` (the algorithm asked for has no plan for the case); ``message`` says more for the last two.
    """

    case: Case
    setting: str
    layout: str
    algorithm: str
    status: str
    message: str = ""
    plan: str = ""
    plan_details: Mapping[str, Any] = field(default_factory=dict)
    ours: Timing | None = None
    pytorch: Timing | None = None
    floor_seconds: float | None = None
    check: Check | None = None
    extra_bytes: int | None = None
    pytorch_extra_bytes: int | None = None

    @property
    def ratio(self) -> float | None:
        """PyTorch's time over ours: above 1 where convt_gemm is faster."""
        return self.pytorch.seconds / self.ours.seconds if self.ours and self.pytorch else None

    @property
    def floor_fraction(self) -> float | None:
        """Floor over our time: 1 at the limit of the GPU."""
        return self.floor_seconds / self.ours.seconds if self.ours and self.floor_seconds else None

    @property
    def failed(self) -> bool:
        return self.status in ("wrong", "error")

    def key(self) -> tuple[str, ...]:
        """Equal for results of two runs that measured the same thing."""
        return (self.case.name, self.case.problem(), self.setting, self.layout, self.algorithm, *self._which_plan())

    def _which_plan(self) -> tuple[str, ...]:
        return (self.plan,) if self.algorithm == "each" else ()


@dataclass(frozen=True)
class Report:
    """A whole run: where, with which options, and every result."""

    environment: Mapping[str, Any]
    options: Mapping[str, Any]
    results: tuple[Result, ...]

    def write(self, path: Path) -> None:
        document = {
            "format": _FORMAT,
            "environment": dict(self.environment),
            "options": dict(self.options),
            "summary": summarize(self.results),
            "results": [_to_json(result) for result in self.results],
        }
        path.write_text(json.dumps(_finite(document), indent=1, allow_nan=False) + "\n", encoding="utf-8")

    @staticmethod
    def read(path: Path) -> Report:
        """Reads what write() wrote.

        Raises:
            ReportError: the file is not such a report.
        """
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["format"] != _FORMAT:
                raise ReportError(f"{path}: expected format {_FORMAT}, got {document['format']}")
            results = tuple(_from_json(row) for row in document["results"])
            return Report(document["environment"], document["options"], results)
        except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ReportError(f"{path}: not a report of this benchmark ({type(error).__name__}: {error})") from error


def geometric_mean(values: Iterable[float | None]) -> float | None:
    """Of the values that are there; None if there are none."""
    logarithms = [math.log(value) for value in values if value is not None and value > 0]
    return math.exp(sum(logarithms) / len(logarithms)) if logarithms else None


def summarize(results: Sequence[Result]) -> dict[str, Any]:
    """Counts, geometric means and least values of ratio and floor fraction over the results that are right."""
    right = [result for result in results if result.status == "ok"]
    ratios = [result.ratio for result in right if result.ratio is not None]
    fractions = [result.floor_fraction for result in right if result.floor_fraction is not None]
    statuses = [result.status for result in results]
    return {
        "results": len(results),
        "wrong": statuses.count("wrong"),
        "errors": statuses.count("error"),
        "skipped": statuses.count("skipped"),
        "ratio_geometric_mean": geometric_mean(ratios),
        "ratio_least": min(ratios, default=None),
        "floor_fraction_geometric_mean": geometric_mean(fractions),
        "floor_fraction_least": min(fractions, default=None),
        "extra_bytes_most": max((r.extra_bytes for r in right if r.extra_bytes is not None), default=None),
    }


def _to_json(result: Result) -> dict[str, Any]:
    row = dataclasses.asdict(result)
    row["output_size"] = list(result.case.output_size())
    row["flops"] = result.case.flops()
    row["ratio"] = result.ratio
    row["floor_fraction"] = result.floor_fraction
    return row


def _from_json(row: Mapping[str, Any]) -> Result:
    values = {name.name: row[name.name] for name in dataclasses.fields(Result)}
    case = row["case"]
    values["case"] = Case(**{**case, **{name: tuple(case[name]) for name in _TUPLE_FIELDS}})
    for name, kind in (("ours", Timing), ("pytorch", Timing), ("check", Check)):
        if values[name] is not None:
            values[name] = kind(**_numbers(values[name]))
    return Result(**values)


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become strings, which float() reads back."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return value


def _numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: float(value) if isinstance(value, str) else value for key, value in row.items()}

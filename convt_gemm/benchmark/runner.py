"""Measures one case in one setting: PyTorch and every algorithm asked for, side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from convt_gemm import functional, planning

from .cases import Case
from .checking import check_results, poisoned_result
from .floors import Ceilings
from .results import Result
from .settings import Setting
from .tensors import Tensors, make_tensors
from .timing import Call, make_timer, peak_extra_bytes

PYTORCH = "PyTorch"
EACH = "each"


@dataclass(frozen=True)
class Runner:
    """Everything that is the same for all cases of a run."""

    device: torch.device
    layout: str
    algorithms: tuple[str, ...]
    budget: float
    workspace_limit: int
    ceilings: Ceilings | None

    def run(self, case: Case, setting: Setting) -> list[Result]:
        """One result per algorithm (per plan for ``each``); what a case raises becomes one with status ``error``."""
        blank = Result(
            case, setting.label, self.layout, self.algorithms[0], "error", floor_seconds=self._floor(case, setting)
        )
        try:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            pending, refused = self._pending(case, setting, blank)
            return refused + (self._measure(case, setting, pending) if pending else [])
        except Exception as error:  # noqa: BLE001 - the case is reported as failed, the run goes on
            return [replace(blank, message=f"{type(error).__name__}: {error}")]

    def _floor(self, case: Case, setting: Setting) -> float | None:
        return None if self.ceilings is None else self.ceilings.floor_seconds(case, setting)

    def _pending(self, case: Case, setting: Setting, blank: Result) -> tuple[dict[str, Result], list[Result]]:
        """Results still to be measured by contestant's name, and results for algorithms that have no plan here."""
        pending: dict[str, Result] = {}
        refused: list[Result] = []
        for algorithm in self.algorithms:
            try:
                plans = self._plans(case, setting, "auto" if algorithm == EACH else algorithm)
                message = f"no plan for {setting.label} on {self.device.type}"
            except (ValueError, RuntimeError) as error:
                plans, message = [], str(error)
            if not plans:
                status = "error" if algorithm in ("auto", EACH) else "skipped"
                refused.append(replace(blank, algorithm=algorithm, status=status, message=message))
            for plan in plans if algorithm == EACH else plans[:1]:
                details = dataclasses.asdict(plan)
                pending[f"{algorithm} ({plan.name})"] = replace(
                    blank, algorithm=algorithm, plan=plan.name, plan_details=details
                )
        return pending, refused

    def _plans(self, case: Case, setting: Setting, algorithm: str) -> list[Any]:
        arguments: dict[str, Any] = case.arguments()
        return planning.enumerate_plans(
            case.input_shape(),
            case.weight_shape(),
            bias=case.bias,
            dtype=setting.dtype,
            channels_last=self.layout == "channels_last" and case.ndim > 1,
            device=self.device.type,
            algorithm=algorithm,
            precision=setting.precision,
            workspace_limit=self.workspace_limit,
            **arguments,
        )

    def _measure(self, case: Case, setting: Setting, pending: Mapping[str, Result]) -> list[Result]:
        tensors = make_tensors(case, setting.dtype, self.device, self.layout)
        ours = {
            name: self._our_call(case, setting, result.plan if result.algorithm == EACH else result.algorithm)
            for name, result in pending.items()
        }
        pytorch = _pytorch_call(case)
        with torch.inference_mode(), setting.pytorch_flags():
            outputs = {name: poisoned_result(call, tensors) for name, call in ours.items()}
            checks = check_results(case, setting, tensors, outputs, pytorch(tensors))
            del outputs
            extra = {name: peak_extra_bytes(call, tensors, self.device) for name, call in ours.items()}
            pytorch_extra = peak_extra_bytes(pytorch, tensors, self.device)
            timings = make_timer(self.device, self.budget, stable=tuple(ours)).measure(
                {PYTORCH: pytorch, **ours}, tensors
            )
        return [
            replace(
                result,
                status="ok" if checks[name].ok else "wrong",
                ours=timings[name],
                pytorch=timings[PYTORCH],
                check=checks[name],
                extra_bytes=extra[name],
                pytorch_extra_bytes=pytorch_extra,
            )
            for name, result in pending.items()
        ]

    def _our_call(self, case: Case, setting: Setting, algorithm: str) -> Call:
        function = getattr(functional, f"conv_transpose{case.ndim}d")
        arguments = case.arguments()

        def call(tensors: Tensors) -> torch.Tensor:
            return function(
                tensors.input,
                tensors.weight,
                tensors.bias,
                algorithm=algorithm,
                precision=setting.precision,
                workspace_limit=self.workspace_limit,
                **arguments,
            )

        return call


def _pytorch_call(case: Case) -> Call:
    function = getattr(torch.nn.functional, f"conv_transpose{case.ndim}d")
    arguments = case.arguments()

    def call(tensors: Tensors) -> torch.Tensor:
        return function(tensors.input, tensors.weight, tensors.bias, **arguments)

    return call

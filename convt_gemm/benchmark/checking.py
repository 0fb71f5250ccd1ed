"""Is a result right? Its largest error against float64 may be twice PyTorch's own at the same precision, and a bit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from convt_gemm import testing

from .cases import Case
from .settings import Setting
from .tensors import Tensors
from .timing import Call

_PYTORCH = "PyTorch"


@dataclass(frozen=True)
class Check:
    """Largest absolute errors against the float64 reference, and the largest error allowed.

    ``tf32_error`` is what TF32 operands alone cost with exact sums. It is there where PyTorch was allowed to use TF32
    and was so exact that it cannot have done so; then it takes the place of PyTorch's error in the rule.
    """

    error: float
    pytorch_error: float
    tolerance: float
    tf32_error: float | None = None

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance


def check_results(
    case: Case, setting: Setting, tensors: Tensors, results: Mapping[str, torch.Tensor], pytorch: torch.Tensor
) -> dict[str, Check]:
    """Judges every result; one that has NaN where the reference has none has an infinite error.

    Raises:
        ValueError: a result's shape or dtype is not the one of PyTorch's.
    """
    for name, result in results.items():
        if result.shape != pytorch.shape or result.dtype != pytorch.dtype:
            expected, got = (f"{tuple(t.shape)} of {t.dtype}" for t in (pytorch, result))
            raise ValueError(f"{name}: expected {expected}, got {got}")
    operands = (tensors.input, tensors.weight, tensors.bias)
    found = testing.largest_errors({**results, _PYTORCH: pytorch}, *operands, **case.arguments())
    pytorch_error = found.errors.pop(_PYTORCH)
    margin = _rounding(case, pytorch.dtype) * found.largest
    tolerance, tf32_error = 2 * pytorch_error + margin, None
    if setting.precision == "tf32" and max(found.errors.values()) > tolerance:
        tf32_error = _error_of_tf32_operands(case, tensors)
        tolerance = max(tolerance, 2 * tf32_error + margin)
    return {name: Check(error, pytorch_error, tolerance, tf32_error) for name, error in found.errors.items()}


def _rounding(case: Case, dtype: torch.dtype) -> float:
    """The rule's last bit, per unit of the largest output: where PyTorch is exact, another order of sums may pass."""
    if dtype == torch.float64:
        # The reference sums in float64 too, so that only the length of the sums bounds the difference.
        return torch.finfo(dtype).eps * (case.in_channels // case.groups) * math.prod(case.kernel_size)
    return torch.finfo(torch.float32).eps


def _error_of_tf32_operands(case: Case, tensors: Tensors) -> float:
    weight = testing.truncate_to_tf32(tensors.weight)
    largest = 0.0
    for samples, expected in testing.reference_chunks(tensors.input, tensors.weight, tensors.bias, **case.arguments()):
        rounded = testing.truncate_to_tf32(tensors.input[samples])
        emulated = testing.reference(rounded, weight, tensors.bias, **case.arguments())
        largest = max(largest, (emulated - expected).abs_().max().item())
    return largest


def poisoned_result(call: Call, tensors: Tensors) -> torch.Tensor:
    """The result of a call whose output and workspace were full of NaN before."""
    # An allocator likes to hand out what was freed last. PyTorch's own filling does not reach every allocation: an
    # extension may take memory from the CPU's allocator directly.
    call(tensors).fill_(math.nan)
    with testing.nan_filled_memory():
        return call(tensors)

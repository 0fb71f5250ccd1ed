"""The time below which no algorithm can be: memory traffic and arithmetic at rates that a GPU was measured to reach."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

from .cases import Case
from .settings import Setting


@dataclass(frozen=True)
class Ceilings:
    """Rates of one GPU: bytes per second of a copy (read + written), FLOP per second by kind of arithmetic."""

    device: str
    copy_bytes_per_second: float
    flops_per_second: Mapping[str, float]
    origin: str

    def floor_seconds(self, case: Case, setting: Setting) -> float:
        """max(bytes / copy rate, FLOPs / arithmetic rate): everything read once, written once, multiplied once."""
        memory = case.bytes(setting.dtype) / self.copy_bytes_per_second
        return max(memory, case.flops() / self.flops_per_second[setting.arithmetic])


# Copy and 8192-cubed matrix products on random data. Three TF32 products make one of tf32x3; float64 on tensor cores is
# the one figure that was assumed (the data sheet's is 67) and not measured.
KNOWN: tuple[Ceilings, ...] = (
    Ceilings(
        device="NVIDIA H200",
        copy_bytes_per_second=4.28e12,
        flops_per_second={
            "tf32": 356e12,
            "tf32x3": 356e12 / 3,
            "float32": 51e12,
            "bfloat16": 679e12,
            "float16": 670e12,
            "float64": 60e12,
        },
        origin="measured beforehand on this model of GPU (float64: assumed)",
    ),
)
"""One row per GPU; a device's name has to begin with the row's."""


def ceilings_of(device: torch.device, settings: Iterable[Setting]) -> Ceilings | None:
    """The table's row for the GPU, or rates measured now where the table has none; None for a CPU."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    for row in KNOWN:
        if name.startswith(row.device):
            return row
    return _measure(device, name, {setting.arithmetic: setting for setting in settings})


def _measure(device: torch.device, name: str, settings: Mapping[str, Setting]) -> Ceilings:
    free_bytes, _ = torch.cuda.mem_get_info(device)
    source = torch.empty(min(1 << 30, free_bytes // 4), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = 2 * source.numel() / _best_seconds(lambda: target.copy_(source))
    rates = {arithmetic: _matmul_rate(setting, device) for arithmetic, setting in settings.items()}
    return Ceilings(name, copy, rates, origin="measured now with one copy and one matrix product per precision")


def _matmul_rate(setting: Setting, device: torch.device) -> float:
    size = 2048 if setting.dtype == torch.float64 else 4096
    a, b = (torch.randn(size, size, device=device).to(setting.dtype) for _ in range(2))
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = setting.precision != "ieee"
    try:
        rate = 2 * size**3 / _best_seconds(lambda: torch.mm(a, b))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    return rate / 3 if setting.precision == "tf32x3" else rate


def _best_seconds(call: Callable[[], object], repeats: int = 10) -> float:
    best = float("inf")
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        best = min(best, start.elapsed_time(end) / 1e3)
    return best

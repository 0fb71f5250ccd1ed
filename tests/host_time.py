"""Host time of a small call (N 1, 64 -> 64 channels, length 32) and of first calls with a new length, beside PyTorch's."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

import convt_gemm


def host_microseconds(call: Callable[[], object], calls: int = 2000) -> float:
    """Mean host time of one call; the GPU's own time is left to run behind."""
    for _ in range(100):
        call()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(calls):
        call()
    elapsed = time.perf_counter() - begin
    torch.cuda.synchronize()
    return elapsed / calls * 1e6


def first_calls(layer: nn.Module, dtype: torch.dtype) -> list[float]:
    """Microseconds of the first call with each of 67 new lengths."""
    times = []
    for length in range(33, 100):
        x = torch.randn(1, 64, length, device="cuda", dtype=dtype)
        torch.cuda.synchronize()
        begin = time.perf_counter()
        layer(x)
        times.append((time.perf_counter() - begin) * 1e6)
    return times


@torch.no_grad()
def main() -> None:
    torch.backends.cudnn.benchmark = True
    layers = {
        "PyTorch": nn.ConvTranspose1d(64, 64, 4, 2, 1).cuda(),
        "convt_gemm": convt_gemm.ConvTranspose1d(64, 64, 4, 2, 1).cuda(),
    }
    x = torch.randn(1, 64, 32, device="cuda")
    rounds = [
        {name: host_microseconds(lambda layer=layer: layer(x)) for name, layer in layers.items()} for _ in range(7)
    ]
    for name in layers:
        print(f"small call, {name}: {statistics.median(times[name] for times in rounds):.1f} us of host time")
    for dtype in (torch.float32, torch.bfloat16):
        for name, layer in layers.items():
            times = first_calls(layer.to(dtype), dtype)
            print(
                f"new length, {dtype}, {name}: median {statistics.median(times):.0f} us, largest {max(times[3:]):.0f} us"
            )


if __name__ == "__main__":
    main()

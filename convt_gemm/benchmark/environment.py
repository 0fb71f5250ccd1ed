"""Versions and devices that the numbers belong to."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch


def describe_environment(device: torch.device) -> dict[str, Any]:
    """What has to be known to read the numbers: packages, device, driver, threads. No host or user name."""
    environment: dict[str, Any] = {
        "convt_gemm": _version("convt_gemm"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device.type,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        environment |= {
            "device_name": properties.name,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
            "cudnn": _dotted(torch.backends.cudnn.version()),
            "driver": _driver_version(),
        }
    else:
        environment |= {
            "device_name": _cpu_name(),
            "threads": torch.get_num_threads(),
            "capability": torch.backends.cpu.get_cpu_capability(),
        }
    return environment


def one_line(environment: Mapping[str, Any]) -> str:
    """The environment as a caption: ``NVIDIA H200, torch 2.11.0, cuDNN 9.19.0, driver 580.65``."""
    parts = [str(environment["device_name"])]
    if environment["device"] == "cpu":
        parts.append(f"{environment['threads']} threads")
    parts.append(f"torch {environment['torch']}")
    parts += [
        f"{label} {environment[key]}"
        for key, label in (("cudnn", "cuDNN"), ("driver", "driver"))
        if environment.get(key)
    ]
    return ", ".join(parts)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def _dotted(version: int) -> str:
    """cuDNN's 91900 as 9.19.0."""
    return f"{version // 10000}.{version // 100 % 100}.{version % 100}"


def _driver_version() -> str | None:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        output = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return output.splitlines()[0].strip() if output.strip() else None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()

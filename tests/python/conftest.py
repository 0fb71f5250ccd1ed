"""Fixtures that every test file shares."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

import convt_gemm

REQUIRE_GPU = os.environ.get("CONVT_GEMM_REQUIRE_GPU") == "1"


def _need_cuda() -> str:
    if not convt_gemm.cuda_available():
        found = "no GPU" if not torch.cuda.is_available() else "convt_gemm without its CUDA part"
        if REQUIRE_GPU:
            pytest.fail(f"CONVT_GEMM_REQUIRE_GPU=1, but there is {found}")
        pytest.skip(f"needs a GPU and convt_gemm built with CUDA: there is {found}")
    return "cuda"


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    """Every device type that the package computes on."""
    return request.param if request.param == "cpu" else _need_cuda()


@pytest.fixture
def cuda() -> str:
    """For tests that make sense on a GPU only."""
    return _need_cuda()


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    """Seeds torch, and puts back the settings that tests may change."""
    torch.manual_seed(0)
    limit = convt_gemm.get_workspace_limit()
    precision = torch.backends.cudnn.conv.fp32_precision
    yield
    convt_gemm.set_workspace_limit(limit)
    torch.backends.cudnn.conv.fp32_precision = precision
    if torch.cuda.is_initialized() and torch.cuda.memory_reserved() > 4 << 30:
        torch.cuda.empty_cache()  # other tests may run beside these, in processes of their own

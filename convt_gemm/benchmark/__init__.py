"""Measures convt_gemm against PyTorch: ``python -m convt_gemm.benchmark --help``."""

from .cases import CASES, SUITES, Case

__all__ = ["CASES", "SUITES", "Case"]

"""Random small problems against float64, bit for bit. A failure prints the line that repeats it."""

from __future__ import annotations

import os
import random

import pytest
from problems import FUNCTIONS, computations, plans_of

from convt_gemm.testing import assert_exact, nan_filled_memory, random_problem

SEED = os.environ.get("CONVT_GEMM_FUZZ_SEED")
"""Runs this one problem."""
COUNT = int(os.environ.get("CONVT_GEMM_FUZZ_COUNT", "240"))
"""How many problems otherwise, in blocks of 20 for each test."""
BLOCK = 20


def blocks() -> list[range]:
    if SEED is not None:
        return [range(int(SEED), int(SEED) + 1)]
    return [range(begin, min(begin + BLOCK, COUNT)) for begin in range(0, COUNT, BLOCK)]


@pytest.mark.parametrize("seeds", blocks(), ids=lambda seeds: f"{seeds.start}-{seeds.stop - 1}")
def test_random_problems(seeds, device):
    for seed in seeds:
        problem = random_problem(seed)
        dtype, precision = random.Random(seed).choice(computations(device))
        tensors = problem.integers(dtype, device)
        try:
            for plan in plans_of(problem, dtype, precision, device):
                with nan_filled_memory():
                    result = FUNCTIONS[problem.rank](
                        *tensors,
                        **problem.geometry,
                        algorithm=plan.name,
                        precision=precision,
                        workspace_limit=problem.workspace_limit,
                    )
                assert_exact({plan.name: result}, *tensors, **problem.geometry)
        except Exception as error:
            raise AssertionError(
                f"{error}\n{problem} in {dtype}, {precision}\nrepeat with: "
                f"CONVT_GEMM_FUZZ_SEED={seed} python -m pytest tests/python/test_fuzz.py -k {device}"
            ) from error

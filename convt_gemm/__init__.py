"""Transposed convolutions for PyTorch as GEMM + col2im, on CPU and CUDA.

``ConvTranspose1d/2d/3d`` take the place of torch's layers, ``replace`` swaps those of a model, ``functional`` has the
functions, ``explain`` and ``planning`` say what runs, ``tune`` measures what runs fastest.
"""

from __future__ import annotations

import torch

from . import _library, functional, planning, tuning
from .functional import get_workspace_limit, set_workspace_limit
from .modules import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d, replace
from .planning import explain
from .tuning import forget_tuned, load_tuned, save_tuned, tune

__all__ = [
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "cuda_available",
    "explain",
    "forget_tuned",
    "functional",
    "get_workspace_limit",
    "load_tuned",
    "planning",
    "replace",
    "save_tuned",
    "set_workspace_limit",
    "tune",
    "tuning",
]

__version__ = "0.1.0"


def cuda_available() -> bool:
    """Whether CUDA tensors can be computed: built with CUDA, loaded, and torch sees a GPU."""
    return _library.CUDA_LOADED and torch.cuda.is_available()

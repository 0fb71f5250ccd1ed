"""Loads the compiled halves of the package: ``_C`` (schemas, CPU kernels) and, where torch has CUDA, ``_C_cuda``."""

from __future__ import annotations

from importlib import import_module

import torch  # before the extension modules: it loads the libtorch libraries that they name

_NOT_BUILT = (
    "convt_gemm._C, the compiled part of convt_gemm, is missing from {folder}. If that is the source folder, import "
    "convt_gemm from another working directory or build in place with `python setup.py build_ext --inplace`; otherwise "
    "install the package again with `pip install .` in its source folder."
)
_NO_CUDA = (
    "convt_gemm: got a CUDA tensor, but {reason}. Install the package again from its source folder, with nvcc on PATH "
    "and a CUDA build of torch: `pip install --force-reinstall --no-deps .`; or move the tensors to the CPU."
)


def _load_cpu() -> None:
    name = f"{__package__}._C"
    try:
        import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ImportError(_NOT_BUILT.format(folder=__file__.rpartition("/")[0]), name=name) from None
    except ImportError as error:
        raise ImportError(
            f"{name} does not load with torch {torch.__version__}: {error}. convt_gemm needs torch 2.11 or later.",
            name=name,
        ) from error


def _load_cuda() -> str | None:
    """Loads the CUDA half; returns why it is not there, or None."""
    name = f"{__package__}._C_cuda"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is not a CUDA build"
    try:
        import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return "convt_gemm was built without CUDA"
    except ImportError as error:
        return f"the CUDA part of convt_gemm does not load with torch {torch.__version__} ({error})"
    return None


_load_cpu()
_why_no_cuda = _load_cuda()

CUDA_LOADED: bool = _why_no_cuda is None
"""Whether the CUDA kernels are registered."""

library = torch.library.Library("convt_gemm", "IMPL")
"""Holds the registrations that are made in Python; they live as long as the package."""

if not CUDA_LOADED:

    def _refuse_cuda(*_: object) -> torch.Tensor:
        raise NotImplementedError(_NO_CUDA.format(reason=_why_no_cuda))

    library.impl("conv_transpose", _refuse_cuda, "CUDA")

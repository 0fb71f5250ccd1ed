"""The extension modules as files: symbols, needed libraries, and the import from elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import convt_gemm

PACKAGE = Path(convt_gemm.__file__).resolve().parent
MODULES = sorted(PACKAGE.glob("_C*.so"))


def output_of(*command: str | Path, **options) -> str:
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, **options).stdout


@pytest.fixture(params=MODULES, ids=lambda path: path.name.partition(".")[0])
def module(request) -> Path:
    return request.param


@pytest.fixture
def binutils() -> None:
    if shutil.which("nm") is None or shutil.which("readelf") is None:
        pytest.skip("needs nm and readelf")


def test_modules_are_built():
    names = [path.name for path in MODULES]
    assert "_C.abi3.so" in names
    assert set(names) <= {"_C.abi3.so", "_C_cuda.abi3.so"}
    if os.environ.get("CONVT_GEMM_REQUIRE_GPU") == "1":
        assert "_C_cuda.abi3.so" in names


def test_only_the_init_function_is_exported(module, binutils):
    symbols = [line.split()[-1] for line in output_of("nm", "-D", "--defined-only", module).splitlines()]
    symbols = [name for name in symbols if not re.match(r"(_init|_fini|__bss_start|_edata|_end)$", name)]
    assert symbols == [f"PyInit_{module.name.partition('.')[0]}"]


def test_imported_symbols_are_stable(module, binutils):
    undefined = [line.split()[-1] for line in output_of("nm", "-D", "--undefined-only", module).splitlines()]
    unstable = [name for name in undefined if re.match(r"_Z\w*(2at|3c10|5torch|8pybind11)", name)]
    assert not unstable, "C++ symbols of libtorch, which change from version to version"
    private = [
        name for name in undefined if name.startswith("_Py") and not name.startswith(("_Py_Dealloc", "_Py_NoneStruct"))
    ]
    assert not private, "not in Python's limited API"


def test_needed_libraries(module, binutils):
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", output_of("readelf", "-d", module))
    assert "libpython" not in " ".join(needed)
    if module.name.startswith("_C."):
        assert not [name for name in needed if re.search(r"cuda|cublas|cudart|nvrtc|cudnn", name)]
    else:
        assert not [name for name in needed if re.match(r"libcuda\.so", name)], (
            "a machine without a driver must import it"
        )


def test_no_run_path_and_no_build_path(module, binutils):
    dynamic = output_of("readelf", "-d", module)
    assert "RUNPATH" not in dynamic and "RPATH" not in dynamic
    source = Path(__file__).resolve().parents[2]
    if (source / "csrc").is_dir():
        assert str(source).encode() not in module.read_bytes()


def with_path(folder: Path) -> dict[str, str]:
    """The environment, with a folder from which Python imports first."""
    path = os.pathsep.join(part for part in (str(folder), os.environ.get("PYTHONPATH")) if part)
    return {**os.environ, "PYTHONPATH": path}


def run_elsewhere(code: str, folder: Path) -> str:
    return output_of(sys.executable, "-c", code, cwd=folder, env=with_path(PACKAGE.parent))


def test_import_from_another_directory(tmp_path):
    code = """
import convt_gemm, torch
layer = convt_gemm.ConvTranspose1d(2, 3, 4, stride=2)
print(convt_gemm.__file__)
print(tuple(layer(torch.zeros(1, 2, 5)).shape), convt_gemm.cuda_available())
"""
    lines = run_elsewhere(code, tmp_path).splitlines()
    assert Path(lines[0]).resolve().parent == PACKAGE
    assert lines[1] == f"(1, 3, 12) {convt_gemm.cuda_available()}"


def test_import_needs_nothing_of_the_benchmark(tmp_path):
    code = """
import sys, convt_gemm
heavy = {"matplotlib", "rich", "click", "convt_gemm.benchmark", "convt_gemm.testing"} & set(sys.modules)
print(sorted(heavy))
"""
    assert run_elsewhere(code, tmp_path).strip() == "[]"


def test_import_without_the_cuda_part(tmp_path):
    """What a machine without nvcc builds: the CPU computes, a CUDA tensor gets a clear answer."""
    copy = tmp_path / "convt_gemm"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("_C_cuda*", "__pycache__"))
    code = """
import convt_gemm, torch
print(convt_gemm.__file__, convt_gemm.cuda_available())
print(torch._C._dispatch_has_kernel_for_dispatch_key("convt_gemm::conv_transpose", "CUDA"))
if torch.cuda.is_available():
    try:
        convt_gemm.ConvTranspose1d(2, 3, 4).cuda()(torch.zeros(1, 2, 5).cuda())
    except NotImplementedError as error:
        print(error)
else:
    print("convt_gemm was built without CUDA")
print(tuple(convt_gemm.ConvTranspose1d(2, 3, 4)(torch.zeros(1, 2, 5)).shape))
"""
    lines = output_of(sys.executable, "-c", code, cwd=tmp_path, env=with_path(tmp_path)).splitlines()
    assert lines[0] == f"{copy / '__init__.py'} False"
    assert lines[1] == "True"
    assert "convt_gemm was built without CUDA" in lines[2]
    assert lines[3] == "(1, 3, 8)"


def test_import_of_an_unbuilt_folder_says_what_to_do(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "convt_gemm", ignore=shutil.ignore_patterns("_C*", "__pycache__"))
    result = subprocess.run([sys.executable, "-c", "import convt_gemm"], cwd=tmp_path, capture_output=True, text=True,
                            env=with_path(tmp_path))  # fmt: skip
    assert result.returncode != 0
    assert "ImportError" in result.stderr and "build_ext --inplace" in result.stderr and "pip install" in result.stderr


def test_operator_and_its_schema():
    schema = str(torch.ops.convt_gemm.conv_transpose.default._schema)
    assert schema.count("SymInt") == 5
    for key in ("CPU", "Autograd", "AutocastCPU", "AutocastCUDA", "CUDA", "FuncTorchBatched", "Meta"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key("convt_gemm::conv_transpose", key), key

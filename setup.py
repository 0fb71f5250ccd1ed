"""Builds the extension modules by CMake; everything about sources and kernels is CMake's (see CMakeLists.txt).

Environment: CMAKE_ARGS (more arguments for the configure step), CONVT_GEMM_BUILD_DIR (build tree, default build/<tag>),
MAX_JOBS (parallel compilations).
"""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from torch.utils.cpp_extension import BuildExtension

ROOT = Path(__file__).resolve().parent
MODULES = ("_C", "_C_cuda")


class CMakeBuild(BuildExtension):
    """One CMake build for all modules. A module that CMake left out (no nvcc, or a CPU build of torch) is left out here too."""

    def build_extensions(self) -> None:
        build = Path(os.environ.get("CONVT_GEMM_BUILD_DIR", ROOT / self.build_temp)).resolve()
        build.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja", "-DCONVT_GEMM_TORCH=ON", "-DCONVT_GEMM_TESTS=OFF"]
            + [f"-DPython_EXECUTABLE={sys.executable}"]
            + shlex.split(os.environ.get("CMAKE_ARGS", "")),
            check=True,
        )
        jobs = os.environ.get("MAX_JOBS", str(os.cpu_count() or 1))
        subprocess.run(["cmake", "--build", str(build), "--parallel", jobs], check=True)
        with tempfile.TemporaryDirectory() as staged:
            subprocess.run(["cmake", "--install", str(build), "--component", "python", "--prefix", staged], check=True)
            built = []
            for extension in self.extensions:
                source = Path(staged) / f"{extension.name.rpartition('.')[2]}.abi3.so"
                if source.exists():
                    target = Path(self.get_ext_fullpath(extension.name))
                    target.parent.mkdir(parents=True, exist_ok=True)
                    self.copy_file(str(source), str(target))
                    built.append(extension)
        self.extensions[:] = built

    def get_ext_filename(self, ext_name: str) -> str:
        return str(Path(*ext_name.split("."))) + ".abi3.so"


setup(
    ext_modules=[Extension(f"convt_gemm.{name}", sources=[], py_limited_api=True) for name in MODULES],
    cmdclass={"build_ext": CMakeBuild},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)

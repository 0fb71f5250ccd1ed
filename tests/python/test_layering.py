"""Who may import and include what: the table of the design, read off the sources."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE, CSRC, TESTS = ROOT / "convt_gemm", ROOT / "csrc", ROOT / "tests"
LAYERS = ("_library", "_ops", "functional", "modules")
"""From the bottom up."""
PUBLIC = {"functional", "modules", "planning", "tuning", "testing", "benchmark"}
INCLUDE = re.compile(r'^\s*#\s*include\s*(<[^>]+>|"[^"]+")', re.MULTILINE)

pytestmark = pytest.mark.skipif(not CSRC.is_dir(), reason="needs the source tree")


def imported(path: Path) -> Iterator[str]:
    """Modules of the package that a file imports, relative to it: "functional", "benchmark.cases", "" for itself."""
    inside = path.is_relative_to(PACKAGE)
    package = ("convt_gemm", *path.relative_to(PACKAGE).parent.parts) if inside else ()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            # `from . import a` imports modules, `from .a import b` may import a name.
            names = [f"{module}.{alias.name}" if module in ("convt_gemm",) else module for alias in node.names]
        for name in names:
            if name == "convt_gemm" or name.startswith("convt_gemm."):
                yield name.removeprefix("convt_gemm").removeprefix(".")


def test_python_layers_import_downwards_only():
    for height, layer in enumerate(LAYERS):
        allowed = set(LAYERS[:height])
        for name in imported(PACKAGE / f"{layer}.py"):
            assert name.split(".")[0] in allowed, f"{layer}.py imports {name}"


def test_modules_and_planning_use_functional_not_the_library():
    for module, allowed in (
        ("modules", {"functional"}),
        ("planning", {"modules", "functional", "_ops"}),
        ("tuning", {"planning", "functional", "_ops"}),
        ("testing", set()),
    ):
        assert {name.split(".")[0] for name in imported(PACKAGE / f"{module}.py")} <= allowed, module


@pytest.mark.parametrize("folder", [PACKAGE / "benchmark", TESTS / "python"], ids=["benchmark", "tests"])
def test_benchmark_and_tests_use_public_names(folder):
    files = sorted(folder.rglob("*.py"))
    assert files
    for path in files:
        for name in imported(path):
            private = [part for part in name.split(".") if part.startswith("_") and not part.startswith("__")]
            assert not private, f"{path.name} imports {name}"


def test_core_package_does_not_import_benchmark_or_testing():
    for path in PACKAGE.glob("*.py"):
        assert not {name.split(".")[0] for name in imported(path)} & {"benchmark", "testing"}, path.name


def sources(folder: Path) -> list[Path]:
    kinds = {".h", ".hpp", ".cpp", ".cu", ".cuh", ".def"}
    return sorted(path for path in folder.rglob("*") if path.suffix in kinds)


def includes(path: Path) -> list[str]:
    return [match.group(1) for match in INCLUDE.finditer(path.read_text(encoding="utf-8"))]


def is_standard(include: str) -> bool:
    return include.startswith("<") and "." not in include and "/" not in include


def test_public_headers_need_the_standard_library_only():
    headers = sources(CSRC / "include")
    assert headers
    for path in headers:
        for include in includes(path):
            assert is_standard(include) or include.startswith('"convt_gemm/'), f"{path.name}: {include}"


def test_planner_knows_nothing_of_a_device():
    own = {path.name for path in sources(CSRC / "core" / "plan")}
    for path in sources(CSRC / "core" / "plan"):
        for include in includes(path):
            name = include.strip('"<>')
            plain = is_standard(include) or name.startswith(("convt_gemm/", "plan/", "util/")) or name in own
            assert plain or name.endswith(".def"), f"{path.name}: {include}"
            assert "cuda_runtime" not in name and "cutlass" not in name.split("/")[0], f"{path.name}: {include}"


def test_core_knows_neither_torch_nor_python():
    for path in sources(CSRC / "core") + sources(CSRC / "include"):
        for include in includes(path):
            assert not re.match(r'[<"](torch|ATen|c10|pybind11|Python\.h)', include), f"{path.name}: {include}"


def test_cutlass_stays_in_kernel_translation_units():
    users = {
        path for path in sources(ROOT / "csrc") if any(re.match(r'[<"](cutlass|cute)/', i) for i in includes(path))
    }
    assert all(path.suffix in (".cu", ".cuh") for path in users), users
    headers = {path.name for path in users if path.suffix == ".cuh"}
    for path in sources(CSRC):
        for include in includes(path):
            if include.strip('"<>').rpartition("/")[2] in headers:
                assert path.suffix in (".cu", ".cuh"), f"{path.name} includes {include}"


def test_device_code_is_in_device_files():
    for path in sources(CSRC / "core"):
        text = path.read_text(encoding="utf-8")
        if path.suffix in (".cpp", ".h", ".def"):
            assert "__global__" not in text and "<<<" not in text, path.name


def test_bindings_use_the_stable_abi_only():
    allowed = ("torch/csrc/stable/", "torch/headeronly/", "torch/csrc/inductor/aoti_torch/c/", "convt_gemm/")
    folder = CSRC / "torch_bindings"
    own = {path.name for path in sources(folder)}
    for path in sources(folder):
        assert path.suffix not in (".cu", ".cuh"), f"{path.name}: no torch header goes through nvcc"
        for include in includes(path):
            name = include.strip('"<>')
            system = name in ("Python.h", "cuda_runtime_api.h", "unistd.h")
            assert is_standard(include) or name.startswith(allowed) or name in own or system, f"{path.name}: {include}"


def test_only_bindings_know_torch():
    for path in sources(TESTS / "cpp") + sources(CSRC / "core"):
        assert not any(re.match(r'[<"](torch|ATen|c10)/', include) for include in includes(path)), path.name


def test_top_level_is_the_designs():
    expected = {
        "csrc", "third_party", "convt_gemm", "tests", "CMakeLists.txt", "setup.py", "README.md", "pyproject.toml",
        "LICENSE", "Makefile",
    }  # fmt: skip
    built = {"build", "dist", "convt_gemm.egg-info"}
    assert {path.name for path in ROOT.iterdir() if not path.name.startswith(".")} - built <= expected

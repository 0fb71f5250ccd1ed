"""``python -m convt_gemm.benchmark``."""

from __future__ import annotations

import importlib.util
import sys

_NEEDED = ("click", "rich")


def _main() -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        message = f"convt_gemm.benchmark needs {' and '.join(missing)}: pip install 'convt_gemm[benchmark]'"
        print(message, file=sys.stderr)
        sys.exit(2)
    from .cli import main

    main(prog_name="python -m convt_gemm.benchmark")


if __name__ == "__main__":
    _main()

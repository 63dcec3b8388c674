"""How long it takes before anything happens."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from bench.subject import Options, main

_IMPORT = "import time; started = time.perf_counter(); import forebay; print(1000 * (time.perf_counter() - started))"


def importing(options: Options) -> float:
    """Milliseconds of `import forebay`, in an interpreter that has just started."""
    return float(subprocess.run([sys.executable, "-c", _IMPORT], capture_output=True, check=True).stdout)


def helping(options: Options) -> float:
    """Milliseconds of `forebay --help`, the interpreter's own start included."""
    started = time.perf_counter()
    subprocess.run([Path(sys.executable).with_name("forebay"), "--help"], capture_output=True, check=True)
    return 1000 * (time.perf_counter() - started)


if __name__ == "__main__":
    main({"import": importing, "help": helping})

"""mypy and pyright accept right programs, and find each mistake in the wrong ones."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Check = Callable[..., set[tuple[str, int]]]

HERE = Path(__file__).parent
PYRIGHT = Path(sys.executable).with_name("pyright")
needs_pyright = pytest.mark.skipif(not PYRIGHT.exists(), reason="pyright is not installed")


def run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1", "MYPY_CACHE_DIR": str(folder / "cache")}
    ended = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=110, check=False
    )
    assert ended.returncode in (0, 1), ended.stderr + ended.stdout
    return ended.stdout


def mypy(folder: Path, *files: str) -> set[tuple[str, int]]:
    """The files and lines with errors."""
    out = run([sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", *files], folder)
    return {(name, int(line)) for name, line in re.findall(r"(\w+\.py):(\d+): error", out)}


def pyright(folder: Path, *files: str) -> set[tuple[str, int]]:
    """The files and lines with errors."""
    out = run([str(PYRIGHT), "--outputjson", "--pythonpath", sys.executable, *files], folder)
    found = json.loads(out)["generalDiagnostics"]
    return {
        (Path(each["file"]).name, each["range"]["start"]["line"] + 1) for each in found if each["severity"] == "error"
    }


@pytest.mark.parametrize("check", [mypy, pytest.param(pyright, marks=needs_pyright)])
def test_right_programs_are_accepted_and_each_mistake_is_found_in_wrong_ones(tmp_path: Path, check: Check) -> None:
    (tmp_path / "api.py").write_text((HERE / "api.py").read_text())
    text = (HERE / "rejected.txt").read_text()
    (tmp_path / "rejected.py").write_text(text)
    marked = {number for number, line in enumerate(text.splitlines(), 1) if line.endswith("# wrong")}

    found = check(tmp_path, "api.py", "rejected.py")

    assert 20 < len(marked)
    assert {("rejected.py", number) for number in marked} == found

"""mypy and pyright accept right programs, and find each mistake in the wrong ones."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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


def mypy(file: Path, folder: Path) -> set[int]:
    """The lines with errors."""
    out = run([sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", str(file)], folder)
    return {int(line) for line in re.findall(rf"{file.name}:(\d+): error", out)}


def pyright(file: Path, folder: Path) -> set[int]:
    """The lines with errors."""
    out = run([str(PYRIGHT), "--outputjson", "--pythonpath", sys.executable, str(file)], folder)
    found = json.loads(out)["generalDiagnostics"]
    return {each["range"]["start"]["line"] + 1 for each in found if each["severity"] == "error"}


@pytest.mark.parametrize("check", [mypy, pytest.param(pyright, marks=needs_pyright)])
def test_right_programs_are_accepted(tmp_path: Path, check: object) -> None:
    assert callable(check)
    file = tmp_path / "accepted.py"
    file.write_text((HERE / "accepted.py").read_text())

    assert set() == check(file, tmp_path)


@pytest.mark.parametrize("check", [mypy, pytest.param(pyright, marks=needs_pyright)])
def test_each_mistake_is_found_and_nothing_else(tmp_path: Path, check: object) -> None:
    assert callable(check)
    file = tmp_path / "rejected.py"
    text = (HERE / "rejected.txt").read_text()
    file.write_text(text)
    marked = {number for number, line in enumerate(text.splitlines(), 1) if line.endswith("# wrong")}

    assert 20 < len(marked)
    assert marked == check(file, tmp_path)

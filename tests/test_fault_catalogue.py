"""docs/faults.md explains each row that a test names, and each row names the tests that show it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = {
    row[1]: row[2].strip()
    for row in re.finditer(
        r"^\| ([A-G]\d+) \|.*\| ([^|]+) \|$", (ROOT / "docs" / "faults.md").read_text(), re.MULTILINE
    )
}
"""The last column of each row."""


def _code(path: Path) -> str:
    return "".join(
        each.read_text() for each in ([path] if path.is_file() else sorted(path.iterdir())) if each.is_file()
    )


def test_each_row_that_a_test_names_is_in_the_catalogue() -> None:
    names: dict[str, str] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for name in re.findall(r"def test((?:_[a-g]\d+)+)_", path.read_text()):
            names.update((row.upper(), path.name) for row in name.strip("_").split("_"))

    assert {"A3", "C15", "G7"} <= names.keys()
    assert {} == {name: path for name, path in names.items() if name not in ROWS}


def test_each_row_that_the_chaos_program_names_is_in_the_catalogue() -> None:
    page = (ROOT / "chaos" / "README.md").read_text()
    names = set(re.findall(r"\b[A-G]\d+\b", " ".join(re.findall(r"^\| ([A-G]\d[^|]*) \|", page, re.MULTILINE))))

    assert "A2" in names
    assert set() == names - ROWS.keys()


@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_named_by_its_test_or_gives_the_reason_for_having_none(row: str) -> None:
    places = re.findall(r"`([^`]+)`", ROWS[row])
    if ROWS[row].startswith("no test: "):
        return

    assert places, "name the file, or say why there is no test"
    for place in places:
        code = _code(ROOT / place)
        assert re.search(rf"\b{row}\b|def test\w*_{row.lower()}_", code), f"{place} does not name {row}"

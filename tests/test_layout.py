"""Files are where ARCHITECTURE.md says, and a helper that two test files share is in tests/support."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

from forebay.store import DeadLetters, Inspection, Leases, Log, Notes, Transfer

TESTS = Path(__file__).parent
ROOT = TESTS.parent
PACKAGE = ROOT / "src" / "forebay"


def test_no_test_file_imports_from_another() -> None:
    imports = {
        str(path.relative_to(TESTS)): found
        for path in TESTS.rglob("*.py")
        if (found := re.findall(r"^from (tests\.\S*\b(?:test_\w+|conftest)) import", path.read_text(), re.MULTILINE))
    }

    assert {} == imports


def test_the_layers_of_the_architecture_are_those_that_are_checked() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    checked = next(contract["layers"] for contract in contracts if contract.get("containers") == ["forebay"])

    text = _section("Layers")

    shown = [re.split(r"\s{2,}", line.strip())[0] for line in text.splitlines() if line.startswith("    ")]
    assert checked == shown


def test_each_file_of_the_reading_order_exists() -> None:
    text = _section("Reading order")

    places = [PACKAGE, *(PACKAGE / room for room in ("runtime", "stores", "stores/memory"))]
    names = [name for name in re.findall(r"`([\w/]+\.\w+)`", text) if name.endswith((".py", ".lua"))]
    assert names
    assert [] == [name for name in names if not any((place / name).exists() for place in places)]


PROTOCOLS = {
    "log": Log,
    "leases": Leases,
    "dead_letters": DeadLetters,
    "inspection": Inspection,
    "notes": Notes,
    "transfer": Transfer,
}
OF_THE_OBJECT = {"arrivals", "is_position", "position_key", "streams", "time", "strays", "durability"}
"""Methods that are no moves of a stream or a group: a store object may answer them by itself."""


@pytest.mark.parametrize("store", ["memory", "sqlite", "redis"])
@pytest.mark.parametrize("file", PROTOCOLS)
def test_each_move_is_in_the_file_of_its_protocol(store: str, file: str) -> None:
    moves = {name for name in vars(PROTOCOLS[file]) if not name.startswith("_")} - OF_THE_OBJECT

    tree = ast.parse((PACKAGE / "stores" / store / f"{file}.py").read_text())
    functions = {each.name for each in tree.body if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef))}

    assert moves
    assert set() == moves - functions


def _section(title: str) -> str:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    return text.partition(f"## {title}")[2].partition("\n## ")[0]

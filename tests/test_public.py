"""The public names: exported, documented, and not loaded before they are used."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import forebay

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
MODULES = [found.name for found in pkgutil.walk_packages(forebay.__path__, "forebay.") if "__main__" not in found.name]


def test_the_public_names_are_sorted_and_there() -> None:
    assert sorted(forebay.__all__) == forebay.__all__
    assert all(hasattr(forebay, name) for name in forebay.__all__)


@pytest.mark.parametrize("name", forebay.__all__)
def test_each_public_name_is_documented_and_so_are_its_public_methods(name: str) -> None:
    thing = getattr(forebay, name)

    assert inspect.getdoc(thing)
    assert thing.__doc__, f"{name} has only an inherited docstring"
    for member, value in vars(thing).items() if inspect.isclass(thing) else ():
        if not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
            assert value.__doc__, f"{name}.{member} has no docstring"


def test_importing_forebay_loads_no_driver_and_no_command_line() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, forebay; print(*sys.modules)"], capture_output=True, text=True, check=True
    ).stdout.split()

    assert not {"redis", "hiredis", "apsw", "click", "rich", "pydantic", "starlette", "prometheus_client"} & set(loaded)


def test_who_only_publishes_loads_no_consumer() -> None:
    publish = """
import asyncio, sys, forebay

async def main():
    async with forebay.connect("memory://") as bus:
        await bus.publish("order_placed", "shop", {"order_id": 1})

asyncio.run(main())
print(*sys.modules)
"""

    loaded = subprocess.run([sys.executable, "-c", publish], capture_output=True, text=True, check=True).stdout.split()

    assert "forebay.runtime.handler" in loaded
    assert not {"forebay.runtime.consumer", "forebay.runtime.workers", "difflib", "secrets"} & set(loaded)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_the_code_in_the_readme_runs_as_written(block: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert (0, "") == (done.returncode, done.stderr)


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_in_docstrings_are_true(module: str) -> None:
    loaded = importlib.import_module(module)

    failed, _ = doctest.testmod(loaded, extraglobs={"msgspec": importlib.import_module("msgspec")})

    assert 0 == failed


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(forebay.__file__).parent / "py.typed").exists()

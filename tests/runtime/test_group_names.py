"""The default name of a group is its function's, however the process was started, and a new one is reported."""

from __future__ import annotations

import functools
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from forebay import ConfigurationError, Event, EventBus, connect
from forebay.agents import BaseAgent
from forebay.agents.definition import code_of
from forebay.runtime import handler_name
from forebay.signals import GroupCreated

APP = """
import functools, multiprocessing, sys
from forebay import connect
from forebay.agents import BaseAgent
from forebay.agents.definition import code_of

def decorated(function):
    @functools.wraps(function)
    async def wrapper(event): await function(event)
    return wrapper

def groups():
    bus = connect("memory://")
    @bus.on("a")
    @decorated
    async def bill(event): ...
    bus.on("b")(Callable())
    bus.on("c")(functools.partial(plain, 1))
    print([subscription.group for subscription, _ in bus._subscriptions], code_of(Agent()), flush=True)

def plain(number, event): ...

class Callable:
    def __call__(self, event): ...

class Agent(BaseAgent):
    name = "agent"
    async def work(self): ...

groups()
if len(sys.argv) > 1 and __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=groups)
    process.start()
    process.join()
"""


def run(folder: Path, *arguments: str, text: str | None = None) -> set[str]:
    """The output of a process, each line once."""
    ended = subprocess.run(
        [sys.executable, *arguments], cwd=folder, input=text, capture_output=True, text=True, timeout=60, check=False
    )
    assert 0 == ended.returncode, ended.stderr
    return {line for line in ended.stdout.splitlines() if line.startswith("[")}


def named(module: str) -> set[str]:
    prefix = f"{module}." if module else ""
    groups = [f"{prefix}groups.bill", f"{prefix}Callable", f"{prefix}plain"]
    return {f"{groups} {module or 'main'}:Agent"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A module, and a package with a module and a main module, of the same text."""
    (tmp_path / "package" / "inner").mkdir(parents=True)
    (tmp_path / "loose").mkdir()
    for path in ("app.py", "package/inner/app.py", "package/__main__.py", "loose/__main__.py"):
        (tmp_path / path).write_text(APP)
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "inner" / "__init__.py").touch()
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [["app.py"], ["-m", "app"], ["-c", "import app"], ["-m", "cProfile", "app.py"], ["app.py", "spawn"]],
    ids=" ".join,
)
def test_a_handler_has_the_same_group_however_its_module_is_run(folder: Path, command: list[str]) -> None:
    assert named("app") == run(folder, *command)


@pytest.mark.parametrize(
    ("command", "module"),
    [
        (["package/inner/app.py"], "package.inner.app"),
        (["-m", "package.inner.app"], "package.inner.app"),
        (["-m", "package.inner.app", "spawn"], "package.inner.app"),
        (["-m", "package"], "package.__main__"),
        (["package"], "package.__main__"),
        (["package/__main__.py"], "package.__main__"),
        (["-c", "import package.__main__"], "package.__main__"),
        (["loose"], "loose.__main__"),
        (["-m", "loose"], "loose.__main__"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_handler_in_a_package_has_the_name_of_its_module_in_it(folder: Path, command: list[str], module: str) -> None:
    assert named(module) == run(folder, *command)


def test_without_a_module_a_group_is_named_after_the_function_alone(folder: Path) -> None:
    assert named("") == run(folder, "-c", APP)
    assert named("") == run(folder, "-", text=APP)


@pytest.mark.parametrize(
    "function", [lambda event: None, functools.partial(lambda number, event: None, 1)], ids=["lambda", "partial"]
)
def test_a_lambda_needs_the_name_of_a_group(function: Any) -> None:
    bus = connect("memory://")

    with pytest.raises(ConfigurationError, match=r"with group="):
        bus.on("t")(function)
    bus.on("t", group="g")(function)


def test_a_name_is_made_of_module_and_function() -> None:
    class Odd(BaseAgent):
        name = "odd"

    place = "test_a_name_is_made_of_module_and_function"

    assert f"tests.runtime.test_group_names.{place}.Odd.work" == handler_name(Odd.work) or Odd.work is BaseAgent.work
    assert f"tests.runtime.test_group_names:{place}.<locals>.Odd" == code_of(Odd())


@pytest.mark.parametrize(
    ("options", "history"),
    [({}, 3), ({"group": "given"}, 0), ({"start": "latest"}, 0), ({"start": "0"}, 0)],
    ids=str,
)
async def test_a_new_group_with_a_made_name_reports_the_events_that_it_begins_with(
    bus: EventBus, caplog: pytest.LogCaptureFixture, options: dict[str, Any], history: int
) -> None:
    joined: list[GroupCreated] = []
    bus.signals.listen(joined.append, GroupCreated)

    async def bill(event: Event) -> None: ...

    await bus.publish_many("t", "s", [1, 2, 3])
    bus.on("t", **options)(bill)
    expected = {("t", handler_name(bill)): 3} if history else {}
    assert expected == await bus.new_groups()
    with caplog.at_level(logging.WARNING):
        await bus.run(until_idle=True)
        await bus.run(until_idle=True)

    assert [history] == [signal.history for signal in joined]
    assert bool(history) == ("it begins with the 3 events that are there" in caplog.text)
    assert {} == await bus.new_groups()


async def test_a_new_group_on_a_stream_without_events_is_nothing_to_warn_of(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    @bus.on("t")
    async def bill(event: Event) -> None: ...

    assert {} == await bus.new_groups()
    with caplog.at_level(logging.WARNING):
        await bus.run(until_idle=True)

    assert "" == caplog.text

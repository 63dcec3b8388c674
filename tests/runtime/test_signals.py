"""Signals: listeners get the kinds they asked for, until they stop, and each kind is public and documented."""

from __future__ import annotations

import asyncio
import importlib
import logging
import pkgutil
import re
import threading
from pathlib import Path
from typing import Any

import pytest

import forebay
from forebay import ConfigurationError, Event, EventBus, Retry, StoreUnavailable, agents, connect, migration, signals
from forebay.signals import DeadLettered, Finished, LoggedSignal, LogLine, LoopFailed, Published, Retried, Signal
from forebay.testing import eventually

PAGE = Path(__file__).parents[2] / "docs" / "signals.md"


class Own(Signal, frozen=True):
    """A signal of the user's."""


class OwnSpecial(Own, frozen=True):
    """A kind of it."""


@pytest.fixture
def bus() -> EventBus:
    return connect("memory://")


async def _handle_one_of_two(bus: EventBus) -> None:
    @bus.on("t", group="g", retry=Retry(attempts=2, base=0))
    async def handle(event: Event) -> None:
        if event.data:
            raise ValueError

    await bus.publish("t", "s", False)
    await bus.publish("t", "s", True)
    await bus.run(until_idle=True)


def _names(heard: list[Any]) -> set[str]:
    return {type(signal).__name__ for signal in heard}


def test_a_listener_without_kinds_gets_all_signals(bus: EventBus) -> None:
    heard: list[Signal] = []

    async def work() -> None:
        async with bus:
            bus.signals.listen(heard.append)
            await _handle_one_of_two(bus)

    asyncio.run(work())

    assert {"Published", "GroupCreated", "Delivered", "Finished", "Retried", "DeadLettered"} == _names(heard)


def test_a_listener_of_a_class_gets_the_signals_derived_from_it(bus: EventBus) -> None:
    heard: list[Signal] = []
    bus.signals.listen(heard.append, Own)

    for signal in (Own(), OwnSpecial(), Published("t", (), 0.0)):
        bus.signals.emit(signal)

    assert [Own(), OwnSpecial()] == heard
    assert bus.signals.listeners[OwnSpecial]
    assert not bus.signals.listeners[Published]


def test_a_listener_is_called_until_it_is_stopped(bus: EventBus) -> None:
    heard: list[str] = []
    first = bus.signals.listen(lambda signal: heard.append("first"), Own)
    with bus.signals.listen(lambda signal: heard.append("second"), Own):
        bus.signals.emit(Own())
    bus.signals.emit(Own())
    first.stop()
    first.stop()
    bus.signals.emit(Own())

    assert ["first", "second", "first"] == heard
    assert not bus.signals.listeners[Own]


def test_a_listener_that_listens_twice_is_called_twice_and_stopped_one_by_one(bus: EventBus) -> None:
    heard: list[Own] = []
    one = bus.signals.listen(heard.append, Own)
    bus.signals.listen(heard.append, Own)
    bus.signals.emit(Own())
    one.stop()
    bus.signals.emit(Own())

    assert 3 == len(heard)


def test_a_listener_may_stop_itself_while_it_is_called(bus: EventBus) -> None:
    heard: list[str] = []

    def once(signal: Own) -> None:
        heard.append("once")
        listening.stop()

    listening = bus.signals.listen(once, Own)
    bus.signals.listen(lambda signal: heard.append("always"), Own)
    bus.signals.emit(Own())
    bus.signals.emit(Own())

    assert ["once", "always", "always"] == heard


@pytest.mark.parametrize("kind", [int, Event, "Retried", None, Retried(None, ValueError(), 0.0)])  # type: ignore[arg-type]  # the mistake
def test_a_kind_is_a_class_of_signals(bus: EventBus, kind: Any) -> None:
    with pytest.raises(ConfigurationError, match="classes of signals, such as DeadLettered"):
        bus.signals.listen(print, DeadLettered, kind)


def test_signals_of_each_event_are_not_made_unless_a_listener_wants_them(bus: EventBus) -> None:
    assert not any(bus.signals.listeners[kind] for kind in (Published, signals.Delivered, Finished))


async def test_an_async_listener_of_a_signal_from_another_thread_runs_on_the_loop_of_the_bus(bus: EventBus) -> None:
    ran: list[object] = []

    async def listener(signal: Own) -> None:
        ran.append(asyncio.get_running_loop())

    bus.signals.listen(listener, Own)
    async with bus:
        await asyncio.to_thread(bus.signals.emit, Own())
        await eventually(lambda: bool(ran))

    assert [asyncio.get_running_loop()] == ran


async def test_listening_from_another_thread_while_signals_are_emitted_loses_no_listener(bus: EventBus) -> None:
    heard: list[Own] = []
    done = threading.Event()

    def emit() -> None:
        while not done.is_set():
            bus.signals.emit(Own())

    emitting = threading.Thread(target=emit)
    emitting.start()
    for _ in range(1000):
        with bus.signals.listen(heard.append, Own):
            bus.signals.emit(OwnSpecial())
    done.set()
    emitting.join()

    assert 1000 == sum(isinstance(signal, OwnSpecial) for signal in heard)


def _kinds() -> list[type[Signal]]:
    for module in pkgutil.walk_packages(forebay.__path__, "forebay."):
        if "__main__" not in module.name:
            importlib.import_module(module.name)
    found, waiting = list[type[Signal]](), [Signal]
    while waiting:
        kinds = [kind for kind in waiting.pop().__subclasses__() if kind.__module__.startswith("forebay.")]
        found += kinds
        waiting += kinds
    return found


@pytest.mark.parametrize("kind", _kinds(), ids=lambda kind: str(kind.__name__))
def test_each_signal_is_public_and_documented_with_its_fields(kind: type[Signal]) -> None:
    row = re.search(rf"^\| `{kind.__name__}` \| \S.* \| (.*) \|$", PAGE.read_text(), re.MULTILINE)

    [home] = [module for module in (signals, agents, migration) if kind.__name__ in module.__all__]
    assert kind is getattr(home, kind.__name__)
    assert kind.__doc__
    assert row is not None, "docs/signals.md has no row for it"
    assert list(kind.__struct_fields__) == re.findall(r"(?:^|; )`(\w+)`", row[1])


def test_the_page_names_no_signal_that_does_not_exist() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)

    assert sorted(kind.__name__ for kind in _kinds()) == sorted(rows)
    assert sorted(signals.__all__) == signals.__all__


async def test_a_signal_of_your_own_may_say_how_it_is_logged(bus: EventBus, caplog: pytest.LogCaptureFixture) -> None:
    class InvoiceLost(LoggedSignal, frozen=True):
        """An invoice was lost."""

        number: int

        def log_line(self) -> LogLine:
            return LogLine(logging.WARNING, f"invoice {self.number} was lost in\nthe mail", traceback="at home")

    async with bus:
        bus.signals.emit(InvoiceLost(7))

    assert [("forebay", logging.WARNING, "invoice 7 was lost in\\nthe mail\nat home")] == caplog.record_tuples


@pytest.mark.parametrize("is_retried", [True, False])
async def test_a_retried_failure_is_logged_once_in_an_outage(
    bus: EventBus, caplog: pytest.LogCaptureFixture, is_retried: bool
) -> None:
    class CacheFailed(LoggedSignal, frozen=True):
        """A cache could not be filled."""

        def log_line(self) -> LogLine:
            return LogLine(logging.ERROR, "no cache", error=StoreUnavailable("down"), retried=is_retried)

    caplog.set_level(logging.DEBUG, "forebay")
    async with bus:
        bus.signals.emit(LoopFailed("read", "t", "g", StoreUnavailable("down"), 1.0))
        bus.signals.emit(CacheFailed())

    assert (logging.DEBUG if is_retried else logging.ERROR) == caplog.records[-1].levelno


async def test_only_a_signal_is_emitted(bus: EventBus) -> None:
    for wrong in ("x", None, Own):
        with pytest.raises(ConfigurationError, match="is not a signal: derive its class"):
            bus.signals.emit(wrong)  # type: ignore[arg-type]  # the mistake

"""The process's signals are borrowed: former handlers are called too, and stand again afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from forebay import Event, EventBus, connect
from forebay.interrupts import Link, interrupted_by_signals, stopped_by_signals
from forebay.testing import eventually

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


@pytest.fixture(autouse=True)
def former() -> Iterator[None]:
    """The signals are handled after a test as they were before."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Former:
    """Another program's handler, as a web server has one."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, number: int, frame: object) -> None:
        self.calls.append(number)


def handling_bus() -> EventBus:
    bus = connect("memory://")

    @bus.on("t", group="g")
    async def handle(event: Event) -> None:
        pass

    return bus


async def running(bus: EventBus, **options: Any) -> asyncio.Task[None]:
    """A run that has begun to read."""
    run = asyncio.create_task(bus.run(**options))
    await eventually(lambda: bus.last_read is not None)
    return run


@pytest.mark.parametrize("number", SIGNALS)
async def test_a_signal_ends_the_run_and_calls_the_former_handler(number: int) -> None:
    former = Former()
    signal.signal(number, former)

    async with handling_bus() as bus:
        run = await running(bus)
        os.kill(os.getpid(), number)
        await asyncio.wait_for(run, 5)

    assert [number] == former.calls
    assert former is signal.getsignal(number)


@pytest.mark.parametrize("number", SIGNALS)
async def test_a_handler_of_the_loop_is_called_too_and_stands_again(number: int) -> None:
    calls: list[str] = []
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(number, calls.append, "called")

    async with handling_bus() as bus:
        run = await running(bus)
        os.kill(os.getpid(), number)
        await asyncio.wait_for(run, 5)
        await eventually(lambda: calls == ["called"])
        os.kill(os.getpid(), number)
        await eventually(lambda: calls == ["called", "called"])

    loop.remove_signal_handler(number)


@pytest.mark.parametrize("handler", [Former(), signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler])
@pytest.mark.parametrize("number", SIGNALS)
async def test_signal_handlers_are_restored_after_a_run(number: int, handler: Any) -> None:
    signal.signal(number, handler)

    async with handling_bus() as bus:
        await bus.run(until_idle=True)

    assert handler is signal.getsignal(number)


@pytest.mark.parametrize("number", SIGNALS)
async def test_a_signal_that_is_ignored_stays_ignored(number: int) -> None:
    signal.signal(number, signal.SIG_IGN)

    async with handling_bus() as bus:
        run = await running(bus)
        os.kill(os.getpid(), number)
        await asyncio.wait([run], timeout=0.2)

        assert not run.done()
        bus.stop()
        await run


@pytest.mark.parametrize("number", SIGNALS)
async def test_signals_are_left_alone_if_the_run_is_asked_to(number: int) -> None:
    former = Former()
    calls = former.calls
    signal.signal(number, former)

    async with handling_bus() as bus:
        run = await running(bus, handle_signals=False)
        assert former is signal.getsignal(number)
        os.kill(os.getpid(), number)
        await asyncio.wait([run], timeout=0.2)

        assert not run.done()
        bus.stop()
        await run
    assert [number] == calls


@pytest.mark.parametrize("first_ends", [0, 1])
async def test_two_buses_give_the_signal_back_in_either_order(first_ends: int) -> None:
    former = Former()
    signal.signal(signal.SIGTERM, former)

    async with handling_bus() as one, handling_bus() as other:
        runs = [await running(one), await running(other)]
        buses = [one, other]
        buses[first_ends].stop()
        await runs[first_ends]
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(runs[1 - first_ends], 5)

    assert [signal.SIGTERM] == former.calls
    assert former is signal.getsignal(signal.SIGTERM)


async def test_one_signal_ends_all_buses() -> None:
    former = Former()
    signal.signal(signal.SIGTERM, former)

    async with handling_bus() as one, handling_bus() as other:
        runs = [await running(one), await running(other)]
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(asyncio.gather(*runs), 5)

    assert [signal.SIGTERM] == former.calls
    assert former is signal.getsignal(signal.SIGTERM)


async def test_a_handler_that_is_set_during_the_run_stands_after_it() -> None:
    later = Former()

    async with handling_bus() as bus:
        run = await running(bus)
        below = signal.signal(signal.SIGTERM, later)
        bus.stop()
        await run

    assert later is signal.getsignal(signal.SIGTERM)
    # The handler that it restores, as web servers do, only passes signals on.
    former = Former()
    assert isinstance(below, Link)
    below.before = former
    signal.signal(signal.SIGTERM, below)
    os.kill(os.getpid(), signal.SIGTERM)
    assert [signal.SIGTERM] == former.calls


async def test_a_second_signal_acts_as_it_did_before() -> None:
    former = Former()
    signal.signal(signal.SIGTERM, former)
    release = asyncio.Event()
    bus = connect("memory://")

    @bus.on("t", group="g")
    async def handle(event: Event) -> None:
        await release.wait()

    async with bus:
        await bus.publish("t", "s", 1)
        run = await running(bus)
        await eventually(lambda: bus.last_read is not None)
        os.kill(os.getpid(), signal.SIGTERM)
        await eventually(lambda: former.calls == [signal.SIGTERM])

        assert former is signal.getsignal(signal.SIGTERM)
        release.set()
        await run


def test_in_another_thread_no_signal_is_touched() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]

    async def go() -> list[Any]:
        async with handling_bus() as bus:
            run = await running(bus)
            seen = [signal.getsignal(number) for number in SIGNALS]
            bus.stop()
            await run
            return seen

    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.extend(asyncio.run(go())))
    thread.start()
    thread.join()

    assert before == seen


async def test_callbacks_are_called_in_turn_and_alone_where_that_is_asked_for() -> None:
    former, calls = Former(), list[str]()
    signal.signal(signal.SIGTERM, former)

    with interrupted_by_signals(lambda: calls.append("stop"), lambda: calls.append("hurry"), alone=True):
        for told in (["stop"], ["stop", "hurry"]):
            os.kill(os.getpid(), signal.SIGTERM)
            await eventually(lambda told=told: calls == told)
        assert [] == former.calls
        os.kill(os.getpid(), signal.SIGTERM)

    assert [signal.SIGTERM] == former.calls


async def test_a_cancellation_that_is_not_the_signals_is_raised() -> None:
    signal.signal(signal.SIGTERM, lambda *_: None)

    async def wait() -> None:
        with stopped_by_signals(lambda: None):
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


APP = """
import asyncio, sys
from forebay import connect
bus = connect("memory://")
@bus.on("t", group="g")
async def handle(event):
    print("begun", flush=True)
    await asyncio.sleep(0.3)
    print("done", flush=True)
async def main():
    async with bus:
        await bus.publish("t", "s", 1)
        %s
        print("after", flush=True)
try:
    %s(main())
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
RUNS = {
    "in the main task": ("await bus.run()", ["begun", "done", "after"]),
    "beside it": ("run = asyncio.create_task(bus.run()); await asyncio.sleep(60)", ["begun", "done", "interrupted"]),
}


def _loops() -> list[str]:
    try:
        import uvloop  # noqa: F401  # only whether it is here
    except ImportError:
        return ["asyncio.run"]
    return ["asyncio.run", "__import__('uvloop').run"]


@pytest.mark.parametrize("loop", _loops())
@pytest.mark.parametrize(("body", "told"), RUNS.values(), ids=RUNS.keys())
def test_ctrl_c_drains_a_bus_under_asyncio_run_and_ends_it(body: str, told: list[str], loop: str) -> None:
    command = [sys.executable, "-c", APP % (body, loop)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline().strip()
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=20)

    assert told == [first, *rest.split()]
    assert 0 == process.returncode


def test_a_web_servers_task_ends_with_the_server() -> None:
    """A server that handles SIGTERM itself, with the bus beside it, as in a lifespan."""
    program = """
import asyncio, signal
from forebay import connect
bus = connect("memory://")
@bus.on("t", group="g")
async def handle(event): pass
async def serve():
    should_exit = asyncio.Event()
    loop = asyncio.get_running_loop()
    signal.signal(signal.SIGTERM, lambda *_: loop.call_soon_threadsafe(should_exit.set))
    async with bus:
        run = asyncio.create_task(bus.run())
        await asyncio.sleep(0.2)
        print("serving", flush=True)
        await should_exit.wait()
        bus.stop()
        await run
    print("shut down", flush=True)
asyncio.run(serve())
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "serving\n" == process.stdout.readline()
        process.terminate()
        rest, _ = process.communicate(timeout=20)

    assert ("shut down\n", 0) == (rest, process.returncode)

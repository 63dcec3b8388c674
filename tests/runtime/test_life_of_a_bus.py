"""A bus belongs to one event loop at a time: it opens itself, refuses the others, and closes all that it has."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import secrets
import subprocess
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from forebay import ConfigurationError, Event, EventBus, NotFound, connect
from forebay.agents.state import AgentState
from forebay.context import FORGOTTEN
from forebay.event import to_record
from forebay.leadership import Leadership
from forebay.store import Store
from forebay.stores.memory import MemoryStore
from forebay.testing import FaultyStore, eventually
from tests.support.redis_servers import binaries
from tests.support.stores import store_name, url_of

Use = Callable[[EventBus], Awaitable[object]]


async def _listed(bus: EventBus) -> list[object]:
    return [event async for event in bus.events("t")]


async def _run(bus: EventBus) -> None:
    bus.on("u", group=f"g-{secrets.token_hex(4)}")(_ignore)
    await bus.run(until_idle=True)


async def _consume(bus: EventBus) -> None:
    task = asyncio.create_task(bus.subscribe_to_stream("u", "h").consume_events(_ignore))
    await asyncio.wait([task], timeout=0.2)
    bus.stop()
    await task


async def _ignore(event: Event) -> None:
    pass


def _sqlite_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("forebay-sqlite")]


USES: dict[str, Use] = {
    "publish": lambda bus: bus.publish("t", "s", 1),
    "publish with an id": lambda bus: bus.publish("t", "s", 1, id="one"),
    "publish later": lambda bus: bus.publish("t", "s", 1, delay=60),
    "publish_many": lambda bus: bus.publish_many("t", "s", [1, 2]),
    "events": _listed,
    "get": lambda bus: bus.get("t", "nothing"),
    "replay": lambda bus: bus.replay("t", group="g"),
    "dead_letters": lambda bus: bus.dead_letters("t"),
    "redrive": lambda bus: bus.redrive("t"),
    "discard": lambda bus: bus.discard("t", ["1"]),
    "stats": lambda bus: bus.stats(),
    "retain": lambda bus: bus.retain("t", max_age=3600),
    "retention": lambda bus: bus.retention("t"),
    "durability": lambda bus: bus.durability(),
    "run": _run,
    "consume_events": _consume,
}
RECORD = to_record("t", source="s", data=1)
MOVES: dict[str, Callable[[Store], Awaitable[object]]] = {
    "append": lambda store: store.append("t", [RECORD]),
    "scan": lambda store: store.scan("t"),
    "join": lambda store: store.join("t", "g"),
    "stats": lambda store: store.stats(),
    "notes": lambda store: store.notes("t"),
    "set_note": lambda store: store.set_note("t", "n", b"1"),
    "leadership": lambda store: _led(Leadership(store, "t", seconds=1)),
    "state": lambda store: AgentState(store, "a").set("k", 1),
}


async def _led(leadership: Leadership) -> None:
    async with leadership.lead():
        pass


@pytest.fixture(params=["memory", "sqlite", *binaries()[:1]], ids=store_name)
def closed(request: pytest.FixtureRequest, namespace: str) -> EventBus:
    """A bus on each store, not opened."""
    return connect("memory://" if request.param == "memory" else url_of(request), namespace=namespace)


@pytest.fixture
async def open_bus(closed: EventBus) -> AsyncIterator[EventBus]:
    async with closed:
        yield closed


@pytest.fixture(autouse=True)
def nothing_is_left() -> Any:
    """Each test ends with the threads that it began with."""
    before = set(threading.enumerate())
    yield
    gc.collect()
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("forebay"):
            thread.join(5)
    left = [thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith("forebay")]
    assert [] == left


def in_another_thread(use: Callable[[], Awaitable[object]]) -> object:
    """What comes of it on a loop of another thread: a result, or the error."""

    async def go() -> object:
        return await asyncio.wait_for(use(), 5)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: _outcome(go)).result()


def _outcome(go: Callable[[], Any]) -> object:
    try:
        return asyncio.run(go())
    except Exception as error:  # noqa: BLE001  # the test looks at it
        return error


# It opens itself.


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
async def test_a_bus_that_is_not_open_opens_itself_at_its_first_use(closed: EventBus, use: Use) -> None:
    with contextlib.suppress(NotFound):
        await use(closed)

    assert await closed.publish("t", "s", 1)
    await closed.close()


async def test_concurrent_first_uses_open_the_store_once() -> None:
    class Counted(MemoryStore):
        opened = 0

        async def __aenter__(self) -> Any:
            Counted.opened += 1
            await asyncio.sleep(0.01)
            return await super().__aenter__()

    bus = EventBus(Counted())

    await asyncio.gather(*(bus.publish("t", "s", number) for number in range(10)), _listed(bus), bus.stats())

    assert 1 == Counted.opened
    assert 10 == len(await _listed(bus))
    await bus.close()


async def test_a_store_that_cannot_be_opened_says_so_at_each_use(tmp_path: Path) -> None:
    bus = connect(f"sqlite:///{tmp_path}/missing/events.db")

    for _ in range(2):
        with pytest.raises(ConfigurationError, match="does not exist"):
            await bus.publish("t", "s", 1)
    (tmp_path / "missing").mkdir()

    assert await bus.publish("t", "s", 1)
    await bus.close()


async def test_a_bus_that_opened_itself_may_be_entered(closed: EventBus) -> None:
    await closed.publish("t", "s", 1)
    async with closed:
        await closed.publish("t", "s", 2)

    assert 2 == len(await _listed(closed))
    await closed.close()


async def test_open_and_close_stand_beside_async_with(closed: EventBus) -> None:
    assert closed is await closed.open()
    with pytest.raises(ConfigurationError, match="open already"):
        await closed.open()
    await closed.close()
    await closed.close()

    async with closed:
        await closed.publish("t", "s", 1)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_script_may_publish_from_one_asyncio_run_after_the_other(closed: EventBus) -> None:
    for number in range(3):
        asyncio.run(closed.publish("t", "s", number))

    assert [0, 1, 2] == [event.data for event in asyncio.run(_listed(closed))]  # type: ignore[attr-defined]  # events


# It belongs to its loop.


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
async def test_a_use_on_another_loop_is_refused_before_anything_is_done(open_bus: EventBus, use: Use) -> None:
    await open_bus.publish("other", "s", 1)
    before = await open_bus.stats()

    outcome = await asyncio.to_thread(in_another_thread, lambda: use(open_bus))

    assert isinstance(outcome, ConfigurationError)
    assert "run_coroutine_threadsafe" in str(outcome)
    assert before == await open_bus.stats()


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES.keys())
async def test_a_move_of_the_store_on_another_loop_is_refused(
    open_bus: EventBus, move: Callable[[Store], Awaitable[object]]
) -> None:
    outcome = await asyncio.to_thread(in_another_thread, lambda: move(open_bus.store))

    assert isinstance(outcome, ConfigurationError)
    assert [] == await open_bus.store.stats()
    assert {} == await open_bus.store.notes("t")


async def test_the_remedy_in_the_error_works(open_bus: EventBus) -> None:
    loop = asyncio.get_running_loop()

    def work() -> str:
        return asyncio.run_coroutine_threadsafe(open_bus.publish("t", "s", 1), loop).result(5)

    assert await asyncio.to_thread(work)
    assert 1 == len(await _listed(open_bus))


async def test_closing_from_another_loop_is_refused(open_bus: EventBus) -> None:
    outcome = await asyncio.to_thread(in_another_thread, open_bus.close)

    assert isinstance(outcome, ConfigurationError)
    assert await open_bus.publish("t", "s", 1)


def test_threads_open_and_close_a_bus_in_turn_and_a_second_one_at_once_is_refused(closed: EventBus) -> None:
    async def publish() -> str:
        async with closed:
            await closed.publish("t", "s", 1)
        return "published"

    with ThreadPoolExecutor(8) as pool:
        at_once = list(pool.map(lambda _: _outcome(publish), range(40)))
    in_turn = [in_another_thread(publish) for _ in range(3)]

    refused = [outcome for outcome in at_once if outcome != "published"]
    assert all(isinstance(outcome, ConfigurationError) for outcome in refused)
    assert ["published"] * 3 == in_turn
    assert 43 - len(refused) == in_another_thread(lambda: _count(closed))


async def _count(bus: EventBus) -> int:
    async with bus:
        return len(await _listed(bus))


def test_a_loop_that_was_closed_without_the_bus_does_not_keep_it(closed: EventBus) -> None:
    loop = asyncio.new_event_loop()
    loop.run_until_complete(closed.publish("t", "s", 1))
    loop.close()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        assert 1 == asyncio.run(_count(closed))
        gc.collect()


def in_a_fork(calls: Callable[[], list[Any]], run: Callable[[Any], object]) -> list[str]:
    """What comes of calls in a fork of this process, each run in this way."""
    receiving, sending = os.pipe()
    child = os.fork()
    if not child:
        said = []
        try:
            for call in calls():
                try:
                    said.append(f"{run(call)!r}")
                except BaseException as error:  # noqa: BLE001  # the test looks at it
                    said.append(f"{type(error).__name__}: {error}")
            os.write(sending, "\n".join(said).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(sending)
    told = os.read(receiving, 65_536).decode().splitlines()
    os.close(receiving)
    return told


def _on_a_new_loop(call: Any) -> object:
    asyncio.events._set_running_loop(None)
    return asyncio.run(call)


def _refused_after_a_fork(said: list[str]) -> bool:
    return all(line.startswith("ConfigurationError") and "does not survive a fork" in line for line in said)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("run", [lambda call: call.send(None), _on_a_new_loop], ids=["in the coroutine", "anew"])
async def test_a_fork_is_refused_in_words_that_say_so(open_bus: EventBus, run: Callable[[Any], object]) -> None:
    await open_bus.publish("t", "s", 1)

    said = in_a_fork(
        lambda: [
            open_bus.publish("t", "s", 2),
            open_bus.store.append("t", [RECORD]),
            open_bus.stats(),
            open_bus.open(),
        ],
        run,
    )

    assert 4 == len(said)
    assert _refused_after_a_fork(said), said
    assert [1] == [event.data for event in await _listed(open_bus)]  # type: ignore[attr-defined]  # events


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_is_refused_on_the_loop_that_it_inherited(closed: EventBus) -> None:
    with asyncio.Runner() as runner:
        runner.run(closed.open())

        said = in_a_fork(lambda: [closed.publish("t", "s", 2), closed.store.append("t", [RECORD])], runner.run)

        assert 2 == len(said)
        assert _refused_after_a_fork(said), said
        assert [] == runner.run(_listed(closed))
        runner.run(closed.close())


async def test_a_run_is_stopped_from_another_thread(open_bus: EventBus) -> None:
    open_bus.on("t", group="g")(_ignore)
    run = asyncio.create_task(open_bus.run(handle_signals=False))
    await eventually(lambda: open_bus.last_read is not None)

    await asyncio.to_thread(open_bus.stop)

    await asyncio.wait_for(run, 5)


async def test_a_run_that_is_called_after_a_stop_goes_on(open_bus: EventBus) -> None:
    open_bus.on("t", group="g")(_ignore)
    open_bus.stop()
    run = asyncio.create_task(open_bus.run(handle_signals=False))
    await eventually(lambda: open_bus.last_read is not None)

    assert not run.done()
    open_bus.stop()
    await asyncio.wait_for(run, 5)


# It is closed.


def test_a_bus_that_was_forgotten_is_closed_with_its_loop_and_warns(closed: EventBus) -> None:
    with pytest.warns(ResourceWarning, match=FORGOTTEN[:20]):
        asyncio.run(closed.publish("t", "s", 1))


async def test_a_bus_without_references_is_closed_with_a_warning(sqlite_url: str) -> None:
    bus = connect(sqlite_url)
    await bus.publish("t", "s", 1)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        del bus
        gc.collect()
        await eventually(lambda: not [thread for thread in threading.enumerate() if "sqlite" in thread.name])

    assert [FORGOTTEN] == [str(warning.message) for warning in warned]


@pytest.mark.parametrize("how", ["run", "consume_events"])
async def test_closing_drains_running_consumers(closed: EventBus, how: str) -> None:
    begun, done = asyncio.Event(), list[int]()

    async def handle(event: Event) -> None:
        begun.set()
        await asyncio.sleep(0.3)
        await closed.publish("answered", "s", event.data)
        done.append(event.data)

    if how == "run":
        closed.on("t", group="g", concurrency=1)(handle)
    async with closed:
        task = asyncio.create_task(
            closed.run() if how == "run" else closed.subscribe_to_stream("t", "g", concurrency=1).consume_events(handle)
        )
        await closed.publish_many("t", "s", range(3))
        await asyncio.wait_for(begun.wait(), 5)

    await asyncio.wait_for(task, 1)
    async with closed:
        [group] = (await closed.stats("t"))[0].groups
        assert (1, 3) == (len(done), group.lag + group.pending + len(done))  # type: ignore[operator]  # exact here
        assert len(done) == (await closed.stats("answered"))[0].length


async def test_a_run_that_begins_after_the_close_ends_at_once_and_opens_nothing(closed: EventBus) -> None:
    closed.on("t", group="g")(_ignore)
    async with closed:
        run = closed.run()
        consume = closed.subscribe_to_stream("t", "h").consume_events(_ignore)

    await asyncio.wait_for(run, 1)
    await asyncio.wait_for(consume, 1)

    assert closed._context.session is None or closed._context.session.is_over


@pytest.mark.parametrize("cancels", [1, 2, 1000])
async def test_a_cancelled_block_still_drains_and_closes(sqlite_url: str, cancels: int) -> None:
    """With a thousand, as a cancel scope of anyio does it: at each turn of the loop."""
    bus = connect(sqlite_url)
    log: list[str] = []

    @bus.on("t", group="g", concurrency=1)
    async def handle(event: Event) -> None:
        log.append("begun")
        await asyncio.sleep(0.3)
        log.append("done")

    async def serve() -> None:
        async with bus:
            await bus.publish("t", "s", 1)
            await bus.run()

    task = asyncio.create_task(serve())
    await eventually(lambda: log == ["begun"])
    for _ in range(cancels):
        if task.done():
            break
        task.cancel()
        await asyncio.sleep(0.001)
    with pytest.raises(asyncio.CancelledError):
        await task
    async with bus:  # at once
        assert 1 == len(await _listed(bus))

    assert ["begun", "done"] == log
    await eventually(lambda: not _sqlite_threads())  # on a busy machine their end is not waited for


async def test_a_timeout_around_a_block_is_still_a_timeout(closed: EventBus) -> None:
    closed.on("t", group="g")(_ignore)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3), closed:
            await closed.run()

    async with closed:
        assert await closed.publish("t", "s", 1)


async def test_an_opening_that_was_cancelled_before_it_began_can_be_repeated(closed: EventBus) -> None:
    opening = asyncio.create_task(closed.publish("t", "s", 1))
    await asyncio.sleep(0)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.wait([opening])

    assert await asyncio.wait_for(closed.publish("t", "s", 1), 5)
    await closed.close()


async def test_an_opening_that_is_cancelled_leaves_nothing_open(closed: EventBus) -> None:
    opening = asyncio.create_task(closed.open())
    await asyncio.sleep(0)
    opening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await opening
        await closed.close()

    async with closed:
        assert await closed.publish("t", "s", 1)


async def test_a_store_that_fails_to_drain_is_closed_all_the_same(sqlite_url: str) -> None:
    store = FaultyStore(connect(sqlite_url).store)
    bus = EventBus(store)
    bus.on("t", group="g")(_ignore)

    async def serve() -> None:
        async with bus:
            store.fail_before("read", ValueError("ordered"))  # type: ignore[arg-type]  # a bug, and no error of a store
            await bus.run()

    with pytest.raises(ValueError, match="ordered"):
        await serve()

    await eventually(lambda: not _sqlite_threads())  # on a busy machine their end is not waited for


@pytest.mark.parametrize("seconds", [0.0, 0.01])
async def test_a_cancelled_publish_is_stored_once_when_it_is_repeated_under_its_id(
    open_bus: EventBus, seconds: float
) -> None:
    for _ in range(5):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(open_bus.publish("t", "s", 1, id="order-1"), seconds)
    await open_bus.publish("t", "s", 1, id="order-1")

    assert "order-1" == (await open_bus.get("t", "order-1")).id
    assert 1 == len(await _listed(open_bus))


def test_a_bus_works_on_after_the_main_thread_has_ended(tmp_path: Path) -> None:
    program = """
import asyncio, sys, threading
from forebay import connect
bus = connect(sys.argv[1])
@bus.on("t", group="g", dedup=True)
def handle(event): print("handled", event.data, flush=True)
async def main():
    while threading.main_thread().is_alive():
        await asyncio.sleep(0.05)
    async with bus:
        await bus.publish("t", "s", 1)
        await bus.run(until_idle=True)
        print(len(await bus.stats()), await bus.retention("t"), flush=True)
    print("closed", flush=True)
threading.Thread(target=lambda: asyncio.run(main())).start()
"""
    for url in ("memory://", f"sqlite:///{tmp_path}/events.db"):
        ended = subprocess.run(
            [sys.executable, "-c", program, url], capture_output=True, text=True, timeout=60, check=False
        )

        assert ("handled 1\n1 None\nclosed\n", 0) == (ended.stdout, ended.returncode), ended.stderr

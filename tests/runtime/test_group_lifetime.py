"""A group is gone when others have seen it silent for its lifetime, by their own boottime and by no wall clock."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import Collection
from pathlib import Path

import pytest

from forebay import Event, EventBus, Retention, Trimmed
from forebay.announcer import STREAM, Announcer
from forebay.retention import LONGEST_GAP_SECONDS, SILENT, Observers, enforce, set_rule
from forebay.signals import GroupAbandoned, Signals
from forebay.store import Reader, Store
from forebay.testing import eventually
from tests.support.clocks import WallClock

LIFETIME = 600.0
RULE = Retention(max_length=0, group_lifetime=LIFETIME)


class Process:
    """A process that looks at the stream each few seconds of a clock that the test moves."""

    def __init__(self, store: Store, *served: str) -> None:
        self.now = 1000.0
        self.gone: list[str] = []
        self._store = store
        self._served = served
        self._signals = Signals()
        self._signals.listen(lambda signal: self.gone.append(signal.group), GroupAbandoned)
        self._observers = Observers(lambda: self.now)

    async def look(self, passed: float = 5.0) -> Trimmed:
        self.now += passed
        return await enforce(self._store, "t", self._signals, observers=self._observers, living=self._living)

    async def _living(self) -> Collection[tuple[str, str]]:
        return {("t", group) for group in self._served}


@pytest.fixture
async def store(bus: EventBus) -> Store:
    await set_rule(bus.store, "t", RULE)
    for group in ("here", "away"):
        await bus.store.join("t", group)
    await bus.publish_many("t", "s", range(4))
    await bus.store.ack(await bus.store.read(Reader("t", "here", "c"), limit=4))
    return bus.store


async def test_a_group_that_is_gone_for_long_is_waited_for_no_longer_and_keeps_its_place(store: Store) -> None:
    process, other = Process(store, "here"), Process(store, "here")
    looks = 0
    while not (await process.look()).removed and not (await other.look()).removed:
        looks += 1
        assert looks < 200

    assert looks >= LIFETIME / 5 - 1
    await other.look()
    await process.look()
    assert ["away"] == process.gone + other.gone
    assert ["away", "here"] == await store.groups("t")


async def test_observations_from_before_a_restart_count(store: Store) -> None:
    removed = 0
    for _ in range(15):
        process = Process(store, "here")
        for _ in range(20):
            removed += (await process.look()).removed
    assert 4 == removed


async def test_a_group_that_is_served_somewhere_is_never_gone(store: Store) -> None:
    serving, observer, another = Process(store, "here", "away"), Process(store), Process(store)
    for _ in range(400):
        for process in (observer, another, serving):
            assert Trimmed(0, 0) == await process.look()
    assert [] == observer.gone


async def test_a_group_whose_consumers_may_not_read_notes_is_served_by_their_announcement(store: Store) -> None:
    serving, observing = Announcer(store, Signals()), Announcer(store, Signals())
    serving.add([("t", "here"), ("t", "away")])
    await eventually(lambda: store.notes(STREAM))
    assert {("t", "here"), ("t", "away")} == set(await observing.living())

    await store.set_note("t", f"{SILENT}away", f"{LIFETIME - 1:.0f}".encode())
    assert Trimmed(0, 0) == await enforce(store, "t", Signals(), living=observing.living)
    assert b"0" == (await store.notes("t"))[f"{SILENT}away"]
    await serving.close()


async def test_a_process_that_stood_still_has_seen_nothing_meanwhile(store: Store) -> None:
    serving, observer = Process(store, "here", "away"), Process(store)
    for process in (serving, observer):
        await process.look()
    for passed in (3600.0, LIFETIME, 24 * 3600.0):
        assert Trimmed(0, 0) == await observer.look(passed)
        assert Trimmed(0, 0) == await observer.look(passed)
        silent = abs(float((await store.notes("t"))[SILENT + "away"]))
        assert silent <= 60 + LONGEST_GAP_SECONDS
        await serving.look()


async def test_a_group_that_came_back_is_waited_for_again(store: Store) -> None:
    observer, back = Process(store, "here"), Process(store, "away")
    while not observer.gone:
        await observer.look()

    await back.look()
    assert b"0" == (await store.notes("t"))[SILENT + "away"]
    await observer.look()
    assert ["away"] == observer.gone


async def test_a_note_that_is_not_a_number_counts_as_missing(store: Store) -> None:
    for text in (b"1800000000.5", b"soon", b"", b"\xff"):
        await store.set_note("t", SILENT + "away", text)
        assert Trimmed(0, 0) == await Process(store).look()
        assert b"0" == (await store.notes("t"))[SILENT + "away"]


PUBLISHER = """if True:
    import asyncio, sys
    from forebay import connect

    async def main():
        async with connect(sys.argv[1], namespace=sys.argv[2]) as bus:
            await bus.publish("t", "s", -1)
            print("published", flush=True)
            for _ in range(10):
                await asyncio.sleep(0.05)
                await bus.retain("t", group_lifetime=60, max_length=2)

    asyncio.run(main())
"""


@pytest.mark.parametrize("shift", [3600.0, -3600.0], ids=["ahead", "behind"])
async def test_a_process_with_a_wrong_clock_takes_no_event_from_a_group_that_lives(
    durable_url: str, namespace: str, tmp_path: Path, shift: float
) -> None:
    async with EventBus(durable_url, namespace=namespace) as bus:
        seen: list[object] = []
        go_on = asyncio.Event()

        @bus.on("t", group="live", prefetch=1, concurrency=1)
        async def handle(event: Event) -> None:
            await go_on.wait()
            seen.append(event.data)

        run = asyncio.create_task(bus.run())
        await bus.publish_many("t", "s", range(20))
        await bus.retain("t", group_lifetime=60, max_length=2)
        environment = WallClock(tmp_path, shift).environment
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PUBLISHER, durable_url, namespace, env=environment, stdout=PIPE
        )
        assert 0 == await process.wait()
        go_on.set()

        await eventually(lambda: len(seen) == 21)
        bus.stop()
        await run

"""A group's consumers are counted truly: idle ones count, and ended or killed ones do not, on every store."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest

from forebay import Event, EventBus, StoreDenied, connect
from forebay.announcer import PREFIX, STREAM, Announcement, Announcer
from forebay.signals import LoopFailed
from forebay.store import Store
from forebay.stores.memory import MemoryStore
from forebay.testing import FaultyStore, eventually
from tests.support.processes import Process

LIFETIME = 1.0


async def consumers(bus: EventBus, stream: str = "t") -> dict[str, int]:
    return {group.group: group.consumers for found in await bus.stats(stream) for group in found.groups}


async def counted(bus: EventBus, expected: dict[str, int], within: float = 10.0) -> None:
    async def is_counted() -> bool:
        return await consumers(bus) == expected

    await eventually(is_counted, within=within)


def ignore(event: Event) -> None:
    """Handle an event."""


async def idle(url: str, namespace: str, groups: tuple[str, ...]) -> None:
    """Run idle consumers whose announcement lives for a second."""
    bus = EventBus(url, namespace=namespace)
    bus._context.announcer = Announcer(bus.store, bus.signals, lifetime=LIFETIME, renewal=LIFETIME / 5)
    for group in groups:
        bus.on("t", group=group)(ignore)
    async with bus:
        await bus.run()


async def test_an_idle_consumer_counts_and_one_that_ended_does_not(bus: EventBus) -> None:
    consuming = [asyncio.create_task(bus.subscribe_to_stream("t", "g").consume_events(ignore)) for _ in range(2)]
    await counted(bus, {"g": 2})
    assert 0 == (await bus.store.stats(["t"]))[0].groups[0].pending

    consuming[0].cancel()
    await asyncio.wait([consuming[0]])
    assert {"g": 1} == await consumers(bus)

    bus.stop()
    await consuming[1]
    assert {"g": 0} == await consumers(bus)


async def test_another_process_sees_consumers_begin_and_end(durable_url: str, namespace: str) -> None:
    async with EventBus(durable_url, namespace=namespace) as bus:
        process = Process(idle, durable_url, namespace, ("g", "h"))
        await counted(bus, {"g": 1, "h": 1})
        consuming = asyncio.create_task(bus.subscribe_to_stream("t", "g").consume_events(ignore))
        await counted(bus, {"g": 2, "h": 1})

        assert 0 == process.terminate()
        assert {"g": 1, "h": 0} == await consumers(bus)
        bus.stop()
        await consuming


async def test_a_killed_process_counts_no_longer_than_its_lifetime(durable_url: str, namespace: str) -> None:
    async with EventBus(durable_url, namespace=namespace) as bus:
        process = Process(idle, durable_url, namespace, ("g",))
        await counted(bus, {"g": 1})

        process.kill()

        await counted(bus, {"g": 0})
    # A bus that never saw it alive goes by the store's clock.
    async with EventBus(durable_url, namespace=namespace) as late:
        assert {"g": 0} == await consumers(late)


async def test_a_process_that_stands_still_counts_again_when_it_goes_on(durable_url: str, namespace: str) -> None:
    async with EventBus(durable_url, namespace=namespace) as bus:
        process = Process(idle, durable_url, namespace, ("g",))
        await counted(bus, {"g": 1})
        os.kill(process.pid, signal.SIGSTOP)
        await counted(bus, {"g": 0})

        os.kill(process.pid, signal.SIGCONT)

        await counted(bus, {"g": 1})
        process.kill()


async def test_the_note_of_a_killed_process_is_removed_by_another_one(bus: EventBus) -> None:
    dead = Announcement(await bus.store.time(STREAM), LIFETIME, {"t": {"g": 1}})
    await bus.store.set_note(STREAM, f"{PREFIX}dead", dead.note)
    await bus.store.set_note(STREAM, "of another program", b"1")
    sweeping = Announcer(bus.store, bus.signals, renewal=0.1, sweep=0.2)
    sweeping.add([("t", "h")])

    async def is_swept() -> bool:
        return f"{PREFIX}dead" not in await bus.store.notes(STREAM)

    await eventually(is_swept)
    await sweeping.close()
    assert ["of another program"] == list(await bus.store.notes(STREAM))


async def test_consumers_that_start_together_are_one_write_and_a_renewal_is_one(sqlite_url: str) -> None:
    store = FaultyStore(connect(sqlite_url).store)
    async with store:
        announcer = Announcer(store, EventBus(store).signals)
        for number in range(1000):
            announcer.add([(f"shop.order_placed_{number}", "billing")])

        async def is_announced() -> bool:
            return bool(await store.notes(STREAM))

        await eventually(is_announced)
        assert 1 == store.calls["set_note"]
        [note] = (await store.notes(STREAM)).values()
        assert len(note) < 16_384
        await announcer.close()
        assert (2, {}) == (store.calls["set_note"], await store.notes(STREAM))


async def test_a_consumer_that_ends_at_once_is_not_announced() -> None:
    store = FaultyStore(MemoryStore())
    async with store:
        announcer = Announcer(store, EventBus(store).signals)
        announcer.add([("t", "g")])
        announcer.remove([("t", "g")])
        await eventually(lambda: announcer._task is not None and announcer._task.done())

    assert 0 == store.calls["set_note"]


async def test_the_announcement_makes_no_stream(bus: EventBus) -> None:
    consuming = asyncio.create_task(bus.subscribe_to_stream("t", "g").consume_events(ignore))

    async def is_announced() -> bool:
        return bool(await bus.store.notes(STREAM))

    await eventually(is_announced)
    assert ["t"] == [stats.stream for stats in await bus.stats()]
    assert ["t"] == await bus.store.streams()
    assert [] == await bus.store.strays()
    bus.stop()
    await consuming


async def test_a_user_without_the_right_to_write_notes_is_not_announced_and_goes_on() -> None:
    store = FaultyStore(MemoryStore())
    failures: list[LoopFailed] = []
    async with EventBus(store) as bus:
        bus.signals.listen(failures.append, LoopFailed)
        store.fail_before("set_note", StoreDenied("no right"))
        handled: list[Event] = []
        consuming = asyncio.create_task(bus.subscribe_to_stream("t", "g").consume_events(handled.append))
        await eventually(lambda: failures)
        await bus.publish("t", "s", 1)
        await eventually(lambda: handled)

        assert ["presence"] == [failure.loop for failure in failures]
        bus.stop()
        await consuming


async def test_a_user_without_the_right_to_read_notes_gets_the_stores_own_count() -> None:
    store = FaultyStore(MemoryStore())
    async with EventBus(store) as bus:
        await store.join("t", "g")
        store.fail_before("notes", StoreDenied("no right"))

        assert {"g": 0} == await consumers(bus)


async def test_an_outage_of_the_store_ends_with_a_new_announcement() -> None:
    store = FaultyStore(MemoryStore())
    async with store:
        store.fail_before("set_note", times=2)
        announcer = Announcer(store, EventBus(store).signals, renewal=0.05)
        announcer.add([("t", "g")])

        async def is_announced() -> bool:
            return bool(await store.notes(STREAM))

        await eventually(is_announced)
        await announcer.close()
        assert {} == await store.notes(STREAM)


class WithoutNotes:
    """A store that has no notes."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        if name in ("notes", "set_note", "streams_with_notes"):
            raise AttributeError(name)
        found: Callable[..., Any] = getattr(self._store, name)
        return found

    async def __aenter__(self) -> Self:
        await self._store.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._store.__aexit__(None, None, None)


async def test_a_store_without_notes_serves_handlers_and_counts_consumers_itself() -> None:
    store: Any = WithoutNotes(MemoryStore())
    async with EventBus(store) as bus:
        running = asyncio.Event()
        go_on = asyncio.Event()

        async def handle(event: Event) -> None:
            running.set()
            await go_on.wait()

        consuming = asyncio.create_task(bus.subscribe_to_stream("t", "g").consume_events(handle))
        await bus.publish("t", "s", 1)
        await running.wait()
        assert {"g": 1} == await consumers(bus)
        go_on.set()
        bus.stop()
        await consuming


@pytest.mark.parametrize("note", [b"", b"not compressed", b"x\x9cK\x04\x00\x00b\x00b"])
async def test_a_note_that_another_program_wrote_counts_nothing(bus: EventBus, note: bytes) -> None:
    await bus.store.join("t", "g")
    await bus.store.set_note(STREAM, f"{PREFIX}odd", note)

    assert {"g": 0} == await consumers(bus)


async def test_a_copy_of_a_store_leaves_out_its_running_consumers(tmp_path: Path) -> None:
    from forebay.transfer import copy

    async with EventBus(f"sqlite:///{tmp_path}/a.db") as source, EventBus(f"sqlite:///{tmp_path}/b.db") as target:
        await source.publish("t", "s", 1)
        await source.store.set_note(STREAM, f"{PREFIX}1", Announcement(0.0, 1.0, {}).note)

        await copy(source.store, target.store, origin=source.url)

        assert {} == await target.store.notes(STREAM)

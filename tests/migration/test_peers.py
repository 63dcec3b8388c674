"""A process of a migration knows of the others whether they are alive, and waits until that is certain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from forebay import EventBus
from forebay.migration import DualBus, NewBusUnavailable, PublishedOnOldBusOnly
from forebay.migration.counts import Counts
from forebay.migration.parity import FRESH, ProcessReport, ProcessState, write_report
from forebay.migration.peers import Peers
from forebay.migration.routes import STREAM
from forebay.signals import Signal
from forebay.store import Store
from forebay.stores.memory import MemoryStore
from forebay.testing import FaultyStore


class Watch:
    """The peers of a process whose clock a test sets."""

    def __init__(self, store: Store) -> None:
        self.now = 100.0
        self.peers = Peers(store, clock=lambda: self.now)
        self._store = store

    async def report(self, id: str = "peer", *, ago: float = 0.0, outstanding: int = 0, ended: bool = False) -> None:
        """Let a peer write a report, with a time of the store's clock so long ago."""
        at = await self._store.time(STREAM) - ago
        await write_report(self._store, ProcessReport(id, at, {}, Counts(), outstanding, ended))

    async def look(self, after: float = 0.0) -> None:
        self.now += after
        self.peers.observe(await self._store.notes(STREAM))

    async def state(self, id: str = "peer") -> ProcessState | None:
        """The state if it is certain."""
        asking = asyncio.create_task(self.peers.state(id))
        for _ in range(20):
            await asyncio.sleep(0)
        if asking.done():
            return asking.result()
        asking.cancel()
        return None


@pytest.fixture
async def watch() -> AsyncIterator[Watch]:
    async with MemoryStore() as store:
        yield Watch(store)


async def test_a_peer_that_is_seen_to_report_is_alive(watch: Watch) -> None:
    await watch.report()
    await watch.look()
    assert await watch.state() is None

    await watch.report()
    await watch.look(after=1.0)

    assert "alive" == await watch.state()


async def test_a_peer_that_is_not_seen_to_report_for_its_lifetime_is_dead_whatever_the_stores_clock_says(
    watch: Watch,
) -> None:
    await watch.report(ago=-3600.0)
    await watch.look()
    await watch.look(after=FRESH - 1)
    assert await watch.state() is None

    await watch.look(after=1.0)

    assert "died" == await watch.state()


async def test_an_old_report_is_not_enough_to_call_a_peer_dead_before_it_had_time_to_report(watch: Watch) -> None:
    await watch.report(ago=3600.0)
    await watch.look()
    await watch.look(after=1.0)
    assert await watch.state() is None

    await watch.look(after=3.0)

    assert "died" == await watch.state()


async def test_a_silent_peer_that_was_alive_may_be_alive_until_its_lifetime_has_passed(watch: Watch) -> None:
    await watch.look()
    await watch.report()
    await watch.look(after=0.25)
    assert "alive" == await watch.state()

    await watch.look(after=5.0)
    assert await watch.state() is None

    await watch.look(after=5.0)
    assert "died" == await watch.state()


@pytest.mark.parametrize(("outstanding", "state"), [(0, "ended"), (1, "died")])
async def test_a_peer_that_ended_has_died_if_it_left_events_unfinished(
    watch: Watch, outstanding: int, state: ProcessState
) -> None:
    await watch.report(outstanding=outstanding, ended=True)
    await watch.look()

    assert state == await watch.state()


async def test_an_unknown_peer_has_died_unless_the_next_look_finds_it(watch: Watch) -> None:
    await watch.look()
    late, unknown = (asyncio.create_task(watch.peers.state(id)) for id in ("late", "unknown"))
    await asyncio.sleep(0)
    assert not unknown.done()

    await watch.report("late")
    await watch.look(after=0.25)

    assert ["alive", "died"] == [await late, await unknown]


async def test_a_migration_emits_its_troubles_as_signals_of_the_new_bus() -> None:
    store = FaultyStore(MemoryStore())
    new = EventBus(store)
    seen: list[Signal] = []
    new.signals.listen(seen.append, NewBusUnavailable, PublishedOnOldBusOnly)
    store.fail_before("notes")

    async with DualBus(EventBus("memory://"), new) as dual:
        await dual.publish("order", "shop", {"n": 1})
        await dual.publish("order", "shop", {"n": 2})

    assert [NewBusUnavailable, PublishedOnOldBusOnly] == [type(signal) for signal in seen]

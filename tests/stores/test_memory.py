"""Rules of the memory store alone: a clock that tests can set, and a state that outlives closing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from forebay.errors import ConfigurationError
from forebay.event import Record, to_record
from forebay.store import Delivery, Reader
from forebay.stores.memory import MemoryStore
from forebay.stores.memory.state import ExpiringIds
from forebay.testing import eventually

STREAM = "order_placed"
A = Reader(STREAM, "billing", "a")
B = Reader(STREAM, "billing", "b")
ORDERED_A = Reader(STREAM, "billing", "a", ordered=True)
ORDERED_B = Reader(STREAM, "billing", "b", ordered=True)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(clock: Clock) -> AsyncIterator[MemoryStore]:
    async with MemoryStore(clock=clock) as store:
        await store.join(STREAM, "billing")
        yield store


def order(number: int = 1, *, id: str | None = None) -> Record:
    return to_record(STREAM, source="shop", data=number, id=id)


async def leased(store: MemoryStore, reader: Reader, count: int = 1) -> list[Delivery]:
    await store.append(STREAM, [order(number) for number in range(count)])
    return await store.read(reader, limit=count)


# The clock.


async def test_a_lease_runs_out_by_the_stores_own_clock(store: MemoryStore, clock: Clock) -> None:
    [first, second] = await leased(store, A, 2)
    clock.now += 29
    await store.extend([second])
    clock.now += 1

    taken = await store.claim(B, idle=30.0, limit=10)

    assert [first.position] == [delivery.position for delivery in taken]


async def test_scheduled_and_waiting_entries_come_when_the_clock_says_so(store: MemoryStore, clock: Clock) -> None:
    [failed] = await leased(store, A)
    await store.retry(failed, delay=10.0)
    await store.schedule(STREAM, [order(2)], delay=10.0)

    clock.now += 9.9
    assert (0, []) == (await store.append_due(STREAM), await store.take_due(A, limit=10))
    clock.now += 0.1

    assert 1 == await store.append_due(STREAM)
    assert [failed.position] == [delivery.position for delivery in await store.take_due(A, limit=10)]
    assert [b"2"] == [d.record.data for d in await store.read(A, limit=10) if isinstance(d.record, Record)]


async def test_the_entry_that_waited_longest_is_due_first(store: MemoryStore, clock: Clock) -> None:
    [first, second] = await leased(store, A, 2)
    await store.retry(first, delay=20.0)
    await store.retry(second, delay=10.0)
    clock.now += 30

    assert [second.position] == [delivery.position for delivery in await store.take_due(A, limit=1)]


async def test_a_repetition_keeps_an_id_in_mind_from_then_on(store: MemoryStore, clock: Clock) -> None:
    [first] = await store.append(STREAM, [order(id="a")], dedup_window=60.0)
    clock.now += 59
    await store.append(STREAM, [order(id="a")], dedup_window=60.0)

    clock.now += 59
    assert [first] == await store.append(STREAM, [order(id="a")], dedup_window=60.0)
    clock.now += 60
    assert [first] != await store.append(STREAM, [order(id="a")], dedup_window=60.0)


async def test_a_group_forgets_handled_ids_after_their_time(store: MemoryStore, clock: Clock) -> None:
    await store.append(STREAM, [order(id="a")])
    await store.ack(await store.read(A, limit=1), remember=60.0)

    clock.now += 59
    assert {"a"} == await store.handled(STREAM, "billing", ["a", "b"])
    clock.now += 1
    assert set() == await store.handled(STREAM, "billing", ["a", "b"])


async def test_a_trim_by_age_goes_by_the_clock(store: MemoryStore, clock: Clock) -> None:
    await store.leave(STREAM, "billing")
    await store.append(STREAM, [order(1)])
    clock.now += 60
    await store.append(STREAM, [order(2)])

    assert 1 == (await store.trim(STREAM, max_age=30.0)).removed


# Leases.


async def test_a_consumer_that_claims_from_itself_holds_only_the_later_delivery(store: MemoryStore) -> None:
    [before] = await leased(store, A)
    [now] = await store.claim(A, idle=0.0)

    assert [now] == await store.extend([before, now])
    assert not await store.dead_letter(before, reason="late")
    assert await store.dead_letter(now, reason="in time")


async def test_an_ordered_reader_that_waits_is_woken_when_the_other_one_is_done(store: MemoryStore) -> None:
    await store.append(STREAM, [order(1), order(2)])
    held = await store.read(ORDERED_A, limit=1)
    waiting = asyncio.create_task(store.read(ORDERED_B, limit=1, wait=30.0))
    await eventually(lambda: _waiting(store) == 1)

    await store.ack(held)

    async with asyncio.timeout(5):
        [delivery] = await waiting
    assert delivery.position != held[0].position


async def test_an_ordered_reader_takes_released_entries_before_new_ones(store: MemoryStore) -> None:
    held = await leased(store, ORDERED_A, 1)
    await store.append(STREAM, [order(2)])
    await store.release(held)

    assert [] == await store.read(ORDERED_B, limit=10)
    assert [held[0].position] == [delivery.position for delivery in await store.take_due(ORDERED_B, limit=10)]


async def test_a_group_that_is_removed_wakes_its_readers(store: MemoryStore) -> None:
    waiting = asyncio.create_task(store.read(A, limit=1, wait=30.0))
    await eventually(lambda: _waiting(store) == 1)

    await store.leave(STREAM, "billing")

    with pytest.raises(LookupError, match="no group 'billing'"):
        await asyncio.wait_for(waiting, 5)


async def test_a_cancelled_read_leaves_no_waiter(store: MemoryStore) -> None:
    waiting = asyncio.create_task(store.read(A, limit=1, wait=30.0))
    await eventually(lambda: _waiting(store) == 1)

    waiting.cancel()

    await asyncio.wait([waiting])
    assert 0 == _waiting(store)
    assert 1 == len(await leased(store, A))


def test_a_reader_whose_loop_was_closed_does_not_disturb_an_append() -> None:
    store = MemoryStore()

    async def wait() -> None:
        await store.join(STREAM, "billing")
        task = asyncio.get_running_loop().create_task(store.read(A, limit=1, wait=30.0))
        await eventually(lambda: _waiting(store) == 1)
        # The remains of a loop that stops in the middle of a read.
        waiters = store._state.streams[STREAM].waiters
        waiters_then = dict(waiters)
        task.cancel()
        await asyncio.wait([task])
        waiters.update(waiters_then)

    asyncio.run(wait())

    assert ["1"] == asyncio.run(store.append(STREAM, [order()]))


# The state.


async def test_the_state_is_there_again_after_closing(store: MemoryStore) -> None:
    await store.append(STREAM, [order(1)])
    await store.__aexit__(None, None, None)

    async with store as again:
        assert 1 == len(await again.scan(STREAM))


async def test_two_stores_share_nothing_unless_they_are_twins(store: MemoryStore) -> None:
    await store.append(STREAM, [order(1)])

    assert [] == await MemoryStore().scan(STREAM)
    assert 1 == len(await store.clone().scan(STREAM))


@pytest.mark.parametrize("position", ["", "x", "-1", "1-0", "²", "1.5"])
async def test_a_wrong_position_is_refused(store: MemoryStore, position: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a position"):
        await store.scan(STREAM, after=position)
    with pytest.raises(ConfigurationError, match="is not a position"):
        await store.seek(STREAM, "billing", position)


def test_ids_whose_time_is_over_do_not_pile_up() -> None:
    known = ExpiringIds()
    for second in range(20_000):
        known.put(f"id-{second}", "1", now=second, span=10.0)

    assert len(known._known) <= 1000
    assert known.get("id-19999", 19_999) == "1"


async def test_durability_names_a_better_setting(store: MemoryStore) -> None:
    durability = await store.durability()

    assert {"lost"} == {durability.client_killed, durability.store_killed, durability.power_lost}
    assert "sqlite:///" in durability.notes[0]


def _waiting(store: MemoryStore) -> int:
    return len(store._state.streams[STREAM].waiters)

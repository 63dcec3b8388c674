"""The promise of `outlook`: the work that waits for a reader, asked for all readers of a process at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal

from forebay.store import Outlook, Reader, Store
from forebay.testing.contract.base import GROUP, HOUR, STREAM, A, B, Contract, begun, orders
from forebay.testing.waiting import eventually

IDLE = Outlook(scheduled=None, waiting=None, leased=False, unread=False)


class OutlookContract(Contract):
    """The outlook of readers."""

    async def test_a_group_that_has_read_everything_has_no_work_in_sight(self, store: Store) -> None:
        await store.ack(await begun(store, A, 3))
        assert [IDLE] == await store.outlook([A])
        await store.trim(STREAM, max_length=0)
        assert [IDLE] == await store.outlook([A])

    async def test_entries_may_be_unread(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        assert [IDLE] == await store.outlook([A])
        await store.append(STREAM, orders(1, 2))
        for unread in (True, True, False):
            assert [unread] == [outlook.unread for outlook in await store.outlook([A]) if outlook]
            await store.ack(await store.read(A, limit=1))
        await store.seek(STREAM, GROUP, "0")
        assert [True] == [outlook.unread for outlook in await store.outlook([A]) if outlook]

    async def test_only_leases_of_other_consumers_count(self, store: Store) -> None:
        [held] = await begun(store, A, 1)
        assert [False, True] == [outlook.leased for outlook in await store.outlook([A, B]) if outlook]
        await store.retry(held, delay=0.0, keep=True)
        assert [False, True] == [outlook.leased for outlook in await store.outlook([A, B]) if outlook]
        await store.ack([held])
        assert [IDLE, IDLE] == await store.outlook([A, B])

    async def test_the_next_waiting_entry_is_the_one_that_is_due_first(self, store: Store) -> None:
        first, second, third = await begun(store, A, 3)
        await store.retry(first, delay=2 * HOUR)
        await store.retry(second, delay=HOUR)
        assert _is_about(HOUR, (await _one(store)).waiting)

        await store.release([third])
        await eventually(lambda: _is_due(store, "waiting"))
        [taken] = await store.take_due(A, limit=1)

        assert _is_about(HOUR, (await _one(store)).waiting)
        await store.ack([first, second, taken])
        assert await _one(store) == IDLE

    async def test_the_next_scheduled_record_is_the_one_that_is_due_first(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        await store.schedule(STREAM, orders(1), delay=2 * HOUR)
        assert _is_about(2 * HOUR, (await _one(store)).scheduled)
        await store.schedule(STREAM, orders(2), at=datetime.now(UTC) + timedelta(hours=1))
        assert _is_about(HOUR, (await _one(store)).scheduled)

        await store.schedule(STREAM, orders(3), delay=0.0)
        await eventually(lambda: _is_due(store, "scheduled"))
        await store.append_due(STREAM)

        assert _is_about(HOUR, (await _one(store)).scheduled)

    async def test_a_group_that_does_not_exist_has_no_outlook(self, store: Store) -> None:
        await store.join(STREAM, GROUP)
        nobody, nothing = Reader(STREAM, "nobody", "worker-a"), Reader("nothing_here", GROUP, "worker-a")

        assert [None, IDLE, None] == await store.outlook([nobody, A, nothing])
        assert [] == await store.outlook([])

    async def test_one_call_answers_for_many_readers_in_their_order(self, store: Store, other: Store) -> None:
        readers = [Reader(f"stream_{stream:02}", f"group_{group}", "c") for stream in range(40) for group in range(10)]
        for reader in readers[::3]:
            await store.join(reader.stream, reader.group)
        await store.append(readers[0].stream, orders(1))

        found = await other.outlook(readers)

        assert len(readers) == len(found)
        assert [number % 3 == 0 for number in range(len(readers))] == [outlook is not None for outlook in found]
        unread = {reader.stream for reader, outlook in zip(readers, found, strict=True) if outlook and outlook.unread}
        assert {readers[0].stream} == unread

    async def test_an_outlook_changes_nothing(self, store: Store) -> None:
        held, released = await begun(store, A, 2)
        await store.release([released])
        await store.schedule(STREAM, orders(3), delay=0.0)
        before = await store.pending(STREAM, GROUP), await store.scan(STREAM)

        for reader in (A, B):
            await store.outlook([reader] * 3)

        after = await store.pending(STREAM, GROUP), await store.scan(STREAM)
        assert [(p.position, p.consumer, p.attempt) for p in before[0]] == [
            (p.position, p.consumer, p.attempt) for p in after[0]
        ]
        assert before[1] == after[1]
        assert [held] == await store.extend([held])


async def _one(store: Store) -> Outlook:
    [outlook] = await store.outlook([A])
    assert outlook is not None
    return outlook


async def _is_due(store: Store, what: Literal["scheduled", "waiting"]) -> bool:
    seconds: float | None = getattr(await _one(store), what)
    return seconds is not None and seconds <= 0


def _is_about(expected: float, seconds: float | None) -> bool:
    return seconds is not None and abs(expected - seconds) < 60

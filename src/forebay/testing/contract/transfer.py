"""The promises of `Transfer`: what one store held stands in another as it was."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from forebay.errors import NotFound
from forebay.event import Foreign
from forebay.store import (
    DeadLetter,
    Entry,
    Failure,
    GroupCursor,
    GroupPending,
    Pending,
    RememberedId,
    Scheduled,
    Store,
    StreamItem,
)
from forebay.testing.contract.base import (
    GROUP,
    HOUR,
    STREAM,
    A,
    B,
    Contract,
    Plant,
    begun,
    claimed,
    numbers,
    order,
    orders,
    planted,
)

ODD = Foreign(((b"a", b"1"), (b"\xff", b"\x00"), (b"a", b"2")), only_group="mail")
"""An entry that no columns could hold, for one group."""


class TransferContract(Contract):
    """Scheduled, remembered, restore, drop."""

    async def test_an_entry_has_the_time_when_it_was_appended(self, store: Store) -> None:
        before = time.time()
        await store.append(STREAM, orders(1))

        [entry] = await store.scan(STREAM)

        # A store in another process may round to ms.
        assert before - 1 <= entry.appended <= time.time() + 1

    async def test_scheduled_events_are_listed_in_pages_soonest_first(self, store: Store) -> None:
        await store.schedule(STREAM, orders(3, 4), delay=2 * HOUR)
        await store.schedule(STREAM, orders(1, 2), delay=HOUR)

        found: list[Scheduled] = []
        while page := await store.scheduled(STREAM, after=found[-1].id if found else "", limit=1):
            found += page

        assert [b"1", b"2", b"3", b"4"] == [each.record.data for each in found]
        assert all(0 <= HOUR - each.delay < 60 for each in found[:2])
        assert all(0 <= 2 * HOUR - each.delay < 60 for each in found[2:])
        assert [] == await store.scheduled("another")

    async def test_scheduled_moments_are_listed_in_pages_after_the_delays(self, store: Store) -> None:
        moment = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
        await store.schedule(STREAM, orders(5), at=moment + timedelta(hours=1))
        await store.schedule(STREAM, orders(3, 4), at=moment)
        await store.schedule(STREAM, orders(1, 2), delay=3 * HOUR)

        found = await store.scheduled(STREAM)
        assert [b"1", b"2", b"3", b"4", b"5"] == [each.record.data for each in found]
        assert [None, None, moment, moment, moment + timedelta(hours=1)] == [each.at for each in found]
        assert all(0 <= HOUR - each.delay < 60 for each in found[2:4])
        for limit in (1, 2, 3):
            ids: list[str] = []
            while page := await store.scheduled(STREAM, after=ids[-1] if ids else "", limit=limit):
                ids += [each.id for each in page]
            assert ids == [each.id for each in found]

    async def test_remembered_ids_of_a_stream_and_its_groups_are_listed_in_pages(self, store: Store) -> None:
        first, second = await store.append(STREAM, [order(1, id="a"), order(2, id="b")], dedup_window=HOUR)
        await store.schedule(STREAM, [order(3, id="c")], delay=HOUR, dedup_window=HOUR)
        await store.join(STREAM, GROUP)
        await store.ack(await store.read(A, limit=1), remember=HOUR)

        found: list[RememberedId] = []
        while page := await store.remembered(STREAM, after=found[-1].id if found else "", limit=1):
            found += page
        handled = await store.remembered(STREAM, group=GROUP)

        assert {"a": first, "b": second, "c": None} == {each.id: each.position for each in found}
        assert [("a", GROUP)] == [(each.id, each.group) for each in handled]
        assert all(0 <= HOUR - each.expires_in < 60 for each in (*found, *handled))
        assert [] == await store.remembered(STREAM, group="mail")

    async def test_a_dropped_stream_is_restored_unchanged(self, store: Store, plant: Plant) -> None:
        held = await begun(store, A, 6)
        await store.ack(held[:1], remember=HOUR)
        await store.retry(held[1], delay=HOUR, failure=Failure("KeyError: 'vat_rate'", "  File\n\N{SNOWMAN}"))
        await store.retry(held[2], delay=0.0)
        [again] = await store.take_due(B, limit=1)
        await store.retry(again, delay=0.0, keep=True, failure=Failure("OSError"))
        await store.dead_letter(held[3], reason="no price\n\N{SNOWMAN}", traceback="  File\n\N{SNOWMAN}", attempts=9)
        await store.release(held[4:5])
        await planted(plant)
        await store.append(STREAM, [order(7, id="a")], dedup_window=HOUR)
        await store.schedule(STREAM, [order(8, id="b", key="k")], delay=HOUR, dedup_window=HOUR)
        await store.schedule(STREAM, orders(9), at=datetime(2100, 1, 2, 3, 4, 5, tzinfo=UTC))
        items, before = await _items(store), await store.stats()

        await store.drop(STREAM)
        assert [] == await store.stats()
        assert [item.position for item in items if isinstance(item, Entry)] == await store.restore(STREAM, items)

        assert _lasting(items) == _lasting(await _items(store))
        assert [_counts(stats) for stats in before] == [_counts(stats) for stats in await store.stats()]

    async def test_a_restored_stream_works_like_the_original(self, store: Store) -> None:
        held = await begun(store, A, 4)
        await store.ack(held[:1], remember=HOUR)
        await store.retry(held[1], delay=0.0)
        await store.append(STREAM, [order(5, id="a")], dedup_window=HOUR)
        await store.schedule(STREAM, [order(6, id="b")], delay=0.0, dedup_window=HOUR)
        items = await _items(store)
        await store.drop(STREAM)

        await store.restore(STREAM, items)

        assert 1 == await store.append_due(STREAM)
        [due] = await store.take_due(B, limit=10)
        assert (held[1].position, 2, 1) == (due.position, due.attempt, due.failures)
        assert {held[2].position, held[3].position} <= {d.position for d in await claimed(store, A)}
        assert 1 == await store.ack(held[3:])
        assert [5, 6] == numbers(await store.read(B, limit=10))
        await store.append(STREAM, [order(7, id="a"), order(8, id="b")], dedup_window=HOUR)
        assert [] == await store.read(B, limit=10)
        assert held[0].record is not None
        assert isinstance(id := getattr(held[0].record, "id", None), str)
        assert {id} == await store.handled(STREAM, GROUP, [id, "z"])

    async def test_entries_of_another_kind_of_store_get_positions_after_the_last_one(self, store: Store) -> None:
        [first] = await store.append(STREAM, orders(1))
        past = time.time() - HOUR
        strange = [Entry("3~7", order(2), past), Entry("3~8", order(3), past), Entry("3~9", order(4), past + 7200)]

        positions = await store.restore(STREAM, strange)

        entries = await store.scan(STREAM)
        assert positions is not None
        assert [first, *positions] == [entry.position for entry in entries]
        assert [1, 2, 3, 4] == numbers(entries)
        await store.append(STREAM, orders(5))
        assert [1, 2, 3, 4, 5] == numbers(await store.scan(STREAM))

    async def test_entries_keep_their_time_in_an_empty_stream(self, store: Store) -> None:
        past = time.time() - HOUR
        await store.restore(STREAM, [Entry("3~7", order(1), past), Entry("3~8", order(2), past + 60)])

        first, second = await store.scan(STREAM)

        assert abs(first.appended - past) < 1
        assert abs(second.appended - past - 60) < 1
        middle = datetime.fromtimestamp(past + 30, UTC)
        assert [2] == numbers(await store.scan(STREAM, after=await store.locate(STREAM, middle)))

    async def test_a_position_that_is_taken_is_given_to_no_other_entry(self, store: Store) -> None:
        positions = await store.append(STREAM, orders(1, 2))
        [entry, _] = await store.scan(STREAM)

        again = await store.restore(STREAM, [entry])

        assert again is not None
        assert [*positions, *again] == [entry.position for entry in await store.scan(STREAM)]

    async def test_an_entry_for_one_group_stays_that_groups(self, store: Store) -> None:
        only_mail = msgspec.structs.replace(order(1), only_group="mail")
        items = [Entry("3~1", only_mail, time.time()), Entry("3~2", ODD, time.time()), Entry("3~3", order(2), 0.0)]
        places = [GroupCursor(GROUP, "0"), GroupCursor("mail", "0")]

        await store.restore(STREAM, [*places, *items])

        assert [only_mail, ODD, items[2].record] == [entry.record for entry in await store.scan(STREAM)]
        mine: list[int] = []
        for _ in range(3):
            mine += numbers(await store.read(A, limit=10))
        assert [2] == mine

    async def test_foreign_dead_letters_keep_every_byte(self, store: Store) -> None:
        named = Foreign(((b"a", b"1"), (b"traceback", b"its own")))
        for record in (ODD, Foreign(()), named):
            letter = DeadLetter("", STREAM, GROUP, "0", record, "no", datetime.now(UTC) - timedelta(hours=1), 3)
            await store.restore(STREAM, [letter])

        assert [ODD, Foreign(()), named] == [letter.record for letter in await store.dead_letters(STREAM)]

    async def test_a_dead_letter_without_a_group_is_redriven_to_no_group(self, store: Store) -> None:
        letter = DeadLetter("", STREAM, "", "", order(1), "written by a stranger", datetime.now(UTC), 0)
        await store.restore(STREAM, [letter])
        [found] = await store.dead_letters(STREAM)

        assert 0 == await store.redrive(STREAM, [found.id])

        assert ([], [found]) == (await store.scan(STREAM), await store.dead_letters(STREAM))

    async def test_notes_are_kept_and_removed_in_the_same_move(self, store: Store) -> None:
        await store.set_note(STREAM, "a", b"1")

        positions = await store.restore(
            STREAM, [Entry("", order(1), time.time())], notes={"a": None, "b": b"2"}, expected={"a": b"1", "b": None}
        )

        assert positions is not None
        assert 1 == len(positions)
        assert {"b": b"2"} == await store.notes(STREAM)

    async def test_unexpected_notes_stop_the_whole_move(self, store: Store) -> None:
        await store.set_note(STREAM, "a", b"1")
        entry = Entry("", order(1), time.time())

        for expected in ({"a": b"2"}, {"a": None}, {"a": b"1", "b": b""}):
            assert None is await store.restore(STREAM, [entry], notes={"a": b"3"}, expected=expected)
            assert not await store.drop(STREAM, expected=expected)

        assert {"a": b"1"} == await store.notes(STREAM)
        assert [] == await store.scan(STREAM)

    async def test_pending_entries_need_their_group(self, store: Store) -> None:
        entry = Entry("", order(1), time.time())
        [position] = await store.append(STREAM, orders(1))
        strays: list[StreamItem] = [
            GroupPending(GROUP, Pending(position, None, 1, 1, None, HOUR)), RememberedId("a", HOUR, group=GROUP)
        ]  # fmt: skip

        for stray in strays:
            with pytest.raises(NotFound):
                await store.restore(STREAM, [entry, stray], notes={"a": b"1"})

        assert 1 == len(await store.scan(STREAM))
        assert {} == await store.notes(STREAM)

    async def test_a_group_that_is_there_is_set_to_its_place(self, store: Store) -> None:
        positions = await store.append(STREAM, orders(1, 2, 3))
        await store.join(STREAM, GROUP)

        await store.restore(STREAM, [GroupCursor(GROUP, positions[1])])

        assert [3] == numbers(await store.read(A, limit=10))

    async def test_a_drop_can_leave_the_entries_and_notes(self, store: Store) -> None:
        held = await begun(store, A, 3)
        await store.ack(held[:1], remember=HOUR)
        await store.retry(held[1], delay=HOUR)
        await store.dead_letter(held[2], reason="no")
        await store.append(STREAM, [order(4, id="a")], dedup_window=HOUR)
        await store.schedule(STREAM, orders(5), delay=HOUR)
        await store.set_note(STREAM, "n", b"1")

        await store.drop(STREAM, keep_entries=True)

        [stats] = await store.stats()
        assert (4, 0, 0, ()) == (stats.length, stats.scheduled, stats.dead, stats.groups)
        assert [1, 2, 3, 4] == numbers(await store.scan(STREAM))
        assert {"n": b"1"} == await store.notes(STREAM)
        assert [] == await store.remembered(STREAM)
        await store.join(STREAM, GROUP)
        assert [] == await store.pending(STREAM, GROUP)
        assert [] == await store.remembered(STREAM, group=GROUP)

    async def test_a_drop_leaves_nothing_and_other_streams_alone(self, store: Store) -> None:
        await begun(store, A, 2)
        await store.set_note(STREAM, "n", b"1")
        await store.append("other", orders(7))

        assert await store.drop(STREAM)
        assert await store.drop("unknown")

        assert ["other"] == [stats.stream for stats in await store.stats()]
        assert {} == await store.notes(STREAM)
        assert [7] == numbers(await store.scan("other"))


async def _items(store: Store) -> list[StreamItem]:
    """All of the stream, as `restore` takes it."""
    items: list[StreamItem] = [*await store.scan(STREAM), *await store.dead_letters(STREAM)]
    [stats] = await store.stats([STREAM])
    for group in stats.groups:
        items.append(GroupCursor(group.group, group.position))
        items += [GroupPending(group.group, pending) for pending in await store.pending(STREAM, group.group)]
        items += await store.remembered(STREAM, group=group.group)
    return [*items, *await store.scheduled(STREAM), *await store.remembered(STREAM)]


def _lasting(items: list[StreamItem]) -> list[StreamItem]:
    """The items with their times from now rounded to minutes."""
    lasting: list[StreamItem] = []
    for item in items:
        match item:
            case GroupPending(group=group, pending=pending):
                times = {name: seconds and round(seconds / 60) for name, seconds in _times(pending).items()}
                lasting.append(GroupPending(group, msgspec.structs.replace(pending, **times)))
            case Scheduled():
                lasting.append(msgspec.structs.replace(item, id="", delay=round(item.delay / 60)))
            case RememberedId():
                lasting.append(msgspec.structs.replace(item, expires_in=round(item.expires_in / 60)))
            case Entry():
                lasting.append(msgspec.structs.replace(item, appended=round(item.appended)))
            case _:
                lasting.append(item)
    return lasting


def _times(pending: Pending) -> dict[str, float | None]:
    return {"idle": pending.idle, "due": pending.due}


def _counts(stats: object) -> object:
    found = msgspec.to_builtins(stats)
    for group in found["groups"]:
        del group["oldest"], group["consumers"]
    return found

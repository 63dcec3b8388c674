"""A store copied into another holds the same; what would mix or lose something is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Literal, get_args

import msgspec
import pytest

from forebay.errors import NotFound, OutcomeUnknown, StoreUnavailable, TransferRefused
from forebay.event import Foreign, Record
from forebay.store import Reader, Store
from forebay.stores.memory import MemoryStore
from forebay.stores.redis import RedisStore
from forebay.stores.sqlite import SQLiteStore
from forebay.testing import eventually
from forebay.testing.faulty import FaultyStore
from forebay.transfer import copy, verify
from tests.support.contents import HOUR, STREAM, contents, fill, order
from tests.support.redis_servers import Server, binaries

ORIGIN = "sqlite:///old.db"
BILLING = Reader(STREAM, "billing", "billing-1")

Kind = Literal["memory", "sqlite", "redis"]
Open = Callable[[Kind], AbstractAsyncContextManager[Store]]


@pytest.fixture
def new_store(tmp_path: Path, servers: dict[str, Server], namespace: str) -> Callable[[Kind], Store]:
    """Makes empty stores, not opened yet."""
    made: list[Kind] = []

    def new(kind: Kind) -> Store:
        made.append(kind)
        match kind:
            case "memory":
                return MemoryStore()
            case "sqlite":
                return SQLiteStore(tmp_path / f"{len(made)}.db", synchronous="normal")
            case "redis":
                return RedisStore(servers[binaries()[0]].url, namespace=f"{namespace}-{len(made)}")

    return new


@pytest.fixture
async def source() -> AsyncIterator[MemoryStore]:
    async with MemoryStore() as store:
        await fill(store, events=100, pending=10, dead=6)
        yield store


@pytest.fixture
async def target() -> AsyncIterator[MemoryStore]:
    async with MemoryStore() as store:
        yield store


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a stream of millions would go."""
    monkeypatch.setattr("forebay.transfer.pages.FIRST_PAGE_ITEMS", 2)
    monkeypatch.setattr("forebay.transfer.pages.PAGE_ITEMS", 7)
    monkeypatch.setattr("forebay.transfer.marks.MARKS_PER_NOTE", 3)


@pytest.mark.parametrize("onto", get_args(Kind))
@pytest.mark.parametrize("kind", get_args(Kind))
async def test_a_copy_holds_the_same_on_any_two_kinds_of_store(
    new_store: Callable[[Kind], Store], kind: Kind, onto: Kind
) -> None:
    async with new_store(kind) as source, new_store(onto) as target:
        await fill(source, events=1500, pending=40, dead=20)

        copied = await copy(source, target, origin=ORIGIN)

        assert await contents(source) == await contents(target)
        assert [] == [each for each in await verify(source, target) if each.different]
        assert (["order_paid", STREAM], False) == ([stats.stream for stats in copied.streams], copied.already)


@pytest.mark.parametrize("kind", get_args(Kind))
async def test_positions_stay_on_stores_of_one_kind(new_store: Callable[[Kind], Store], kind: Kind) -> None:
    async with new_store(kind) as source, new_store(kind) as target:
        await fill(source, events=30, pending=4, dead=2)

        await copy(source, target, origin=ORIGIN)

        assert await source.scan(STREAM, limit=100) == await target.scan(STREAM, limit=100)
        assert await source.dead_letters(STREAM) == await target.dead_letters(STREAM)


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_whatever_move_a_copy_ends_at_the_next_one_brings_it_to_its_end(
    new_store: Callable[[Kind], Store], source: MemoryStore, kind: Kind
) -> None:
    wanted = await contents(source)
    moves = ends = 0
    for move in ("set_note", "restore", "drop"):
        while True:
            async with new_store(kind) as target:
                broken = FaultyStore(target)
                broken.delay(move, 0.0, times=moves)
                # Half of them happen, and their answers are lost.
                (broken.fail_after if moves % 2 else broken.fail_before)(move, OutcomeUnknown("killed"))
                try:
                    await copy(source, broken, origin=ORIGIN)
                    moves = 0
                    break
                except OutcomeUnknown:
                    ends += 1

                await copy(source, target, origin=ORIGIN)

                assert wanted == await contents(target), f"after {move} {moves}"
                moves += 1
    assert ends > 30


async def test_a_target_that_is_not_empty_is_left_alone(source: MemoryStore, target: MemoryStore) -> None:
    await target.append("other", [order(1)])
    before = await contents(target)

    with pytest.raises(TransferRefused, match="not empty, it has other"):
        await copy(source, target, origin=ORIGIN)

    assert before == await contents(target)


async def test_a_source_without_streams_is_an_error(target: MemoryStore) -> None:
    async with MemoryStore() as empty:
        with pytest.raises(NotFound, match="nothing to copy"):
            await copy(empty, target, origin=ORIGIN)


async def test_a_dry_run_changes_nothing(source: MemoryStore, target: MemoryStore) -> None:
    copied = await copy(source, target, origin=ORIGIN, dry_run=True)

    assert 2 == len(copied.streams)
    assert {} == await contents(target)
    assert {} == await target.notes("forebay.copy")


async def test_a_second_copy_of_an_unchanged_source_does_nothing(source: MemoryStore, target: MemoryStore) -> None:
    await copy(source, target, origin=ORIGIN)
    await target.append(STREAM, [order(1)])
    in_use = await contents(target)

    copied = await copy(source, target, origin=ORIGIN)

    assert copied.already
    assert in_use == await contents(target)


async def test_a_source_that_changed_after_its_copy_is_not_copied_over_a_target_in_use(
    source: MemoryStore, target: MemoryStore
) -> None:
    await copy(source, target, origin=ORIGIN)
    before = await contents(target)
    await source.append(STREAM, [order(1)])

    with pytest.raises(TransferRefused, match="was copied already and has changed since"):
        await copy(source, target, origin=ORIGIN)

    assert before == await contents(target)


async def test_a_target_with_an_unfinished_copy_of_another_source_is_left_alone(
    source: MemoryStore, target: MemoryStore
) -> None:
    broken = FaultyStore(target)
    broken.fail_after("restore")
    with pytest.raises(OutcomeUnknown):
        await copy(source, broken, origin=ORIGIN)

    with pytest.raises(TransferRefused, match=f"an unfinished copy of {ORIGIN}, begun 20"):
        await copy(source, target, origin="redis://localhost:6379/0")


async def test_a_source_that_changes_meanwhile_is_refused_and_the_next_run_goes_on(
    source: MemoryStore, target: MemoryStore
) -> None:
    slow = FaultyStore(target)
    slow.delay("drop", 0.2)
    copying = asyncio.create_task(copy(source, slow, origin=ORIGIN))
    await eventually(lambda: slow.calls["drop"], within=20)
    await source.append(STREAM, [order(1)])

    with pytest.raises(TransferRefused, match=f"the source was changed while it was copied \\({STREAM}\\): stop"):
        await copying
    await copy(source, target, origin=ORIGIN)

    assert await contents(source) == await contents(target)


async def test_a_copy_that_follows_copies_new_events_until_the_switch(source: MemoryStore, target: MemoryStore) -> None:
    switch = asyncio.Event()
    copying = asyncio.create_task(copy(source, target, origin=ORIGIN, switch=switch))
    for number in range(3):
        await source.append(STREAM, [order(number)])
        await source.append(f"new_{number}", [order(number)])
        await eventually(lambda number=number: target.stats([f"new_{number}"]), within=20)
    await source.ack(await source.read(BILLING, limit=5))

    switch.set()
    await copying

    assert await contents(source) == await contents(target)


async def test_a_consumer_that_runs_during_the_switch_is_reported(source: MemoryStore, target: MemoryStore) -> None:
    slow = FaultyStore(target)
    slow.delay("drop", 0.2)
    switch = asyncio.Event()
    switch.set()
    copying = asyncio.create_task(copy(source, slow, origin=ORIGIN, switch=switch))
    await eventually(lambda: slow.calls["drop"], within=20)
    await source.read(BILLING, limit=1)

    with pytest.raises(TransferRefused, match="stop its publishers and consumers"):
        await copying


async def test_of_two_copies_at_once_the_later_one_wins_and_the_other_writes_no_more(
    source: MemoryStore, target: MemoryStore
) -> None:
    slow = FaultyStore(target)
    slow.delay("restore", 0.5)
    first = asyncio.create_task(copy(source, slow, origin=ORIGIN))
    await eventually(lambda: slow.calls["restore"], within=20)

    await copy(source, target, origin=ORIGIN)

    with pytest.raises(TransferRefused, match="taken over"):
        await first
    assert await contents(source) == await contents(target)


async def test_another_writer_in_the_target_is_noticed(source: MemoryStore, target: MemoryStore) -> None:
    slow = FaultyStore(target)
    slow.delay("stats", 0.0, times=3)
    slow.delay("stats", 0.3)
    copying = asyncio.create_task(copy(source, slow, origin=ORIGIN))
    await eventually(lambda: slow.calls["stats"] == 4, within=20)
    for stream in (STREAM, "order_paid"):
        await target.join(stream, "a_new_group")

    with pytest.raises(TransferRefused, match="changed in the target"):
        await copying


async def test_a_target_that_was_emptied_by_hand_half_way_is_refused(source: MemoryStore, target: MemoryStore) -> None:
    broken = FaultyStore(target)
    broken.fail_before("drop")
    with pytest.raises(StoreUnavailable):
        await copy(source, broken, origin=ORIGIN)
    await target.trim(STREAM, max_length=0, force=True)

    with pytest.raises(TransferRefused, match=f"{STREAM} was changed in the target.*left 102 events and finds 0"):
        await copy(source, target, origin=ORIGIN)


@pytest.mark.parametrize(
    ("move", "times"), [("set_note", 0), ("set_note", 1), ("restore", 0), ("drop", 0), ("drop", 1)]
)
async def test_a_copy_that_slept_while_another_one_finished_touches_nothing(
    source: MemoryStore, target: MemoryStore, move: Literal["set_note", "restore", "drop"], times: int
) -> None:
    slow = FaultyStore(target)
    slow.delay(move, 0.0, times=times)
    slow.delay(move, 0.3)
    first = asyncio.create_task(copy(source, slow, origin=ORIGIN))
    await eventually(lambda: slow.calls[move] == times + 1, within=20)
    await copy(source, target, origin=ORIGIN)
    await target.append(STREAM, [order(1)])
    in_use = await contents(target)

    with pytest.raises(TransferRefused, match="taken over"):
        await first

    # All it may leave is the note that it had come.
    await target.set_note("order_paid", "forebay.copy.run", None)
    assert in_use == await contents(target)


@pytest.mark.parametrize("onto", ["sqlite", "redis"])
async def test_entries_trimmed_unread_are_not_delivered(
    new_store: Callable[[Kind], Store], source: MemoryStore, onto: Kind
) -> None:
    await source.trim(STREAM, max_length=60, force=True)

    async with new_store(onto) as target:
        await copy(source, target, origin=ORIGIN)

        assert [] == [each for each in await verify(source, target) if each.different]
        assert 60 == len(await target.scan(STREAM, limit=100))
        left = [each for each in await source.pending(STREAM, "billing") if int(each.position) > 42]
        assert len(left) == len(await target.pending(STREAM, "billing"))


@pytest.mark.parametrize("onto", get_args(Kind))
async def test_notes_that_stand_alone_come_over(
    new_store: Callable[[Kind], Store], source: MemoryStore, onto: Kind
) -> None:
    await source.set_note("an.agent", "state: last", b"7")

    async with new_store(onto) as target:
        await copy(source, target, origin=ORIGIN)

        assert {"state: last": b"7"} == await target.notes("an.agent")
        assert [] == [each for each in await verify(source, target) if each.different]
        await target.set_note("an.agent", "state: last", b"8")
        assert [("an.agent", ("notes",))] == [
            (each.stream, each.different) for each in await verify(source, target) if each.different
        ]


async def test_a_target_with_nothing_but_notes_is_left_alone(source: MemoryStore, target: MemoryStore) -> None:
    await target.set_note("an.agent", "state: last", b"7")

    with pytest.raises(TransferRefused, match=r"not empty, it has an\.agent"):
        await copy(source, target, origin=ORIGIN)

    assert {"state: last": b"7"} == await target.notes("an.agent")


async def test_the_lag_of_a_group_is_known_after_a_copy(new_store: Callable[[Kind], Store]) -> None:
    async with new_store("sqlite") as source, new_store("redis") as target:
        # More than a server that keeps no lag is made to count.
        await source.append(STREAM, [order(number) for number in range(12_000)])
        await source.join(STREAM, "audit")
        [second] = (await source.scan(STREAM, limit=2))[1:]
        await source.join(STREAM, "billing", start=second.position)
        await source.trim(STREAM, max_length=11_500, force=True)

        await copy(source, target, origin=ORIGIN)

        [stats] = await target.stats()
        assert [("audit", 11_500), ("billing", 11_500)] == [(group.group, group.lag) for group in stats.groups]
        await target.read(BILLING, limit=400)
        [stats] = await target.stats()
        assert [11_500, 11_100] == [group.lag for group in stats.groups]


async def test_an_event_that_is_named_by_its_position_keeps_its_name(
    new_store: Callable[[Kind], Store], servers: dict[str, Server]
) -> None:
    fields = {"type": "t", "source": "s", "data": "1", "timestamp": "2026-01-01T00:00:00Z"}
    async with new_store("redis") as source, new_store("sqlite") as target:
        assert isinstance(source, RedisStore)
        key = f"{source._namespace.name}:t"
        position = servers[binaries()[0]].redis.xadd(key, fields).decode()

        await copy(source, target, origin=ORIGIN)

        [entry] = await target.scan("t")
        assert isinstance(entry.record, Record)
        assert position == entry.record.id
        assert [] == [each for each in await verify(source, target) if each.different]


async def test_an_entry_that_is_not_an_event_is_copied_byte_for_byte(
    new_store: Callable[[Kind], Store], servers: dict[str, Server]
) -> None:
    fields = ((b"a", b"\xff"), (b"\x00", b""), (b"a", b"again"))
    async with new_store("redis") as source, new_store("sqlite") as between, new_store("redis") as target:
        assert isinstance(source, RedisStore)
        parts = [part for pair in fields for part in pair]
        servers[binaries()[0]].redis.execute_command("XADD", f"{source._namespace.name}:{STREAM}", "*", *parts)
        await source.join(STREAM, "billing")
        [held] = await source.read(BILLING, limit=1)
        await source.dead_letter(held, reason="no event")

        await copy(source, between, origin=ORIGIN)
        await copy(between, target, origin=ORIGIN)

        assert [Foreign(fields)] == [entry.record for entry in await target.scan(STREAM)]
        assert [Foreign(fields)] == [letter.record for letter in await target.dead_letters(STREAM)]


async def test_events_as_large_as_they_may_be_come_over(new_store: Callable[[Kind], Store]) -> None:
    large = [msgspec.structs.replace(order(n), data=b'"' + b"x" * 1_000_000 + b'"') for n in range(25)]
    async with new_store("sqlite") as source, new_store("redis") as target:
        await source.append(STREAM, large)

        await copy(source, target, origin=ORIGIN)

        assert large == [entry.record for entry in await target.scan(STREAM)]


async def test_verify_reports_differences(source: MemoryStore) -> None:
    for part, change in _CHANGES.items():
        async with AsyncExitStack() as stack:
            target = await stack.enter_async_context(MemoryStore())
            await copy(source, target, origin=ORIGIN)
            assert [(), ()] == [each.different for each in await verify(source, target)]

            await change(target)

            found = {each.stream: each.different for each in await verify(source, target)}
            assert part in found[STREAM], part
            assert () == found["order_paid"]


async def _ack_one(store: Store) -> None:
    [pending, *_] = [each for each in await store.pending(STREAM, "mail") if each.consumer]
    [delivery] = await store.claim(Reader(STREAM, "mail", "other"), idle=0.0)
    assert pending.position == delivery.position
    await store.ack([delivery])


async def _discard_one(store: Store) -> None:
    await store.discard(STREAM, [letter.id for letter in await store.dead_letters(STREAM, limit=1)])


async def _append_one(store: Store) -> None:
    await store.append(STREAM, [order(1)])


async def _schedule_one(store: Store) -> None:
    await store.schedule(STREAM, [order(1)], delay=HOUR)


async def _seek_one(store: Store) -> None:
    [first] = await store.scan(STREAM, limit=1)
    await store.seek(STREAM, "audit", first.position)


async def _note_one(store: Store) -> None:
    await store.set_note(STREAM, "retention", b"")


async def _remember_one(store: Store) -> None:
    await store.append(STREAM, [order(1, id="only here")], dedup_window=HOUR)


_CHANGES = {
    "pending": _ack_one,
    "dead": _discard_one,
    "events": _append_one,
    "scheduled": _schedule_one,
    "groups": _seek_one,
    "notes": _note_one,
    "remembered": _remember_one,
}

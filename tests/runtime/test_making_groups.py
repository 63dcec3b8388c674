"""A consumer makes its group once, and makes it again after the store has lost it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from forebay import StoreUnavailable
from forebay.event import Record, to_record
from forebay.runtime import GroupMaker
from forebay.runtime.groups import ConsumerStore
from forebay.signals import GroupCreated, Signals, TrimmedUnread
from forebay.store import Reader, StreamStats
from forebay.stores.memory import MemoryStore
from forebay.testing import FaultyStore

READER = Reader("t", "g", "c")


class Store(MemoryStore):
    """A memory store that counts its statistics, which may be out of reach."""

    statistics = 0
    is_out = False

    async def stats(self, streams: Sequence[str] | None = None) -> list[StreamStats]:
        self.statistics += 1
        if self.is_out:
            raise StoreUnavailable("the server is gone")
        return await super().stats(streams)


def records(count: int) -> list[Record]:
    return [to_record("t", source="s", data=number) for number in range(count)]


def maker(store: ConsumerStore, start: Any = "earliest", **options: bool) -> tuple[GroupMaker, list[object]]:
    signals, heard = Signals(), list[object]()
    signals.listen(heard.append, GroupCreated, TrimmedUnread)
    return GroupMaker(store, "t", "g", start, signals, **options), heard


@pytest.mark.parametrize(
    ("start", "expected"), [("earliest", "0"), ("latest", "3"), ("2", "2"), ("9", "3"), ("hour", "3")]
)
async def test_a_new_group_begins_at_the_requested_position(start: str, expected: str) -> None:
    store = MemoryStore()
    await store.append("t", records(3))
    place = datetime.now().astimezone() + timedelta(hours=1) if start == "hour" else start

    position = await maker(store, place)[0].join()

    await store.append("t", records(1))
    assert position == expected
    assert len(await store.read(READER, limit=9)) == 4 - int(expected)


async def test_a_group_that_exists_is_left_as_it_is() -> None:
    store = Store()
    await store.join("t", "g")
    member, heard = maker(store, is_implicit=True)

    assert await member.join() is None

    assert heard == []
    assert store.statistics == 0


async def test_the_history_of_a_group_is_counted_only_if_its_name_was_chosen_for_it() -> None:
    store = Store()
    await store.append("t", records(3))

    member, heard = maker(store)
    await member.join()
    assert heard == [GroupCreated("t", "g", recreated=False)]
    assert store.statistics == 0

    await store.leave("t", "g")
    member, heard = maker(store, is_implicit=True)
    await member.join()
    assert heard == [GroupCreated("t", "g", recreated=False, history=3)]


async def test_a_history_that_cannot_be_counted_now_does_not_keep_the_group_from_beginning() -> None:
    store = Store()
    store.is_out = True
    member, heard = maker(store, is_implicit=True)

    assert await member.join() == "0"
    assert heard == [GroupCreated("t", "g", recreated=False)]


@pytest.mark.parametrize(("position", "expected"), [("2", "2"), ("0", "0"), ("7", "0")])
async def test_a_lost_group_continues_at_its_position_if_the_entries_still_exist(position: str, expected: str) -> None:
    store = MemoryStore()
    await store.append("t", records(3))
    member, heard = maker(store, "latest")

    assert await member.rejoin(position) == expected

    assert heard == [GroupCreated("t", "g", recreated=True)]
    assert len(await store.read(READER, limit=9)) == 3 - int(expected)


async def test_an_existing_group_keeps_its_position() -> None:
    store = MemoryStore()
    await store.append("t", records(3))
    member, heard = maker(store)
    await member.join()

    assert await member.rejoin("2") is None

    assert [GroupCreated("t", "g", recreated=False)] == heard
    assert len(await store.read(READER, limit=9)) == 3


async def test_latest_means_the_end_at_the_first_try_to_join() -> None:
    store = MemoryStore()
    await store.append("t", records(3))
    faulty = FaultyStore(store)
    member, _ = maker(faulty, "latest")
    faulty.fail_before("join")
    with pytest.raises(StoreUnavailable):
        await member.join()
    await store.append("t", records(1))

    await member.join()

    assert 1 == len(await store.read(READER, limit=9))


async def test_entries_that_were_trimmed_unread_are_reported_once() -> None:
    store = MemoryStore()
    await store.append("t", records(3))
    member, heard = maker(store)
    await member.join()
    await store.trim("t", max_length=1, force=True)

    await member.report_trimmed()
    await member.report_trimmed()

    assert heard[1:] == [TrimmedUnread("t", "g", 2)]

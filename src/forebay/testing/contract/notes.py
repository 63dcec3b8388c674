"""The promises of `Notes`: small values beside a stream, changed only if they are as expected."""

from __future__ import annotations

import asyncio

from forebay.store import Store
from forebay.testing.contract.base import STREAM, Contract, orders


class NotesContract(Contract):
    """Notes."""

    async def test_a_note_is_kept_replaced_and_removed(self, store: Store, other: Store) -> None:
        assert {} == await store.notes(STREAM)

        assert await store.set_note(STREAM, "retention", b"1")
        assert await store.set_note(STREAM, "switch: billing", b"\xff\x00")
        assert {"retention": b"1", "switch: billing": b"\xff\x00"} == await other.notes(STREAM)

        assert await other.set_note(STREAM, "retention", b"")
        assert await other.set_note(STREAM, "switch: billing", None)
        assert {"retention": b""} == await store.notes(STREAM)
        await store.set_note(STREAM, "retention", None)
        assert [] == await store.streams_with_notes()

    async def test_a_note_that_is_not_as_expected_stays_as_it_is(self, store: Store) -> None:
        assert not await store.set_note(STREAM, "switch", b"new", expected=b"old")
        assert await store.set_note(STREAM, "switch", b"old", expected=None)
        assert not await store.set_note(STREAM, "switch", b"mine", expected=None)
        assert not await store.set_note(STREAM, "switch", None, expected=b"mine")
        assert not await store.set_note(STREAM, "switch", None, expected=b"")
        assert {"switch": b"old"} == await store.notes(STREAM)

        assert await store.set_note(STREAM, "switch", b"new", expected=b"old")
        assert await store.set_note(STREAM, "switch", None, expected=b"new")
        assert {} == await store.notes(STREAM)

    async def test_single_notes_are_read_by_their_names(self, store: Store) -> None:
        for name in ("a", "b", "c d: e"):
            await store.set_note(STREAM, name, name.encode())

        assert {"a": b"a", "c d: e": b"c d: e"} == await store.notes(STREAM, names=["a", "c d: e", "unknown"])
        assert {} == await store.notes(STREAM, names=[])
        assert {} == await store.notes("unknown", names=["a"])

    async def test_of_many_changes_that_expect_the_same_value_one_is_made(self, store: Store, other: Store) -> None:
        tries = [
            each.set_note(STREAM, "leader", f"{n}".encode(), expected=None)
            for n in range(10)
            for each in (store, other)
        ]

        assert 1 == sum(await asyncio.gather(*tries))

    async def test_notes_belong_to_one_stream_and_make_none(self, store: Store) -> None:
        await store.set_note(STREAM, "a", b"1")
        await store.append("other", orders(1))

        assert {} == await store.notes("other")
        assert [STREAM] == await store.streams_with_notes()
        assert ["other"] == [stats.stream for stats in await store.stats()]

"""The promise about names that do not exist, and names that are not valid: one answer for each move, in every store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import msgspec
import pytest

from forebay.errors import ConfigurationError, NotFound
from forebay.store import END, START, Delivery, GroupCursor, Reader, Store, Trimmed
from forebay.testing.contract.base import GROUP, STREAM, A, Contract, begun, order, orders

Move = Callable[[Store, Delivery], Awaitable[object]]
"""A move for the stream, group and consumer of a delivery; its position is one that the store has."""

NEEDS_GROUP: dict[str, Move] = {
    "read": lambda store, d: store.read(d.reader, limit=1),
    "read with wait": lambda store, d: store.read(d.reader, limit=1, wait=0.01),
    "read in order": lambda store, d: store.read(msgspec.structs.replace(d.reader, ordered=True), limit=1),
    "take_due": lambda store, d: store.take_due(d.reader, limit=1),
    "take_due in order": lambda store, d: store.take_due(msgspec.structs.replace(d.reader, ordered=True), limit=1),
    "claim": lambda store, d: store.claim(d.reader, idle=0.0),
    "claim in order": lambda store, d: store.claim(msgspec.structs.replace(d.reader, ordered=True), idle=0.0),
    "extend": lambda store, d: store.extend([d]),
    "retry": lambda store, d: store.retry(d, delay=0.0),
    "retry and keep": lambda store, d: store.retry(d, delay=0.0, keep=True),
    "dead_letter": lambda store, d: store.dead_letter(d, reason="no"),
    "seek": lambda store, d: store.seek(d.reader.stream, d.reader.group, START),
    "seek the end": lambda store, d: store.seek(d.reader.stream, d.reader.group, END),
}
"""These raise `NotFound`."""

FINDS_NOTHING: dict[str, tuple[Move, object]] = {
    "ack": (lambda store, d: store.ack([d]), 0),
    "ack and remember": (lambda store, d: store.ack([d], remember=60), 0),
    "release": (lambda store, d: store.release([d]), 0),
    "leave": (lambda store, d: store.leave(d.reader.stream, d.reader.group), None),
    "trimmed_unread": (lambda store, d: store.trimmed_unread(d.reader.stream, d.reader.group), None),
    "pending": (lambda store, d: store.pending(d.reader.stream, d.reader.group), []),
    "handled": (lambda store, d: store.handled(d.reader.stream, d.reader.group, ["a"]), set()),
    "dead_letters of a group": (lambda store, d: store.dead_letters(d.reader.stream, group=d.reader.group), []),
    "remembered by a group": (lambda store, d: store.remembered(d.reader.stream, group=d.reader.group), []),
    "outlook": (lambda store, d: store.outlook([d.reader]), [None]),
}
"""These give or show nothing if the group does not exist."""

OF_STREAMS: dict[str, tuple[Move, object]] = {
    "append nothing": (lambda store, d: store.append(d.reader.stream, []), []),
    "append_due": (lambda store, d: store.append_due(d.reader.stream), 0),
    "scan": (lambda store, d: store.scan(d.reader.stream), []),
    "locate": (lambda store, d: store.locate(d.reader.stream, datetime.now(UTC)), START),
    "trim": (lambda store, d: store.trim(d.reader.stream, max_length=0, force=True), Trimmed(0, 0)),
    "dead_letters": (lambda store, d: store.dead_letters(d.reader.stream), []),
    "redrive": (lambda store, d: store.redrive(d.reader.stream, [d.position]), 0),
    "discard": (lambda store, d: store.discard(d.reader.stream, [d.position]), 0),
    "stats": (lambda store, d: store.stats([d.reader.stream]), []),
    "groups": (lambda store, d: store.groups(d.reader.stream), []),
    "notes": (lambda store, d: store.notes(d.reader.stream), {}),
    "scheduled": (lambda store, d: store.scheduled(d.reader.stream), []),
    "remembered": (lambda store, d: store.remembered(d.reader.stream), []),
    "drop": (lambda store, d: store.drop(d.reader.stream), True),
}
"""These give or show nothing if the stream does not exist."""

MAKES: dict[str, Move] = {
    "append": lambda store, d: store.append(d.reader.stream, orders(1)),
    "schedule": lambda store, d: store.schedule(d.reader.stream, orders(1), delay=60.0),
    "schedule for a moment": lambda store, d: store.schedule(d.reader.stream, orders(1), at=datetime.now(UTC)),
    "join": lambda store, d: store.join(d.reader.stream, d.reader.group),
    "set_note": lambda store, d: store.set_note(d.reader.stream, "note", b"1"),
    "restore": lambda store, d: store.restore(d.reader.stream, [GroupCursor(d.reader.group, START)]),
    "time": lambda store, d: store.time(d.reader.stream),
}
"""These need nothing to exist."""

EVERY_MOVE: dict[str, Move] = {
    **NEEDS_GROUP,
    **{name: move for name, (move, _) in (FINDS_NOTHING | OF_STREAMS).items()},
    **MAKES,
    "trim past a group": lambda store, d: store.trim(d.reader.stream, max_length=0, ignore_groups=[d.reader.group]),
}
OF_GROUPS = [*NEEDS_GROUP, *FINDS_NOTHING, "join", "restore", "trim past a group"]
OF_CONSUMERS = [
    *(name for name in NEEDS_GROUP if not name.startswith("seek")), "ack", "ack and remember", "release", "outlook",
]  # fmt: skip

INVALID = ("", " ", "a b", "a:b", "{a}", "-a", "ümlaut", "a\n", "a" * 129)


class UnknownNamesContract(Contract):
    """Streams and groups that do not exist, and names that are not valid."""

    @pytest.mark.parametrize("stream", [STREAM, "nothing_here"], ids=["known stream", "unknown stream"])
    async def test_a_move_that_needs_the_group_does_not_find_it(self, store: Store, stream: str) -> None:
        delivery = await _delivery(store, stream)

        for name, move in NEEDS_GROUP.items():
            with pytest.raises(NotFound):
                pytest.fail(f"{name}: {await move(store, delivery)}")

    @pytest.mark.parametrize("stream", [STREAM, "nothing_here"], ids=["known stream", "unknown stream"])
    async def test_a_move_that_gives_something_up_or_asks_finds_nothing(self, store: Store, stream: str) -> None:
        delivery = await _delivery(store, stream)

        found = {name: await move(store, delivery) for name, (move, _) in FINDS_NOTHING.items()}

        assert {name: nothing for name, (_, nothing) in FINDS_NOTHING.items()} == found

    async def test_an_unknown_stream_is_empty_and_is_not_made_by_a_question(self, store: Store) -> None:
        delivery = await _delivery(store, "nothing_here")

        found = {name: await move(store, delivery) for name, (move, _) in OF_STREAMS.items()}

        assert {name: nothing for name, (_, nothing) in OF_STREAMS.items()} == found
        assert [STREAM] == await store.streams()
        assert [] == await store.streams_with_notes()

    async def test_an_extend_of_a_known_and_an_unknown_group_renews_nothing(self, store: Store) -> None:
        [held] = await begun(store, A, 1)
        unknown = msgspec.structs.replace(held, reader=Reader(STREAM, "nobody", "worker-a"))
        [before] = await store.pending(STREAM, GROUP)

        with pytest.raises(NotFound, match="nobody"):
            await store.extend([held, unknown])

        [after] = await store.pending(STREAM, GROUP)
        assert before.idle is not None
        assert after.idle is not None
        assert before.idle <= after.idle

    @pytest.mark.parametrize("part", ["stream", "group", "consumer"])
    async def test_a_name_that_is_not_valid_is_refused_before_anything_is_done(self, store: Store, part: str) -> None:
        [position] = await store.append(STREAM, orders(1))
        moves = {"stream": [*EVERY_MOVE], "group": OF_GROUPS, "consumer": OF_CONSUMERS}[part]

        for invalid in INVALID:
            reader = msgspec.structs.replace(Reader("another", GROUP, "worker-a"), **{part: invalid})
            delivery = Delivery(reader, position, order(1), lease="none")
            for name in moves:
                with pytest.raises(ConfigurationError):
                    pytest.fail(f"{name}, {invalid!r}: {await EVERY_MOVE[name](store, delivery)}")

        assert [STREAM] == await store.streams()
        assert [] == await store.streams_with_notes()


async def _delivery(store: Store, stream: str) -> Delivery:
    """A delivery of an unknown group in the stream, at a position that the store has in another one."""
    [position] = await store.append(STREAM, orders(1))
    return Delivery(Reader(stream, "nobody", "worker-a"), position, order(1), lease="none")

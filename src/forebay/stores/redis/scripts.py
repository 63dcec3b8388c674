"""The scripts as typed functions: each signature is the contract of a script's keys, arguments and reply.

The moves are described at the top of the files in `lua/`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from forebay.clock import boottime
from forebay.stores.redis.client import Client, Script
from forebay.stores.redis.codec import Fields
from forebay.stores.redis.keys import Group, Keys
from forebay.stores.redis.node import Part
from forebay.stores.redis.positions import to_ms

PENDING_PAGE = 1_000
"""Pending entries that one claim looks at."""
SORTED_DUE = 10_000
"""Due entries of an ordered group that the server sorts at most."""
SORTED_WAITING = 5_000
"""Waiting entries that the server sorts for one page of `pending` at most; more would delay all others."""
WAITING_EXAMINED = 100
"""Members of the waiting set among which an ordered read looks for an entry; the others may not be forebay's."""
CHECKPOINT_WAITING = 1_000
"""Waiting entries that a checkpoint looks at most."""
VANISHED_DUE_SECONDS = 30.0
"""Seconds until a waiting entry that has left the stream is due again, unless it is acked."""
WATCHED_SECONDS = 10.0
"""Seconds after which a store that has long watched the clock records that again."""


class Leased(NamedTuple):
    """An entry that a script leased. `fields` is None if it has left the stream; `failure` is packed, or empty."""

    position: bytes
    fields: Fields | None
    number: int
    attempt: int
    failures: int
    failure: bytes


class Claimed(NamedTuple):
    """The reply of a claim: where the next one goes on, and the entries from other consumers and from their wait."""

    cursor: str
    leased: list[Leased]
    waited: list[Leased]


class PendingRow(NamedTuple):
    """A pending entry. `moment` is ms: since its lease, if it has a consumer, or until it is due."""

    position: bytes
    consumer: bytes | None
    attempt: int
    failures: int
    moment: int
    failure: bytes


class GroupOutlook(NamedTuple):
    """The outlook of a reader's group, in ms from now. The last three change as the group makes progress."""

    waiting: int | None
    leased: int
    unread: int
    delivered: bytes
    pending: int
    waits: int


class StreamOutlook(NamedTuple):
    """The outlook of a stream, in ms from now, and of the readers that were asked for, in their order."""

    scheduled: float | None
    groups: list[GroupOutlook | None]


# Streams.

_APPEND = Script("append")
_SCHEDULE = Script("schedule", timed=True)
_APPEND_DUE = Script("append_due", timed=True)
_TRIM = Script("trim")


async def append(
    client: Client, keys: Keys, packed: Sequence[Part], *, dedup_window: float | None, search_after: str | None
) -> list[bytes]:
    """Append packed records, all or none; their positions."""
    positions: list[bytes] = await client.run(
        _APPEND,
        (keys.stream, keys.ids, keys.ids_expiry),
        _optional_ms(dedup_window),
        "" if search_after is None else search_after,
        *packed,
    )
    return positions


async def schedule(
    client: Client,
    keys: Keys,
    packed: Sequence[Part],
    *,
    delay: float,
    moment: float | None,
    dedup_window: float | None,
) -> None:
    """Keep packed records until they are due: after a delay, or at a moment of Unix time."""
    await client.run_watched(
        _SCHEDULE,
        keys.clock,
        (keys.stream, keys.scheduled, keys.moments, keys.ids, keys.ids_expiry),
        to_ms(delay),
        _optional_ms(moment),
        _optional_ms(dedup_window),
        *packed,
    )


async def append_due(client: Client, keys: Keys, *, limit: int) -> tuple[int, int]:
    """Append scheduled events that are due; their number, and that of members that were put aside."""
    appended, aside = await client.run_watched(
        _APPEND_DUE,
        keys.clock,
        (keys.stream, keys.scheduled, keys.moments, keys.ids, keys.dead_letter),
        limit,
    )
    return appended, aside


async def trim(
    client: Client,
    keys: Keys,
    *,
    max_length: int | None,
    max_age: float | None,
    force: bool,
    limit: int,
    ignore_groups: Collection[str],
) -> tuple[int, int]:
    """Remove at most `limit` of the oldest entries; their number, and how many a group had not finished."""
    removed, dropped = await client.run(
        _TRIM,
        (keys.stream,),
        "" if max_length is None else max_length,
        _optional_ms(max_age),
        int(force),
        limit,
        *ignore_groups,
    )
    return removed, dropped


# Groups.

_JOIN = Script("join")
_SEEK = Script("seek")
_LEAVE = Script("leave")
_TRIMMED_UNREAD = Script("trimmed_unread")
_CHECKPOINT = Script("checkpoint")
_REMOVE_IDLE_CONSUMERS = Script("remove_idle_consumers")
_OUTLOOK = Script("outlook")


async def join(client: Client, group: Group, start: str) -> bool:
    """Make the group at a full position, or END; False if it exists."""
    keys = (group.keys.stream, group.finished, group.waiting, group.attempts, group.progress)
    return bool(await client.run(_JOIN, keys, group.name, start))


async def seek(client: Client, group: Group, to: str) -> None:
    """Move the group to a full position, or END."""
    keys = (group.keys.stream, group.waiting, group.attempts, group.finished, group.progress)
    await client.run(_SEEK, keys, group.name, to)


async def leave(client: Client, group: Group) -> None:
    """Remove the group."""
    keys = (group.keys.stream, group.waiting, group.attempts, group.handled, group.finished, group.progress)
    await client.run(_LEAVE, keys, group.name)


async def trimmed_unread(client: Client, group: Group) -> int | None:
    """The number of entries that were removed unread; None if it is unknown."""
    count: int | None = await client.run(
        _TRIMMED_UNREAD, (group.keys.stream, group.waiting, group.progress), group.name
    )
    return count


async def checkpoint(client: Client, group: Group) -> None:
    """Note up to which position the group has finished everything."""
    await client.run(_CHECKPOINT, (group.keys.stream, group.waiting, group.finished), group.name, CHECKPOINT_WAITING)


async def remove_idle_consumers(client: Client, group: Group, *, idle: float) -> None:
    """Remove the group's consumers that hold nothing and have been idle for so many seconds."""
    await client.run(_REMOVE_IDLE_CONSUMERS, (group.keys.stream,), group.name, to_ms(idle))


async def outlook(client: Client, streams: Mapping[Keys, Sequence[tuple[Group, str]]]) -> list[StreamOutlook]:
    """The outlook of streams on one node, and of the groups and consumers of each."""
    keys: list[str] = []
    arguments: list[Part] = []
    paces = [client.pace(stream.clock) for stream in streams]
    for pace, (stream, readers) in zip(paces, streams.items(), strict=True):
        keys += (stream.stream, stream.scheduled, stream.moments, stream.clock)
        arguments += (*pace.bounds(), len(readers))
        for group, consumer in readers:
            keys.append(group.waiting)
            arguments += (group.name, consumer)
    sent = boottime()
    reply: list[list[Any]] = await client.run(_OUTLOOK, keys, *arguments)
    received = boottime()
    found = []
    for pace, stream, (shown, offset, scheduled, *groups) in zip(paces, streams, reply, strict=True):
        if step := pace.look(shown, int(offset), sent, received):
            await client.correct(pace, stream.stream, step)
        found.append(StreamOutlook(scheduled, [each and GroupOutlook(*each) for each in groups]))
    return found


# Leases.

_READ_ORDERED = Script("read_ordered")
_TAKE_DUE = Script("take_due", timed=True)
_CLAIM = Script("claim", timed=True)
_EXTEND = Script("extend")
_ACK = Script("ack")
_HANDLED = Script("handled")
_RETRY = Script("retry", timed=True)
_RELEASE = Script("release", timed=True)
_DEAD_LETTER = Script("dead_letter")


async def read_ordered(client: Client, groups: Sequence[Group], consumer: str, *, limit: int) -> Any:
    """Lease unread entries of each group that is free, in order; a reply as of XREADGROUP."""
    keys = [key for group in groups for key in (group.keys.stream, group.waiting)]
    return await client.run(_READ_ORDERED, keys, groups[0].name, consumer, limit, WAITING_EXAMINED)


async def take_due(client: Client, group: Group, consumer: str, *, limit: int, ordered: bool) -> list[Leased]:
    """Lease waiting entries that are due."""
    keys = (group.keys.stream, group.waiting, group.attempts, group.keys.dead_letter)
    policy = (int(ordered), SORTED_DUE, to_ms(VANISHED_DUE_SECONDS))
    [rows] = await client.run_watched(_TAKE_DUE, group.keys.clock, keys, group.name, consumer, limit, *policy)
    return [Leased(*row) for row in rows]


async def claim(
    client: Client, group: Group, consumer: str, *, idle: float, limit: int, ordered: bool, cursor: str
) -> Claimed:
    """Take over entries that were idle for so many seconds."""
    clock = group.keys.clock
    next_cursor, leased, waited = await client.run_watched(
        _CLAIM,
        clock,
        (group.keys.stream, group.attempts, group.waiting),
        group.name,
        consumer,
        to_ms(idle),
        limit,
        cursor,
        PENDING_PAGE,
        int(ordered),
        SORTED_DUE,
        to_ms(VANISHED_DUE_SECONDS),
        client.pace(clock).trust(idle),
        to_ms(WATCHED_SECONDS),
    )
    return Claimed(next_cursor.decode(), [Leased(*row) for row in leased], [Leased(*row) for row in waited])


async def extend(client: Client, group: Group, consumer: str, leases: Sequence[Part]) -> list[int]:
    """Renew leases, which are given as position and number in turn; 1 or 0 for each: whether it is held."""
    flags: list[int] = await client.run(_EXTEND, (group.keys.stream, group.progress), group.name, consumer, *leases)
    return flags


async def ack(
    client: Client, group: Group, positions: Sequence[Part], *, ids: Sequence[str], remember: float | None
) -> int:
    """Finish entries, and remember the ids for so many seconds; how many entries were pending."""
    count: int = await client.run(
        _ACK,
        (group.keys.stream, group.waiting, group.attempts, group.progress, group.handled),
        group.name,
        _optional_ms(remember),
        len(ids),
        *ids,
        *positions,
    )
    return count


async def handled(client: Client, group: Group, ids: Sequence[str]) -> list[int]:
    """1 or 0 for each id: whether the group remembers it."""
    flags: list[int] = await client.run(_HANDLED, (group.handled,), *ids)
    return flags


async def retry(
    client: Client,
    group: Group,
    consumer: str,
    *,
    position: str,
    number: Part,
    failures: int,
    delay: float,
    keep: bool,
    failure: bytes,
) -> bool:
    """Count a failure, and let the entry wait or keep its lease; False if the lease is lost."""
    keys = (group.keys.stream, group.waiting, group.attempts)
    lease = (group.name, consumer, position, number)
    reply = await client.run_timed(_RETRY, group.keys.clock, keys, *lease, failures, to_ms(delay), int(keep), failure)
    return bool(reply)


async def release(client: Client, group: Group, consumer: str, leases: Sequence[Part]) -> int:
    """Let entries wait, due at once; return how many were held. Each is a position and the number of its lease."""
    keys = (group.keys.stream, group.waiting, group.attempts)
    count: int = await client.run_timed(_RELEASE, group.keys.clock, keys, group.name, consumer, *leases)
    return count


async def dead_letter(
    client: Client,
    group: Group,
    consumer: str,
    *,
    position: str,
    number: Part,
    traceback: bytes,
    reason: bytes,
    moment: str,
    attempts: int | None,
    fields: Sequence[Part],
) -> bool:
    """Move an entry to the dead letters; False if the lease is lost. `fields` are for an entry that left the stream."""
    keys = group.keys
    reply = await client.run(
        _DEAD_LETTER,
        (keys.stream, keys.dead_letter, keys.dead_counts, group.attempts, group.progress),
        group.name,
        consumer,
        position,
        number,
        traceback,
        reason,
        moment,
        "" if attempts is None else attempts,
        *fields,
    )
    return bool(reply)


# Dead letters.

_REDRIVE = Script("redrive")
_DISCARD = Script("discard")
_RECOUNT_DEAD_LETTERS = Script("recount_dead_letters")


async def redrive(client: Client, keys: Keys, ids: Sequence[str]) -> int:
    """Append dead letters again, each for its group; how many there were."""
    count: int = await client.run(_REDRIVE, (keys.stream, keys.dead_letter, keys.dead_counts), *ids)
    return count


async def discard(client: Client, keys: Keys, ids: Sequence[str]) -> int:
    """Remove dead letters; how many there were."""
    companions = (keys.dead_letter, keys.dead_counts, keys.ids, keys.ids_expiry, keys.handled)
    count: int = await client.run(_DISCARD, companions, *ids)
    return count


async def recount_dead_letters(client: Client, keys: Keys, counts: Mapping[bytes, int], *, total: int) -> None:
    """Correct the counts of dead letters, unless their number has changed from `total`."""
    pairs = [part for group, count in counts.items() for part in (group, count)]
    await client.run(_RECOUNT_DEAD_LETTERS, (keys.dead_letter, keys.dead_counts), total, *pairs, "*", total)


# Inspection.

_STATS = Script("stats")
_PENDING = Script("pending", timed=True)


async def stats(client: Client, keys: Keys, *, most: int, recent: float) -> list[Any]:
    """A stream at a glance, as stats.lua returns it."""
    companions = (keys.stream, keys.dead_letter, keys.dead_counts, keys.scheduled, keys.moments)
    reply: list[Any] = await client.run(_STATS, companions, most, to_ms(recent))
    return reply


async def pending(
    client: Client, group: Group, *, after: str, limit: int, waiting: Sequence[str] = ()
) -> list[PendingRow] | None:
    """Pending entries by position; None if too many wait: then the next ones are to be given as `waiting`."""
    keys = (group.keys.stream, group.waiting, group.attempts)
    rows: list[Any] | None = await client.run_timed(
        _PENDING, group.keys.clock, keys, group.name, after, limit, SORTED_WAITING, *waiting
    )
    return None if rows is None else [PendingRow(*row) for row in rows]


# Notes.

_SET_NOTE = Script("set_note")


async def set_note(
    client: Client,
    keys: Keys,
    name: str,
    value: bytes | None,
    *,
    condition: Literal["any", "none", "just"],
    expected: bytes,
) -> bool:
    """Set or remove a note, if it is as expected; else False."""
    change: tuple[Part, ...] = ("remove",) if value is None else ("keep", value)
    return bool(await client.run(_SET_NOTE, (keys.notes,), name, condition, expected, *change))


# Transfer.

_SCHEDULED = Script("scheduled", timed=True)
_REMEMBERED = Script("remembered")
_RESTORE = Script("restore", timed=True)
_DROP = Script("drop")


async def scheduled(
    client: Client, keys: Keys, clock: Literal["now", "wall"], *, after: str, place: str, limit: int
) -> list[tuple[bytes, bytes, int, Fields]]:
    """Scheduled events, by one of the two clocks: time, place, ms until it is due, fields of each."""
    key = keys.scheduled if clock == "now" else keys.moments
    rows: list[tuple[bytes, bytes, int, Fields]] = await client.run_timed(
        _SCHEDULED, keys.clock, (key,), clock, after, place, limit
    )
    return rows


async def remembered(
    client: Client, sets: Sequence[str], *, after: str | bytes, limit: int
) -> list[tuple[bytes, int, bytes | None]]:
    """Remembered ids of a group's set, or of a stream's set and hash: id, ms left and position of each."""
    rows: list[tuple[bytes, int, bytes | None]] = await client.run(_REMEMBERED, sets, after, limit)
    return rows


async def restore(client: Client, keys: Keys, packed: Sequence[Part]) -> list[bytes] | None:
    """Put back packed items; the positions of the entries, or None if notes are not as expected."""
    positions: list[bytes] | None = await client.run_timed(_RESTORE, keys.clock, keys.all, *packed)
    return positions


async def drop(client: Client, keys: Keys, *, keep_entries: bool, expected: Sequence[Part]) -> bool:
    """Remove the stream's keys, or all but its entries and notes; False if notes are not as expected."""
    return bool(await client.run(_DROP, keys.all, int(not keep_entries), *expected))


def _optional_ms(seconds: float | None) -> Part:
    return "" if seconds is None else to_ms(seconds)

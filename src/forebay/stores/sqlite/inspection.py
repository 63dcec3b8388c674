"""The queries: scan, locate, stats, pending, dead letters. Each runs inside a read transaction."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from forebay.payload import is_name
from forebay.store import END, DeadLetter, Entry, GroupStats, Pending, StreamStats
from forebay.stores.sqlite.leases import failure
from forebay.stores.sqlite.log import UNFINISHED
from forebay.stores.sqlite.rows import NAME, as_text, select
from forebay.stores.sqlite.transaction import LAST, Transaction, parse

# Nothing but constants goes into the texts of statements.
# ruff: noqa: S608


def scan(tx: Transaction, stream: str, *, after: str, until: str, limit: int, newest: bool) -> list[Entry]:
    """Entries after `after` up to `until`, oldest first."""
    stream_id = tx.stream(stream)
    if stream_id is None or limit < 1:
        return []
    rows = select(
        tx.connection,
        ["e.seq", "CAST(e.appended AS REAL)"],
        "FROM entries e INDEXED BY entries_by_stream WHERE e.stream_id = ? AND e.seq > ? AND e.seq <= ?"
        f" ORDER BY e.seq {'DESC' if newest else 'ASC'} LIMIT ?",
        (stream_id, tx.place(after, stream_id), LAST if until == END else parse(until), limit),
    )
    return [
        Entry(str(seq), record, appended + tx.shift) for seq, appended, record in (reversed(rows) if newest else rows)
    ]


def locate(tx: Transaction, stream: str, moment: float) -> int:
    """The position just before the first entry appended at or after a moment of Unix time."""
    return _locate(tx, stream, moment - tx.shift)


def _locate(tx: Transaction, stream: str, moment: float) -> int:
    """The same for a moment of the file's own time.

    A binary search. If that time went back over a restart of the machine, the result is off by as much.
    """
    stream_id = tx.stream(stream)
    if stream_id is None:
        return 0
    low, high = 0, tx.head(stream_id)
    while low < high:
        middle = (low + high) // 2
        first, appended = tx.rows(
            "SELECT seq, CAST(appended AS REAL) FROM entries INDEXED BY entries_by_stream"
            " WHERE stream_id = ? AND seq > ? ORDER BY seq LIMIT 1",
            (stream_id, middle),
        )[0]
        if appended >= moment:
            high = middle
        else:
            low = first
    return low


class Counted(NamedTuple):
    """The number of `entries` after `mark` and up to `head`, as a query counted them; the first is at `first`."""

    mark: int
    first: int
    head: int
    entries: int


def trim_limit(
    tx: Transaction, stream: str, *, max_length: int | None, max_age: float | None, known: Counted | None
) -> tuple[int, Counted | None]:
    """The last position for a trim to remove, 0 for none, and the count that found it.

    With the count of the query before (`known`) it costs as much as was changed since.
    """
    stream_id = tx.stream(stream)
    if stream_id is None:
        return 0, None
    counted = None if max_length is None else _newest(tx, stream_id, max_length, known)
    older = 0 if max_age is None else _locate(tx, stream, tx.time - max_age)
    return max(counted.mark if counted else 0, older), counted


def _newest(tx: Transaction, stream_id: int, length: int, known: Counted | None) -> Counted | None:
    """The newest `length` entries; None if there certainly are no more than these."""
    first, head = _first(tx, stream_id, 0), tx.head(stream_id)
    # Positions are counted over all streams: the stream has at most `head - first + 1` entries.
    if first is None or head - first < length:
        return None
    if known is None or first > known.first:
        # A trim has removed counted entries: the number of the rest is unknown.
        known = _count(tx, stream_id, length)
    else:
        behind = "SELECT count(*) FROM entries INDEXED BY entries_by_stream WHERE stream_id = ? AND seq > ?"
        known = known._replace(head=head, entries=known.entries + tx.value(behind, (stream_id, known.head)))
    excess = known.entries - length
    if excess <= 0:
        return known
    mark = tx.value(
        "SELECT seq FROM entries INDEXED BY entries_by_stream WHERE stream_id = ? AND seq > ?"
        " ORDER BY seq LIMIT 1 OFFSET ?",
        (stream_id, known.mark, excess - 1),
    )
    return Counted(mark, _first(tx, stream_id, mark) or head + 1, head, length)


def _count(tx: Transaction, stream_id: int, length: int) -> Counted:
    """The newest `length` entries, or all if there are fewer."""
    newest = "SELECT seq FROM entries INDEXED BY entries_by_stream WHERE stream_id = ? ORDER BY seq DESC"
    mark = tx.value(f"{newest} LIMIT 1 OFFSET ?", (stream_id, length))
    count = length if mark is not None else tx.value(f"SELECT count(*) FROM ({newest})", (stream_id,))
    return Counted(mark or 0, _first(tx, stream_id, mark or 0) or 0, tx.head(stream_id), count)


def _first(tx: Transaction, stream_id: int, behind: int) -> int | None:
    """The first entry after a position."""
    first = "SELECT min(seq) FROM entries INDEXED BY entries_by_stream WHERE stream_id = ? AND seq > ?"
    found: int | None = tx.value(first, (stream_id, behind))
    return found


def begins_unfinished(tx: Transaction, stream: str, *, ignore_groups: Collection[str]) -> bool:
    """True if a group has not finished the first entry of a stream. Groups in `ignore_groups` do not count."""
    stream_id = tx.stream(stream)
    first = None if stream_id is None else _first(tx, stream_id, 0)
    unfinished = f"SELECT 1 {UNFINISHED} AND e.seq = ?"
    return tx.value(unfinished, (stream_id, json.dumps(list(ignore_groups)), first)) is not None


def handled(tx: Transaction, stream: str, group: str, ids: Sequence[str]) -> set[str]:
    """The ids that the group remembers, of these."""
    found = tx.find_group(stream, group)
    if found is None:
        return set()
    rows = tx.rows(
        "SELECT id FROM handled WHERE group_id = ? AND expires > ? AND id IN (SELECT value FROM json_each(?))",
        (found.id, tx.time, json.dumps(list(ids))),
    )
    return {id for (id,) in rows}


def dead_letters(tx: Transaction, stream: str, *, group: str | None, after: str, limit: int) -> list[DeadLetter]:
    """Dead letters after `after`, oldest first."""
    rows = select(
        tx.connection,
        [
            "e.number",
            "CAST(e.group_name AS BLOB)",
            "CAST(e.seq AS INTEGER)",
            "CAST(e.error AS BLOB)",
            # A time outside of the calendar becomes the nearest one in it.
            f"max(0, min(CAST(e.failed_at AS REAL), {_FAR}))",
            "CAST(e.attempts AS INTEGER)",
            "CAST(e.traceback AS BLOB)",
        ],
        "FROM dead e WHERE e.stream_id = ? AND e.number > ?"
        " AND (? IS NULL OR e.group_name = ?) ORDER BY e.number LIMIT ?",
        (tx.stream(stream), parse(after or "0"), group, group, limit),
    )
    return [
        DeadLetter(
            f"{number:012}",
            stream,
            _readable(of),
            str(seq),
            record,
            _readable(error),
            datetime.fromtimestamp(at, UTC),
            attempts,
            _readable(traceback),
        )
        for number, of, seq, error, at, attempts, traceback, record in rows
    ]


_FAR = datetime(9999, 1, 1, tzinfo=UTC).timestamp()


def _readable(text: bytes | None) -> str:
    return (text or b"").decode(errors="replace")


def streams(tx: Transaction) -> list[str]:
    """The names of all streams of the namespace."""
    rows = tx.rows(f"SELECT {NAME} FROM streams WHERE namespace = ? ORDER BY name", (tx.namespace,))
    return [name for (raw,) in rows if is_name(name := as_text(raw))]


def groups(tx: Transaction, stream: str) -> list[str]:
    """The names of a stream's groups."""
    rows = tx.rows(f"SELECT {NAME} FROM groups WHERE stream_id = ? ORDER BY name", (tx.stream(stream),))
    return [name for (raw,) in rows if is_name(name := as_text(raw))]


def pending(tx: Transaction, stream: str, group: str, *, after: str, limit: int) -> list[Pending]:
    """The pending entries of a group."""
    found = tx.find_group(stream, group)
    if found is None:
        return []
    rows = tx.rows(
        "SELECT seq, consumer, attempt, failures, leased_at, due, error, traceback FROM pending"
        " WHERE group_id = ? AND seq > ? ORDER BY seq LIMIT ?",
        (found.id, tx.place(after, found.stream_id), limit),
    )
    return [
        Pending(
            str(seq),
            None if consumer is None else str(consumer),
            attempt,
            failures,
            None if leased_at is None else tx.now - leased_at,
            None if due is None else due - tx.now,
            failure(error, traceback),
        )
        for seq, consumer, attempt, failures, leased_at, due, error, traceback in rows
    ]


def stats(tx: Transaction, streams: Sequence[str] | None) -> list[StreamStats]:
    """The statistics of all streams of the namespace, or of some, by name."""
    rows = tx.rows(
        f"SELECT id, {NAME} FROM streams WHERE namespace = ?1"
        " AND (?2 IS NULL OR name IN (SELECT value FROM json_each(?2))) ORDER BY name",
        (tx.namespace, None if streams is None else json.dumps(list(streams))),
    )
    return [_stream_stats(tx, id, name) for id, raw in rows if is_name(name := as_text(raw))]


def strays(tx: Transaction) -> list[str]:
    """A sentence for each invalid name that another program made."""
    space = (tx.namespace,)
    streams = tx.rows(f"SELECT {NAME} FROM streams WHERE namespace = ?", space)
    groups = tx.rows(
        f"SELECT {NAME} FROM groups WHERE stream_id IN (SELECT id FROM streams WHERE namespace = ?)", space
    )
    notes = tx.rows(f"SELECT {NAME} FROM notes WHERE namespace = ?", space)
    odd = [("stream", raw) for (raw,) in streams if not is_name(as_text(raw))]
    odd += [("group", raw) for (raw,) in groups if not is_name(as_text(raw))]
    odd += [("note", raw) for (raw,) in notes if as_text(raw) is None]
    return [f"another program made the {sort} {as_text(raw) or raw!r}; it is left out" for sort, raw in odd]


def _stream_stats(tx: Transaction, stream_id: int, name: str) -> StreamStats:
    # min and max in separate queries: a query for both would scan the whole index.
    [(length, scheduled, dead, first, last)] = tx.rows(
        "SELECT (SELECT count(*) FROM entries WHERE stream_id = ?1),"
        " (SELECT count(*) FROM scheduled WHERE stream_id = ?1),"
        " (SELECT count(*) FROM dead WHERE stream_id = ?1),"
        " (SELECT min(seq) FROM entries WHERE stream_id = ?1),"
        " (SELECT max(seq) FROM entries WHERE stream_id = ?1)",
        (stream_id,),
    )
    groups = tx.rows(f"SELECT id, {NAME}, cursor FROM groups WHERE stream_id = ? ORDER BY name", (stream_id,))
    return StreamStats(
        name,
        length,
        scheduled,
        dead,
        None if first is None else str(first),
        None if last is None else str(last),
        tuple(
            _group_stats(tx, stream_id, id, group, cursor)
            for id, raw, cursor in groups
            if is_name(group := as_text(raw))
        ),
    )


def _group_stats(tx: Transaction, stream_id: int, group_id: int, name: str, cursor: int) -> GroupStats:
    [(lag, pending, waiting, consumers, dead, oldest)] = tx.rows(
        # The entries after the cursor, without those for other groups.
        "SELECT (SELECT count(*) FROM entries WHERE stream_id = :stream AND seq > :cursor)"
        " - (SELECT count(*) FROM entries INDEXED BY entries_for_one"
        "    WHERE stream_id = :stream AND seq > :cursor AND only_group IS NOT NULL AND only_group <> :name),"
        " (SELECT count(*) FROM pending WHERE group_id = :group),"
        " (SELECT count(*) FROM pending WHERE group_id = :group AND consumer IS NULL),"
        " (SELECT count(DISTINCT consumer) FROM pending WHERE group_id = :group),"
        " (SELECT count(*) FROM dead WHERE stream_id = :stream AND group_name = :name),"
        " (SELECT CAST(e.appended AS REAL) FROM pending p JOIN entries e ON e.seq = p.seq"
        "    WHERE p.group_id = :group ORDER BY p.seq LIMIT 1)",
        {"stream": stream_id, "group": group_id, "name": name, "cursor": cursor},
    )
    age = None if oldest is None else max(tx.time - oldest, 0.0)
    return GroupStats(name, str(cursor), lag, pending, waiting, dead, age, consumers)

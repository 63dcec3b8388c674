"""The moves of the streams themselves: append, schedule, scan, locate, trim. Each runs inside a transaction."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import NamedTuple

import msgspec

from forebay.store import END, START, Entry, Trimmed
from forebay.stores.sqlite.rows import COLUMNS, FIELDS, ID, PLACEHOLDERS, Row, insert, select
from forebay.stores.sqlite.transaction import LAST, Transaction, parse

TRIMMED_AT_ONCE = 5_000
"""Entries that one transaction removes, so that a long trim does not delay other moves."""
EXPIRED_PER_CALL = 1_000
"""Expired ids that one move forgets."""


MOMENTS = 1e12
"""A record that is scheduled for a moment has MOMENTS + its Unix time as `due`: longer than any machine runs."""

_SCHEDULE = f"INSERT INTO scheduled (stream_id, due, at, {COLUMNS}) VALUES (?, ?, ?, {PLACEHOLDERS})"  # noqa: S608  # constants
IS_RIPE = f"""
    stream_id = :stream AND (due <= :now OR (due >= {MOMENTS} AND due <= {MOMENTS} + :wall))"""
_DUE = f"""
    SELECT number FROM scheduled WHERE {IS_RIPE}
    ORDER BY CASE WHEN due < {MOMENTS} THEN due - :now ELSE at - :wall END, number LIMIT :limit"""  # noqa: S608  # constants
_APPEND_DUE = f"""
    INSERT INTO entries (appended, stream_id, {COLUMNS})
    SELECT ?, s.stream_id, {", ".join(f"s.{name}" for name in FIELDS)}
    FROM json_each(?) chosen CROSS JOIN scheduled s ON s.number = chosen.value
    ORDER BY chosen.key"""  # noqa: S608  # constants


class Append(msgspec.Struct, frozen=True):
    """A plain append. Appends that follow one another in a transaction become one statement."""

    stream: str
    rows: Sequence[Row]

    def __call__(self, tx: Transaction) -> list[str]:
        return append(tx, [self])[0]


def append(tx: Transaction, moves: Sequence[Append]) -> list[list[str]]:
    """Carry out appends in their order; return the positions of each."""
    ids = {stream: tx.make_stream(stream) for stream in dict.fromkeys([move.stream for move in moves])}
    rows = [(ids[move.stream], *row) for move in moves for row in move.rows]
    last = insert(tx.connection, tx.time, rows)
    # No other transaction writes at the same time, so the positions are consecutive.
    before = last - len(rows)
    tx.last_before = before if tx.last_before is None else tx.last_before
    numbers = list(map(str, range(before + 1, last + 1)))
    positions = []
    end = 0
    for move in moves:
        start, end = end, end + len(move.rows)
        positions.append(numbers[start:end])
        tx.changed[move.stream] = before + end
    return positions


def append_once(
    tx: Transaction, stream: str, rows: Sequence[Row], *, dedup_window: float | None, search_after: str | None
) -> list[str]:
    """Append the rows with new ids; return the positions of all."""
    stream_id = tx.make_stream(stream)
    seen = _seen(tx, stream_id, rows) if dedup_window is not None else {}
    known = (_find(tx, stream_id, rows, tx.place(search_after, stream_id)) if search_after is not None else {}) | seen
    fresh = _fresh(rows, known)
    new = append(tx, [Append(stream, fresh)])[0] if fresh else []
    known |= {row[ID]: position for row, position in zip(fresh, new, strict=True) if row[ID]}
    if dedup_window is not None:
        _remember(tx, stream_id, {id: int(known[id]) for id in known.keys() - seen.keys()}, dedup_window)
    nameless = (position for row, position in zip(fresh, new, strict=True) if not row[ID])
    return [known[row[ID]] if row[ID] else next(nameless) for row in rows]


def schedule(
    tx: Transaction,
    stream: str,
    rows: Sequence[Row],
    *,
    delay: float | None,
    at: float | None,
    dedup_window: float | None,
) -> None:
    """Keep rows until `append_due` appends them, in `delay` seconds or `at` a moment of Unix time."""
    if at is not None and at <= tx.wall:
        append_once(tx, stream, rows, dedup_window=dedup_window, search_after=None)
        return
    stream_id = tx.make_stream(stream)
    if dedup_window is not None:
        rows = _fresh(rows, _seen(tx, stream_id, rows))
        _remember(tx, stream_id, dict.fromkeys((row[ID] for row in rows if row[ID]), None), dedup_window)
    times = (tx.now + (delay or 0.0), tx.time + (delay or 0.0)) if at is None else (MOMENTS + at, at)
    tx.connection.executemany(_SCHEDULE, [(stream_id, *times, *row) for row in rows])


def has_due(tx: Transaction, stream: str) -> bool:
    """True if a scheduled record of the stream is due."""
    ripe = {"stream": tx.stream(stream), "now": tx.now, "wall": tx.wall}
    return tx.value(f"SELECT 1 FROM scheduled WHERE {IS_RIPE} LIMIT 1", ripe) is not None  # noqa: S608  # constants


def append_due(tx: Transaction, stream: str, *, limit: int) -> int:
    """Append scheduled records of a stream that are due, in the order of their times; return how many."""
    stream_id = tx.stream(stream)
    ripe = {"stream": stream_id, "now": tx.now, "wall": tx.wall, "limit": max(limit, 0)}
    chosen = json.dumps([number for (number,) in tx.rows(_DUE, ripe)])
    count = tx.run(_APPEND_DUE, (tx.time, chosen))
    if not count:
        return 0
    tx.run("DELETE FROM scheduled WHERE number IN (SELECT value FROM json_each(?))", (chosen,))
    last = tx.connection.last_insert_rowid()
    tx.changed[stream] = last
    tx.run(
        "UPDATE seen SET seq = e.seq FROM entries e WHERE e.stream_id = ? AND e.seq > ?"
        " AND seen.stream_id = e.stream_id AND seen.id = e.id AND seen.seq IS NULL",
        (stream_id, last - count),
    )
    return count


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
        later = "SELECT count(*) FROM entries INDEXED BY entries_by_stream WHERE stream_id = ? AND seq > ?"
        known = known._replace(head=head, entries=known.entries + tx.value(later, (stream_id, known.head)))
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
    count = length if mark is not None else tx.value(f"SELECT count(*) FROM ({newest})", (stream_id,))  # noqa: S608  # constants
    return Counted(mark or 0, _first(tx, stream_id, mark or 0) or 0, tx.head(stream_id), count)


def _first(tx: Transaction, stream_id: int, after: int) -> int | None:
    """The first entry after a position."""
    first = "SELECT min(seq) FROM entries INDEXED BY entries_by_stream WHERE stream_id = ? AND seq > ?"
    found: int | None = tx.value(first, (stream_id, after))
    return found


def begins_unfinished(tx: Transaction, stream: str, *, ignore_groups: Collection[str]) -> bool:
    """True if a group has not finished the first entry of a stream. Groups in `ignore_groups` do not count."""
    stream_id = tx.stream(stream)
    first = None if stream_id is None else _first(tx, stream_id, 0)
    unfinished = f"SELECT 1 {UNFINISHED} AND e.seq = ?"
    return tx.value(unfinished, (stream_id, json.dumps(list(ignore_groups)), first)) is not None


def trim(tx: Transaction, stream: str, *, until: int, force: bool, ignore_groups: Collection[str]) -> Trimmed:
    """Remove entries up to `until`, the oldest first, at most TRIMMED_AT_ONCE."""
    stream_id = tx.stream(stream)
    last = tx.value(
        "SELECT max(seq) FROM (SELECT seq FROM entries WHERE stream_id = ? AND seq <= ? ORDER BY seq LIMIT ?)",
        (stream_id, until, TRIMMED_AT_ONCE),
    )
    if stream_id is None or last is None:
        return Trimmed(0, 0)
    dropped = 0
    if not force:
        names = json.dumps(list(ignore_groups))
        first = tx.value(f"SELECT min(e.seq) {UNFINISHED} AND e.seq <= ?", (stream_id, names, last))
        last = last if first is None else first - 1
    if force or ignore_groups:
        dropped = tx.value(f"SELECT count(*) {UNFINISHED} AND e.seq <= ?", (stream_id, "[]", last))
    removed = tx.run("DELETE FROM entries WHERE stream_id = ? AND seq <= ?", (stream_id, last))
    return Trimmed(removed, dropped)


UNFINISHED = """
    FROM entries e INDEXED BY entries_by_stream
    WHERE e.stream_id = ? AND EXISTS (
        SELECT 1 FROM groups g
        WHERE g.stream_id = e.stream_id AND g.name NOT IN (SELECT value FROM json_each(?)) AND (
            (e.seq > g.cursor AND (e.only_group IS NULL OR e.only_group = g.name))
            OR EXISTS (SELECT 1 FROM pending p WHERE p.group_id = g.id AND p.seq = e.seq)
        )
    )"""


def _find(tx: Transaction, stream_id: int, rows: Sequence[Row], search_after: int) -> dict[str, str]:
    """The first position after `search_after` of each id."""
    found = tx.rows(
        "SELECT id, min(seq) FROM entries INDEXED BY entries_by_stream WHERE stream_id = ? AND seq > ?"
        " AND only_group IS NULL AND id IN (SELECT value FROM json_each(?)) GROUP BY id",
        (stream_id, search_after, _ids(rows)),
    )
    return {id: str(seq) for id, seq in found}


def _seen(tx: Transaction, stream_id: int, rows: Sequence[Row]) -> dict[str, str]:
    """The position of each remembered id; START if its event is only scheduled."""
    found = tx.rows(
        "SELECT id, seq FROM seen WHERE stream_id = ? AND expires > ? AND id IN (SELECT value FROM json_each(?))",
        (stream_id, tx.time, _ids(rows)),
    )
    return {id: START if seq is None else str(seq) for id, seq in found}


def _fresh(rows: Sequence[Row], known: dict[str, str]) -> list[Row]:
    """The rows whose id is not known, each id once, and all rows with an empty id."""
    fresh: dict[str | int, Row] = {}
    for number, row in enumerate(rows):
        if row[ID] not in known:
            fresh.setdefault(row[ID] or number, row)
    return list(fresh.values())


def _remember(tx: Transaction, stream_id: int, ids: dict[str, int] | dict[str, None], span: float) -> None:
    tx.connection.executemany(
        "INSERT OR REPLACE INTO seen (stream_id, id, seq, expires) VALUES (?, ?, ?, ?)",
        [(stream_id, id, seq, tx.time + span) for id, seq in ids.items()],
    )
    tx.run(
        "DELETE FROM seen WHERE (stream_id, id) IN"
        " (SELECT stream_id, id FROM seen INDEXED BY seen_by_expiry WHERE expires <= ? LIMIT ?)",
        (tx.time, EXPIRED_PER_CALL),
    )


def _ids(rows: Sequence[Row]) -> str:
    return json.dumps([row[ID] for row in rows if row[ID]])

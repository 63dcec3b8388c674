"""The questions of operators: streams, groups, pending, stats, strays. Each runs inside a read transaction."""

from __future__ import annotations

import json
from collections.abc import Sequence

from forebay.payload import is_name
from forebay.store import GroupStats, Pending, StreamStats
from forebay.stores.sqlite.leases import failure
from forebay.stores.sqlite.rows import NAME, as_text
from forebay.stores.sqlite.transaction import Transaction

# Nothing but constants goes into the texts of statements.
# ruff: noqa: S608


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

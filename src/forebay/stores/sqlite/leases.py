"""The moves of groups and consumers: join, read, claim, settle. Each runs inside a transaction.

What is called `can_...` is a look beforehand, without a transaction: it spares idle consumers the
lock that all writers share. The move itself checks again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from forebay.event import Record
from forebay.payload import check_name
from forebay.store import Delivery, Failure, Reader
from forebay.stores.sqlite.log import FORGOTTEN_AT_ONCE, IS_RIPE, launch
from forebay.stores.sqlite.rows import COLUMNS, FIELDS, MARKS, select, to_fields
from forebay.stores.sqlite.turn import Group, Turn, parse

_BURY = f"""
    INSERT INTO dead (stream_id, group_name, seq, attempts, error, traceback, failed_at, {COLUMNS})
    SELECT g.stream_id, g.name, p.seq, coalesce(?, p.attempt), ?, ?, ?, {", ".join(f"e.{name}" for name in FIELDS)}
    FROM pending p JOIN groups g ON g.id = p.group_id LEFT JOIN entries e ON e.seq = p.seq
    WHERE p.group_id = ? AND p.seq = ?"""  # noqa: S608  # constants
_BURY_COPY = f"UPDATE dead SET ({COLUMNS}) = ({MARKS}) WHERE number = ?"  # noqa: S608  # constants

READ_BYTES = 16 * 1024 * 1024
"""Bytes of data that one read or `take_due` leases at most, though one entry at any rate."""
_UNREAD = "WHERE e.stream_id = ? AND e.seq > ? AND (e.only_group IS NULL OR e.only_group = ?) ORDER BY e.seq LIMIT ?"
# The length of a text is in its row's head: nothing of the text itself is read for it.
_UNREAD_SIZES = f"""
    SELECT e.seq AS place, octet_length(e.data) AS size FROM entries e INDEXED BY entries_by_stream {_UNREAD}"""  # noqa: S608  # constants
_CHOSEN_SIZES = """
    SELECT c.key AS place, octet_length(e.data) AS size FROM json_each(?) c LEFT JOIN entries e ON e.seq = c.value"""


def join(turn: Turn, stream: str, group: str, *, start: str) -> bool:
    """Make a group; False where it exists."""
    stream_id = turn.make_stream(stream)
    return bool(
        turn.run(
            "INSERT OR IGNORE INTO groups (stream_id, name, cursor) VALUES (?, ?, ?)",
            (stream_id, check_name("group", group), turn.cursor(start, stream_id)),
        )
    )


def seek(turn: Turn, stream: str, group: str, to: str) -> None:
    """Set a group's cursor; what it has begun behind it is unread again."""
    found = turn.group(stream, group)
    place = turn.cursor(to, found.stream_id)
    turn.run("UPDATE groups SET cursor = ? WHERE id = ?", (place, found.id))
    turn.run("DELETE FROM pending WHERE group_id = ? AND seq > ?", (found.id, place))
    turn.news[stream] = turn.head(found.stream_id)


def leave(turn: Turn, stream: str, group: str) -> None:
    """Remove a group, if it exists, with all it holds but its dead letters."""
    found = turn.find_group(stream, group)
    if found is not None:
        turn.run("DELETE FROM pending WHERE group_id = ?", (found.id,))
        turn.run("DELETE FROM handled WHERE group_id = ?", (found.id,))
        turn.run("DELETE FROM groups WHERE id = ?", (found.id,))


def has_missed(turn: Turn, stream: str, group: str) -> bool:
    """Whether there is something to tell, or no such group."""
    found = turn.find_group(stream, group)
    return found is None or bool(turn.value("SELECT missed FROM groups WHERE id = ?", (found.id,)))


def trimmed_unread(turn: Turn, stream: str, group: str) -> list[int | None]:
    """How many entries left the stream before the group had read them, told once; None without the group."""
    found = turn.find_group(stream, group)
    if found is None:
        return [None]
    count: int = turn.value("SELECT missed FROM groups WHERE id = ?", (found.id,))
    turn.run("UPDATE groups SET missed = 0 WHERE id = ?", (found.id,))
    return [count]


def can_read(turn: Turn, reader: Reader) -> bool:
    """Whether there may be something to read."""
    group = turn.group(reader.stream, reader.group)
    behind = turn.value(
        "SELECT 1 FROM entries INDEXED BY entries_by_stream WHERE stream_id = ? AND seq > ? LIMIT 1",
        (group.stream_id, group.cursor),
    )
    return behind is not None and not (reader.ordered and _must_wait(turn, reader, group))


def read(turn: Turn, reader: Reader, *, limit: int) -> list[Delivery]:
    """Lease unread entries."""
    group = turn.group(reader.stream, reader.group)
    if limit < 1 or (reader.ordered and _must_wait(turn, reader, group)):
        return []
    limit = _fitting(turn, _UNREAD_SIZES, (group.stream_id, group.cursor, reader.group, limit), limit=limit)
    rows = select(
        turn.connection,
        ["e.seq"],
        f"FROM entries e INDEXED BY entries_by_stream {_UNREAD}",
        (group.stream_id, group.cursor, reader.group, limit),
    )
    turn.run(
        "INSERT INTO pending (group_id, seq, consumer, attempt, failures, leased_at)"
        " SELECT ?, value, ?, 1, 0, ? FROM json_each(?)",
        (group.id, reader.consumer, turn.now, json.dumps([seq for seq, _ in rows])),
    )
    cursor = rows[-1][0] if len(rows) == limit else max(turn.head(group.stream_id), group.cursor)
    turn.run("UPDATE groups SET cursor = ? WHERE id = ?", (cursor, group.id))
    return [Delivery(reader, str(seq), record) for seq, record in rows]


def can_take_due(turn: Turn, reader: Reader) -> bool:
    """Whether something scheduled or waiting is due."""
    group = turn.group(reader.stream, reader.group)
    ripe = {"stream": group.stream_id, "now": turn.now, "wall": turn.wall}
    if turn.value(f"SELECT 1 FROM scheduled WHERE {IS_RIPE} LIMIT 1", ripe):  # noqa: S608  # constants
        return True
    return bool(_due(turn, reader, group, limit=1))


def take_due(turn: Turn, reader: Reader, *, limit: int) -> list[Delivery]:
    """Append what was scheduled for now, and lease what waits and is due."""
    group = turn.group(reader.stream, reader.group)
    launch(turn, reader.stream, group.stream_id)
    seqs = _due(turn, reader, group, limit=limit)
    return _lease(turn, reader, group, seqs[: _fitting(turn, _CHOSEN_SIZES, (json.dumps(seqs),), limit=limit)])


def _fitting(turn: Turn, sizes: str, bindings: Sequence[object], *, limit: int) -> int:
    """The limit; where the entries with these sizes hold more than READ_BYTES, how many do not, at least 1."""
    [(count, fitting)] = turn.rows(
        "SELECT count(*), count(*) FILTER (WHERE coalesce(total, 0) <= ?)"  # noqa: S608  # constants
        f" FROM (SELECT sum(size) OVER (ORDER BY place) AS total FROM ({sizes}))",
        (READ_BYTES, *bindings),
    )
    return limit if fitting == count else max(fitting, 1)


def _due(turn: Turn, reader: Reader, group: Group, *, limit: int, whoever_holds: bool = False) -> list[int]:
    if reader.ordered and not whoever_holds and _is_held_by_another(turn, reader, group):
        return []
    waiting = "SELECT seq FROM pending INDEXED BY pending_by_due WHERE group_id = ? AND consumer IS NULL AND due <= ?"
    order = "ORDER BY seq" if reader.ordered else "ORDER BY due, seq"
    return turn.column(f"{waiting} {order} LIMIT ?", (group.id, turn.now, max(limit, 0)))


def can_claim(turn: Turn, reader: Reader, *, idle: float) -> bool:
    """Whether a lease ran out."""
    return bool(_lapsed(turn, reader, turn.group(reader.stream, reader.group), idle=idle, limit=1))


def claim(turn: Turn, reader: Reader, *, idle: float, limit: int) -> list[Delivery]:
    """Lease what silent consumers hold."""
    group = turn.group(reader.stream, reader.group)
    lapsed = _lapsed(turn, reader, group, idle=idle, limit=limit)
    if reader.ordered and lapsed:
        waiting = _due(turn, reader, group, limit=limit, whoever_holds=True)
        lapsed = sorted([*lapsed, *waiting])[: max(limit, 0)]
    return _lease(turn, reader, group, lapsed)


def _lapsed(turn: Turn, reader: Reader, group: Group, *, idle: float, limit: int) -> list[int]:
    # Leases from before the machine was started (0) have run out, however short it has been up.
    latest = max(turn.now - idle, 0.0)
    if reader.ordered and _is_held_by_another(turn, reader, group, after=latest):
        return []
    return turn.column(
        "SELECT seq FROM pending WHERE group_id = ? AND consumer IS NOT NULL AND leased_at <= ? ORDER BY seq LIMIT ?",
        (group.id, latest, max(limit, 0)),
    )


def _must_wait(turn: Turn, reader: Reader, group: Group) -> bool:
    """Whether an ordered reader may read nothing new: another one holds something, or earlier entries wait."""
    waiting = "SELECT 1 FROM pending INDEXED BY pending_by_due WHERE group_id = ? AND consumer IS NULL LIMIT 1"
    return turn.value(waiting, (group.id,)) is not None or _is_held_by_another(turn, reader, group)


def _is_held_by_another(turn: Turn, reader: Reader, group: Group, *, after: float = -1.0) -> bool:
    """Whether another consumer has a lease, renewed after `after`, on anything of the group."""
    held = "SELECT 1 FROM pending WHERE group_id = ? AND consumer <> ? AND leased_at > ? LIMIT 1"
    return turn.value(held, (group.id, reader.consumer, after)) is not None


def _lease(turn: Turn, reader: Reader, group: Group, seqs: list[int]) -> list[Delivery]:
    if not seqs:
        return []
    chosen = json.dumps(seqs)
    silent = turn.column(
        "SELECT seq FROM pending WHERE group_id = ? AND consumer IS NOT NULL"
        " AND seq IN (SELECT value FROM json_each(?))",
        (group.id, chosen),
    )
    turn.run(
        "UPDATE pending SET consumer = ?, attempt = attempt + 1, leased_at = ?, due = NULL"
        " WHERE group_id = ? AND seq IN (SELECT value FROM json_each(?))",
        (reader.consumer, turn.now, group.id, chosen),
    )
    rows = select(
        turn.connection,
        ["p.seq", "p.attempt", "p.failures", "p.error", "p.traceback", "e.seq"],
        "FROM json_each(?) chosen CROSS JOIN pending p ON p.group_id = ? AND p.seq = chosen.value"
        " LEFT JOIN entries e ON e.seq = p.seq ORDER BY chosen.key",
        (chosen, group.id),
    )
    return [
        Delivery(
            reader, str(seq), None if gone is None else record, attempt, failures, seq in silent, failure(error, frames)
        )
        for seq, attempt, failures, error, frames, gone, record in rows
    ]


def extend(turn: Turn, deliveries: Sequence[Delivery]) -> list[Delivery]:
    """Renew leases; return those still held."""
    renewed: set[tuple[Reader, str]] = set()
    for reader, group_id, seqs in _held(turn, deliveries):
        turn.run(
            "UPDATE pending SET leased_at = ? WHERE group_id = ? AND seq IN (SELECT value FROM json_each(?))",
            (turn.now, group_id, json.dumps(seqs)),
        )
        renewed |= {(reader, str(seq)) for seq in seqs}
    return [delivery for delivery in deliveries if (delivery.reader, delivery.position) in renewed]


def ack(turn: Turn, deliveries: Sequence[Delivery], *, remember: float | None) -> int:
    """Finish entries, whoever holds them; return how many were pending."""
    finished = 0
    for reader, own in _by_reader(deliveries):
        group = turn.find_group(reader.stream, reader.group)
        if group is None:
            continue
        finished += _finish(turn, group.id, [parse(delivery.position) for delivery in own])
        if remember is not None:
            ids = [delivery.record.id for delivery in own if isinstance(delivery.record, Record)]
            _remember(turn, group.id, ids, remember)
    return finished


def _finish(turn: Turn, group_id: int, seqs: list[int]) -> int:
    first, last = min(seqs), max(seqs)
    if last - first < len(seqs) == len(set(seqs)):
        # Without a gap, as most often: one range, which takes a quarter of the time.
        return turn.run("DELETE FROM pending WHERE group_id = ? AND seq BETWEEN ? AND ?", (group_id, first, last))
    return turn.run(
        "DELETE FROM pending WHERE group_id = ? AND seq IN (SELECT value FROM json_each(?))",
        (group_id, json.dumps(seqs)),
    )


def _remember(turn: Turn, group_id: int, ids: list[str], span: float) -> None:
    turn.run(
        "INSERT OR REPLACE INTO handled (group_id, id, expires) SELECT ?, value, ? FROM json_each(?) WHERE value <> ''",
        (group_id, turn.time + span, json.dumps(ids)),
    )
    turn.run(
        "DELETE FROM handled WHERE (group_id, id) IN"
        " (SELECT group_id, id FROM handled INDEXED BY handled_by_expiry WHERE expires <= ? LIMIT ?)",
        (turn.time, FORGOTTEN_AT_ONCE),
    )


def failure(error: str | None, traceback: str | None) -> Failure | None:
    """The failure in these two columns of `pending`."""
    return None if error is None else Failure(error, traceback or "")


def retry(turn: Turn, delivery: Delivery, *, delay: float, keep: bool, failure: Failure | None) -> bool:
    """Count a failure; let the entry wait, or its holder keep it. False where it is no longer held."""
    turn.group(delivery.reader.stream, delivery.reader.group)
    what = (None, None) if failure is None else (failure.error, failure.traceback)
    for _, group_id, seqs in _held(turn, [delivery]):
        if keep:
            turn.run(
                "UPDATE pending SET failures = failures + 1, error = ?, traceback = ?, attempt = attempt + 1,"
                " leased_at = ? WHERE group_id = ? AND seq = ?",
                (*what, turn.now, group_id, seqs[0]),
            )
        else:
            turn.run(
                "UPDATE pending SET failures = failures + 1, error = ?, traceback = ?, consumer = NULL,"
                " leased_at = NULL, due = ? WHERE group_id = ? AND seq = ?",
                (*what, turn.now + delay, group_id, seqs[0]),
            )
        return True
    return False


def release(turn: Turn, deliveries: Sequence[Delivery]) -> int:
    """Give entries back as if they had never been delivered; return how many were held."""
    released = 0
    for _, group_id, seqs in _held(turn, deliveries):
        released += turn.run(
            "UPDATE pending SET consumer = NULL, leased_at = NULL, due = ?, attempt = attempt - 1"
            " WHERE group_id = ? AND seq IN (SELECT value FROM json_each(?))",
            (turn.now, group_id, json.dumps(seqs)),
        )
    return released


def dead_letter(turn: Turn, delivery: Delivery, *, reason: str, traceback: str, attempts: int | None) -> bool:
    """Copy the entry to the dead letters and finish it. False where it is no longer held."""
    turn.group(delivery.reader.stream, delivery.reader.group)
    for _, group_id, seqs in _held(turn, [delivery]):
        place = (group_id, seqs[0])
        turn.run(_BURY, (attempts, reason, traceback, turn.wall, *place))
        if turn.value("SELECT 1 FROM entries WHERE seq = ?", (seqs[0],)) is None:
            # A forced trim took the entry away under its handler, who still has a copy.
            turn.run(_BURY_COPY, (*to_fields(delivery.record), turn.connection.last_insert_rowid()))
        turn.run("DELETE FROM pending WHERE group_id = ? AND seq = ?", place)
        return True
    return False


def _held(turn: Turn, deliveries: Sequence[Delivery]) -> Iterable[tuple[Reader, int, list[int]]]:
    """Per reader: its group's id, and those of the positions that it still holds."""
    for reader, own in _by_reader(deliveries):
        group = turn.find_group(reader.stream, reader.group)
        if group is None:
            continue
        held = turn.column(
            "SELECT seq FROM pending WHERE group_id = ? AND seq IN (SELECT value FROM json_each(?)) AND consumer = ?",
            (group.id, json.dumps([parse(delivery.position) for delivery in own]), reader.consumer),
        )
        if held:
            yield reader, group.id, held


def _by_reader(deliveries: Sequence[Delivery]) -> Iterable[tuple[Reader, Sequence[Delivery]]]:
    # Most often all are of one and the same reader, which is seen faster than readers are told apart.
    if deliveries and not [1 for delivery in deliveries if delivery.reader is not deliveries[0].reader]:
        return [(deliveries[0].reader, deliveries)]
    found: dict[Reader, list[Delivery]] = {}
    for delivery in deliveries:
        found.setdefault(delivery.reader, []).append(delivery)
    return list(found.items())

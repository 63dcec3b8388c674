"""The moves of groups and consumers: join, read, claim, settle. Each runs inside a transaction.

What is called `can_...` is a look beforehand, without a transaction: it spares idle consumers the
lock that all writers share. The move itself checks again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from forebay.event import Record
from forebay.payload import check_name
from forebay.store import Delivery, Failure, Outlook, Reader
from forebay.stores.sqlite.log import EXPIRED_PER_CALL, MOMENTS
from forebay.stores.sqlite.rows import COLUMNS, FIELDS, PLACEHOLDERS, select, to_fields
from forebay.stores.sqlite.transaction import Group, Transaction, parse

_BURY = f"""
    INSERT INTO dead (stream_id, group_name, seq, attempts, error, traceback, failed_at, {COLUMNS})
    SELECT g.stream_id, g.name, p.seq, coalesce(?, p.attempt), ?, ?, ?, {", ".join(f"e.{name}" for name in FIELDS)}
    FROM pending p JOIN groups g ON g.id = p.group_id LEFT JOIN entries e ON e.seq = p.seq
    WHERE p.group_id = ? AND p.seq = ?"""  # noqa: S608  # constants
_BURY_COPY = f"UPDATE dead SET ({COLUMNS}) = ({PLACEHOLDERS}) WHERE number = ?"  # noqa: S608  # constants

READ_BYTES = 16 * 1024 * 1024
"""Bytes of data that one read or `take_due` leases at most, though one entry at any rate."""
_UNREAD = "WHERE e.stream_id = ? AND e.seq > ? AND (e.only_group IS NULL OR e.only_group = ?) ORDER BY e.seq LIMIT ?"
# The length of a text is in its row's head: nothing of the text itself is read for it.
_UNREAD_SIZES = f"""
    SELECT e.seq AS place, octet_length(e.data) AS size FROM entries e INDEXED BY entries_by_stream {_UNREAD}"""  # noqa: S608  # constants
_CHOSEN_SIZES = """
    SELECT c.key AS place, octet_length(e.data) AS size FROM json_each(?) c LEFT JOIN entries e ON e.seq = c.value"""


def join(tx: Transaction, stream: str, group: str, *, start: str) -> bool:
    """Make a group; False where it exists."""
    stream_id = tx.make_stream(stream)
    return bool(
        tx.run(
            "INSERT OR IGNORE INTO groups (stream_id, name, cursor) VALUES (?, ?, ?)",
            (stream_id, check_name("group", group), tx.cursor(start, stream_id)),
        )
    )


def seek(tx: Transaction, stream: str, group: str, to: str) -> None:
    """Set a group's cursor; what it has begun behind it is unread again."""
    found = tx.group(stream, group)
    place = tx.cursor(to, found.stream_id)
    tx.run("UPDATE groups SET cursor = ? WHERE id = ?", (place, found.id))
    tx.run("DELETE FROM pending WHERE group_id = ? AND seq > ?", (found.id, place))
    tx.changed[stream] = 0


def leave(tx: Transaction, stream: str, group: str) -> None:
    """Remove a group, if it exists, with all it holds but its dead letters."""
    found = tx.find_group(stream, group)
    if found is not None:
        tx.run("DELETE FROM pending WHERE group_id = ?", (found.id,))
        tx.run("DELETE FROM handled WHERE group_id = ?", (found.id,))
        tx.run("DELETE FROM groups WHERE id = ?", (found.id,))


def has_missed(tx: Transaction, stream: str, group: str) -> bool:
    """Whether there is something to tell, or no such group."""
    found = tx.find_group(stream, group)
    return found is None or bool(tx.value("SELECT missed FROM groups WHERE id = ?", (found.id,)))


def trimmed_unread(tx: Transaction, stream: str, group: str) -> list[int | None]:
    """How many entries left the stream before the group had read them, told once; None without the group."""
    found = tx.find_group(stream, group)
    if found is None:
        return [None]
    count: int = tx.value("SELECT missed FROM groups WHERE id = ?", (found.id,))
    tx.run("UPDATE groups SET missed = 0 WHERE id = ?", (found.id,))
    return [count]


def can_read(tx: Transaction, reader: Reader) -> bool:
    """Whether there may be something to read."""
    group = tx.group(reader.stream, reader.group)
    behind = tx.value(
        "SELECT 1 FROM entries INDEXED BY entries_by_stream WHERE stream_id = ? AND seq > ? LIMIT 1",
        (group.stream_id, group.cursor),
    )
    return behind is not None and not (reader.ordered and _must_wait(tx, reader, group))


def read(tx: Transaction, reader: Reader, *, limit: int) -> list[Delivery]:
    """Lease unread entries."""
    group = tx.group(reader.stream, reader.group)
    if limit < 1 or (reader.ordered and _must_wait(tx, reader, group)):
        return []
    limit = _fitting(tx, _UNREAD_SIZES, (group.stream_id, group.cursor, reader.group, limit), limit=limit)
    rows = select(
        tx.connection,
        ["e.seq"],
        f"FROM entries e INDEXED BY entries_by_stream {_UNREAD}",
        (group.stream_id, group.cursor, reader.group, limit),
    )
    tx.run(
        "INSERT INTO pending (group_id, seq, consumer, attempt, failures, leased_at)"
        " SELECT ?, value, ?, 1, 0, ? FROM json_each(?)",
        (group.id, reader.consumer, tx.now, json.dumps([seq for seq, _ in rows])),
    )
    cursor = rows[-1][0] if len(rows) == limit else max(tx.head(group.stream_id), group.cursor)
    tx.run("UPDATE groups SET cursor = ? WHERE id = ?", (cursor, group.id))
    return [Delivery(reader, str(seq), record) for seq, record in rows]


def can_read_any(tx: Transaction, readers: Sequence[Reader]) -> bool:
    """Whether there may be something to read for one of the readers."""
    return any(can_read(tx, reader) for reader in readers)


def read_all(tx: Transaction, readers: Sequence[Reader], *, limit: int) -> list[Delivery]:
    """Lease unread entries of each reader's stream."""
    return [delivery for reader in readers for delivery in read(tx, reader, limit=limit)]


def can_take_due(tx: Transaction, reader: Reader) -> bool:
    """Whether a waiting entry is due."""
    return bool(_due(tx, reader, tx.group(reader.stream, reader.group), limit=1))


def outlook(tx: Transaction, readers: Sequence[Reader]) -> list[Outlook | None]:
    """The outlook of each reader; None if its group does not exist."""
    return [_outlook_of(tx, reader) for reader in readers]


def _outlook_of(tx: Transaction, reader: Reader) -> Outlook | None:
    group = tx.find_group(reader.stream, reader.group)
    if group is None:
        return None
    soonest = "SELECT min(due) FROM scheduled WHERE stream_id = ? AND due"
    after = tx.value(f"{soonest} < {MOMENTS}", (group.stream_id,))
    at = tx.value(f"{soonest} >= {MOMENTS}", (group.stream_id,))
    times = [] if after is None else [after - tx.now]
    times += [] if at is None else [at - MOMENTS - tx.wall]
    waiting = tx.value(
        "SELECT min(due) FROM pending INDEXED BY pending_by_due WHERE group_id = ? AND consumer IS NULL", (group.id,)
    )
    return Outlook(
        scheduled=min(times, default=None),
        waiting=None if waiting is None else waiting - tx.now,
        leased=_is_held_by_another(tx, reader, group),
        unread=tx.head(group.stream_id) > group.cursor,
    )


def take_due(tx: Transaction, reader: Reader, *, limit: int) -> list[Delivery]:
    """Lease waiting entries that are due."""
    group = tx.group(reader.stream, reader.group)
    seqs = _due(tx, reader, group, limit=limit)
    return _lease(tx, reader, group, seqs[: _fitting(tx, _CHOSEN_SIZES, (json.dumps(seqs),), limit=limit)])


def _fitting(tx: Transaction, sizes: str, bindings: Sequence[object], *, limit: int) -> int:
    """The limit; where the entries with these sizes hold more than READ_BYTES, how many do not, at least 1."""
    [(count, fitting)] = tx.rows(
        "SELECT count(*), count(*) FILTER (WHERE coalesce(total, 0) <= ?)"  # noqa: S608  # constants
        f" FROM (SELECT sum(size) OVER (ORDER BY place) AS total FROM ({sizes}))",
        (READ_BYTES, *bindings),
    )
    return limit if fitting == count else max(fitting, 1)


def _due(tx: Transaction, reader: Reader, group: Group, *, limit: int, whoever_holds: bool = False) -> list[int]:
    if reader.ordered and not whoever_holds and _is_held_by_another(tx, reader, group):
        return []
    waiting = "SELECT seq FROM pending INDEXED BY pending_by_due WHERE group_id = ? AND consumer IS NULL AND due <= ?"
    order = "ORDER BY seq" if reader.ordered else "ORDER BY due, seq"
    return tx.column(f"{waiting} {order} LIMIT ?", (group.id, tx.now, max(limit, 0)))


def can_claim(tx: Transaction, reader: Reader, *, idle: float) -> bool:
    """Whether a lease ran out."""
    return bool(_lapsed(tx, reader, tx.group(reader.stream, reader.group), idle=idle, limit=1))


def claim(tx: Transaction, reader: Reader, *, idle: float, limit: int) -> list[Delivery]:
    """Lease what silent consumers hold."""
    group = tx.group(reader.stream, reader.group)
    lapsed = _lapsed(tx, reader, group, idle=idle, limit=limit)
    if reader.ordered and lapsed:
        waiting = _due(tx, reader, group, limit=limit, whoever_holds=True)
        lapsed = sorted([*lapsed, *waiting])[: max(limit, 0)]
    return _lease(tx, reader, group, lapsed)


def _lapsed(tx: Transaction, reader: Reader, group: Group, *, idle: float, limit: int) -> list[int]:
    # Leases from before the machine was started (0) have run out, however short it has been up.
    latest = max(tx.now - idle, 0.0)
    if reader.ordered and _is_held_by_another(tx, reader, group, after=latest):
        return []
    return tx.column(
        "SELECT seq FROM pending WHERE group_id = ? AND consumer IS NOT NULL AND leased_at <= ? ORDER BY seq LIMIT ?",
        (group.id, latest, max(limit, 0)),
    )


def _must_wait(tx: Transaction, reader: Reader, group: Group) -> bool:
    """Whether an ordered reader may read nothing new: another one holds something, or earlier entries wait."""
    waiting = "SELECT 1 FROM pending INDEXED BY pending_by_due WHERE group_id = ? AND consumer IS NULL LIMIT 1"
    return tx.value(waiting, (group.id,)) is not None or _is_held_by_another(tx, reader, group)


def _is_held_by_another(tx: Transaction, reader: Reader, group: Group, *, after: float = -1.0) -> bool:
    """Whether another consumer has a lease, renewed after `after`, on anything of the group."""
    held = "SELECT 1 FROM pending WHERE group_id = ? AND consumer <> ? AND leased_at > ? LIMIT 1"
    return tx.value(held, (group.id, reader.consumer, after)) is not None


def _lease(tx: Transaction, reader: Reader, group: Group, seqs: list[int]) -> list[Delivery]:
    if not seqs:
        return []
    chosen = json.dumps(seqs)
    silent = tx.column(
        "SELECT seq FROM pending WHERE group_id = ? AND consumer IS NOT NULL"
        " AND seq IN (SELECT value FROM json_each(?))",
        (group.id, chosen),
    )
    tx.run(
        "UPDATE pending SET consumer = ?, attempt = attempt + 1, leased_at = ?, due = NULL"
        " WHERE group_id = ? AND seq IN (SELECT value FROM json_each(?))",
        (reader.consumer, tx.now, group.id, chosen),
    )
    rows = select(
        tx.connection,
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


def extend(tx: Transaction, deliveries: Sequence[Delivery]) -> list[Delivery]:
    """Renew leases; return those still held."""
    renewed: set[tuple[Reader, str]] = set()
    for reader, group_id, seqs in _held(tx, deliveries):
        tx.run(
            "UPDATE pending SET leased_at = ? WHERE group_id = ? AND seq IN (SELECT value FROM json_each(?))",
            (tx.now, group_id, json.dumps(seqs)),
        )
        renewed |= {(reader, str(seq)) for seq in seqs}
    return [delivery for delivery in deliveries if (delivery.reader, delivery.position) in renewed]


def ack(tx: Transaction, deliveries: Sequence[Delivery], *, remember: float | None) -> int:
    """Finish entries, whoever holds them; return how many were pending."""
    finished = 0
    for reader, own in _by_reader(deliveries):
        group = tx.find_group(reader.stream, reader.group)
        if group is None:
            continue
        finished += _finish(tx, group.id, [parse(delivery.position) for delivery in own])
        if remember is not None:
            ids = [delivery.record.id for delivery in own if isinstance(delivery.record, Record)]
            _remember(tx, group.id, ids, remember)
    return finished


def _finish(tx: Transaction, group_id: int, seqs: list[int]) -> int:
    first, last = min(seqs), max(seqs)
    if last - first < len(seqs) == len(set(seqs)):
        # Without a gap, as most often: one range, which takes a quarter of the time.
        return tx.run("DELETE FROM pending WHERE group_id = ? AND seq BETWEEN ? AND ?", (group_id, first, last))
    return tx.run(
        "DELETE FROM pending WHERE group_id = ? AND seq IN (SELECT value FROM json_each(?))",
        (group_id, json.dumps(seqs)),
    )


def _remember(tx: Transaction, group_id: int, ids: list[str], span: float) -> None:
    tx.run(
        "INSERT OR REPLACE INTO handled (group_id, id, expires) SELECT ?, value, ? FROM json_each(?) WHERE value <> ''",
        (group_id, tx.time + span, json.dumps(ids)),
    )
    tx.run(
        "DELETE FROM handled WHERE (group_id, id) IN"
        " (SELECT group_id, id FROM handled INDEXED BY handled_by_expiry WHERE expires <= ? LIMIT ?)",
        (tx.time, EXPIRED_PER_CALL),
    )


def failure(error: str | None, traceback: str | None) -> Failure | None:
    """The failure in these two columns of `pending`."""
    return None if error is None else Failure(error, traceback or "")


def retry(tx: Transaction, delivery: Delivery, *, delay: float, keep: bool, failure: Failure | None) -> bool:
    """Count a failure; let the entry wait, or its holder keep it. False where it is no longer held."""
    tx.group(delivery.reader.stream, delivery.reader.group)
    what = (None, None) if failure is None else (failure.error, failure.traceback)
    for _, group_id, seqs in _held(tx, [delivery]):
        if keep:
            tx.run(
                "UPDATE pending SET failures = failures + 1, error = ?, traceback = ?, attempt = attempt + 1,"
                " leased_at = ? WHERE group_id = ? AND seq = ?",
                (*what, tx.now, group_id, seqs[0]),
            )
        else:
            tx.run(
                "UPDATE pending SET failures = failures + 1, error = ?, traceback = ?, consumer = NULL,"
                " leased_at = NULL, due = ? WHERE group_id = ? AND seq = ?",
                (*what, tx.now + delay, group_id, seqs[0]),
            )
        return True
    return False


def release(tx: Transaction, deliveries: Sequence[Delivery]) -> int:
    """Give entries back as if they had never been delivered; return how many were held."""
    released = 0
    for _, group_id, seqs in _held(tx, deliveries):
        released += tx.run(
            "UPDATE pending SET consumer = NULL, leased_at = NULL, due = ?, attempt = attempt - 1"
            " WHERE group_id = ? AND seq IN (SELECT value FROM json_each(?))",
            (tx.now, group_id, json.dumps(seqs)),
        )
    return released


def dead_letter(tx: Transaction, delivery: Delivery, *, reason: str, traceback: str, attempts: int | None) -> bool:
    """Copy the entry to the dead letters and finish it. False where it is no longer held."""
    tx.group(delivery.reader.stream, delivery.reader.group)
    for _, group_id, seqs in _held(tx, [delivery]):
        place = (group_id, seqs[0])
        tx.run(_BURY, (attempts, reason, traceback, tx.wall, *place))
        if tx.value("SELECT 1 FROM entries WHERE seq = ?", (seqs[0],)) is None:
            # A forced trim took the entry away under its handler, who still has a copy.
            tx.run(_BURY_COPY, (*to_fields(delivery.record), tx.connection.last_insert_rowid()))
        tx.run("DELETE FROM pending WHERE group_id = ? AND seq = ?", place)
        return True
    return False


def _held(tx: Transaction, deliveries: Sequence[Delivery]) -> Iterable[tuple[Reader, int, list[int]]]:
    """Per reader: its group's id, and those of the positions that it still holds."""
    for reader, own in _by_reader(deliveries):
        group = tx.find_group(reader.stream, reader.group)
        if group is None:
            continue
        held = tx.column(
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

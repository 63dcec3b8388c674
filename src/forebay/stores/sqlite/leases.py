"""The moves of groups and consumers: join, read, claim, settle. Each runs inside a transaction.

`can_...` and `has_...` are queries before a move, without a transaction: if they return False, an idle consumer does
not take the lock that all writers share. The move itself checks again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from forebay.event import Record
from forebay.store import Delivery, Failure, Outlook, Reader
from forebay.stores.sqlite.log import EXPIRED_PER_CALL, MOMENTS
from forebay.stores.sqlite.rows import COLUMNS, FIELDS, PLACEHOLDERS, select, to_fields
from forebay.stores.sqlite.transaction import Group, Transaction, no_group, parse

_DEAD_LETTER = f"""
    INSERT INTO dead (stream_id, group_name, seq, attempts, error, traceback, failed_at, {COLUMNS})
    SELECT g.stream_id, g.name, p.seq, coalesce(?, p.attempt), ?, ?, ?, {", ".join(f"e.{name}" for name in FIELDS)}
    FROM pending p JOIN groups g ON g.id = p.group_id LEFT JOIN entries e ON e.seq = p.seq
    WHERE p.group_id = ? AND p.seq = ? AND p.consumer = ? AND p.lease = ?"""  # noqa: S608  # constants
_FILL_DEAD_LETTER = f"UPDATE dead SET ({COLUMNS}) = ({PLACEHOLDERS}) WHERE number = ?"  # noqa: S608  # constants

READ_BYTES = 16 * 1024 * 1024
"""Bytes of data that one read or `take_due` leases at most; of each stream it leases one entry at least."""
_UNREAD = """
    FROM entries e INDEXED BY entries_by_stream
    WHERE e.stream_id = {} AND e.seq > {} AND (e.only_group IS NULL OR e.only_group = {}) ORDER BY e.seq LIMIT ?"""
_GIVEN = _UNREAD.format("?", "?", "?")
# The header of a row has the length of a text: `octet_length` does not read the text itself.
_UNREAD_SIZES = f"SELECT e.seq AS place, octet_length(e.data) AS size {_GIVEN}"  # constants
_FIND_UNREAD = f"""
    SELECT g.id, g.stream_id, g.cursor, (SELECT sum(size) FROM (
        SELECT coalesce(octet_length(e.data), 0) AS size {_UNREAD.format("g.stream_id", "g.cursor", "g.name")}))
    FROM streams s JOIN groups g ON g.stream_id = s.id WHERE s.namespace = ? AND s.name = ? AND g.name = ?"""  # noqa: S608  # constants
_CAN_READ = """
    SELECT g.id, g.stream_id, g.cursor,
        EXISTS (SELECT 1 FROM entries INDEXED BY entries_by_stream WHERE stream_id = s.id AND seq > g.cursor)
    FROM streams s JOIN groups g ON g.stream_id = s.id WHERE s.namespace = ? AND s.name = ? AND g.name = ?"""
_CHOSEN_SIZES = """
    SELECT c.key AS place, octet_length(e.data) AS size FROM json_each(?) c LEFT JOIN entries e ON e.seq = c.value"""
_READ_ALL = """
    UPDATE groups SET cursor = max(
        cursor, coalesce((SELECT max(seq) FROM entries WHERE stream_id = groups.stream_id), 0)
    ) WHERE id = ?"""
_OUTLOOK = f"""
    SELECT json_group_array(json_array(
        g.id,
        (SELECT min(due) FROM scheduled WHERE stream_id = s.id AND due < {MOMENTS}),
        (SELECT min(due) FROM scheduled WHERE stream_id = s.id AND due >= {MOMENTS}),
        (SELECT min(due) FROM pending INDEXED BY pending_by_due WHERE group_id = g.id AND consumer IS NULL),
        EXISTS (SELECT 1 FROM pending WHERE group_id = g.id AND consumer <> r.value ->> 2),
        EXISTS (SELECT 1 FROM entries INDEXED BY entries_by_stream WHERE stream_id = s.id AND seq > g.cursor)))
    FROM json_each(?) r
    LEFT JOIN streams s ON s.namespace = ? AND s.name = r.value ->> 0
    LEFT JOIN groups g ON g.stream_id = s.id AND g.name = r.value ->> 1"""  # noqa: S608  # constants
# A retry that is repeated, as its answer was lost, finds its failure counted.
_COUNT_FAILURE = """
    failures = failures + (failures = :failures),
    error = iif(failures = :failures, :error, error),
    traceback = iif(failures = :failures, :traceback, traceback)"""
_LEASED = "WHERE group_id = :group AND seq = :seq AND consumer = :consumer AND lease = :lease"
_RETRY = f"UPDATE pending SET {_COUNT_FAILURE}, consumer = NULL, leased_at = NULL, lease = NULL, due = :due {_LEASED}"  # noqa: S608  # constants
_KEPT_RETRY = f"""
    UPDATE pending SET {_COUNT_FAILURE}, attempt = attempt + (failures = :failures), leased_at = :now {_LEASED}"""  # noqa: S608  # constants
_HELD = """
    SELECT json_group_array(c.key)
    FROM json_each(?) c CROSS JOIN pending p ON p.group_id = ? AND p.seq = c.value ->> 0
    WHERE p.consumer = ? AND p.lease = c.value ->> 1"""


def join(tx: Transaction, stream: str, group: str, *, start: str) -> bool:
    """Make a group; False if it exists."""
    stream_id = tx.make_stream(stream)
    return bool(
        tx.run(
            "INSERT OR IGNORE INTO groups (stream_id, name, cursor) VALUES (?, ?, ?)",
            (stream_id, group, tx.cursor(start, stream_id)),
        )
    )


def seek(tx: Transaction, stream: str, group: str, to: str) -> None:
    """Set a group's cursor; pending entries after it are unread again."""
    found = tx.group(stream, group)
    place = tx.cursor(to, found.stream_id)
    tx.run("UPDATE groups SET cursor = ? WHERE id = ?", (place, found.id))
    tx.run("DELETE FROM pending WHERE group_id = ? AND seq > ?", (found.id, place))
    tx.changed[stream] = 0


def leave(tx: Transaction, stream: str, group: str) -> None:
    """Remove a group, if it exists, with its pending entries and remembered ids. Its dead letters stay."""
    found = tx.find_group(stream, group)
    if found is not None:
        tx.run("DELETE FROM pending WHERE group_id = ?", (found.id,))
        tx.run("DELETE FROM handled WHERE group_id = ?", (found.id,))
        tx.run("DELETE FROM groups WHERE id = ?", (found.id,))


def has_trimmed_unread(tx: Transaction, stream: str, group: str) -> bool:
    """True if entries were trimmed unread since the last call, or the group does not exist."""
    found = tx.find_group(stream, group)
    return found is None or bool(tx.value("SELECT missed FROM groups WHERE id = ?", (found.id,)))


def trimmed_unread(tx: Transaction, stream: str, group: str) -> list[int | None]:
    """The number of entries that left the stream before the group read them, each counted once; None: no such group."""
    found = tx.find_group(stream, group)
    if found is None:
        return [None]
    count: int = tx.value("SELECT missed FROM groups WHERE id = ?", (found.id,))
    tx.run("UPDATE groups SET missed = 0 WHERE id = ?", (found.id,))
    return [count]


def can_read(tx: Transaction, readers: Sequence[Reader]) -> bool:
    """True if one of the readers may find unread entries. Each one's group is looked up."""
    found = [_can_read(tx, reader) for reader in readers]
    return any(found)


def _can_read(tx: Transaction, reader: Reader) -> bool:
    found = tx.rows(_CAN_READ, (tx.namespace, reader.stream, reader.group))
    if not found:
        raise no_group(reader.stream, reader.group)
    [(*group, is_unread)] = found
    return bool(is_unread) and not (reader.ordered and _must_wait(tx, reader, Group(*group)))


def read(tx: Transaction, readers: Sequence[Reader], *, limit: int) -> list[Delivery]:
    """Lease unread entries of each reader's stream."""
    deliveries: list[Delivery] = []
    room = READ_BYTES
    for reader in readers:
        found = _read(tx, reader, limit=limit, room=room)
        deliveries += found
        if len(readers) > 1:
            room -= sum(len(delivery.record.data) for delivery in found if isinstance(delivery.record, Record))
    return deliveries


def _read(tx: Transaction, reader: Reader, *, limit: int, room: int) -> list[Delivery]:
    found = tx.rows(_FIND_UNREAD, (max(limit, 0), tx.namespace, reader.stream, reader.group))
    if not found:
        raise no_group(reader.stream, reader.group)
    [(*columns, size)] = found
    group = Group(*columns)
    if limit < 1 or (reader.ordered and _must_wait(tx, reader, group)):
        return []
    if size is None:
        tx.run(_READ_ALL, (group.id,))
        return []
    unread = (group.stream_id, group.cursor, reader.group, limit)
    if size > room:
        limit = _fitting(tx, _UNREAD_SIZES, unread, room=room)
    return _lease_unread(tx, reader, group, limit=limit)


def _lease_unread(tx: Transaction, reader: Reader, group: Group, *, limit: int) -> list[Delivery]:
    rows = select(tx.connection, ["e.seq"], _GIVEN, (group.stream_id, group.cursor, reader.group, limit))
    lease = tx.new_lease()
    tx.run(
        "INSERT INTO pending (group_id, seq, consumer, attempt, failures, leased_at, lease)"
        " SELECT ?, value, ?, 1, 0, ?, ? FROM json_each(?)",
        (group.id, reader.consumer, tx.now, lease, json.dumps([seq for seq, _ in rows])),
    )
    if len(rows) == limit:
        tx.run("UPDATE groups SET cursor = ? WHERE id = ?", (rows[-1][0], group.id))
    else:
        # The entries after the last one are for other groups.
        tx.run(_READ_ALL, (group.id,))
    token = str(lease)
    return [Delivery(reader, str(seq), record, lease=token) for seq, record in rows]


def can_take_due(tx: Transaction, reader: Reader) -> bool:
    """True if a waiting entry is due."""
    return bool(_due(tx, reader, tx.group(reader.stream, reader.group), limit=1))


def outlook(tx: Transaction, readers: Sequence[Reader]) -> list[Outlook | None]:
    """The outlook of each reader; None if its group does not exist."""
    asked = json.dumps([(reader.stream, reader.group, reader.consumer) for reader in readers])
    rows: list[tuple[Any, ...]] = msgspec.json.decode(tx.value(_OUTLOOK, (asked, tx.namespace)))
    return [None if row[0] is None else _to_outlook(tx, *row[1:]) for row in rows]


def _to_outlook(
    tx: Transaction, after: float | None, at: float | None, due: float | None, is_held: int, is_unread: int
) -> Outlook:
    delays = [] if after is None else [after - tx.now]
    delays += [] if at is None else [at - MOMENTS - tx.wall]
    waiting = None if due is None else due - tx.now
    return Outlook(min(delays, default=None), waiting, bool(is_held), bool(is_unread))


def take_due(tx: Transaction, reader: Reader, *, limit: int) -> list[Delivery]:
    """Lease waiting entries that are due."""
    group = tx.group(reader.stream, reader.group)
    seqs = _due(tx, reader, group, limit=limit)
    return _lease(tx, reader, group, seqs[: _fitting(tx, _CHOSEN_SIZES, (json.dumps(seqs),), room=READ_BYTES)])


def _fitting(tx: Transaction, sizes: str, bindings: Sequence[object], *, room: int) -> int:
    """The number of entries with these sizes that hold at most `room` bytes together, at least 1."""
    fitting: int = tx.value(
        "SELECT count(*) FILTER (WHERE coalesce(total, 0) <= ?)"  # noqa: S608  # constants
        f" FROM (SELECT sum(size) OVER (ORDER BY place) AS total FROM ({sizes}))",
        (room, *bindings),
    )
    return max(fitting, 1)


def _due(tx: Transaction, reader: Reader, group: Group, *, limit: int, even_if_held: bool = False) -> list[int]:
    if reader.ordered and not even_if_held and _is_held_by_another(tx, reader, group):
        return []
    waiting = "SELECT seq FROM pending INDEXED BY pending_by_due WHERE group_id = ? AND consumer IS NULL AND due <= ?"
    order = "ORDER BY seq" if reader.ordered else "ORDER BY due, seq"
    return tx.column(f"{waiting} {order} LIMIT ?", (group.id, tx.now, max(limit, 0)))


def can_claim(tx: Transaction, reader: Reader, *, idle: float) -> bool:
    """True if a lease has expired."""
    return bool(_expired(tx, reader, tx.group(reader.stream, reader.group), idle=idle, limit=1))


def claim(tx: Transaction, reader: Reader, *, idle: float, limit: int) -> list[Delivery]:
    """Take over expired leases of other consumers."""
    group = tx.group(reader.stream, reader.group)
    expired = _expired(tx, reader, group, idle=idle, limit=limit)
    if reader.ordered and expired:
        waiting = _due(tx, reader, group, limit=limit, even_if_held=True)
        expired = sorted([*expired, *waiting])[: max(limit, 0)]
    return _lease(tx, reader, group, expired)


def _expired(tx: Transaction, reader: Reader, group: Group, *, idle: float, limit: int) -> list[int]:
    # Leases from before the start of the machine (0) have expired, however short it has been up.
    latest = max(tx.now - idle, 0.0)
    if reader.ordered and _is_held_by_another(tx, reader, group, after=latest):
        return []
    return tx.column(
        "SELECT seq FROM pending WHERE group_id = ? AND consumer IS NOT NULL AND leased_at <= ? ORDER BY seq LIMIT ?",
        (group.id, latest, max(limit, 0)),
    )


def _must_wait(tx: Transaction, reader: Reader, group: Group) -> bool:
    """True if an ordered reader may read nothing new: another consumer has a lease, or an earlier entry waits."""
    waiting = "SELECT 1 FROM pending INDEXED BY pending_by_due WHERE group_id = ? AND consumer IS NULL LIMIT 1"
    return tx.value(waiting, (group.id,)) is not None or _is_held_by_another(tx, reader, group)


def _is_held_by_another(tx: Transaction, reader: Reader, group: Group, *, after: float = -1.0) -> bool:
    """True if another consumer has a lease, renewed after `after`, on anything of the group."""
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
    lease = tx.new_lease()
    tx.run(
        "UPDATE pending SET consumer = ?, attempt = attempt + 1, leased_at = ?, lease = ?, due = NULL"
        " WHERE group_id = ? AND seq IN (SELECT value FROM json_each(?))",
        (reader.consumer, tx.now, lease, group.id, chosen),
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
            reader,
            str(seq),
            None if gone is None else record,
            attempt,
            failures,
            seq in silent,
            failure(error, frames),
            str(lease),
        )
        for seq, attempt, failures, error, frames, gone, record in rows
    ]


def extend(tx: Transaction, deliveries: Sequence[Delivery]) -> list[Delivery]:
    """Renew leases; return those still held."""
    renewed: set[tuple[Reader, str, str]] = set()
    for reader, own in _by_reader(deliveries):
        group = tx.group(reader.stream, reader.group)
        held = _held(tx, group, reader, own)
        tx.run(
            "UPDATE pending SET leased_at = ? WHERE group_id = ? AND seq IN (SELECT value FROM json_each(?))",
            (tx.now, group.id, _seqs(held)),
        )
        renewed |= {(reader, delivery.position, delivery.lease) for delivery in held}
    return [each for each in deliveries if (each.reader, each.position, each.lease) in renewed]


def ack(tx: Transaction, deliveries: Sequence[Delivery], *, remember: float | None) -> int:
    """Finish entries, whichever consumer holds them; return how many were pending."""
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
        # Mostly there is no gap: one range takes a quarter of the time.
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


def failure(error: str | None, traceback: str | None) -> Failure | None:
    """The failure in these two columns of `pending`; None if there is none."""
    return None if error is None else Failure(error, traceback or "")


def retry(tx: Transaction, delivery: Delivery, *, delay: float, keep: bool, failure: Failure | None) -> bool:
    """Count a failure, once for each Delivery, and let the entry wait; False if the lease is gone.

    With `keep` the consumer keeps the lease, and the next attempt is counted, too.
    """
    group = tx.group(delivery.reader.stream, delivery.reader.group)
    values = {
        "group": group.id,
        "seq": parse(delivery.position),
        "consumer": delivery.reader.consumer,
        "lease": delivery.lease,
        "failures": delivery.failures,
        "error": failure and failure.error,
        "traceback": failure and failure.traceback,
        "now": tx.now,
        "due": tx.now + delay,
    }
    return bool(tx.run(_KEPT_RETRY if keep else _RETRY, values))


def release(tx: Transaction, deliveries: Sequence[Delivery]) -> int:
    """Let entries wait, due at once, without counting their last delivery; return how many were held."""
    released = 0
    for reader, own in _by_reader(deliveries):
        group = tx.find_group(reader.stream, reader.group)
        if group is None:
            continue
        released += tx.run(
            "UPDATE pending SET consumer = NULL, leased_at = NULL, lease = NULL, due = ?, attempt = attempt - 1"
            " WHERE group_id = ? AND seq IN (SELECT value FROM json_each(?))",
            (tx.now, group.id, _seqs(_held(tx, group, reader, own))),
        )
    return released


def dead_letter(tx: Transaction, delivery: Delivery, *, reason: str, traceback: str, attempts: int | None) -> bool:
    """Copy the entry to the dead letters and finish it; False if the lease is gone."""
    group = tx.group(delivery.reader.stream, delivery.reader.group)
    seq = parse(delivery.position)
    lease = (group.id, seq, delivery.reader.consumer, delivery.lease)
    if not tx.run(_DEAD_LETTER, (attempts, reason, traceback, tx.wall, *lease)):
        return False
    if tx.value("SELECT 1 FROM entries WHERE seq = ?", (seq,)) is None:
        # A forced trim has removed the entry; its handler still has a copy.
        tx.run(_FILL_DEAD_LETTER, (*to_fields(delivery.record), tx.connection.last_insert_rowid()))
    tx.run("DELETE FROM pending WHERE group_id = ? AND seq = ?", (group.id, seq))
    return True


def _held(tx: Transaction, group: Group, reader: Reader, deliveries: Sequence[Delivery]) -> list[Delivery]:
    """Those of the reader's deliveries whose lease it still holds."""
    leases = json.dumps([(parse(delivery.position), delivery.lease) for delivery in deliveries])
    held: list[int] = msgspec.json.decode(tx.value(_HELD, (leases, group.id, reader.consumer)))
    return [deliveries[index] for index in held]


def _seqs(deliveries: Sequence[Delivery]) -> str:
    return json.dumps([parse(delivery.position) for delivery in deliveries])


def _by_reader(deliveries: Sequence[Delivery]) -> Iterable[tuple[Reader, Sequence[Delivery]]]:
    # Mostly all have the same reader object, and to find that out is faster than to group them.
    if deliveries and not [1 for delivery in deliveries if delivery.reader is not deliveries[0].reader]:
        return [(deliveries[0].reader, deliveries)]
    found: dict[Reader, list[Delivery]] = {}
    for delivery in deliveries:
        found.setdefault(delivery.reader, []).append(delivery)
    return list(found.items())

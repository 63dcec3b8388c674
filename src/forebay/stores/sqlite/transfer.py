"""The moves and queries that copy a stream: restore, drop, scheduled, remembered. Each runs inside a transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from forebay.event import Record
from forebay.payload import check_name
from forebay.store import DeadLetter, Entry, GroupCursor, GroupPending, RememberedId, Scheduled, StreamItem
from forebay.stores.sqlite import notes as kept
from forebay.stores.sqlite.log import MOMENTS
from forebay.stores.sqlite.rows import COLUMNS, PLACEHOLDERS, select, to_fields, to_row
from forebay.stores.sqlite.transaction import LAST, Transaction, parse

# Nothing but constants goes into the texts of statements.
# ruff: noqa: S608
_ENTRY = f"INSERT OR IGNORE INTO entries (seq, stream_id, appended, {COLUMNS}) VALUES (?, ?, ?, {PLACEHOLDERS})"
_LETTER = (
    f"INSERT OR IGNORE INTO dead (number, stream_id, group_name, seq, attempts, error, traceback, failed_at, {COLUMNS})"
    f" VALUES (?, ?, ?, ?, ?, ?, ?, ?, {PLACEHOLDERS})"
)
_SCHEDULED = f"INSERT INTO scheduled (stream_id, due, at, {COLUMNS}) VALUES (?, ?, ?, {PLACEHOLDERS})"
_BEGUN = (
    "INSERT OR REPLACE INTO pending (group_id, seq, consumer, attempt, failures, error, traceback, leased_at, due)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


def restore(
    tx: Transaction,
    stream: str,
    items: Sequence[StreamItem],
    *,
    notes: Mapping[str, bytes | None],
    expected: Mapping[str, bytes | None],
) -> list[str] | None:
    """Restore items and notes; return the positions of the entries, or None if the notes are not as expected."""
    if not kept.are(tx, stream, expected):
        return None
    for name, value in notes.items():
        kept.set_note(tx, stream, name, value, expected=...)
    return _Restoring(tx, stream).restore(items) if items else []


class _Restoring:
    """A stream that is being restored, and its last positions."""

    def __init__(self, tx: Transaction, stream: str) -> None:
        self._tx = tx
        self._stream = stream
        self._id = tx.make_stream(stream)
        self._last = tx.head(self._id)
        self._last_letter: int = tx.value("SELECT max(number) FROM dead WHERE stream_id = ?", (self._id,)) or 0
        self._groups: dict[str, int] = {}

    def restore(self, items: Sequence[StreamItem]) -> list[str]:
        positions = []
        for item in sorted(items, key=lambda item: not isinstance(item, GroupCursor)):
            match item:
                case Entry():
                    positions.append(self._restore_entry(item))
                case GroupCursor():
                    self._restore_group(item)
                case GroupPending():
                    self._restore_begun(item)
                case DeadLetter():
                    self._restore_letter(item)
                case Scheduled():
                    self._restore_scheduled(item)
                case RememberedId():
                    self._restore_remembered(item)
        self._tx.changed[self._stream] = 0
        return positions

    def _restore_entry(self, entry: Entry) -> str:
        values = (self._id, entry.appended - self._tx.shift, *to_fields(entry.record))
        self._last = self._insert(_ENTRY, _number(entry.position, self._last), values)
        return str(self._last)

    def _restore_scheduled(self, item: Scheduled) -> None:
        if item.at is None:
            due, at = self._tx.now + item.delay, self._tx.time + item.delay
        else:
            at = item.at.timestamp()
            due = MOMENTS + at
        self._tx.run(_SCHEDULED, (self._id, due, at, *to_row(item.record)))

    def _restore_letter(self, letter: DeadLetter) -> None:
        # A dead letter that another program wrote has no position.
        position = parse(letter.position or "0")
        reason = (letter.attempts, letter.error, letter.traceback, letter.failed_at.timestamp())
        values = (self._id, letter.group, position, *reason, *to_fields(letter.record))
        self._last_letter = self._insert(_LETTER, _number(letter.id, self._last_letter), values)

    def _insert(self, sql: str, number: int | None, values: tuple[object, ...]) -> int:
        """Insert a row under its own number, or, if that is taken, under the next free one."""
        if number is None or not self._tx.run(sql, (number, *values)):
            self._tx.run(sql, (None, *values))
        return self._tx.connection.last_insert_rowid()

    def _restore_group(self, place: GroupCursor) -> None:
        self._tx.run(
            "INSERT INTO groups (stream_id, name, cursor) VALUES (?, ?, ?)"
            " ON CONFLICT (stream_id, name) DO UPDATE SET cursor = excluded.cursor",
            (self._id, check_name("group", place.group), self._tx.place(place.position, self._id)),
        )

    def _restore_begun(self, begun: GroupPending) -> None:
        now, pending = self._tx.now, begun.pending
        # 0 is the start of the machine: a lease from before it has expired. No consumer has its token.
        leased = None if pending.consumer is None else max(now - (pending.idle or 0.0), 0.0)
        due = now + (pending.due or 0.0) if pending.consumer is None else None
        failure = pending.last_failure
        what = (None, None) if failure is None else (failure.error, failure.traceback)
        history = (pending.consumer, pending.attempt, pending.failures, *what)
        self._tx.run(_BEGUN, (self._group(begun.group), parse(pending.position), *history, leased, due))

    def _restore_remembered(self, item: RememberedId) -> None:
        expires = self._tx.time + item.expires_in
        if item.group is None:
            position = None if item.position is None else parse(item.position)
            self._tx.run(
                "INSERT OR REPLACE INTO seen (stream_id, id, seq, expires) VALUES (?, ?, ?, ?)",
                (self._id, item.id, position, expires),
            )
        else:
            self._tx.run(
                "INSERT OR REPLACE INTO handled (group_id, id, expires) VALUES (?, ?, ?)",
                (self._group(item.group), item.id, expires),
            )

    def _group(self, name: str) -> int:
        if name not in self._groups:
            self._groups[name] = self._tx.group(self._stream, name).id
        return self._groups[name]


def _number(text: str, last: int) -> int | None:
    """The number in a position or an id of this store; None if it is not after the last one."""
    number = int(text) if text.isascii() and text.isdecimal() else 0
    return number if last < number < LAST else None


def drop(tx: Transaction, stream: str, *, keep_entries: bool, expected: Mapping[str, bytes | None]) -> bool:
    """Remove a stream, or all of it but its entries and notes; False if the notes are not as expected."""
    if not kept.are(tx, stream, expected):
        return False
    stream_id = tx.stream(stream)
    for table in ("pending", "handled"):
        tx.run(f"DELETE FROM {table} WHERE group_id IN (SELECT id FROM groups WHERE stream_id = ?)", (stream_id,))
    for table in ("groups", "scheduled", "seen", "dead"):
        tx.run(f"DELETE FROM {table} WHERE stream_id = ?", (stream_id,))
    if not keep_entries:
        tx.run("DELETE FROM entries WHERE stream_id = ?", (stream_id,))
        tx.run("DELETE FROM streams WHERE id = ?", (stream_id,))
        tx.run("DELETE FROM notes WHERE namespace = ? AND stream = ?", (tx.namespace, stream))
    return True


def scheduled(tx: Transaction, stream: str, *, after: str, limit: int) -> list[Scheduled]:
    """The scheduled records, ordered by `due` and number, which are also the id of each."""
    due, _, number = after.partition(" ")
    rows = select(
        tx.connection,
        ["e.due", "e.number", "e.at"],
        "FROM scheduled e WHERE e.stream_id = ? AND (e.due, e.number) > (?, ?) ORDER BY e.due, e.number LIMIT ?",
        (tx.stream(stream), float(due or "-inf"), int(number or 0), limit),
    )
    return [
        Scheduled(f"{due!r} {number}", record, due - tx.now)
        if due < MOMENTS
        else Scheduled(f"{due!r} {number}", record, at - tx.wall, datetime.fromtimestamp(at, UTC))
        for due, number, at, record in rows
        if isinstance(record, Record)
    ]


def remembered(tx: Transaction, stream: str, *, group: str | None, after: str, limit: int) -> list[RememberedId]:
    """The ids that a stream or a group remembers, sorted."""
    if group is None:
        rows = tx.rows(
            "SELECT id, expires, seq FROM seen WHERE stream_id = ? AND id > ? AND expires > ? ORDER BY id LIMIT ?",
            (tx.stream(stream), after, tx.time, limit),
        )
    else:
        found = tx.find_group(stream, group)
        rows = tx.rows(
            "SELECT id, expires, NULL FROM handled WHERE group_id = ? AND id > ? AND expires > ? ORDER BY id LIMIT ?",
            (found and found.id, after, tx.time, limit),
        )
    return [RememberedId(id, expires - tx.time, None if seq is None else str(seq), group) for id, expires, seq in rows]

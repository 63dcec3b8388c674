"""Read a file in the single-table format: one table `events`, a row for each event, with `processed` and `retry_count`.

The original design had this format for SQLite; forebay never writes it. Each type becomes a stream, in the order of
the rows. For the groups that are named, processed rows are done, rows that were tried wait for their next attempt, and
the rows after them are unread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Self

import apsw

from forebay.errors import ConfigurationError, StoreError, TransferRefused
from forebay.event import Record
from forebay.payload import check_name
from forebay.store import Entry, GroupCursor, GroupPending, Pending, StreamItem, StreamStats
from forebay.stores.memory import MemoryStore

COLUMNS = {"id", "type", "source", "data", "timestamp", "processed", "retry_count"}

_ROWS = (
    "SELECT id, type, source, data, timestamp,"
    " CAST(coalesce(processed, 0) AS INTEGER), CAST(coalesce(retry_count, 0) AS INTEGER) FROM events"
)
_STATE = "SELECT count(*), max(id), sum(processed), sum(retry_count) FROM events"


class Row(NamedTuple):
    """A row of the table."""

    id: int
    type: Any
    source: Any
    data: Any
    timestamp: Any
    processed: int
    retry_count: int


class EventsTable(MemoryStore):
    """Offer the file as a store to copy from, with these groups.

    It is read when the store is opened. The copy is refused if the file has changed since.
    """

    def __init__(self, path: Path, groups: Sequence[str], *, namespace: str = "events") -> None:
        super().__init__(namespace=namespace)
        self._path = path
        self._groups = groups
        self._content: tuple[Any, ...] = ()

    async def __aenter__(self) -> Self:
        rows, self._content = _read(self._path)
        by_type: dict[str, list[Row]] = {}
        for row in rows:
            by_type.setdefault(row.type, []).append(row)
        for type, own in by_type.items():
            await self._add(type, own)
        return self

    async def _add(self, type: str, rows: list[Row]) -> None:
        moment = 0.0
        entries: list[Entry] = []
        for row in rows:
            timestamp, moment = _time(row.timestamp, moment)
            record = Record(type, _text(row.source), _text(row.data).encode(), timestamp, id=f"quickfix-{row.id}")
            entries.append(Entry("", record, moment))
        positions = await self.restore(type, entries) or []
        # After the last row that was tried all are unread; up to it, the rows that are not processed wait.
        begun = max((n for n, row in enumerate(rows, 1) if row.processed or row.retry_count), default=0)
        items: list[StreamItem] = []
        for group in self._groups:
            items.append(GroupCursor(group, positions[begun - 1] if begun else "0"))
            for position, row in zip(positions[:begun], rows, strict=False):
                if not row.processed:
                    tried = max(row.retry_count, 0)
                    items.append(GroupPending(group, Pending(position, None, tried, tried, None, 0.0)))
        await self.restore(type, items)

    async def stats(self, streams: Sequence[str] | None = None) -> list[StreamStats]:
        if _read(self._path, only_state=True)[1] != self._content:
            raise TransferRefused(
                f"{self._path} was changed while it was copied: stop the program that writes to it, and run the copy"
                " again"
            )
        return await super().stats(streams)


def is_events_table(path: Path) -> bool:
    """True if the file has the single-table format."""
    try:
        with closing(_open(path)) as connection:
            names = {name for (name,) in connection.execute("SELECT name FROM pragma_table_info('events')")}
            return names >= COLUMNS
    except apsw.Error:
        return False


def _read(path: Path, *, only_state: bool = False) -> tuple[list[Row], tuple[Any, ...]]:
    """The rows, and a state that changes with them, both of one moment."""
    try:
        with closing(_open(path)) as connection, connection:
            [state] = connection.execute(_STATE).fetchall()
            rows = [] if only_state else [Row(*row) for row in connection.execute(f"{_ROWS} ORDER BY id")]
    except apsw.Error as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
    wrong = ", ".join(_nameless(rows))
    if wrong:
        raise ConfigurationError(f"{path}: no stream can have the type of {wrong}: correct it, and run the copy again")
    return rows, state


def _nameless(rows: Sequence[Row]) -> Iterator[str]:
    """The first rows whose type cannot be the name of a stream."""
    count = 0
    for row in rows:
        try:
            check_name("event type", row.type)
        except ConfigurationError:
            count += 1
            if count > 3:
                yield "..."
                return
            yield f"row {row.id} ({row.type!r})"


def _open(path: Path) -> apsw.Connection:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    connection.set_busy_timeout(10_000)
    return connection


def _time(text: Any, before: float) -> tuple[str, float]:
    """Convert a time to the text of an event and to Unix time. The format has the machine's local time, without a zone.

    Text that is not a time is kept for the handlers to refuse, with the Unix time of the row before.
    """
    try:
        moment = datetime.fromisoformat(_text(text)).astimezone(UTC)
    except (ValueError, OverflowError):
        return _text(text), before
    return moment.isoformat(), moment.timestamp()


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return "" if value is None else str(value)

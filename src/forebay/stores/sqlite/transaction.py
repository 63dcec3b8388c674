"""What a move works with: the connection, the time, and the rows that everything hangs on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import apsw
import msgspec

from forebay.errors import ConfigurationError, NotFound
from forebay.payload import check_name
from forebay.store import END

LAST = 2**63 - 1


class Group(NamedTuple):
    """A row of `groups`."""

    id: int
    stream_id: int
    cursor: int


@dataclass(slots=True)
class Transaction:
    """One transaction, or one look without. Both clocks are read once, at its beginning.

    `epoch` is Unix time at the 0 of `now`, as all who use the file took it from the file.
    """

    connection: apsw.Connection
    namespace: str
    now: float
    wall: float
    epoch: float
    changed: dict[str, int] = field(default_factory=dict)
    """The streams that have unread entries now, with their last positions; 0: also at earlier positions."""
    last_before: int | None = None
    """The last position of all before the first one that this transaction made."""

    @property
    def time(self) -> float:
        """The file's own time: Unix time that no process's wall clock changes while the machine runs."""
        return self.now + self.epoch

    @property
    def shift(self) -> float:
        """What has to be added to the file's own time to show it: the wall clock may have been set since."""
        shift = self.wall - self.time
        return shift if abs(shift) > 1.0 else 0.0

    def run(self, sql: str, bindings: Sequence[Any] | Mapping[str, Any] = ()) -> int:
        """Run one writing statement; return how many rows it changed."""
        self.connection.execute(sql, bindings)
        return self.connection.changes()

    def rows(self, sql: str, bindings: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        return self.connection.execute(sql, bindings).fetchall()

    def column(self, sql: str, bindings: Sequence[Any] = ()) -> list[int]:
        """The column `seq` of all rows of a query, in one step: see `rows.select`."""
        query = f"SELECT json_group_array(seq) FROM ({sql})"  # noqa: S608  # a constant around a constant
        text = self.connection.execute(query, bindings).get
        found: list[int] = msgspec.json.decode(text)
        return found

    def value(self, sql: str, bindings: Sequence[Any] | Mapping[str, Any] = ()) -> Any:
        """The one column of the one row of a query; None where there is no row."""
        rows = self.connection.execute(sql, bindings).fetchall()
        return rows[0][0] if rows else None

    def stream(self, name: str) -> int | None:
        """The id of a stream, if it exists."""
        found: int | None = self.value(
            "SELECT id FROM streams WHERE namespace = ? AND name = ?", (self.namespace, name)
        )
        return found

    def make_stream(self, name: str) -> int:
        """The id of a stream, which is made where it does not exist."""
        found = self.stream(name)
        if found is not None:
            return found
        self.run("INSERT INTO streams (namespace, name) VALUES (?, ?)", (self.namespace, check_name("stream", name)))
        return self.connection.last_insert_rowid()

    def find_group(self, stream: str, group: str) -> Group | None:
        """A group, if it exists."""
        rows = self.rows(
            "SELECT g.id, g.stream_id, g.cursor FROM groups g JOIN streams s ON s.id = g.stream_id"
            " WHERE s.namespace = ? AND s.name = ? AND g.name = ?",
            (self.namespace, stream, group),
        )
        return Group(*rows[0]) if rows else None

    def group(self, stream: str, group: str) -> Group:
        """A group; `NotFound` where it does not exist."""
        found = self.find_group(stream, group)
        if found is None:
            raise NotFound(f"stream {stream!r} has no group {group!r}")
        return found

    def head(self, stream_id: int) -> int:
        """The last position of a stream; 0 where it is empty."""
        found: int | None = self.value("SELECT max(seq) FROM entries WHERE stream_id = ?", (stream_id,))
        return found or 0

    def place(self, position: str, stream_id: int) -> int:
        """The number behind a position; END is the stream's last one."""
        return self.head(stream_id) if position == END else parse(position)

    def cursor(self, position: str, stream_id: int) -> int:
        """The number behind a position for a group to begin at: at most the last one of all that was given away."""
        last: int | None = self.value("SELECT seq FROM sqlite_sequence WHERE name = 'entries'")
        return min(self.place(position, stream_id), last or 0)


def parse(position: str) -> int:
    """The number behind a position that is not END."""
    if not (position.isascii() and position.isdecimal()):
        raise ConfigurationError(
            f"{position!r} is no position: in an SQLite store those are whole numbers, and {END!r}"
        )
    return int(position) if len(position) < 19 else min(int(position), LAST)

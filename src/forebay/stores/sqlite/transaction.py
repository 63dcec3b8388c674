"""The transaction of a move: its connection, its time, and queries for streams, groups and positions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import apsw
import msgspec

from forebay.errors import ConfigurationError, NotFound
from forebay.store import END

LAST = 2**63 - 1


class Group(NamedTuple):
    """A row of `groups`."""

    id: int
    stream_id: int
    cursor: int


@dataclass(slots=True)
class Transaction:
    """One transaction, or one query without. Both clocks are read once, at its beginning.

    `epoch` is the Unix time at the 0 of `now`: all processes take it from the file. `leases` makes tokens of leases.
    """

    connection: apsw.Connection
    namespace: str
    now: float
    wall: float
    epoch: float
    leases: Iterator[int] = field(default_factory=lambda: iter(()))
    changed: dict[str, int] = field(default_factory=dict)
    """The streams that have unread entries now, with their last positions; 0: also at earlier positions."""
    last_before: int | None = None
    """The last position of all before the first one that this transaction made."""

    @property
    def time(self) -> float:
        """The file's own time: Unix time that does not follow the wall clock while the machine runs."""
        return self.now + self.epoch

    @property
    def shift(self) -> float:
        """The seconds to add to the file's own time to show it: the wall clock may have been set since."""
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
        """The column `seq` of all rows of a query, in one step: see `rows`."""
        query = f"SELECT json_group_array(seq) FROM ({sql})"  # noqa: S608  # a constant around a constant
        text = self.connection.execute(query, bindings).get
        found: list[int] = msgspec.json.decode(text)
        return found

    def value(self, sql: str, bindings: Sequence[Any] | Mapping[str, Any] = ()) -> Any:
        """The column of the only row of a query; None if there is no row."""
        rows = self.connection.execute(sql, bindings).fetchall()
        return rows[0][0] if rows else None

    def stream(self, name: str) -> int | None:
        """The id of a stream, if it exists."""
        found: int | None = self.value(
            "SELECT id FROM streams WHERE namespace = ? AND name = ?", (self.namespace, name)
        )
        return found

    def make_stream(self, name: str) -> int:
        """The id of a stream, which is made if it does not exist."""
        found = self.stream(name)
        if found is not None:
            return found
        self.run("INSERT INTO streams (namespace, name) VALUES (?, ?)", (self.namespace, name))
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
        """A group; `NotFound` if it does not exist."""
        found = self.find_group(stream, group)
        if found is None:
            raise no_group(stream, group)
        return found

    def new_lease(self) -> int:
        """The token of a new lease, different from that of each lease before, of any process."""
        return next(self.leases)

    def head(self, stream_id: int) -> int:
        """The last position of a stream; 0 if it is empty."""
        found: int | None = self.value("SELECT max(seq) FROM entries WHERE stream_id = ?", (stream_id,))
        return found or 0

    def place(self, position: str, stream_id: int) -> int:
        """The number of a position; END is the stream's last one."""
        return self.head(stream_id) if position == END else parse(position)

    def cursor(self, position: str, stream_id: int) -> int:
        """The number of a position where a group begins: at most the last one that any entry of the file has had."""
        last: int | None = self.value("SELECT seq FROM sqlite_sequence WHERE name = 'entries'")
        return min(self.place(position, stream_id), last or 0)


def no_group(stream: str, group: str) -> NotFound:
    """The error of a move that needs a group which does not exist."""
    return NotFound(f"stream {stream!r} has no group {group!r}: join it first")


def is_position(text: str) -> bool:
    """Whether the text is a whole number."""
    return text.isascii() and text.isdecimal()


def parse(position: str) -> int:
    """The number of a position that is not END."""
    if not is_position(position):
        raise ConfigurationError(
            f"{position!r} is not a position: in a SQLite store positions are whole numbers, and {END!r}"
        )
    return int(position) if len(position) < 19 else min(int(position), LAST)

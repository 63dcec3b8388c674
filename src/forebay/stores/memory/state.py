"""The state that a memory store and its clones share: streams, their groups, and what belongs to each.

An entry of a group is in one of five places:

    unread    in `Stream.entries`, after `Group.cursor`
    pending   in `Group.leased`: a consumer has it
    waiting   in `Group.waiting`, for its next attempt
    dead      in `Stream.dead`: a copy, with the reason
    done      in none of these

The modules log, leases, dead_letters, inspection, notes and transfer hold the moves, as in the other stores. Each move
is a function of the state, which runs with its lock from the beginning to the end.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Self

import msgspec

from forebay.errors import ConfigurationError, NotFound
from forebay.event import Foreign, Record
from forebay.payload import check_name
from forebay.store import END, DeadLetter, Failure, Reader
from forebay.stores.memory.arrivals import Watch, wake


class StoredEntry(msgspec.Struct, frozen=True, gc=False):
    """An entry of a stream, and when it was appended by the store's clock."""

    record: Record | Foreign
    appended: float


class Lease(msgspec.Struct, gc=False):
    """A consumer's hold on an entry, and when it was renewed by the store's clock."""

    consumer: str
    renewed: float
    token: str
    attempt: int = 1
    failures: int = 0
    last_failure: Failure | None = None


class Waiting(msgspec.Struct, frozen=True, gc=False):
    """An entry between two attempts, and when the next one is due by the store's clock."""

    due: float
    attempt: int
    failures: int
    last_failure: Failure | None = None


class ExpiringIds:
    """Ids, each with a value, until they expire."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, float]] = {}
        self._sweep_at = 1000

    def get(self, id: str, now: float) -> str | None:
        """The value of the id; None if it is not known, or has expired."""
        value, until = self._known.get(id, ("", now))
        return value if until > now else None

    def put(self, id: str, value: str, *, now: float, span: float) -> None:
        """Set the value of the id, for `span` seconds from now. An empty id is ignored."""
        if not id:
            return
        self._known[id] = (value, now + span)
        if len(self._known) >= self._sweep_at:
            self._known = {id: (value, until) for id, (value, until) in self._known.items() if until > now}
            # Twice the rest: a sweep costs no more than the puts since the one before.
            self._sweep_at = max(1000, 2 * len(self._known))

    def forget(self, id: str) -> None:
        """Remove the id."""
        self._known.pop(id, None)

    def items(self, now: float) -> list[tuple[str, str, float]]:
        """The ids, sorted, with their values and the seconds until they expire."""
        return sorted((id, value, until - now) for id, (value, until) in self._known.items() if until > now)

    def complete(self, id: str, value: str) -> None:
        """Set the value of an id that has an empty one; its time stays."""
        known = self._known.get(id)
        if known and not known[0]:
            self._known[id] = (value, known[1])


class Group:
    """A group: how far it has read, and its pending entries."""

    def __init__(self, name: str, cursor: int) -> None:
        self.name = name
        self.cursor = cursor
        """The last position that was handed out or passed over."""
        self.leased: dict[int, Lease] = {}
        self.waiting: dict[int, Waiting] = {}
        self.handled = ExpiringIds()
        self.trimmed_unread = 0
        """Entries that were trimmed before the group read them, and were not reported yet."""

    def is_unread(self, position: int, entry: StoredEntry) -> bool:
        """Whether the group has still to read the entry."""
        return position > self.cursor and entry.record.only_group in (None, self.name)

    def has_finished(self, position: int, entry: StoredEntry) -> bool:
        """Whether the entry is done, dead, or for another group."""
        is_pending = position in self.leased or position in self.waiting
        return not is_pending and not self.is_unread(position, entry)

    def is_held_by_another(self, consumer: str, *, since: float = float("-inf")) -> bool:
        """Whether another consumer has a lease that was renewed after `since`."""
        return any(lease.consumer != consumer and lease.renewed > since for lease in self.leased.values())


class Stream:
    """A stream: entries without gaps, of which a trim removes the first."""

    def __init__(self) -> None:
        self.entries: list[StoredEntry] = []
        self.first = 1
        """The position of the first entry; of the next one if there are no entries."""
        self.groups: dict[str, Group] = {}
        self.dead: dict[int, DeadLetter] = {}
        self.last_dead = 0
        """The number of the newest dead letter that there ever was."""
        self.scheduled: list[tuple[float, int, Record]] = []
        """A heap: when it is due by the store's clock, the number of its arrival, the record."""
        self.moments: list[tuple[float, int, Record]] = []
        """The same for records that are due at a moment, by Unix time."""
        self.last_scheduled = 0
        """The number of the newest arrival in these heaps."""
        self.remembered_ids = ExpiringIds()
        """Ids appended with `dedup_window`, with their positions; empty while they are only scheduled."""
        self.waiters: dict[asyncio.Future[None], asyncio.AbstractEventLoop] = {}
        """One for each read that waits, with its event loop."""

    @property
    def last(self) -> int:
        """The position of the last entry, even if it was trimmed."""
        return self.first + len(self.entries) - 1

    def append(self, record: Record | Foreign, now: float) -> str:
        """Append one record; return its position."""
        self.entries.append(StoredEntry(record, now))
        return str(self.last)

    def record_at(self, position: int) -> Record | Foreign | None:
        """The record at a position; None if it was trimmed."""
        index = position - self.first
        return self.entries[index].record if 0 <= index < len(self.entries) else None

    def after(self, position: int) -> Iterator[tuple[int, StoredEntry]]:
        """The entries after a position, with their own positions."""
        first = max(position + 1, self.first)
        indexes = range(first - self.first, len(self.entries))
        return enumerate(map(self.entries.__getitem__, indexes), first)

    def number(self, position: str) -> int:
        """A position as a number; END is the last entry's."""
        if position == END:
            return self.last
        return parse(position)

    def notify(self) -> None:
        """Let all reads that wait try again, on their event loops."""
        waiters, self.waiters = self.waiters, {}
        for waiter, loop in waiters.items():
            wake(waiter, loop)


def is_position(text: str) -> bool:
    """Whether the text is a whole number."""
    return text.isascii() and text.isdecimal()


def parse(position: str) -> int:
    """The number of a position that is not END."""
    if not is_position(position):
        raise ConfigurationError(f"{position!r} is not a position: here it is a whole number")
    return int(position)


class State:
    """The streams and their notes, the clocks, and the lock."""

    def __init__(self, *, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self.lock = threading.Lock()
        self.clock = clock
        self.wall = wall
        self.epoch = wall() - clock()
        """Unix time at the clock's 0, as it was when the state was made."""
        self.streams: dict[str, Stream] = {}
        self.notes: dict[str, dict[str, bytes]] = {}
        """By stream; apart from the streams, as notes alone make no stream."""
        self.tokens = map(str, itertools.count(1))
        """The tokens of leases."""
        self.watches: list[Watch] = []
        """One for each iteration of `arrivals`."""

    def __enter__(self) -> Self:
        self.lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.lock.release()

    def stream(self, name: str) -> Stream:
        """The stream; an empty one, which is not kept, if it does not exist."""
        found = self.streams.get(name)
        if found is None:
            check_name("stream", name)
            found = Stream()
        return found

    def make_stream(self, name: str) -> Stream:
        """The stream, which is made if it does not exist."""
        found = self.streams.get(name)
        if found is None:
            found = self.streams[check_name("stream", name)] = Stream()
        return found

    def find_group(self, stream: str, group: str) -> Group | None:
        """The group; None if it does not exist."""
        found = self.stream(stream).groups.get(group)
        if found is None:
            check_name("group", group)
        return found

    def group(self, stream: str, group: str) -> Group:
        """The group; `NotFound` if it does not exist."""
        found = self.find_group(stream, group)
        if found is None:
            raise NotFound(f"stream {stream!r} has no group {group!r}; join it first")
        return found

    def find_group_of(self, reader: Reader) -> Group | None:
        """The group of a reader; None if it does not exist."""
        check_name("consumer", reader.consumer)
        return self.find_group(reader.stream, reader.group)

    def group_of(self, reader: Reader) -> Group:
        """The group of a reader; `NotFound` if it does not exist."""
        check_name("consumer", reader.consumer)
        return self.group(reader.stream, reader.group)

    def report_growth(self, name: str, stream: Stream) -> None:
        """Wake the reads that wait for the stream, and report it to all watches."""
        if stream.waiters:
            stream.notify()
        for watch in self.watches:
            watch.report(name)

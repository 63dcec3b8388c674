"""The memory store: the Store protocol in plain dictionaries and lists, as a reference for the others.

What it holds lives in this process and ends with it. A group's entry is in one of five places:

    unread    in `Stream.entries`, behind `Group.cursor`
    pending   in `Group.leased`: a consumer has it
    waiting   in `Group.waiting`, for its next attempt
    dead      in `Stream.dead`: a copy, with the reason
    done      in none of these
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from types import TracebackType
from typing import Self

import msgspec

from forebay.errors import ConfigurationError, NotFound
from forebay.event import Foreign, Record
from forebay.payload import check_name
from forebay.store import (
    END,
    START,
    DeadLetter,
    Delivery,
    Durability,
    Entry,
    GroupStats,
    Pending,
    Reader,
    StreamStats,
    Trimmed,
)


class Kept(msgspec.Struct, frozen=True, gc=False):
    """An entry of a stream. `only` stands beside the record because a foreign entry has no place for it."""

    record: Record | Foreign
    only: str | None
    appended: float


class Lease(msgspec.Struct, gc=False):
    """An entry in a consumer's hands, its lease last `renewed` then."""

    consumer: str
    renewed: float
    attempt: int = 1
    failures: int = 0


class Wait(msgspec.Struct, frozen=True, gc=False):
    """An entry between two attempts."""

    due: float
    attempt: int
    failures: int


class Group:
    """How far one group is, and what it has begun."""

    def __init__(self, name: str, cursor: int) -> None:
        self.name = name
        self.cursor = cursor
        self.leased: dict[int, Lease] = {}
        self.waiting: dict[int, Wait] = {}
        self.handled = Known()

    def begun(self, position: int) -> bool:
        """Whether the entry is pending or waiting."""
        return position in self.leased or position in self.waiting

    def is_to_see(self, kept: Kept) -> bool:
        """Whether the entry is meant for this group."""
        return kept.only is None or kept.only == self.name

    def unread(self, position: int, kept: Kept) -> bool:
        """Whether the entry is yet to be delivered."""
        return position > self.cursor and self.is_to_see(kept) and not self.begun(position)

    def unfinished(self, position: int, kept: Kept) -> bool:
        """Whether the group still needs the entry."""
        return self.begun(position) or self.unread(position, kept)

    def is_held_by_another(self, consumer: str, *, since: float = float("-inf")) -> bool:
        """Whether another consumer has a lease, renewed after `since`."""
        return any(lease.consumer != consumer and lease.renewed > since for lease in self.leased.values())

    def held(self, delivery: Delivery) -> Lease | None:
        """The lease that this very delivery stands for, if it is still held."""
        lease = self.leased.get(int(delivery.position))
        # The attempt too: a consumer may have taken over from itself.
        if lease and lease.consumer == delivery.reader.consumer and lease.attempt == delivery.attempt:
            return lease
        return None

    def take(self, reader: Reader, position: int, kept: Kept | None, now: float, was: Lease | Wait) -> Delivery:
        """Lease once more what was begun before."""
        lease = Lease(reader.consumer, now, was.attempt + 1, was.failures)
        self.waiting.pop(position, None)
        self.leased[position] = lease
        record = None if kept is None else kept.record
        return Delivery(reader, str(position), record, lease.attempt, lease.failures, isinstance(was, Lease))


class Stream:
    """One log: entries without gaps, of which trimming takes the first."""

    def __init__(self) -> None:
        self.entries: list[Kept] = []
        self.first = 1
        """The position of the first entry, or of the next one where there is none."""
        self.groups: dict[str, Group] = {}
        self.dead: dict[int, DeadLetter] = {}
        self.deaths = 0
        self.scheduled: list[tuple[float, int, Record]] = []
        """A heap, by the time when they are due and then by the order of their arrival."""
        self.schedules = 0
        self.seen = Known()
        self.bells: dict[asyncio.Future[None], asyncio.AbstractEventLoop] = {}
        """One for each reader that waits, with the loop it waits on."""

    @property
    def last(self) -> int:
        """The position of the last entry, trimmed ones included."""
        return self.first + len(self.entries) - 1

    def at(self, position: int) -> Kept | None:
        """What stands at a position; None where it was trimmed."""
        index = position - self.first
        return self.entries[index] if 0 <= index < len(self.entries) else None

    def behind(self, position: int) -> Iterator[tuple[int, Kept]]:
        """The entries behind a position."""
        for index in range(max(0, position + 1 - self.first), len(self.entries)):
            yield self.first + index, self.entries[index]

    def place(self, position: str) -> int:
        """The number in a position; END is the last entry's."""
        if position == END:
            return self.last
        if not position.isascii() or not position.isdecimal():
            raise ConfigurationError(f"{position!r} is not a position: it is a whole number here")
        return int(position)

    def add(self, record: Record | Foreign, only: str | None, now: float) -> str:
        """Append one entry."""
        self.entries.append(Kept(record, only, now))
        return str(self.last)

    def ring(self) -> None:
        """Let all readers that wait look again, on whatever loops they are."""
        bells, self.bells = self.bells, {}
        for bell, loop in bells.items():
            with contextlib.suppress(RuntimeError):  # its loop may have closed meanwhile
                loop.call_soon_threadsafe(_wake, bell)


class Known:
    """Ids and what is known of each, until its time."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, float]] = {}
        self._sweep_at = 1000

    def get(self, id: str, now: float) -> str | None:
        """What is known of the id."""
        value, until = self._known.get(id, ("", now))
        return value if until > now else None

    def put(self, id: str, value: str, *, now: float, span: float) -> None:
        """Know `value` of the id, for `span` seconds from now. An empty id names nothing."""
        if not id:
            return
        self._known[id] = (value, now + span)
        if len(self._known) >= self._sweep_at:
            self._known = {id: (value, until) for id, (value, until) in self._known.items() if until > now}
            # Twice what is left: a sweep costs no more than the puts since the one before.
            self._sweep_at = max(1000, 2 * len(self._known))


class State:
    """What a store and its twins share. Every move holds the lock from its beginning to its end."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.streams: dict[str, Stream] = {}


class MemoryStore:
    """A store in this process's memory, for tests and for buses that need not outlive it.

    The state stays with the object, also when it is closed and opened again. `clock` gives seconds
    that never go back.
    """

    def __init__(self, *, namespace: str = "events", clock: Callable[[], float] = time.monotonic) -> None:
        self._namespace = check_name("namespace", namespace)
        self._clock = clock
        self._state = State()
        self._lock = self._state.lock

    def __repr__(self) -> str:
        return f"MemoryStore(namespace={self._namespace!r})"

    def twin(self) -> MemoryStore:
        twin = MemoryStore(namespace=self._namespace, clock=self._clock)
        twin._state, twin._lock = self._state, self._lock
        return twin

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    # Streams.

    async def append(
        self, stream: str, records: Sequence[Record], *, unless_seen: float | None = None, since: str | None = None
    ) -> list[str]:
        with self._lock:
            log = self._make(stream)
            now = self._clock()
            if unless_seen is None and since is None:
                first = log.last + 1
                log.entries += [Kept(record, record.only, now) for record in records]
                positions = [str(position) for position in range(first, first + len(records))]
            else:
                positions = _append_once(log, records, now, unless_seen, since)
            log.ring()
            return positions

    async def plant(self, stream: str, fields: Sequence[tuple[bytes, bytes]]) -> str:
        """Append an entry that is no event, as another program might; return its position. For tests."""
        with self._lock:
            log = self._make(stream)
            position = log.add(Foreign(tuple(fields)), None, self._clock())
            log.ring()
            return position

    async def schedule(
        self, stream: str, records: Sequence[Record], *, delay: float, unless_seen: float | None = None
    ) -> None:
        with self._lock:
            log = self._make(stream)
            now = self._clock()
            for record in records:
                if unless_seen is not None:
                    known = log.seen.get(record.id, now)
                    log.seen.put(record.id, known or "", now=now, span=unless_seen)
                    if known is not None:
                        continue
                log.schedules += 1
                heapq.heappush(log.scheduled, (now + delay, log.schedules, record))

    async def scan(
        self, stream: str, *, after: str = START, until: str = END, limit: int = 100, newest: bool = False
    ) -> list[Entry]:
        with self._lock:
            log = self._find(stream)
            first = max(log.place(after) + 1, log.first)
            end = min(log.place(until), log.last) + 1
            if newest:
                first = max(first, end - limit)
            chosen = range(first, min(end, first + limit))
            return [Entry(str(position), log.entries[position - log.first].record) for position in chosen]

    async def locate(self, stream: str, moment: datetime) -> str:
        with self._lock:
            log = self._find(stream)
            # Entries keep the clock's time, so the moment is first said in it too.
            begin = self._clock() - (time.time() - moment.timestamp())
            found = (position for position, kept in log.behind(0) if kept.appended >= begin)
            return str(next(found, log.last + 1) - 1)

    async def trim(
        self, stream: str, *, max_length: int | None = None, max_age: float | None = None, force: bool = False
    ) -> Trimmed:
        with self._lock:
            log = self._find(stream)
            excess = 0 if max_length is None else len(log.entries) - max_length
            oldest = float("-inf") if max_age is None else self._clock() - max_age
            removed = dropped = 0
            for position, kept in log.behind(0):
                if removed >= excess and kept.appended >= oldest:
                    break
                if any(group.unfinished(position, kept) for group in log.groups.values()):
                    if not force:
                        break
                    dropped += 1
                removed += 1
            del log.entries[:removed]
            log.first += removed
            return Trimmed(removed, dropped)

    # Groups.

    async def join(self, stream: str, group: str, *, start: str = START) -> bool:
        with self._lock:
            log = self._make(stream)
            if group in log.groups:
                return False
            log.groups[check_name("group", group)] = Group(group, log.place(start))
            return True

    async def seek(self, stream: str, group: str, to: str) -> None:
        with self._lock:
            log, own = self._group(stream, group)
            own.cursor = log.place(to)
            log.ring()

    async def leave(self, stream: str, group: str) -> None:
        with self._lock:
            log = self._find(stream)
            log.groups.pop(group, None)
            log.ring()

    async def read(self, reader: Reader, *, limit: int, wait: float = 0.0) -> list[Delivery]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        while True:
            with self._lock:
                log, group = self._group(reader.stream, reader.group)
                deliveries = _read(log, group, reader, limit, self._clock())
                if deliveries or loop.time() >= deadline:
                    return deliveries
                bell = loop.create_future()
                log.bells[bell] = loop
            timer = loop.call_at(deadline, _wake, bell)
            try:
                await bell
            finally:
                timer.cancel()
                with self._lock:
                    log.bells.pop(bell, None)

    async def due(self, reader: Reader, *, limit: int) -> list[Delivery]:
        with self._lock:
            log, group = self._group(reader.stream, reader.group)
            now = self._clock()
            _launch(log, now)
            if reader.ordered and group.is_held_by_another(reader.consumer):
                return []
            found = [(0.0 if reader.ordered else w.due, position) for position, w in group.waiting.items() if w.due <= now]
            chosen = [position for _, position in heapq.nsmallest(limit, found)]
            return [group.take(reader, position, log.at(position), now, group.waiting[position]) for position in chosen]

    async def claim(self, reader: Reader, *, idle: float, limit: int = 1) -> list[Delivery]:
        with self._lock:
            log, group = self._group(reader.stream, reader.group)
            now = self._clock()
            latest = now - idle
            if reader.ordered and group.is_held_by_another(reader.consumer, since=latest):
                return []
            silent = (position for position, lease in group.leased.items() if lease.renewed <= latest)
            chosen = heapq.nsmallest(limit, silent)
            return [group.take(reader, position, log.at(position), now, group.leased[position]) for position in chosen]

    async def extend(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        with self._lock:
            now = self._clock()
            kept = []
            for delivery, _, _, lease in self._held(deliveries):
                lease.renewed = now
                kept.append(delivery)
            return kept

    async def ack(self, deliveries: Sequence[Delivery], *, remember: float | None = None) -> int:
        with self._lock:
            now = self._clock()
            finished = 0
            for delivery in deliveries:
                log = self._find(delivery.reader.stream)
                group = log.groups.get(delivery.reader.group)
                if group is None:
                    continue
                position = int(delivery.position)
                if group.leased.pop(position, None) or group.waiting.pop(position, None):
                    finished += 1
                if remember is not None and isinstance(delivery.record, Record):
                    group.handled.put(delivery.record.id, "", now=now, span=remember)
                _let_go(log, delivery)
            return finished

    async def handled(self, stream: str, group: str, ids: Sequence[str]) -> set[str]:
        with self._lock:
            own = self._find(stream).groups.get(group)
            now = self._clock()
            return set() if own is None else {id for id in ids if own.handled.get(id, now) is not None}

    async def retry(self, delivery: Delivery, *, delay: float, keep: bool = False) -> bool:
        with self._lock:
            now = self._clock()
            for _, log, group, lease in self._held([delivery]):
                if keep:
                    lease.renewed = now
                    lease.attempt += 1
                    lease.failures += 1
                else:
                    position = int(delivery.position)
                    group.waiting[position] = Wait(now + delay, lease.attempt, lease.failures + 1)
                    del group.leased[position]
                    _let_go(log, delivery)
                return True
            return False

    async def release(self, deliveries: Sequence[Delivery]) -> int:
        with self._lock:
            now = self._clock()
            released = 0
            for delivery, log, group, lease in self._held(deliveries):
                position = int(delivery.position)
                group.waiting[position] = Wait(now, lease.attempt - 1, lease.failures)
                del group.leased[position]
                _let_go(log, delivery)
                released += 1
            return released

    async def dead_letter(self, delivery: Delivery, *, reason: str) -> bool:
        with self._lock:
            for _, log, group, lease in self._held([delivery]):
                kept = log.at(int(delivery.position))
                # A forced trim may have taken the entry; then the delivery has the last copy.
                record = kept.record if kept else delivery.record or Foreign(())
                log.deaths += 1
                log.dead[log.deaths] = DeadLetter(
                    id=f"{log.deaths:012}",
                    stream=delivery.reader.stream,
                    group=group.name,
                    position=delivery.position,
                    record=record,
                    error=reason,
                    failed_at=datetime.now(UTC),
                    attempts=lease.attempt,
                )
                del group.leased[int(delivery.position)]
                _let_go(log, delivery)
                return True
            return False

    # Dead letters.

    async def dead_letters(
        self, stream: str, *, group: str | None = None, after: str = "", limit: int = 100
    ) -> list[DeadLetter]:
        with self._lock:
            letters = self._find(stream).dead.values()
            found = (letter for letter in letters if letter.id > after and group in (None, letter.group))
            return list(islice(found, limit))

    async def redrive(self, stream: str, ids: Sequence[str]) -> int:
        with self._lock:
            log = self._find(stream)
            letters = _take_letters(log, ids)
            for letter in letters:
                record = letter.record
                if isinstance(record, Record):
                    record = msgspec.structs.replace(record, only=letter.group)
                log.add(record, letter.group, self._clock())
            log.ring()
            return len(letters)

    async def discard(self, stream: str, ids: Sequence[str]) -> int:
        with self._lock:
            return len(_take_letters(self._find(stream), ids))

    # What operators ask.

    async def stats(self, streams: Sequence[str] | None = None) -> list[StreamStats]:
        with self._lock:
            names = self._state.streams.keys() if streams is None else self._state.streams.keys() & set(streams)
            now = self._clock()
            return [_stream_stats(name, self._state.streams[name], now) for name in sorted(names)]

    async def pending(self, stream: str, group: str, *, after: str = START, limit: int = 100) -> list[Pending]:
        with self._lock:
            log, own = self._group(stream, group)
            now = self._clock()
            behind = log.place(after)
            found = []
            for position in heapq.nsmallest(limit, (p for p in (*own.leased, *own.waiting) if p > behind)):
                if lease := own.leased.get(position):
                    idle = now - lease.renewed
                    found.append(Pending(str(position), lease.consumer, lease.attempt, lease.failures, idle, None))
                else:
                    wait = own.waiting[position]
                    found.append(Pending(str(position), None, wait.attempt, wait.failures, None, wait.due - now))
            return found

    async def durability(self) -> Durability:
        note = "Events are kept in this process's memory and end with it. Use sqlite:/// or redis:// to keep them."
        return Durability(client_killed="lost", store_killed="lost", power_lost="lost", notes=(note,))

    def _find(self, stream: str) -> Stream:
        """The stream, or an empty one where there is none."""
        return self._state.streams.get(stream) or Stream()

    def _make(self, stream: str) -> Stream:
        """The stream, made where there is none."""
        found = self._state.streams.get(stream)
        if found is None:
            found = self._state.streams[check_name("stream", stream)] = Stream()
        return found

    def _group(self, stream: str, group: str) -> tuple[Stream, Group]:
        log = self._find(stream)
        found = log.groups.get(group)
        if found is None:
            raise NotFound(f"no group {group!r} on {stream!r}; join it first")
        return log, found

    def _held(self, deliveries: Sequence[Delivery]) -> Iterator[tuple[Delivery, Stream, Group, Lease]]:
        """Those of the deliveries that are still held, with all that belongs to them."""
        for delivery in deliveries:
            log = self._find(delivery.reader.stream)
            group = log.groups.get(delivery.reader.group)
            lease = group and group.held(delivery)
            if group and lease:
                yield delivery, log, group, lease


def _append_once(
    log: Stream, records: Sequence[Record], now: float, unless_seen: float | None, since: str | None
) -> list[str]:
    found: dict[str, str] = {}
    if since is not None:
        for position, kept in log.behind(log.place(since)):
            if isinstance(kept.record, Record):
                found.setdefault(kept.record.id, str(position))
    positions = []
    for record in records:
        position = (found.get(record.id) if record.id else None) or (
            log.seen.get(record.id, now) if unless_seen is not None else None
        )
        if position is None:
            position = log.add(record, record.only, now)
        if unless_seen is not None:
            log.seen.put(record.id, position, now=now, span=unless_seen)
        positions.append(position)
    return positions


def _launch(log: Stream, now: float) -> None:
    """Append what was scheduled for now or before."""
    if not log.scheduled or log.scheduled[0][0] > now:
        return
    while log.scheduled and log.scheduled[0][0] <= now:
        _, _, record = heapq.heappop(log.scheduled)
        log.seen.fill(record.id, log.add(record, record.only, now))
    log.ring()


def _read(log: Stream, group: Group, reader: Reader, limit: int, now: float) -> list[Delivery]:
    # An ordered reader takes nothing new before what is to be repeated.
    if reader.ordered and (group.waiting or group.is_held_by_another(reader.consumer)):
        return []
    deliveries: list[Delivery] = []
    for position, kept in log.behind(group.cursor):
        if len(deliveries) >= limit:
            break
        # A group that went back meets what it has begun: that stays where it is.
        if group.unread(position, kept):
            group.leased[position] = Lease(reader.consumer, now)
            deliveries.append(Delivery(reader, str(position), kept.record))
        group.cursor = position
    return deliveries


def _let_go(log: Stream, delivery: Delivery) -> None:
    """After a consumer settled something: an ordered group may have been waiting for just that."""
    if delivery.reader.ordered:
        log.ring()


def _take_letters(log: Stream, ids: Sequence[str]) -> list[DeadLetter]:
    numbers = [int(id) for id in ids if id.isascii() and id.isdecimal()]
    return [log.dead.pop(number) for number in dict.fromkeys(numbers) if number in log.dead]


def _stream_stats(name: str, log: Stream, now: float) -> StreamStats:
    return StreamStats(
        stream=name,
        length=len(log.entries),
        scheduled=len(log.scheduled),
        dead=len(log.dead),
        first=str(log.first) if log.entries else None,
        last=str(log.last) if log.entries else None,
        groups=tuple(_group_stats(log, log.groups[group], now) for group in sorted(log.groups)),
    )


def _group_stats(log: Stream, group: Group, now: float) -> GroupStats:
    oldest = next((kept for position in sorted((*group.leased, *group.waiting)) if (kept := log.at(position))), None)
    return GroupStats(
        group=group.name,
        position=str(group.cursor),
        lag=sum(group.unread(position, kept) for position, kept in log.behind(group.cursor)),
        pending=len(group.leased) + len(group.waiting),
        waiting=len(group.waiting),
        dead=sum(letter.group == group.name for letter in log.dead.values()),
        oldest=None if oldest is None else now - oldest.appended,
        consumers=len({lease.consumer for lease in group.leased.values()}),
    )


def _wake(bell: asyncio.Future[None]) -> None:
    if not bell.done():
        bell.set_result(None)

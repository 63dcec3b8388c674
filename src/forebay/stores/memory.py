"""Events in this process's memory: the reference for the other stores, in plain dictionaries."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
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


@dataclass(slots=True)
class _Lease:
    """An entry that a group has begun. Without a consumer it waits, until `due`."""

    consumer: str | None
    attempt: int
    failures: int
    since: float
    due: float = 0.0


@dataclass(slots=True)
class _Group:
    """`cursor` is the last position handed out; `begun` has what is pending or waiting, by position."""

    cursor: int
    begun: dict[int, _Lease] = field(default_factory=dict)
    handled: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Stream:
    """`positions` and `appended` (Unix times) run beside each other, oldest first."""

    head: int = 0
    positions: list[int] = field(default_factory=list)
    appended: list[float] = field(default_factory=list)
    records: dict[int, Record | Foreign] = field(default_factory=dict)
    groups: dict[str, _Group] = field(default_factory=dict)
    scheduled: list[tuple[float, Record]] = field(default_factory=list)
    seen: dict[str, tuple[float, int]] = field(default_factory=dict)
    dead: dict[int, DeadLetter] = field(default_factory=dict)
    deaths: int = 0

    def add(self, record: Record | Foreign) -> int:
        """Append one entry; its position."""
        self.head += 1
        self.positions.append(self.head)
        self.appended.append(time.time())
        self.records[self.head] = record
        return self.head

    def place(self, position: str) -> int:
        """The number behind a position."""
        return self.head if position == END else _number(position)

    def between(self, after: int, until: int) -> Sequence[int]:
        """The positions behind `after`, up to `until`."""
        return self.positions[bisect_right(self.positions, after) : bisect_right(self.positions, until)]


class _State:
    """What the stores on one memory share, and the lock around each of their moves."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.streams: dict[str, _Stream] = {}
        self.waiters: dict[str, set[Callable[[], None]]] = {}

    def stream(self, name: str) -> _Stream:
        """The stream of this name, made where it does not exist."""
        return self.streams.setdefault(check_name("stream", name), _Stream())

    def group(self, stream: str, group: str) -> _Group:
        """A group; `NotFound` where it does not exist."""
        found = self.find(stream, group)
        if found is None:
            raise NotFound(f"stream {stream!r} has no group {group!r}")
        return found

    def find(self, stream: str, group: str) -> _Group | None:
        """A group, if it exists."""
        known = self.streams.get(stream)
        return known.groups.get(group) if known is not None else None

    def held(self, delivery: Delivery) -> _Lease | None:
        """The lease behind a delivery, while it is still its consumer's."""
        group = self.find(delivery.reader.stream, delivery.reader.group)
        lease = group.begun.get(_number(delivery.position)) if group is not None else None
        return lease if lease is not None and lease.consumer == delivery.reader.consumer else None

    def tell(self, stream: str) -> None:
        """Wake those who wait for this stream, on whichever loops they wait."""
        for wake in tuple(self.waiters.get(stream, ())):
            wake()


class MemoryStore:
    """A store in memory. It is lost with the process. `clock` gives seconds that never go back."""

    def __init__(self, *, namespace: str = "events", clock: Callable[[], float] = time.monotonic) -> None:
        check_name("namespace", namespace)
        self._state = _State()
        self._clock = clock

    def __repr__(self) -> str:
        return f"MemoryStore({len(self._state.streams)} streams)"

    def twin(self) -> MemoryStore:
        twin = MemoryStore(clock=self._clock)
        twin._state = self._state
        return twin

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def plant(self, stream: str, fields: Sequence[tuple[bytes, bytes]]) -> str:
        """Append an entry that forebay did not write, as other stores get them from other programs."""
        with self._state.lock:
            return str(self._state.stream(stream).add(Foreign(tuple(fields))))

    # Streams.

    async def append(
        self, stream: str, records: Sequence[Record], *, unless_seen: float | None = None, since: str | None = None
    ) -> list[str]:
        with self._state.lock:
            found = self._state.stream(stream)
            if unless_seen is None and since is None:
                positions = [found.add(record) for record in records]
            else:
                positions = [self._append_unseen(found, record, unless_seen, since) for record in records]
        self._state.tell(stream)
        return [str(position) for position in positions]

    def _append_unseen(self, stream: _Stream, record: Record, window: float | None, since: str | None) -> int:
        now = self._clock()
        position = None
        if window is not None:
            stream.seen = {id: seen for id, seen in stream.seen.items() if seen[0] > now}
            position = stream.seen[record.id][1] if record.id in stream.seen else None
        if position is None and since is not None:
            position = next(
                (
                    place
                    for place in stream.between(stream.place(since), stream.head)
                    if isinstance(there := stream.records[place], Record) and there.id == record.id and not there.only
                ),
                None,
            )
        if position is None:
            position = stream.add(record)
        if window is not None:
            stream.seen.setdefault(record.id, (now + window, position))
        return position

    async def schedule(
        self, stream: str, records: Sequence[Record], *, delay: float, unless_seen: float | None = None
    ) -> None:
        with self._state.lock:
            found, now = self._state.stream(stream), self._clock()
            for record in records:
                if unless_seen is not None:
                    if record.id in found.seen and found.seen[record.id][0] > now:
                        continue
                    found.seen[record.id] = (now + unless_seen, _number(START))
                found.scheduled.append((now + delay, record))

    async def scan(
        self, stream: str, *, after: str = START, until: str = END, limit: int = 100, newest: bool = False
    ) -> list[Entry]:
        with self._state.lock:
            found = self._state.streams.get(stream)
            if found is None or limit < 1:
                return []
            places = found.between(found.place(after), found.place(until))
            places = places[-limit:] if newest else places[:limit]
            return [Entry(str(place), found.records[place]) for place in places]

    async def locate(self, stream: str, moment: datetime) -> str:
        with self._state.lock:
            found = self._state.streams.get(stream, _Stream())
            place = bisect_left(found.appended, moment.timestamp())
            return str(found.positions[place] - 1 if place < len(found.positions) else found.head)

    async def trim(
        self, stream: str, *, max_length: int | None = None, max_age: float | None = None, force: bool = False
    ) -> Trimmed:
        with self._state.lock:
            found = self._state.streams.get(stream, _Stream())
            count = 0 if max_length is None else max(0, len(found.positions) - max_length)
            if max_age is not None:
                count = max(count, bisect_left(found.appended, time.time() - max_age))
            places = found.positions[:count]
            if not force:
                safe = min((_safe(group) for group in found.groups.values()), default=found.head)
                places = places[: bisect_right(places, safe)]
            dropped = sum(_is_unfinished(found, place) for place in places)
            for place in places:
                del found.records[place]
            del found.positions[: len(places)], found.appended[: len(places)]
            return Trimmed(len(places), dropped)

    # Groups.

    async def join(self, stream: str, group: str, *, start: str = START) -> bool:
        with self._state.lock:
            found = self._state.stream(stream)
            if check_name("group", group) in found.groups:
                return False
            found.groups[group] = _Group(found.place(start))
            return True

    async def seek(self, stream: str, group: str, to: str) -> None:
        with self._state.lock:
            self._state.group(stream, group).cursor = self._state.stream(stream).place(to)
        self._state.tell(stream)

    async def leave(self, stream: str, group: str) -> None:
        with self._state.lock:
            if self._state.find(stream, group) is not None:
                del self._state.streams[stream].groups[group]

    async def read(self, reader: Reader, *, limit: int, wait: float = 0.0) -> list[Delivery]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        with self._awaited(reader.stream) as news:
            while True:
                news.clear()
                deliveries = self._read(reader, limit)
                if deliveries or not await _set_by(news, deadline):
                    return deliveries

    def _read(self, reader: Reader, limit: int) -> list[Delivery]:
        with self._state.lock:
            group, stream = self._state.group(reader.stream, reader.group), self._state.streams[reader.stream]
            if reader.ordered and any(lease.consumer != reader.consumer for lease in group.begun.values()):
                return []
            now = self._clock()
            deliveries: list[Delivery] = []
            for place in stream.between(group.cursor, stream.head):
                if len(deliveries) == limit:
                    break
                group.cursor = place
                record = stream.records[place]
                # After a seek backwards an entry may be begun already; it stays its holder's.
                if _is_for(record, reader.group) and place not in group.begun:
                    group.begun[place] = _Lease(reader.consumer, 1, 0, now)
                    deliveries.append(Delivery(reader, str(place), record))
            return deliveries

    async def due(self, reader: Reader, *, limit: int) -> list[Delivery]:
        with self._state.lock:
            group, stream = self._state.group(reader.stream, reader.group), self._state.streams[reader.stream]
            now = self._clock()
            ready = sorted((entry for entry in stream.scheduled if entry[0] <= now), key=lambda entry: entry[0])
            stream.scheduled = [entry for entry in stream.scheduled if entry[0] > now]
            for _, record in ready:
                place = stream.add(record)
                if record.id in stream.seen:
                    stream.seen[record.id] = (stream.seen[record.id][0], place)
            deliveries = []
            if not (reader.ordered and _others_hold(group, reader)):
                waiting = [place for place, lease in group.begun.items() if lease.consumer is None and lease.due <= now]
                deliveries = [
                    self._take(stream, group, reader, place, recovered=False) for place in sorted(waiting)[:limit]
                ]
        if ready:
            self._state.tell(reader.stream)
        return deliveries

    async def claim(self, reader: Reader, *, idle: float, limit: int = 1) -> list[Delivery]:
        with self._state.lock:
            group, stream = self._state.group(reader.stream, reader.group), self._state.streams[reader.stream]
            lapsed = self._clock() - idle
            if reader.ordered and _others_hold(group, reader, since=lapsed):
                return []
            places = [place for place, lease in group.begun.items() if lease.consumer and lease.since <= lapsed]
            return [self._take(stream, group, reader, place, recovered=True) for place in sorted(places)[:limit]]

    def _take(self, stream: _Stream, group: _Group, reader: Reader, place: int, *, recovered: bool) -> Delivery:
        lease = group.begun[place]
        lease.consumer, lease.since, lease.attempt = reader.consumer, self._clock(), lease.attempt + 1
        return Delivery(reader, str(place), stream.records.get(place), lease.attempt, lease.failures, recovered)

    # Deliveries.

    async def extend(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        with self._state.lock:
            kept = []
            for delivery in deliveries:
                lease = self._state.held(delivery)
                if lease is not None:
                    lease.since = self._clock()
                    kept.append(delivery)
            return kept

    async def ack(self, deliveries: Sequence[Delivery], *, remember: float | None = None) -> int:
        with self._state.lock:
            count = 0
            for delivery in deliveries:
                group = self._state.find(delivery.reader.stream, delivery.reader.group)
                if group is None:
                    continue
                count += group.begun.pop(_number(delivery.position), None) is not None
                if remember is not None and isinstance(delivery.record, Record):
                    group.handled[delivery.record.id] = self._clock() + remember
            return count

    async def handled(self, stream: str, group: str, ids: Sequence[str]) -> set[str]:
        with self._state.lock:
            found = self._state.find(stream, group)
            if found is None:
                return set()
            now = self._clock()
            found.handled = {id: until for id, until in found.handled.items() if until > now}
            return found.handled.keys() & set(ids)

    async def retry(self, delivery: Delivery, *, delay: float, keep: bool = False) -> bool:
        with self._state.lock:
            lease = self._state.held(delivery)
            if lease is None:
                return False
            lease.failures += 1
            if keep:
                lease.attempt, lease.since = lease.attempt + 1, self._clock()
            else:
                lease.consumer, lease.due = None, self._clock() + delay
            return True

    async def release(self, deliveries: Sequence[Delivery]) -> int:
        with self._state.lock:
            leases = [lease for delivery in deliveries if (lease := self._state.held(delivery)) is not None]
            for lease in leases:
                lease.consumer, lease.due, lease.attempt = None, self._clock(), lease.attempt - 1
            return len(leases)

    async def dead_letter(self, delivery: Delivery, *, reason: str) -> bool:
        with self._state.lock:
            lease = self._state.held(delivery)
            if lease is None:
                return False
            stream, place = self._state.streams[delivery.reader.stream], _number(delivery.position)
            stream.deaths += 1
            stream.dead[stream.deaths] = DeadLetter(
                id=str(stream.deaths),
                stream=delivery.reader.stream,
                group=delivery.reader.group,
                position=delivery.position,
                record=stream.records.get(place) or delivery.record or Foreign(()),
                error=reason,
                failed_at=datetime.now(UTC),
                attempts=lease.attempt,
            )
            del stream.groups[delivery.reader.group].begun[place]
            return True

    # Dead letters.

    async def dead_letters(
        self, stream: str, *, group: str | None = None, after: str = "", limit: int = 100
    ) -> list[DeadLetter]:
        with self._state.lock:
            dead = self._state.streams.get(stream, _Stream()).dead
            first = _number(after or START)
            return [d for n, d in dead.items() if n > first and group in (None, d.group)][:limit]

    async def redrive(self, stream: str, ids: Sequence[str]) -> int:
        with self._state.lock:
            found = self._state.streams.get(stream, _Stream())
            letters = [letter for id in ids if (letter := found.dead.pop(_number(id), None)) is not None]
            for letter in letters:
                found.add(_only_for(letter.record, letter.group))
        self._state.tell(stream)
        return len(letters)

    async def discard(self, stream: str, ids: Sequence[str]) -> int:
        with self._state.lock:
            dead = self._state.streams.get(stream, _Stream()).dead
            return sum(dead.pop(_number(id), None) is not None for id in ids)

    # What operators ask.

    async def stats(self, streams: Sequence[str] | None = None) -> list[StreamStats]:
        with self._state.lock:
            names = sorted(name for name in self._state.streams if streams is None or name in streams)
            return [self._stats(name, self._state.streams[name]) for name in names]

    def _stats(self, name: str, stream: _Stream) -> StreamStats:
        return StreamStats(
            stream=name,
            length=len(stream.positions),
            scheduled=len(stream.scheduled),
            dead=len(stream.dead),
            first=str(stream.positions[0]) if stream.positions else None,
            last=str(stream.positions[-1]) if stream.positions else None,
            groups=tuple(self._group_stats(name, stream, group) for name, group in sorted(stream.groups.items())),
        )

    def _group_stats(self, name: str, stream: _Stream, group: _Group) -> GroupStats:
        oldest = bisect_left(stream.positions, min(group.begun, default=stream.head + 1))
        return GroupStats(
            group=name,
            position=str(group.cursor),
            lag=sum(_is_for(stream.records[place], name) for place in stream.between(group.cursor, stream.head)),
            pending=len(group.begun),
            waiting=sum(lease.consumer is None for lease in group.begun.values()),
            dead=sum(letter.group == name for letter in stream.dead.values()),
            oldest=max(0.0, time.time() - stream.appended[oldest]) if oldest < len(stream.positions) else None,
            consumers=len({lease.consumer for lease in group.begun.values()} - {None}),
        )

    async def pending(self, stream: str, group: str, *, after: str = START, limit: int = 100) -> list[Pending]:
        with self._state.lock:
            begun, now = self._state.group(stream, group).begun, self._clock()
            places = sorted(place for place in begun if place > _number(after))[:limit]
            return [_pending(place, begun[place], now) for place in places]

    async def durability(self) -> Durability:
        return Durability("lost", "lost", "lost", ("the events live in the memory of this process",))

    @contextlib.contextmanager
    def _awaited(self, stream: str) -> Iterator[asyncio.Event]:
        """An event that is set when something is appended to the stream, by whatever thread."""
        loop, event = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop may be closed meanwhile
                loop.call_soon_threadsafe(event.set)

        waiters = self._state.waiters.setdefault(stream, set())
        waiters.add(wake)
        try:
            yield event
        finally:
            waiters.discard(wake)


def _number(position: str) -> int:
    if not (position.isascii() and position.isdecimal()):
        raise ConfigurationError(f"{position!r} is no position in memory: those are whole numbers, and {END!r}")
    return int(position)


def _is_for(record: Record | Foreign, group: str) -> bool:
    return isinstance(record, Foreign) or record.only in (None, group)


def _only_for(record: Record | Foreign, group: str) -> Record | Foreign:
    return record if isinstance(record, Foreign) else msgspec.structs.replace(record, only=group)


def _others_hold(group: _Group, reader: Reader, since: float = float("-inf")) -> bool:
    return any(lease.consumer not in (None, reader.consumer) and lease.since > since for lease in group.begun.values())


def _safe(group: _Group) -> int:
    """The last position that the group has finished, with all before it."""
    return min(group.cursor, min(group.begun, default=group.cursor + 1) - 1)


def _is_unfinished(stream: _Stream, place: int) -> bool:
    record = stream.records[place]
    return any(
        _is_for(record, name) and (place > group.cursor or place in group.begun)
        for name, group in stream.groups.items()
    )


def _pending(place: int, lease: _Lease, now: float) -> Pending:
    waits = lease.consumer is None
    return Pending(
        position=str(place),
        consumer=lease.consumer,
        attempt=lease.attempt,
        failures=lease.failures,
        idle=None if waits else now - lease.since,
        due=lease.due - now if waits else None,
    )


async def _set_by(event: asyncio.Event, deadline: float) -> bool:
    try:
        async with asyncio.timeout_at(deadline):
            return await event.wait()
    except TimeoutError:
        return False

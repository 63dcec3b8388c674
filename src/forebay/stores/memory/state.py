"""What a memory store holds, and how each part of it changes.

A group's entry is in one of five places:

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
import itertools
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from forebay.errors import ConfigurationError
from forebay.event import Foreign, Record
from forebay.store import END, DeadLetter, Delivery, Failure, GroupStats, Reader, StreamStats, Trimmed


class StoredEntry(msgspec.Struct, frozen=True, gc=False):
    """An entry of a stream, and when it was appended by the store's clock."""

    record: Record | Foreign
    appended: float


class Lease(msgspec.Struct, gc=False):
    """An entry in a consumer's hands, its lease last `renewed` then."""

    consumer: str
    renewed: float
    token: str
    attempt: int = 1
    failures: int = 0
    last_failure: Failure | None = None


class Waiting(msgspec.Struct, frozen=True, gc=False):
    """An entry between two attempts."""

    due: float
    attempt: int
    failures: int
    last_failure: Failure | None = None


class ExpiringIds:
    """Ids and what is known of each, until its time."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, float]] = {}
        self._sweep_at = 1000

    def get(self, id: str, now: float) -> str | None:
        """What is known of the id; None where nothing is, or no more."""
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

    def forget(self, id: str) -> None:
        """Know the id no more."""
        self._known.pop(id, None)

    def items(self, now: float) -> list[tuple[str, str, float]]:
        """The ids in their order, what is known of each, and for how many seconds yet."""
        return sorted((id, value, until - now) for id, (value, until) in self._known.items() if until > now)

    def complete(self, id: str, value: str) -> None:
        """Know `value` of an id that was put without one; its time stays."""
        known = self._known.get(id)
        if known and not known[0]:
            self._known[id] = (value, known[1])


class Group:
    """How far one group is, and what it has begun."""

    def __init__(self, name: str, cursor: int) -> None:
        self.name = name
        self.cursor = cursor
        """The last position handed out or passed over."""
        self.leased: dict[int, Lease] = {}
        self.waiting: dict[int, Waiting] = {}
        self.handled = ExpiringIds()
        self.missed = 0
        """Entries that were trimmed before the group had read them, and of which it was not told yet."""

    def is_unread(self, position: int, kept: StoredEntry) -> bool:
        """Whether the entry is yet to be handed out."""
        return position > self.cursor and kept.record.only_group in (None, self.name)

    def seek(self, cursor: int, *, first: int) -> None:
        """Go on from another place; what was begun behind it is unread again. The stream begins at `first` now."""
        self.cursor = max(cursor, first - 1)
        for begun in (self.leased, self.waiting):
            for position in [position for position in begun if position > cursor]:
                del begun[position]

    def has_begun(self, position: int) -> bool:
        """Whether the entry is pending or waiting."""
        return position in self.leased or position in self.waiting

    def has_finished(self, position: int, kept: StoredEntry) -> bool:
        """Whether the entry is done, dead, or meant for another group."""
        return not self.is_unread(position, kept) and not self.has_begun(position)

    def is_held_by_another(self, consumer: str, *, since: float = float("-inf")) -> bool:
        """Whether another consumer has a lease, renewed after `since`."""
        return any(lease.consumer != consumer and lease.renewed > since for lease in self.leased.values())

    def lease_again(
        self, reader: Reader, position: int, record: Record | Foreign | None, *, token: str, now: float
    ) -> Delivery:
        """Lease a pending entry: take it from its holder, or end its wait."""
        held = self.leased.get(position)
        before = held or self.waiting.pop(position)
        lease = Lease(reader.consumer, now, token, before.attempt + 1, before.failures, before.last_failure)
        self.leased[position] = lease
        return Delivery(
            reader, str(position), record, lease.attempt, lease.failures, held is not None, lease.last_failure, token
        )


class Stream:
    """One log: entries without gaps, of which a trim takes the first."""

    def __init__(self) -> None:
        self.entries: list[StoredEntry] = []
        self.first = 1
        """The position of the first entry, or of the next one where there is none."""
        self.groups: dict[str, Group] = {}
        self.dead: dict[int, DeadLetter] = {}
        self.deaths = 0
        self.scheduled: list[tuple[float, int, Record]] = []
        """A heap, by the clock's time when they are due and then by the order of their arrival."""
        self.moments: list[tuple[float, int, Record]] = []
        """The same for what is due at a moment, by Unix time."""
        self.arrivals = 0
        self.seen = ExpiringIds()
        """Ids appended with `dedup_window` and their positions; none while they are only scheduled."""
        self.waiters: dict[asyncio.Future[None], asyncio.AbstractEventLoop] = {}
        """One for each reader that waits, with the loop it waits on."""

    @property
    def last(self) -> int:
        """The position of the last entry, be it trimmed or not."""
        return self.first + len(self.entries) - 1

    def at(self, position: int) -> Record | Foreign | None:
        """What stands at a position; None where it was trimmed."""
        index = position - self.first
        return self.entries[index].record if 0 <= index < len(self.entries) else None

    def behind(self, position: int) -> Iterator[tuple[int, StoredEntry]]:
        """The entries behind a position."""
        for index in range(max(0, position + 1 - self.first), len(self.entries)):
            yield self.first + index, self.entries[index]

    def place(self, position: str) -> int:
        """The number in a position; END is the last entry's."""
        if position == END:
            return self.last
        if not position.isascii() or not position.isdecimal():
            raise ConfigurationError(f"{position!r} is not a position: here it is a whole number")
        return int(position)

    def append(self, records: Sequence[Record], now: float) -> list[str]:
        """Append records; return their positions."""
        first = self.last + 1
        self.entries += [StoredEntry(record, now) for record in records]
        return [str(position) for position in range(first, self.last + 1)]

    def append_once(
        self, records: Sequence[Record], now: float, *, dedup_window: float | None, search_after: str | None
    ) -> list[str]:
        """Append those records whose id is not known yet; return the positions of all."""
        found: dict[str, str] = {}
        if search_after is not None:
            for position, kept in self.behind(self.place(search_after)):
                if isinstance(kept.record, Record) and kept.record.id:
                    found.setdefault(kept.record.id, str(position))
        positions = []
        for record in records:
            known = found.get(record.id)
            if known is None and dedup_window is not None:
                known = self.seen.get(record.id, now)
            if known is None:
                [known] = self.append([record], now)
            if dedup_window is not None:
                self.seen.put(record.id, known, now=now, span=dedup_window)
            positions.append(known)
        return positions

    def schedule(self, record: Record, due: float) -> None:
        """Keep a record until `append_due` appends it, when the clock says `due`."""
        self.arrivals += 1
        heapq.heappush(self.scheduled, (due, self.arrivals, record))

    def schedule_at(self, record: Record, moment: float) -> None:
        """Keep a record until `append_due` appends it, when Unix time is `moment`."""
        self.arrivals += 1
        heapq.heappush(self.moments, (moment, self.arrivals, record))

    def append_due(self, now: float, wall: float, *, limit: int) -> int:
        """Append scheduled records that are due, in the order of their times; return how many."""
        due: list[tuple[float, int, Record]] = []
        for heap, time in ((self.scheduled, now), (self.moments, wall)):
            due += ((at - time, number, record) for at, number, record in heap if at <= time)
        chosen = heapq.nsmallest(limit, due, key=lambda each: each[:2])
        for _, _, record in chosen:
            [position] = self.append([record], now)
            self.seen.complete(record.id, position)
        appended = {number for _, number, _ in chosen}
        for heap in (self.scheduled, self.moments):
            heap[:] = [each for each in heap if each[1] not in appended]
            heapq.heapify(heap)
        return len(chosen)

    def next_scheduled(self, now: float, wall: float) -> float | None:
        """Seconds until the next scheduled record is due; None if there are none."""
        times = [heap[0][0] - time for heap, time in ((self.scheduled, now), (self.moments, wall)) if heap]
        return min(times, default=None)

    def read(self, group: Group, reader: Reader, *, limit: int, tokens: Iterator[str], now: float) -> list[Delivery]:
        """Lease unread entries."""
        # An ordered reader takes nothing new before what is to be repeated.
        if reader.ordered and (group.waiting or group.is_held_by_another(reader.consumer)):
            return []
        deliveries: list[Delivery] = []
        for position, kept in self.behind(group.cursor):
            if len(deliveries) >= limit:
                break
            if group.is_unread(position, kept):
                token = next(tokens)
                group.leased[position] = Lease(reader.consumer, now, token)
                deliveries.append(Delivery(reader, str(position), kept.record, lease=token))
            group.cursor = position
        return deliveries

    def trim(self, *, excess: int, oldest: float, waited_for: Sequence[Group]) -> Trimmed:
        """Remove the first `excess` entries, and those appended before `oldest`, which these groups have finished."""
        removed = dropped = 0
        for position, kept in self.behind(0):
            if removed >= excess and kept.appended >= oldest:
                break
            if any(not group.has_finished(position, kept) for group in waited_for):
                break
            dropped += any(not group.has_finished(position, kept) for group in self.groups.values())
            for group in self.groups.values():
                group.missed += group.is_unread(position, kept)
            removed += 1
        del self.entries[:removed]
        self.first += removed
        return Trimmed(removed, dropped)

    def take_letters(self, ids: Sequence[str], *, with_a_group: bool = False) -> list[DeadLetter]:
        """Remove these dead letters and return those that there were; or only those that know their group."""
        numbers = dict.fromkeys(int(id) for id in ids if id.isascii() and id.isdecimal())
        chosen = [n for n in numbers if n in self.dead and (self.dead[n].group or not with_a_group)]
        return [self.dead.pop(number) for number in chosen]

    def forget(self, letter: DeadLetter) -> None:
        """Let the id of a dead letter's event name nothing any more, for the stream and for the letter's group."""
        if isinstance(letter.record, Record):
            # An event that is only scheduled under this id is another one.
            if self.seen.get(letter.record.id, float("-inf")):
                self.seen.forget(letter.record.id)
            if letter.group in self.groups:
                self.groups[letter.group].handled.forget(letter.record.id)

    def notify(self) -> None:
        """Let all readers that wait look again, on whatever loops they are."""
        waiters, self.waiters = self.waiters, {}
        for waiter, loop in waiters.items():
            with contextlib.suppress(RuntimeError):  # its loop may have closed meanwhile
                loop.call_soon_threadsafe(wake, waiter)

    def ring_for(self, reader: Reader) -> None:
        """Ring after something was settled: another reader of an ordered group may wait for just that."""
        if reader.ordered:
            self.notify()


class Held(NamedTuple):
    """A delivery whose lease is still held, and all that belongs to it."""

    delivery: Delivery
    stream: Stream
    group: Group
    lease: Lease

    def wait(self, due: float, *, attempt: int) -> None:
        """The entry goes on to its next attempt."""
        lease = self.lease
        self.group.waiting[int(self.delivery.position)] = Waiting(due, attempt, lease.failures, lease.last_failure)
        self._let_go()

    def move_to_dead_letters(self, reason: str, traceback: str, attempts: int | None) -> None:
        """The entry becomes a dead letter."""
        stream, delivery = self.stream, self.delivery
        stream.deaths += 1
        stream.dead[stream.deaths] = DeadLetter(
            id=f"{stream.deaths:012}",
            stream=delivery.reader.stream,
            group=self.group.name,
            position=delivery.position,
            # A forced trim may have taken the entry; then the delivery has the last copy.
            record=stream.at(int(delivery.position)) or delivery.record or Foreign(()),
            error=reason,
            failed_at=datetime.now(UTC),
            attempts=self.lease.attempt if attempts is None else attempts,
            traceback=traceback,
        )
        self._let_go()

    def _let_go(self) -> None:
        del self.group.leased[int(self.delivery.position)]
        self.stream.ring_for(self.delivery.reader)


class State:
    """What a store and its clones share. Every move holds the lock from its beginning to its end."""

    def __init__(self, *, epoch: float) -> None:
        self.lock = threading.Lock()
        self.epoch = epoch
        """Unix time at the clock's 0, as it was when the state was made."""
        self.streams: dict[str, Stream] = {}
        self.tokens = map(str, itertools.count(1))
        """The tokens of leases."""
        self.watches: list[Watch] = []
        """One for each iteration of `arrivals`."""
        self.notes: dict[str, dict[str, bytes]] = {}
        """By stream; apart from the streams, as notes alone make none."""

    def grew(self, name: str, stream: Stream) -> None:
        """Wake the readers that wait for the stream, and report it to all watches."""
        stream.notify()
        for watch in self.watches:
            watch.report(name)


class Watch:
    """The names of streams that have grown, for one iteration of `arrivals` on the current event loop."""

    def __init__(self) -> None:
        self.woken = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._grown: dict[str, None] = {}

    def report(self, name: str) -> None:
        """Add a name. From any thread, with the lock on the state."""
        if not self._grown:
            with contextlib.suppress(RuntimeError):  # its loop may have closed meanwhile
                self._loop.call_soon_threadsafe(self.woken.set)
        self._grown[name] = None

    def take(self) -> list[str]:
        """Take the names out, each once. With the lock on the state."""
        names, self._grown = list(self._grown), {}
        self.woken.clear()
        return names


def readers_of(deliveries: Sequence[Delivery]) -> Iterator[Reader]:
    """The readers of the deliveries; one that follows itself comes once."""
    reader = None
    for delivery in deliveries:
        if delivery.reader is not reader:
            reader = delivery.reader
            yield reader


def stream_stats(name: str, stream: Stream, now: float) -> StreamStats:
    """The stream at a glance."""
    return StreamStats(
        stream=name,
        length=len(stream.entries),
        scheduled=len(stream.scheduled) + len(stream.moments),
        dead=len(stream.dead),
        first=str(stream.first) if stream.entries else None,
        last=str(stream.last) if stream.entries else None,
        groups=tuple(_group_stats(stream, stream.groups[group], now) for group in sorted(stream.groups)),
    )


def _group_stats(stream: Stream, group: Group, now: float) -> GroupStats:
    begun = [position for position in (*group.leased, *group.waiting) if position >= stream.first]
    return GroupStats(
        group=group.name,
        position=str(group.cursor),
        lag=sum(group.is_unread(position, kept) for position, kept in stream.behind(group.cursor)),
        pending=len(group.leased) + len(group.waiting),
        waiting=len(group.waiting),
        dead=sum(letter.group == group.name for letter in stream.dead.values()),
        oldest=now - stream.entries[min(begun) - stream.first].appended if begun else None,
        consumers=len({lease.consumer for lease in group.leased.values()}),
    )


def wake(waiter: asyncio.Future[None]) -> None:
    """Ring one bell. It may have rung already."""
    if not waiter.done():
        waiter.set_result(None)

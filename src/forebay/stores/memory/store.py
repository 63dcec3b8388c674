"""The memory store."""

from __future__ import annotations

import asyncio
import heapq
import threading
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from datetime import datetime
from itertools import islice
from types import EllipsisType, TracebackType
from typing import Self

import msgspec

from forebay.errors import NotFound
from forebay.event import Record
from forebay.home import Home, running_loop
from forebay.payload import check_name
from forebay.store import (
    END,
    START,
    DeadLetter,
    Delivery,
    Durability,
    Entry,
    Failure,
    Outlook,
    Pending,
    Reader,
    RememberedId,
    Scheduled,
    StreamItem,
    StreamStats,
    Trimmed,
    check_readers,
)
from forebay.stores.memory import transfer
from forebay.stores.memory.state import (
    Group,
    Held,
    Lease,
    State,
    StoredEntry,
    Stream,
    Watch,
    readers_of,
    stream_stats,
    wake,
)


class MemoryStore:
    """A store in this process's memory, for tests and for buses that need not outlive it.

    The state stays with the object, also when it is closed and opened again. `clock` gives seconds
    that never go back, `wall` Unix time. There is nothing to open, so it may be used without; once opened, it belongs
    to that event loop until it is closed.
    """

    def __init__(
        self,
        *,
        namespace: str = "events",
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._namespace = check_name("namespace", namespace)
        self._clock = clock
        self._wall = wall
        self._state = State(epoch=wall() - clock())
        self._home: Home | None = None
        self._users = 0

    def __repr__(self) -> str:
        return f"MemoryStore(namespace={self._namespace!r})"

    def clone(self) -> MemoryStore:
        clone = MemoryStore(namespace=self._namespace, clock=self._clock, wall=self._wall)
        clone._state = self._state
        return clone

    async def __aenter__(self) -> Self:
        if self._home is not None and not self._home.is_lost:
            self._home.check()
        else:
            self._home, self._users = Home("this memory store"), 0
        self._users += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._users -= 1
        if not self._users and self._home is not None and not self._home.forked():
            self._home = None

    @property
    def _lock(self) -> threading.Lock:
        """The lock on the state, for moves on the event loop where the store was opened."""
        home = self._home
        if home is not None and running_loop() is not home.loop:
            home.check()
        return self._state.lock

    # Streams.

    async def append(
        self,
        stream: str,
        records: Sequence[Record],
        *,
        dedup_window: float | None = None,
        search_after: str | None = None,
    ) -> list[str]:
        # The hot path: without the detour by way of `_lock`.
        if (home := self._home) is not None and running_loop() is not home.loop:
            home.check()
        with self._state.lock:
            if not records:
                self._find(stream)
                return []
            log = self._make(stream)
            now = self._clock()
            if dedup_window is None and search_after is None:
                positions = log.append(records, now)
            else:
                positions = log.append_once(records, now, dedup_window=dedup_window, search_after=search_after)
            self._state.grew(stream, log)
            return positions

    async def schedule(
        self,
        stream: str,
        records: Sequence[Record],
        *,
        delay: float | None = None,
        at: datetime | None = None,
        dedup_window: float | None = None,
    ) -> None:
        with self._lock:
            if not records:
                self._find(stream)
                return
            log = self._make(stream)
            now = self._clock()
            if at is not None and at.timestamp() <= self._wall():
                log.append_once(records, now, dedup_window=dedup_window, search_after=None)
                self._state.grew(stream, log)
                return
            for record in records:
                if dedup_window is not None:
                    known = log.seen.get(record.id, now)
                    log.seen.put(record.id, known or "", now=now, span=dedup_window)
                    if known is not None:
                        continue
                if at is None:
                    log.schedule(record, now + (delay or 0.0))
                else:
                    log.schedule_at(record, at.timestamp())

    async def append_due(self, stream: str, *, limit: int = 500) -> int:
        with self._lock:
            log = self._find(stream)
            count = log.append_due(self._clock(), self._wall(), limit=limit)
            if count:
                self._state.grew(stream, log)
            return count

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
            kept = ((position, log.entries[position - log.first]) for position in chosen)
            return [Entry(str(position), each.record, self._state.epoch + each.appended) for position, each in kept]

    async def locate(self, stream: str, moment: datetime) -> str:
        with self._lock:
            log = self._find(stream)
            # Entries keep the clock's time, so the moment is first said in it too.
            begin = moment.timestamp() - self._state.epoch
            found = (position for position, kept in log.behind(0) if kept.appended >= begin)
            return str(next(found, log.last + 1) - 1)

    async def trim(
        self,
        stream: str,
        *,
        max_length: int | None = None,
        max_age: float | None = None,
        force: bool = False,
        ignore_groups: Collection[str] = (),
    ) -> Trimmed:
        with self._lock:
            log = self._find(stream)
            for group in ignore_groups:
                check_name("group", group)
            excess = 0 if max_length is None else len(log.entries) - max_length
            oldest = float("-inf") if max_age is None else self._clock() - max_age
            waited_for = [] if force else [group for group in log.groups.values() if group.name not in ignore_groups]
            return log.trim(excess=excess, oldest=oldest, waited_for=waited_for)

    # Groups.

    async def join(self, stream: str, group: str, *, start: str = START) -> bool:
        with self._lock:
            group = check_name("group", group)
            log = self._make(stream)
            if group in log.groups:
                return False
            # The entries that have left the stream by now do not count as trimmed unread.
            log.groups[group] = Group(group, max(min(log.place(start), log.last), log.first - 1))
            return True

    async def seek(self, stream: str, group: str, to: str) -> None:
        with self._lock:
            log, own = self._group(stream, group)
            own.seek(min(log.place(to), log.last), first=log.first)
            self._state.grew(stream, log)

    async def leave(self, stream: str, group: str) -> None:
        with self._lock:
            log = self._find(stream)
            log.groups.pop(check_name("group", group), None)
            log.notify()

    async def trimmed_unread(self, stream: str, group: str) -> int | None:
        with self._lock:
            own = self._find_group(stream, group)
            if own is None:
                return None
            count, own.missed = own.missed, 0
            return count

    async def arrivals(self) -> AsyncGenerator[str | None, None]:
        watch = Watch()
        with self._lock:
            self._state.watches.append(watch)
        try:
            yield None
            while True:
                await watch.woken.wait()
                with self._lock:
                    names = watch.take()
                for name in names:
                    yield name
        finally:
            with self._state.lock:
                self._state.watches.remove(watch)

    async def read(self, *readers: Reader, limit: int, wait: float = 0.0) -> list[Delivery]:
        check_readers(readers)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        while True:
            with self._lock:
                found = [self._group_of(reader) for reader in readers]
                deliveries = [
                    delivery
                    for reader, (log, group) in zip(readers, found, strict=True)
                    for delivery in log.read(group, reader, limit=limit, tokens=self._state.tokens, now=self._clock())
                ]
                if deliveries or loop.time() >= deadline:
                    return deliveries
                waiter = loop.create_future()
                for log, _ in found:
                    log.waiters[waiter] = loop
            timer = loop.call_at(deadline, wake, waiter)
            try:
                await waiter
            finally:
                timer.cancel()
                with self._lock:
                    for log, _ in found:
                        log.waiters.pop(waiter, None)

    async def take_due(self, reader: Reader, *, limit: int) -> list[Delivery]:
        with self._lock:
            log, group = self._group_of(reader)
            now = self._clock()
            if reader.ordered and group.is_held_by_another(reader.consumer):
                return []
            due = [position for position, waiting in group.waiting.items() if waiting.due <= now]
            chosen = sorted(due, key=lambda p: p if reader.ordered else (group.waiting[p].due, p))[:limit]
            return [self._lease(log, group, reader, position) for position in chosen]

    async def claim(self, reader: Reader, *, idle: float, limit: int = 1) -> list[Delivery]:
        with self._lock:
            log, group = self._group_of(reader)
            now = self._clock()
            if reader.ordered and group.is_held_by_another(reader.consumer, since=now - idle):
                return []
            lapsed = [position for position, lease in group.leased.items() if lease.renewed <= now - idle]
            if reader.ordered and lapsed:
                lapsed += [position for position, waiting in group.waiting.items() if waiting.due <= now]
            return [self._lease(log, group, reader, position) for position in sorted(lapsed)[:limit]]

    def _lease(self, log: Stream, group: Group, reader: Reader, position: int) -> Delivery:
        token = next(self._state.tokens)
        return group.lease_again(reader, position, log.at(position), token=token, now=self._clock())

    async def extend(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        with self._lock:
            for reader in readers_of(deliveries):
                self._group_of(reader)
            kept = []
            for delivery in deliveries:
                if held := self._held(delivery):
                    held.lease.renewed = self._clock()
                    kept.append(delivery)
            return kept

    async def outlook(self, readers: Sequence[Reader]) -> list[Outlook | None]:
        with self._lock:
            return [self._outlook_of(reader) for reader in readers]

    def _outlook_of(self, reader: Reader) -> Outlook | None:
        check_name("consumer", reader.consumer)
        group = self._find_group(reader.stream, reader.group)
        if group is None:
            return None
        log, now = self._find(reader.stream), self._clock()
        due = min((waiting.due for waiting in group.waiting.values()), default=None)
        return Outlook(
            scheduled=log.next_scheduled(now, self._wall()),
            waiting=None if due is None else due - now,
            leased=group.is_held_by_another(reader.consumer),
            unread=any(group.is_unread(position, kept) for position, kept in log.behind(group.cursor)),
        )

    async def ack(self, deliveries: Sequence[Delivery], *, remember: float | None = None) -> int:
        with self._lock:
            now = self._clock()
            for reader in readers_of(deliveries):
                self._check_reader(reader)
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
                log.ring_for(delivery.reader)
            return finished

    async def handled(self, stream: str, group: str, ids: Sequence[str]) -> set[str]:
        with self._lock:
            own = self._find_group(stream, group)
            now = self._clock()
            return set() if own is None else {id for id in ids if own.handled.get(id, now) is not None}

    async def retry(
        self, delivery: Delivery, *, delay: float, keep: bool = False, failure: Failure | None = None
    ) -> bool:
        with self._lock:
            self._group_of(delivery.reader)
            held = self._held(delivery)
            if held is None:
                return False
            now = self._clock()
            lease = held.lease
            is_counted = lease.failures != delivery.failures
            if not is_counted:
                lease.failures += 1
                lease.last_failure = failure
            if keep:
                lease.renewed = now
                lease.attempt += not is_counted
            else:
                held.wait(now + delay, attempt=lease.attempt)
            return True

    async def release(self, deliveries: Sequence[Delivery]) -> int:
        with self._lock:
            now = self._clock()
            for reader in readers_of(deliveries):
                self._check_reader(reader)
            released = 0
            for delivery in deliveries:
                if held := self._held(delivery):
                    held.wait(now, attempt=held.lease.attempt - 1)
                    released += 1
            return released

    async def dead_letter(
        self, delivery: Delivery, *, reason: str, traceback: str = "", attempts: int | None = None
    ) -> bool:
        with self._lock:
            self._group_of(delivery.reader)
            held = self._held(delivery)
            if held is None:
                return False
            held.move_to_dead_letters(reason, traceback, attempts)
            return True

    # Dead letters.

    async def dead_letters(
        self, stream: str, *, group: str | None = None, after: str = "", limit: int = 100
    ) -> list[DeadLetter]:
        with self._lock:
            if group is not None:
                check_name("group", group)
            letters = self._find(stream).dead.values()
            found = (letter for letter in letters if letter.id > after and group in (None, letter.group))
            return list(islice(found, limit))

    async def redrive(self, stream: str, ids: Sequence[str]) -> int:
        with self._lock:
            log = self._find(stream)
            letters = log.take_letters(ids, with_a_group=True)
            for letter in letters:
                record = msgspec.structs.replace(letter.record, only_group=letter.group)
                log.entries.append(StoredEntry(record, self._clock()))
            if letters:
                self._state.grew(stream, log)
            return len(letters)

    async def discard(self, stream: str, ids: Sequence[str]) -> int:
        with self._lock:
            log = self._find(stream)
            letters = log.take_letters(ids)
            for letter in letters:
                log.forget(letter)
            return len(letters)

    # What operators ask.

    async def stats(self, streams: Sequence[str] | None = None) -> list[StreamStats]:
        with self._lock:
            for name in streams or ():
                check_name("stream", name)
            names = self._state.streams.keys() if streams is None else self._state.streams.keys() & set(streams)
            now = self._clock()
            return [stream_stats(name, self._state.streams[name], now) for name in sorted(names)]

    async def streams(self) -> list[str]:
        with self._lock:
            return sorted(self._state.streams)

    async def time(self, stream: str) -> float:
        check_name("stream", stream)
        return self._state.epoch + self._clock()

    async def groups(self, stream: str) -> list[str]:
        with self._lock:
            return sorted(self._find(stream).groups)

    async def pending(self, stream: str, group: str, *, after: str = START, limit: int = 100) -> list[Pending]:
        with self._lock:
            log, own = self._find(stream), self._find_group(stream, group)
            if own is None:
                return []
            now = self._clock()
            behind = log.place(after)
            found = []
            for position in heapq.nsmallest(limit, (p for p in (*own.leased, *own.waiting) if p > behind)):
                begun = own.leased.get(position) or own.waiting[position]
                if isinstance(begun, Lease):
                    holder, idle, due = begun.consumer, now - begun.renewed, None
                else:
                    holder, idle, due = None, None, begun.due - now
                counts = begun.attempt, begun.failures
                found.append(Pending(str(position), holder, *counts, idle, due, begun.last_failure))
            return found

    async def strays(self) -> list[str]:
        return []

    async def durability(self) -> Durability:
        if self._home is not None:
            self._home.check()
        note = "Events are kept in this process's memory and end with it. Use sqlite:/// or redis:// to keep them."
        return Durability(client_killed="lost", store_killed="lost", power_lost="lost", notes=(note,))

    # Notes.

    async def notes(self, stream: str, *, names: Collection[str] | None = None) -> dict[str, bytes]:
        with self._lock:
            kept = self._state.notes.get(check_name("stream", stream), {})
            return dict(kept) if names is None else {name: kept[name] for name in names if name in kept}

    async def streams_with_notes(self) -> list[str]:
        with self._lock:
            return sorted(stream for stream, kept in self._state.notes.items() if kept)

    async def set_note(
        self, stream: str, name: str, value: bytes | None, *, expected: bytes | EllipsisType | None = ...
    ) -> bool:
        with self._lock:
            kept = self._state.notes.setdefault(check_name("stream", stream), {})
            if expected is not ... and kept.get(name) != expected:
                return False
            _change(kept, {name: value})
            return True

    # From one store to another.

    async def scheduled(self, stream: str, *, after: str = "", limit: int = 100) -> list[Scheduled]:
        with self._lock:
            return transfer.scheduled(
                self._find(stream), after=after, limit=limit, now=self._clock(), wall=self._wall()
            )

    async def remembered(
        self, stream: str, *, group: str | None = None, after: str = "", limit: int = 100
    ) -> list[RememberedId]:
        with self._lock:
            if group is not None:
                check_name("group", group)
            return transfer.remembered(self._find(stream), group=group, after=after, limit=limit, now=self._clock())

    async def restore(
        self,
        stream: str,
        items: Sequence[StreamItem],
        *,
        notes: Mapping[str, bytes | None] | None = None,
        expected: Mapping[str, bytes | None] | None = None,
    ) -> list[str] | None:
        with self._lock:
            if not self._are(stream, expected):
                return None
            kept = self._state.notes.setdefault(check_name("stream", stream), {})
            transfer.check_groups(self._find(stream), items)
            log = self._make(stream) if items else self._find(stream)
            positions = transfer.restore(log, items, now=self._clock(), epoch=self._state.epoch)
            _change(kept, notes or {})
            self._state.grew(stream, log)
            return positions

    async def drop(
        self, stream: str, *, keep_entries: bool = False, expected: Mapping[str, bytes | None] | None = None
    ) -> bool:
        with self._lock:
            if not self._are(check_name("stream", stream), expected):
                return False
            dropped = self._state.streams.pop(stream, None)
            if not keep_entries:
                self._state.notes.pop(stream, None)
            elif dropped:
                kept = self._make(stream)
                kept.entries, kept.first = dropped.entries, dropped.first
                # The id of a dead letter names no other one later.
                kept.deaths = dropped.deaths
            if dropped:
                dropped.notify()
            return True

    def _are(self, stream: str, expected: Mapping[str, bytes | None] | None) -> bool:
        """Whether the notes are as expected."""
        kept = self._state.notes.get(stream, {})
        return all(kept.get(name) == value for name, value in (expected or {}).items())

    def _find(self, stream: str) -> Stream:
        """The stream, or an empty one if it does not exist."""
        found = self._state.streams.get(stream)
        if found is None:
            check_name("stream", stream)
        return found or Stream()

    def _make(self, stream: str) -> Stream:
        """The stream, which is made if it does not exist."""
        found = self._state.streams.get(stream)
        if found is None:
            found = self._state.streams[check_name("stream", stream)] = Stream()
        return found

    def _find_group(self, stream: str, group: str) -> Group | None:
        found = self._find(stream).groups.get(group)
        if found is None:
            check_name("group", group)
        return found

    def _group(self, stream: str, group: str) -> tuple[Stream, Group]:
        found = self._find_group(stream, group)
        if found is None:
            raise NotFound(f"no group {group!r} on {stream!r}; join it first")
        return self._find(stream), found

    def _group_of(self, reader: Reader) -> tuple[Stream, Group]:
        check_name("consumer", reader.consumer)
        return self._group(reader.stream, reader.group)

    def _check_reader(self, reader: Reader) -> None:
        check_name("consumer", reader.consumer)
        self._find_group(reader.stream, reader.group)

    def _held(self, delivery: Delivery) -> Held | None:
        """The delivery's lease and what belongs to it; None if another lease, or none, has taken its place."""
        log = self._find(delivery.reader.stream)
        group = log.groups.get(delivery.reader.group)
        lease = group and group.leased.get(int(delivery.position))
        if group and lease and lease.token == delivery.lease:
            return Held(delivery, log, group, lease)
        return None


def _change(kept: dict[str, bytes], notes: Mapping[str, bytes | None]) -> None:
    for name, value in notes.items():
        if value is None:
            kept.pop(name, None)
        else:
            kept[name] = value

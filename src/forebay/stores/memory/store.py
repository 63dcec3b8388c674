"""The memory store."""

from __future__ import annotations

import asyncio
import heapq
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
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
    Pending,
    Reader,
    RememberedId,
    Scheduled,
    StreamItem,
    StreamStats,
    Trimmed,
)
from forebay.stores.memory import transfer
from forebay.stores.memory.state import Group, Held, Lease, State, StoredEntry, Stream, stream_stats, wake


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
            log = self._make(stream)
            now = self._clock()
            if dedup_window is None and search_after is None:
                positions = log.append(records, now)
            else:
                positions = log.append_once(records, now, dedup_window=dedup_window, search_after=search_after)
            log.notify()
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
            log = self._make(stream)
            now = self._clock()
            if at is not None and at.timestamp() <= self._wall():
                log.append_once(records, now, dedup_window=dedup_window, search_after=None)
                log.notify()
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
            excess = 0 if max_length is None else len(log.entries) - max_length
            oldest = float("-inf") if max_age is None else self._clock() - max_age
            waited_for = [] if force else [group for group in log.groups.values() if group.name not in ignore_groups]
            return log.trim(excess=excess, oldest=oldest, waited_for=waited_for)

    # Groups.

    async def join(self, stream: str, group: str, *, start: str = START) -> bool:
        with self._lock:
            log = self._make(stream)
            if group in log.groups:
                return False
            # What has left the stream by now the group does not miss.
            group = check_name("group", group)
            log.groups[group] = Group(group, max(min(log.place(start), log.last), log.first - 1))
            return True

    async def seek(self, stream: str, group: str, to: str) -> None:
        with self._lock:
            log, own = self._group(stream, group)
            own.seek(min(log.place(to), log.last), first=log.first)
            log.notify()

    async def leave(self, stream: str, group: str) -> None:
        with self._lock:
            log = self._find(stream)
            log.groups.pop(group, None)
            log.notify()

    async def trimmed_unread(self, stream: str, group: str) -> int | None:
        with self._lock:
            log = self._find(stream)
            own = log.groups.get(group)
            if own is None:
                return None
            count, own.missed = own.missed, 0
            return count

    async def read(self, reader: Reader, *, limit: int, wait: float = 0.0) -> list[Delivery]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        while True:
            with self._lock:
                log, group = self._group(reader.stream, reader.group)
                deliveries = log.read(group, reader, limit, self._clock())
                if deliveries or loop.time() >= deadline:
                    return deliveries
                waiter = loop.create_future()
                log.waiters[waiter] = loop
            timer = loop.call_at(deadline, wake, waiter)
            try:
                await waiter
            finally:
                timer.cancel()
                with self._lock:
                    log.waiters.pop(waiter, None)

    async def take_due(self, reader: Reader, *, limit: int) -> list[Delivery]:
        with self._lock:
            log, group = self._group(reader.stream, reader.group)
            now = self._clock()
            log.append_due(now, self._wall())
            if reader.ordered and group.is_held_by_another(reader.consumer):
                return []
            waiting = group.waiting
            ripe = [position for position, wait in waiting.items() if wait.due <= now]
            # An ordered group takes the oldest entry first, others the one that has waited longest.
            ripe.sort(key=lambda position: (0.0 if reader.ordered else waiting[position].due, position))
            return [group.lease_again(reader, position, log.at(position), now) for position in ripe[:limit]]

    async def claim(self, reader: Reader, *, idle: float, limit: int = 1) -> list[Delivery]:
        with self._lock:
            log, group = self._group(reader.stream, reader.group)
            now = self._clock()
            latest = now - idle
            if reader.ordered and group.is_held_by_another(reader.consumer, since=latest):
                return []
            silent = [position for position, lease in group.leased.items() if lease.renewed <= latest]
            if reader.ordered and silent:
                silent += [position for position, wait in group.waiting.items() if wait.due <= now]
            oldest = heapq.nsmallest(limit, silent)
            return [group.lease_again(reader, position, log.at(position), now) for position in oldest]

    async def extend(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        with self._lock:
            now = self._clock()
            kept = []
            for delivery in deliveries:
                if held := self._held(delivery):
                    held.lease.renewed = now
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
                log.ring_for(delivery.reader)
            return finished

    async def handled(self, stream: str, group: str, ids: Sequence[str]) -> set[str]:
        with self._lock:
            own = self._find(stream).groups.get(group)
            now = self._clock()
            return set() if own is None else {id for id in ids if own.handled.get(id, now) is not None}

    async def retry(
        self, delivery: Delivery, *, delay: float, keep: bool = False, failure: Failure | None = None
    ) -> bool:
        with self._lock:
            self._group(delivery.reader.stream, delivery.reader.group)
            held = self._held(delivery)
            if held is None:
                return False
            now = self._clock()
            lease = held.lease
            lease.failures += 1
            lease.last_failure = failure
            if keep:
                lease.renewed = now
                lease.attempt += 1
            else:
                held.wait(now + delay, attempt=lease.attempt)
            return True

    async def release(self, deliveries: Sequence[Delivery]) -> int:
        with self._lock:
            now = self._clock()
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
            self._group(delivery.reader.stream, delivery.reader.group)
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
            log.notify()
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
            names = self._state.streams.keys() if streams is None else self._state.streams.keys() & set(streams)
            now = self._clock()
            return [stream_stats(name, self._state.streams[name], now) for name in sorted(names)]

    async def time(self, stream: str) -> float:
        return self._state.epoch + self._clock()

    async def groups(self, stream: str) -> list[str]:
        with self._lock:
            return sorted(self._find(stream).groups)

    async def pending(self, stream: str, group: str, *, after: str = START, limit: int = 100) -> list[Pending]:
        with self._lock:
            log, own = self._group(stream, group)
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

    async def notes(self, stream: str) -> dict[str, bytes]:
        with self._lock:
            return dict(self._state.notes.get(stream, {}))

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
            log = self._make(stream) if items else Stream()
            positions = transfer.restore(log, items, now=self._clock(), epoch=self._state.epoch)
            _change(kept, notes or {})
            log.notify()
            return positions

    async def drop(
        self, stream: str, *, keep_entries: bool = False, expected: Mapping[str, bytes | None] | None = None
    ) -> bool:
        with self._lock:
            if not self._are(stream, expected):
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

    def _held(self, delivery: Delivery) -> Held | None:
        """What this very delivery stands for, if its lease is still held."""
        log = self._find(delivery.reader.stream)
        group = log.groups.get(delivery.reader.group)
        lease = group and group.leased.get(int(delivery.position))
        # The attempt too: a consumer may have taken over from itself.
        if group and lease and (lease.consumer, lease.attempt) == (delivery.reader.consumer, delivery.attempt):
            return Held(delivery, log, group, lease)
        return None


def _change(kept: dict[str, bytes], notes: Mapping[str, bytes | None]) -> None:
    for name, value in notes.items():
        if value is None:
            kept.pop(name, None)
        else:
            kept[name] = value

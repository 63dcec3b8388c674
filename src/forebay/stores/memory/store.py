"""The Store in memory: the async face of the moves.

Each move is a function of the state in the module of its kind: log, leases, dead_letters, inspection, notes, transfer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from datetime import datetime
from types import EllipsisType, TracebackType
from typing import Self

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
from forebay.stores.memory import dead_letters, inspection, leases, log, notes, transfer
from forebay.stores.memory.arrivals import Watch, finish
from forebay.stores.memory.state import State, is_position, parse


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
        self._state = State(clock=clock, wall=wall)
        self._home: Home | None = None
        self._users = 0

    def __repr__(self) -> str:
        return f"MemoryStore(namespace={self._namespace!r})"

    def clone(self) -> MemoryStore:
        clone = MemoryStore(namespace=self._namespace)
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

    def _opened(self) -> State:
        """The state, whose lock a `with` takes; a `ConfigurationError` on another event loop than the store's."""
        home = self._home
        if home is not None and running_loop() is not home.loop:
            home.check()
        return self._state

    # Log.

    async def append(
        self,
        stream: str,
        records: Sequence[Record],
        *,
        dedup_window: float | None = None,
        search_after: str | None = None,
    ) -> list[str]:
        # The hot path: without the calls of `_opened` and of the state's `with`.
        if (home := self._home) is not None and running_loop() is not home.loop:
            home.check()
        state = self._state
        with state.lock:
            return log.append(state, stream, records, dedup_window=dedup_window, search_after=search_after)

    async def schedule(
        self,
        stream: str,
        records: Sequence[Record],
        *,
        delay: float | None = None,
        at: datetime | None = None,
        dedup_window: float | None = None,
    ) -> None:
        with self._opened() as state:
            log.schedule(state, stream, records, delay=delay, at=at, dedup_window=dedup_window)

    async def append_due(self, stream: str, *, limit: int = 500) -> int:
        with self._opened() as state:
            return log.append_due(state, stream, limit=limit)

    def is_position(self, text: str) -> bool:
        return is_position(text)

    def position_key(self, position: str) -> tuple[int, ...]:
        return (parse(position),)

    async def scan(
        self, stream: str, *, after: str = START, until: str = END, limit: int = 100, newest: bool = False
    ) -> list[Entry]:
        with self._opened() as state:
            return log.scan(state, stream, after=after, until=until, limit=limit, newest=newest)

    async def locate(self, stream: str, moment: datetime) -> str:
        with self._opened() as state:
            return log.locate(state, stream, moment)

    async def trim(
        self,
        stream: str,
        *,
        max_length: int | None = None,
        max_age: float | None = None,
        force: bool = False,
        ignore_groups: Collection[str] = (),
    ) -> Trimmed:
        with self._opened() as state:
            return log.trim(
                state, stream, max_length=max_length, max_age=max_age, force=force, ignore_groups=ignore_groups
            )

    async def arrivals(self) -> AsyncGenerator[str | None, None]:
        watch = Watch()
        with self._opened() as state:
            state.watches.append(watch)
        try:
            yield None
            while True:
                await watch.woken.wait()
                with state:
                    names = watch.take()
                for name in names:
                    yield name
        finally:
            with state:
                state.watches.remove(watch)

    # Leases.

    async def join(self, stream: str, group: str, *, start: str = START) -> bool:
        with self._opened() as state:
            return leases.join(state, stream, group, start=start)

    async def seek(self, stream: str, group: str, to: str) -> None:
        with self._opened() as state:
            leases.seek(state, stream, group, to)

    async def leave(self, stream: str, group: str) -> None:
        with self._opened() as state:
            leases.leave(state, stream, group)

    async def trimmed_unread(self, stream: str, group: str) -> int | None:
        with self._opened() as state:
            return leases.trimmed_unread(state, stream, group)

    async def read(self, *readers: Reader, limit: int, wait: float = 0.0) -> list[Delivery]:
        check_readers(readers)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        while True:
            with self._opened() as state:
                deliveries = leases.read(state, readers, limit=limit)
                if deliveries or loop.time() >= deadline:
                    return deliveries
                waiter = loop.create_future()
                streams = [state.streams[reader.stream] for reader in readers]
                for stream in streams:
                    stream.waiters[waiter] = loop
            timer = loop.call_at(deadline, finish, waiter)
            try:
                await waiter
            finally:
                timer.cancel()
                with state:
                    for stream in streams:
                        stream.waiters.pop(waiter, None)

    async def take_due(self, reader: Reader, *, limit: int) -> list[Delivery]:
        with self._opened() as state:
            return leases.take_due(state, reader, limit=limit)

    async def claim(self, reader: Reader, *, idle: float, limit: int = 1) -> list[Delivery]:
        with self._opened() as state:
            return leases.claim(state, reader, idle=idle, limit=limit)

    async def extend(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        with self._opened() as state:
            return leases.extend(state, deliveries)

    async def outlook(self, readers: Sequence[Reader]) -> list[Outlook | None]:
        with self._opened() as state:
            return leases.outlook(state, readers)

    async def ack(self, deliveries: Sequence[Delivery], *, remember: float | None = None) -> int:
        with self._opened() as state:
            return leases.ack(state, deliveries, remember=remember)

    async def handled(self, stream: str, group: str, ids: Sequence[str]) -> set[str]:
        with self._opened() as state:
            return leases.handled(state, stream, group, ids)

    async def retry(
        self, delivery: Delivery, *, delay: float, keep: bool = False, failure: Failure | None = None
    ) -> bool:
        with self._opened() as state:
            return leases.retry(state, delivery, delay=delay, keep=keep, failure=failure)

    async def release(self, deliveries: Sequence[Delivery]) -> int:
        with self._opened() as state:
            return leases.release(state, deliveries)

    async def dead_letter(
        self, delivery: Delivery, *, reason: str, traceback: str = "", attempts: int | None = None
    ) -> bool:
        with self._opened() as state:
            return leases.dead_letter(state, delivery, reason=reason, traceback=traceback, attempts=attempts)

    # Dead letters.

    async def dead_letters(
        self, stream: str, *, group: str | None = None, after: str = "", limit: int = 100
    ) -> list[DeadLetter]:
        with self._opened() as state:
            return dead_letters.dead_letters(state, stream, group=group, after=after, limit=limit)

    async def redrive(self, stream: str, ids: Sequence[str]) -> int:
        with self._opened() as state:
            return dead_letters.redrive(state, stream, ids)

    async def discard(self, stream: str, ids: Sequence[str]) -> int:
        with self._opened() as state:
            return dead_letters.discard(state, stream, ids)

    # Inspection.

    async def stats(self, streams: Sequence[str] | None = None) -> list[StreamStats]:
        with self._opened() as state:
            return inspection.stats(state, streams)

    async def streams(self) -> list[str]:
        with self._opened() as state:
            return sorted(state.streams)

    async def time(self, stream: str) -> float:
        check_name("stream", stream)
        return self._state.epoch + self._state.clock()

    async def groups(self, stream: str) -> list[str]:
        with self._opened() as state:
            return inspection.groups(state, stream)

    async def pending(self, stream: str, group: str, *, after: str = START, limit: int = 100) -> list[Pending]:
        with self._opened() as state:
            return inspection.pending(state, stream, group, after=after, limit=limit)

    async def strays(self) -> list[str]:
        return []

    async def durability(self) -> Durability:
        self._opened()
        note = "Events are kept in this process's memory and end with it. Use sqlite:/// or redis:// to keep them."
        return Durability(client_killed="lost", store_killed="lost", power_lost="lost", notes=(note,))

    # Notes.

    async def notes(self, stream: str, *, names: Collection[str] | None = None) -> dict[str, bytes]:
        with self._opened() as state:
            return notes.notes(state, stream, names)

    async def streams_with_notes(self) -> list[str]:
        with self._opened() as state:
            return notes.streams_with_notes(state)

    async def set_note(
        self, stream: str, name: str, value: bytes | None, *, expected: bytes | EllipsisType | None = ...
    ) -> bool:
        with self._opened() as state:
            return notes.set_note(state, stream, name, value, expected=expected)

    # Transfer.

    async def scheduled(self, stream: str, *, after: str = "", limit: int = 100) -> list[Scheduled]:
        with self._opened() as state:
            return transfer.scheduled(state, stream, after=after, limit=limit)

    async def remembered(
        self, stream: str, *, group: str | None = None, after: str = "", limit: int = 100
    ) -> list[RememberedId]:
        with self._opened() as state:
            return transfer.remembered(state, stream, group=group, after=after, limit=limit)

    async def restore(
        self,
        stream: str,
        items: Sequence[StreamItem],
        *,
        notes: Mapping[str, bytes | None] | None = None,
        expected: Mapping[str, bytes | None] | None = None,
    ) -> list[str] | None:
        with self._opened() as state:
            return transfer.restore(state, stream, items, values=notes or {}, expected=expected or {})

    async def drop(
        self, stream: str, *, keep_entries: bool = False, expected: Mapping[str, bytes | None] | None = None
    ) -> bool:
        with self._opened() as state:
            return transfer.drop(state, stream, keep_entries=keep_entries, expected=expected or {})

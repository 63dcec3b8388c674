"""A store that fails on demand, around any store that works."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, defaultdict, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import EllipsisType, TracebackType
from typing import Literal, Self, TypeVar, get_args

from forebay.errors import ConfigurationError, ForebayError, OutcomeUnknown, StoreUnavailable
from forebay.event import Record
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
    Store,
    StreamItem,
    StreamStats,
    Trimmed,
)

Move = Literal[
    "append",
    "schedule",
    "append_due",
    "scan",
    "locate",
    "trim",
    "arrivals",
    "join",
    "seek",
    "leave",
    "trimmed_unread",
    "read",
    "take_due",
    "claim",
    "extend",
    "outlook",
    "ack",
    "handled",
    "retry",
    "release",
    "dead_letter",
    "dead_letters",
    "redrive",
    "discard",
    "stats",
    "streams",
    "time",
    "groups",
    "pending",
    "strays",
    "durability",
    "notes",
    "streams_with_notes",
    "set_note",
    "scheduled",
    "remembered",
    "restore",
    "drop",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Fault:
    """What befalls one call."""

    happens: bool = True
    error: ForebayError | None = None
    delay: float = 0.0


class FaultyStore:
    """Does what `store` does, but for the faults that a test has ordered.

        store = FaultyStore(MemoryStore())
        store.fail_before("append")            # the next append is refused: nothing happened
        store.fail_after("ack", times=2)       # two acks happen, and nobody hears of it
        store.delay("read", 0.5)               # one read takes half a second longer

    Faults of one move befall its calls in the order in which they were ordered, one each; calls
    without one go through. `calls` counts all calls of each move. A clone has the same faults and
    the same counts.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.calls: Counter[str] = Counter()
        self._faults: defaultdict[str, deque[_Fault]] = defaultdict(deque)

    def __repr__(self) -> str:
        return f"FaultyStore({self.store!r})"

    def fail_before(self, move: Move, error: ForebayError | None = None, *, times: int = 1) -> None:
        """Let the next calls raise `error` (a `StoreUnavailable` unless given), and do nothing."""
        self._order(move, _Fault(happens=False, error=error or StoreUnavailable(f"ordered: {move} fails")), times)

    def fail_after(self, move: Move, error: ForebayError | None = None, *, times: int = 1) -> None:
        """Let the next calls happen, and raise `error` (an `OutcomeUnknown` unless given) in place of their answer."""
        self._order(move, _Fault(error=error or OutcomeUnknown(f"ordered: the answer to {move} is lost")), times)

    def delay(self, move: Move, seconds: float, *, times: int = 1) -> None:
        """Let the next calls begin `seconds` later."""
        self._order(move, _Fault(delay=seconds), times)

    def mend(self) -> None:
        """Forget all faults that have not befallen a call yet."""
        self._faults.clear()

    def _order(self, move: Move, fault: _Fault, times: int) -> None:
        if move not in get_args(Move):
            raise ConfigurationError(f"a store has no move {move!r}; there are {', '.join(get_args(Move))}")
        self._faults[move].extend([fault] * times)

    async def _call(self, move: Move, act: Callable[[], Awaitable[T]]) -> T:
        self.calls[move] += 1
        waiting = self._faults[move]
        fault = waiting.popleft() if waiting else _Fault()
        if fault.delay:
            await asyncio.sleep(fault.delay)
        if fault.error is None:
            return await act()
        if fault.happens:
            await act()
        raise fault.error

    def clone(self) -> FaultyStore:
        clone = FaultyStore(self.store.clone())
        clone.calls, clone._faults = self.calls, self._faults
        return clone

    async def __aenter__(self) -> Self:
        await self.store.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.store.__aexit__(kind, error, trace)

    # The moves.

    async def append(
        self,
        stream: str,
        records: Sequence[Record],
        *,
        dedup_window: float | None = None,
        search_after: str | None = None,
    ) -> list[str]:
        before = START
        if any(isinstance(fault.error, OutcomeUnknown) for fault in self._faults["append"]):
            newest = await self.store.scan(stream, newest=True, limit=1)
            before = newest[-1].position if newest else START
        try:
            return await self._call(
                "append",
                lambda: self.store.append(stream, records, dedup_window=dedup_window, search_after=search_after),
            )
        except OutcomeUnknown as error:
            # As real stores do, so that a repetition can look for what was stored.
            raise OutcomeUnknown(str(error), search_after=error.search_after or before) from error

    async def schedule(
        self,
        stream: str,
        records: Sequence[Record],
        *,
        delay: float | None = None,
        at: datetime | None = None,
        dedup_window: float | None = None,
    ) -> None:
        await self._call(
            "schedule", lambda: self.store.schedule(stream, records, delay=delay, at=at, dedup_window=dedup_window)
        )

    async def append_due(self, stream: str, *, limit: int = 500) -> int:
        return await self._call("append_due", lambda: self.store.append_due(stream, limit=limit))

    async def scan(
        self, stream: str, *, after: str = START, until: str = END, limit: int = 100, newest: bool = False
    ) -> list[Entry]:
        return await self._call(
            "scan", lambda: self.store.scan(stream, after=after, until=until, limit=limit, newest=newest)
        )

    async def locate(self, stream: str, moment: datetime) -> str:
        return await self._call("locate", lambda: self.store.locate(stream, moment))

    async def trim(
        self,
        stream: str,
        *,
        max_length: int | None = None,
        max_age: float | None = None,
        force: bool = False,
        ignore_groups: Collection[str] = (),
    ) -> Trimmed:
        return await self._call(
            "trim",
            lambda: self.store.trim(
                stream, max_length=max_length, max_age=max_age, force=force, ignore_groups=ignore_groups
            ),
        )

    async def arrivals(self) -> AsyncGenerator[str | None, None]:
        async with contextlib.aclosing(self.store.arrivals()) as arrivals:
            # Each item is a call: a fault befalls the next one.
            with contextlib.suppress(StopAsyncIteration):
                while True:
                    yield await self._call("arrivals", lambda: anext(arrivals))

    async def join(self, stream: str, group: str, *, start: str = START) -> bool:
        return await self._call("join", lambda: self.store.join(stream, group, start=start))

    async def seek(self, stream: str, group: str, to: str) -> None:
        await self._call("seek", lambda: self.store.seek(stream, group, to))

    async def leave(self, stream: str, group: str) -> None:
        await self._call("leave", lambda: self.store.leave(stream, group))

    async def trimmed_unread(self, stream: str, group: str) -> int | None:
        return await self._call("trimmed_unread", lambda: self.store.trimmed_unread(stream, group))

    async def read(self, *readers: Reader, limit: int, wait: float = 0.0) -> list[Delivery]:
        return await self._call("read", lambda: self.store.read(*readers, limit=limit, wait=wait))

    async def take_due(self, reader: Reader, *, limit: int) -> list[Delivery]:
        return await self._call("take_due", lambda: self.store.take_due(reader, limit=limit))

    async def claim(self, reader: Reader, *, idle: float, limit: int = 1) -> list[Delivery]:
        return await self._call("claim", lambda: self.store.claim(reader, idle=idle, limit=limit))

    async def extend(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        return await self._call("extend", lambda: self.store.extend(deliveries))

    async def outlook(self, readers: Sequence[Reader]) -> list[Outlook | None]:
        return await self._call("outlook", lambda: self.store.outlook(readers))

    async def ack(self, deliveries: Sequence[Delivery], *, remember: float | None = None) -> int:
        return await self._call("ack", lambda: self.store.ack(deliveries, remember=remember))

    async def handled(self, stream: str, group: str, ids: Sequence[str]) -> set[str]:
        return await self._call("handled", lambda: self.store.handled(stream, group, ids))

    async def retry(
        self, delivery: Delivery, *, delay: float, keep: bool = False, failure: Failure | None = None
    ) -> bool:
        return await self._call("retry", lambda: self.store.retry(delivery, delay=delay, keep=keep, failure=failure))

    async def release(self, deliveries: Sequence[Delivery]) -> int:
        return await self._call("release", lambda: self.store.release(deliveries))

    async def dead_letter(
        self, delivery: Delivery, *, reason: str, traceback: str = "", attempts: int | None = None
    ) -> bool:
        return await self._call(
            "dead_letter",
            lambda: self.store.dead_letter(delivery, reason=reason, traceback=traceback, attempts=attempts),
        )

    async def dead_letters(
        self, stream: str, *, group: str | None = None, after: str = "", limit: int = 100
    ) -> list[DeadLetter]:
        return await self._call(
            "dead_letters", lambda: self.store.dead_letters(stream, group=group, after=after, limit=limit)
        )

    async def redrive(self, stream: str, ids: Sequence[str]) -> int:
        return await self._call("redrive", lambda: self.store.redrive(stream, ids))

    async def discard(self, stream: str, ids: Sequence[str]) -> int:
        return await self._call("discard", lambda: self.store.discard(stream, ids))

    async def stats(self, streams: Sequence[str] | None = None) -> list[StreamStats]:
        return await self._call("stats", lambda: self.store.stats(streams))

    async def streams(self) -> list[str]:
        return await self._call("streams", self.store.streams)

    async def time(self, stream: str) -> float:
        return await self._call("time", lambda: self.store.time(stream))

    async def groups(self, stream: str) -> list[str]:
        return await self._call("groups", lambda: self.store.groups(stream))

    async def pending(self, stream: str, group: str, *, after: str = START, limit: int = 100) -> list[Pending]:
        return await self._call("pending", lambda: self.store.pending(stream, group, after=after, limit=limit))

    async def strays(self) -> list[str]:
        return await self._call("strays", self.store.strays)

    async def durability(self) -> Durability:
        return await self._call("durability", self.store.durability)

    async def notes(self, stream: str, *, names: Collection[str] | None = None) -> dict[str, bytes]:
        return await self._call("notes", lambda: self.store.notes(stream, names=names))

    async def streams_with_notes(self) -> list[str]:
        return await self._call("streams_with_notes", self.store.streams_with_notes)

    async def set_note(
        self, stream: str, name: str, value: bytes | None, *, expected: bytes | EllipsisType | None = ...
    ) -> bool:
        return await self._call("set_note", lambda: self.store.set_note(stream, name, value, expected=expected))

    async def scheduled(self, stream: str, *, after: str = "", limit: int = 100) -> list[Scheduled]:
        return await self._call("scheduled", lambda: self.store.scheduled(stream, after=after, limit=limit))

    async def remembered(
        self, stream: str, *, group: str | None = None, after: str = "", limit: int = 100
    ) -> list[RememberedId]:
        return await self._call(
            "remembered", lambda: self.store.remembered(stream, group=group, after=after, limit=limit)
        )

    async def restore(
        self,
        stream: str,
        items: Sequence[StreamItem],
        *,
        notes: Mapping[str, bytes | None] | None = None,
        expected: Mapping[str, bytes | None] | None = None,
    ) -> list[str] | None:
        return await self._call("restore", lambda: self.store.restore(stream, items, notes=notes, expected=expected))

    async def drop(
        self, stream: str, *, keep_entries: bool = False, expected: Mapping[str, bytes | None] | None = None
    ) -> bool:
        return await self._call("drop", lambda: self.store.drop(stream, keep_entries=keep_entries, expected=expected))

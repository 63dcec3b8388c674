"""A store that passes every move on to another store, through one hook."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import AsyncGenerator, Collection, Coroutine, Mapping, Sequence
from datetime import datetime
from functools import partial
from types import EllipsisType, TracebackType
from typing import Any, Literal, Self, TypeVar

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

"""The names of all moves of a store."""

T = TypeVar("T")


class StoreProxy:
    """Passes every move on to `store`. A subclass sees all of them in `around`, or replaces single ones.

        class Timed(StoreProxy):
            async def around(self, move, call):
                started = time.monotonic()
                try:
                    return await call()
                finally:
                    print(move, time.monotonic() - started)

    A clone is of the same class, around a clone of the store. It has the same attributes: keep a count that all
    clones share in a mutable object.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.store!r})"

    async def around(self, move: Move, call: partial[Coroutine[Any, Any, T]]) -> T:
        """Make one call: `call()` makes it, `call.args` begins with the stream, reader or deliveries.

        Of `arrivals` each item is a call.
        """
        return await call()

    def is_position(self, text: str) -> bool:
        return self.store.is_position(text)

    def position_key(self, position: str) -> tuple[int, ...]:
        return self.store.position_key(position)

    def clone(self) -> Self:
        clone = copy.copy(self)
        clone.store = self.store.clone()
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
        return await self.around(
            "append",
            partial(self.store.append, stream, records, dedup_window=dedup_window, search_after=search_after),
        )

    async def schedule(
        self,
        stream: str,
        records: Sequence[Record],
        *,
        delay: float | None = None,
        at: datetime | None = None,
        dedup_window: float | None = None,
    ) -> None:
        await self.around(
            "schedule", partial(self.store.schedule, stream, records, delay=delay, at=at, dedup_window=dedup_window)
        )

    async def append_due(self, stream: str, *, limit: int = 500) -> int:
        return await self.around("append_due", partial(self.store.append_due, stream, limit=limit))

    async def scan(
        self, stream: str, *, after: str = START, until: str = END, limit: int = 100, newest: bool = False
    ) -> list[Entry]:
        return await self.around(
            "scan", partial(self.store.scan, stream, after=after, until=until, limit=limit, newest=newest)
        )

    async def locate(self, stream: str, moment: datetime) -> str:
        return await self.around("locate", partial(self.store.locate, stream, moment))

    async def trim(
        self,
        stream: str,
        *,
        max_length: int | None = None,
        max_age: float | None = None,
        force: bool = False,
        ignore_groups: Collection[str] = (),
    ) -> Trimmed:
        return await self.around(
            "trim",
            partial(
                self.store.trim,
                stream,
                max_length=max_length,
                max_age=max_age,
                force=force,
                ignore_groups=ignore_groups,
            ),
        )

    async def arrivals(self) -> AsyncGenerator[str | None, None]:
        async with contextlib.aclosing(self.store.arrivals()) as arrivals:
            with contextlib.suppress(StopAsyncIteration):
                while True:
                    yield await self.around("arrivals", partial(_next, arrivals))

    async def join(self, stream: str, group: str, *, start: str = START) -> bool:
        return await self.around("join", partial(self.store.join, stream, group, start=start))

    async def seek(self, stream: str, group: str, to: str) -> None:
        await self.around("seek", partial(self.store.seek, stream, group, to))

    async def leave(self, stream: str, group: str) -> None:
        await self.around("leave", partial(self.store.leave, stream, group))

    async def trimmed_unread(self, stream: str, group: str) -> int | None:
        return await self.around("trimmed_unread", partial(self.store.trimmed_unread, stream, group))

    async def read(self, *readers: Reader, limit: int, wait: float = 0.0) -> list[Delivery]:
        return await self.around("read", partial(self.store.read, *readers, limit=limit, wait=wait))

    async def take_due(self, reader: Reader, *, limit: int) -> list[Delivery]:
        return await self.around("take_due", partial(self.store.take_due, reader, limit=limit))

    async def claim(self, reader: Reader, *, idle: float, limit: int = 1) -> list[Delivery]:
        return await self.around("claim", partial(self.store.claim, reader, idle=idle, limit=limit))

    async def extend(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        return await self.around("extend", partial(self.store.extend, deliveries))

    async def outlook(self, readers: Sequence[Reader]) -> list[Outlook | None]:
        return await self.around("outlook", partial(self.store.outlook, readers))

    async def ack(self, deliveries: Sequence[Delivery], *, remember: float | None = None) -> int:
        return await self.around("ack", partial(self.store.ack, deliveries, remember=remember))

    async def handled(self, stream: str, group: str, ids: Sequence[str]) -> set[str]:
        return await self.around("handled", partial(self.store.handled, stream, group, ids))

    async def retry(
        self, delivery: Delivery, *, delay: float, keep: bool = False, failure: Failure | None = None
    ) -> bool:
        return await self.around("retry", partial(self.store.retry, delivery, delay=delay, keep=keep, failure=failure))

    async def release(self, deliveries: Sequence[Delivery]) -> int:
        return await self.around("release", partial(self.store.release, deliveries))

    async def dead_letter(
        self, delivery: Delivery, *, reason: str, traceback: str = "", attempts: int | None = None
    ) -> bool:
        return await self.around(
            "dead_letter",
            partial(self.store.dead_letter, delivery, reason=reason, traceback=traceback, attempts=attempts),
        )

    async def dead_letters(
        self, stream: str, *, group: str | None = None, after: str = "", limit: int = 100
    ) -> list[DeadLetter]:
        return await self.around(
            "dead_letters", partial(self.store.dead_letters, stream, group=group, after=after, limit=limit)
        )

    async def redrive(self, stream: str, ids: Sequence[str]) -> int:
        return await self.around("redrive", partial(self.store.redrive, stream, ids))

    async def discard(self, stream: str, ids: Sequence[str]) -> int:
        return await self.around("discard", partial(self.store.discard, stream, ids))

    async def stats(self, streams: Sequence[str] | None = None) -> list[StreamStats]:
        return await self.around("stats", partial(self.store.stats, streams))

    async def streams(self) -> list[str]:
        return await self.around("streams", partial(self.store.streams))

    async def time(self, stream: str) -> float:
        return await self.around("time", partial(self.store.time, stream))

    async def groups(self, stream: str) -> list[str]:
        return await self.around("groups", partial(self.store.groups, stream))

    async def pending(self, stream: str, group: str, *, after: str = START, limit: int = 100) -> list[Pending]:
        return await self.around("pending", partial(self.store.pending, stream, group, after=after, limit=limit))

    async def strays(self) -> list[str]:
        return await self.around("strays", partial(self.store.strays))

    async def durability(self) -> Durability:
        return await self.around("durability", partial(self.store.durability))

    async def notes(self, stream: str, *, names: Collection[str] | None = None) -> dict[str, bytes]:
        return await self.around("notes", partial(self.store.notes, stream, names=names))

    async def streams_with_notes(self) -> list[str]:
        return await self.around("streams_with_notes", partial(self.store.streams_with_notes))

    async def set_note(
        self, stream: str, name: str, value: bytes | None, *, expected: bytes | EllipsisType | None = ...
    ) -> bool:
        return await self.around("set_note", partial(self.store.set_note, stream, name, value, expected=expected))

    async def scheduled(self, stream: str, *, after: str = "", limit: int = 100) -> list[Scheduled]:
        return await self.around("scheduled", partial(self.store.scheduled, stream, after=after, limit=limit))

    async def remembered(
        self, stream: str, *, group: str | None = None, after: str = "", limit: int = 100
    ) -> list[RememberedId]:
        return await self.around(
            "remembered", partial(self.store.remembered, stream, group=group, after=after, limit=limit)
        )

    async def restore(
        self,
        stream: str,
        items: Sequence[StreamItem],
        *,
        notes: Mapping[str, bytes | None] | None = None,
        expected: Mapping[str, bytes | None] | None = None,
    ) -> list[str] | None:
        return await self.around("restore", partial(self.store.restore, stream, items, notes=notes, expected=expected))

    async def drop(
        self, stream: str, *, keep_entries: bool = False, expected: Mapping[str, bytes | None] | None = None
    ) -> bool:
        return await self.around("drop", partial(self.store.drop, stream, keep_entries=keep_entries, expected=expected))


async def _next(arrivals: AsyncGenerator[str | None, None]) -> str | None:
    return await anext(arrivals)

"""The Store on SQLite: it checks names and hands each move to the thread that carries it out."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from types import EllipsisType, TracebackType
from typing import Self, TypeVar

from forebay.cleanup import finish
from forebay.errors import ConfigurationError
from forebay.event import Record, check_seconds
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
from forebay.stores.sqlite import dead_letters, inspection, leases, log, notes, transfer
from forebay.stores.sqlite.clock import Clock, MachineClock
from forebay.stores.sqlite.connections import Connections
from forebay.stores.sqlite.database import Database, Synchronous, normalise
from forebay.stores.sqlite.log import Append
from forebay.stores.sqlite.names import Names
from forebay.stores.sqlite.rows import to_row
from forebay.stores.sqlite.transaction import Transaction, is_position, parse
from forebay.stores.sqlite.writer import Precheck

Result = TypeVar("Result")

ORDERED_POLL_SECONDS = 0.05
"""Seconds between two reads of an ordered reader that waits: no signal comes when the other consumer has finished."""


class SQLiteStore:
    """Streams in one SQLite file, which any number of processes of one machine share.

    `synchronous="full"` flushes every commit to the disk. "normal" leaves that to the system: several times faster for
    single events, but a power failure may lose the last commits. If another process holds the lock on the file, a move
    waits for it up to `busy_timeout` seconds. Keep the file on a local disk: network and FUSE file systems are refused,
    unless `any_file_system`. With `read_only` the store makes and changes nothing: a missing file is `NotFound`, and
    each move raises `StoreDenied`.

    Positions are whole numbers, counted over all streams of the file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        namespace: str = "events",
        synchronous: Synchronous = "full",
        busy_timeout: float = 10.0,
        any_file_system: bool = False,
        read_only: bool = False,
        clock: Clock | None = None,
    ) -> None:
        if synchronous not in ("full", "normal"):
            raise ConfigurationError(f"synchronous={synchronous!r}: give 'full' or 'normal'")
        self.path = normalise(path)
        self._namespace = check_name("namespace", namespace)
        self._synchronous: Synchronous = synchronous
        self._busy_timeout = check_seconds("busy_timeout", busy_timeout)
        self._any_file_system = any_file_system
        self._read_only = read_only
        self._clock = clock or MachineClock()
        self._names = Names()
        self._open: Connections | None = None
        self._counted: dict[tuple[str, int | None], log.Counted | None] = {}

    def clone(self) -> SQLiteStore:
        return SQLiteStore(
            self.path,
            namespace=self._namespace,
            synchronous=self._synchronous,
            busy_timeout=self._busy_timeout,
            any_file_system=self._any_file_system,
            read_only=self._read_only,
            clock=self._clock,
        )

    async def __aenter__(self) -> Self:
        if self._open is not None:
            if not self._open.home.is_lost:
                raise self._open.home.forked() or ConfigurationError(
                    f"the store on {self.path} is open already; `clone()` makes another one"
                )
            self._open.forget()
            self._open = None
        database = Database(
            self.path,
            synchronous=self._synchronous,
            busy_timeout=self._busy_timeout,
            any_file_system=self._any_file_system,
            read_only=self._read_only,
            clock=self._clock,
        )
        self._open = await Connections.open(database, self._namespace)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        connections, self._open = self._open, None
        # After a fork the threads and the locks are in the other process.
        if connections is not None and not connections.home.forked():
            await finish(connections.close())

    # Log.

    async def append(
        self,
        stream: str,
        records: Sequence[Record],
        *,
        dedup_window: float | None = None,
        search_after: str | None = None,
    ) -> list[str]:
        self._names.check(stream)
        if not records:
            return []
        rows = list(map(to_row, records))
        if dedup_window is None and search_after is None:
            # The hot path: without the call of `_move`.
            positions: list[str] = await self._connections().writer.submit(Append(stream, rows))
            return positions
        return await self._move(
            partial(log.append_once, stream=stream, rows=rows, dedup_window=dedup_window, search_after=search_after)
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
        self._names.check(stream)
        rows = [to_row(record) for record in records]
        moment = None if at is None else at.timestamp()
        await self._move(
            partial(log.schedule, stream=stream, rows=rows, delay=delay, at=moment, dedup_window=dedup_window)
        )

    def is_position(self, text: str) -> bool:
        return is_position(text)

    def position_key(self, position: str) -> tuple[int, ...]:
        return (parse(position),)

    async def scan(
        self, stream: str, *, after: str = START, until: str = END, limit: int = 100, newest: bool = False
    ) -> list[Entry]:
        self._names.check(stream)
        return await self._query(partial(log.scan, stream=stream, after=after, until=until, limit=limit, newest=newest))

    async def locate(self, stream: str, moment: datetime) -> str:
        self._names.check(stream)
        aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        return str(await self._query(partial(log.locate, stream=stream, moment=aware.timestamp())))

    async def trim(
        self,
        stream: str,
        *,
        max_length: int | None = None,
        max_age: float | None = None,
        force: bool = False,
        ignore_groups: Collection[str] = (),
    ) -> Trimmed:
        self._names.check(stream)
        self._names.check_groups(ignore_groups)
        place = (stream, max_length)
        limit = partial(log.trim_limit, stream=stream, max_length=max_length, max_age=max_age)
        until, self._counted[place] = await self._query(partial(limit, known=self._counted.get(place)))
        if not force and await self._query(partial(log.begins_unfinished, stream=stream, ignore_groups=ignore_groups)):
            return Trimmed(0, 0)
        removed = dropped = 0
        while until:
            part = await self._move(
                partial(log.trim, stream=stream, until=until, force=force, ignore_groups=ignore_groups)
            )
            removed += part.removed
            dropped += part.dropped
            if part.removed < log.TRIMMED_AT_ONCE:
                break
        return Trimmed(removed, dropped)

    # Leases.

    async def join(self, stream: str, group: str, *, start: str = START) -> bool:
        self._names.check(stream, group)
        return await self._move(partial(leases.join, stream=stream, group=group, start=start))

    async def seek(self, stream: str, group: str, to: str) -> None:
        self._names.check(stream, group)
        await self._move(partial(leases.seek, stream=stream, group=group, to=to))

    async def leave(self, stream: str, group: str) -> None:
        self._names.check(stream, group)
        await self._move(partial(leases.leave, stream=stream, group=group))

    async def trimmed_unread(self, stream: str, group: str) -> int | None:
        self._names.check(stream, group)
        move: Callable[[Transaction], list[int | None]] = partial(leases.trimmed_unread, stream=stream, group=group)
        found = await self._move(move, partial(leases.has_trimmed_unread, stream=stream, group=group))
        return found[0] if found else 0

    async def read(self, *readers: Reader, limit: int, wait: float = 0.0) -> list[Delivery]:
        reader = check_readers(readers)
        self._names.check_readers(readers)
        move: Callable[[Transaction], list[Delivery]] = partial(leases.read, readers=readers, limit=limit)
        precheck = partial(leases.can_read, readers=readers)
        connections = self._connections()
        found = await self._move(move, precheck)
        if found or wait <= 0 or self._open is not connections:
            return found
        clock = asyncio.get_running_loop().time
        deadline = clock() + wait
        with connections.arrivals.expect([reader.stream for reader in readers]) as woken:
            while not (found := await self._move(move, precheck)) and (left := deadline - clock()) > 0:
                await connections.arrivals.wait(woken, min(left, ORDERED_POLL_SECONDS) if reader.ordered else left)
                woken.clear()
                if self._open is not connections:
                    break
        return found

    async def append_due(self, stream: str, *, limit: int = 500) -> int:
        self._names.check(stream)
        precheck = partial(log.has_due, stream=stream)
        return await self._move(partial(log.append_due, stream=stream, limit=limit), precheck) or 0

    async def take_due(self, reader: Reader, *, limit: int) -> list[Delivery]:
        self._names.check_readers([reader])
        return await self._move(
            partial(leases.take_due, reader=reader, limit=limit), partial(leases.can_take_due, reader=reader)
        )

    async def outlook(self, readers: Sequence[Reader]) -> list[Outlook | None]:
        self._names.check_readers(readers)
        return await self._query(partial(leases.outlook, readers=readers))

    def arrivals(self) -> AsyncGenerator[str | None, None]:
        return self._connections().arrivals.names()

    async def claim(self, reader: Reader, *, idle: float, limit: int = 1) -> list[Delivery]:
        self._names.check_readers([reader])
        return await self._move(
            partial(leases.claim, reader=reader, idle=idle, limit=limit),
            partial(leases.can_claim, reader=reader, idle=idle),
        )

    async def extend(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        self._names.check_deliveries(deliveries)
        return await self._move(partial(leases.extend, deliveries=deliveries))

    async def ack(self, deliveries: Sequence[Delivery], *, remember: float | None = None) -> int:
        self._names.check_deliveries(deliveries)
        return await self._move(partial(leases.ack, deliveries=deliveries, remember=remember))

    async def handled(self, stream: str, group: str, ids: Sequence[str]) -> set[str]:
        self._names.check(stream, group)
        return await self._query(partial(leases.handled, stream=stream, group=group, ids=ids))

    async def retry(
        self, delivery: Delivery, *, delay: float, keep: bool = False, failure: Failure | None = None
    ) -> bool:
        self._names.check_deliveries([delivery])
        return await self._move(partial(leases.retry, delivery=delivery, delay=delay, keep=keep, failure=failure))

    async def release(self, deliveries: Sequence[Delivery]) -> int:
        self._names.check_deliveries(deliveries)
        return await self._move(partial(leases.release, deliveries=deliveries))

    async def dead_letter(
        self, delivery: Delivery, *, reason: str, traceback: str = "", attempts: int | None = None
    ) -> bool:
        self._names.check_deliveries([delivery])
        move = partial(leases.dead_letter, delivery=delivery, reason=reason, traceback=traceback, attempts=attempts)
        return await self._move(move)

    # Dead letters.

    async def dead_letters(
        self, stream: str, *, group: str | None = None, after: str = "", limit: int = 100
    ) -> list[DeadLetter]:
        self._names.check(stream, group)
        return await self._query(
            partial(dead_letters.dead_letters, stream=stream, group=group, after=after, limit=limit)
        )

    async def redrive(self, stream: str, ids: Sequence[str]) -> int:
        self._names.check(stream)
        return await self._move(partial(dead_letters.redrive, stream=stream, ids=ids))

    async def discard(self, stream: str, ids: Sequence[str]) -> int:
        self._names.check(stream)
        return await self._move(partial(dead_letters.discard, stream=stream, ids=ids))

    # Inspection.

    async def stats(self, streams: Sequence[str] | None = None) -> list[StreamStats]:
        for stream in streams or ():
            self._names.check(stream)
        return await self._query(partial(inspection.stats, streams=streams))

    async def streams(self) -> list[str]:
        return await self._query(inspection.streams)

    async def time(self, stream: str) -> float:
        self._names.check(stream)
        return await self._query(lambda tx: tx.time + tx.shift)

    async def groups(self, stream: str) -> list[str]:
        self._names.check(stream)
        return await self._query(partial(inspection.groups, stream=stream))

    async def pending(self, stream: str, group: str, *, after: str = START, limit: int = 100) -> list[Pending]:
        self._names.check(stream, group)
        return await self._query(partial(inspection.pending, stream=stream, group=group, after=after, limit=limit))

    async def strays(self) -> list[str]:
        return await self._query(inspection.strays)

    async def durability(self) -> Durability:
        self._connections()
        if self._synchronous == "full":
            how = ", by F_FULLFSYNC" if sys.platform == "darwin" else ""
            note = f"every commit is flushed to the disk (synchronous=full{how}) before it is acknowledged"
            return Durability("kept", "kept", "kept", (note,))
        note = (
            "commits are flushed to the disk now and then (synchronous=normal), so a power failure may take the"
            " last ones; the file stays whole. synchronous=full keeps them"
        )
        return Durability("kept", "kept", "at risk", (note,))

    # Notes.

    async def notes(self, stream: str, *, names: Collection[str] | None = None) -> dict[str, bytes]:
        self._names.check(stream)
        return await self._query(partial(notes.notes, stream=stream, names=names))

    async def streams_with_notes(self) -> list[str]:
        return await self._query(notes.streams_with_notes)

    async def set_note(
        self, stream: str, name: str, value: bytes | None, *, expected: bytes | EllipsisType | None = ...
    ) -> bool:
        self._names.check(stream)
        return await self._move(partial(notes.set_note, stream=stream, name=name, value=value, expected=expected))

    # Transfer.

    async def scheduled(self, stream: str, *, after: str = "", limit: int = 100) -> list[Scheduled]:
        self._names.check(stream)
        return await self._query(partial(transfer.scheduled, stream=stream, after=after, limit=limit))

    async def remembered(
        self, stream: str, *, group: str | None = None, after: str = "", limit: int = 100
    ) -> list[RememberedId]:
        self._names.check(stream, group)
        return await self._query(partial(transfer.remembered, stream=stream, group=group, after=after, limit=limit))

    async def restore(
        self,
        stream: str,
        items: Sequence[StreamItem],
        *,
        notes: Mapping[str, bytes | None] | None = None,
        expected: Mapping[str, bytes | None] | None = None,
    ) -> list[str] | None:
        self._names.check(stream)
        move = partial(transfer.restore, stream=stream, items=items, notes=notes or {}, expected=expected or {})
        return await self._move(move)

    async def drop(
        self, stream: str, *, keep_entries: bool = False, expected: Mapping[str, bytes | None] | None = None
    ) -> bool:
        self._names.check(stream)
        move = partial(transfer.drop, stream=stream, keep_entries=keep_entries, expected=expected or {})
        return await self._move(move)

    # The threads.

    async def _move(self, move: Callable[[Transaction], Result], precheck: Precheck | None = None) -> Result:
        result: Result = await self._connections().writer.submit(move, precheck)
        return result

    async def _query(self, query: Callable[[Transaction], Result]) -> Result:
        return await self._connections().query(query)

    def _connections(self) -> Connections:
        connections = self._open
        if connections is None:
            raise ConfigurationError(f"the store on {self.path} is not open; use it inside `async with`")
        connections.home.check()
        return connections

"""Events in Redis or Valkey Streams.

`RedisStore` is the face of the store: it checks names and calls the moves in the other modules, which stand in the
order of the protocol: log, leases, dead_letters, inspection, notes, transfer.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from datetime import datetime
from functools import partial
from types import EllipsisType, TracebackType
from typing import Self

from forebay.cleanup import finish
from forebay.clock import boottime
from forebay.errors import ConfigurationError
from forebay.event import Record
from forebay.home import Home
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
)
from forebay.stores.redis import dead_letters, inspection, leases, log, notes, positions, transfer
from forebay.stores.redis.address import Deployment, parse
from forebay.stores.redis.arrivals import Watch
from forebay.stores.redis.client import Client
from forebay.stores.redis.keys import Namespace
from forebay.stores.redis.leases import Bookkeeping


class RedisStore:
    """A store on one server, on the master that Sentinel names, or on a cluster, as the URL says.

    Redis from 6.2, Valkey from 7.2. `timeout` is how long, in seconds, the server may take to connect
    or to answer; `?timeout=` in the URL wins over it. The entries can be read with XRANGE: see
    `keys` and `codec`.
    """

    def __init__(self, url: str | Deployment, *, namespace: str = "events", timeout: float = 5.0) -> None:
        self._deployment = parse(url) if isinstance(url, str) else url
        self._namespace = Namespace(namespace)
        self._timeout = self._deployment.timeout or timeout
        self._new_client = partial(Client, self._deployment, self._timeout)
        self._connected = self._new_client()
        self._home: Home | None = None
        self._books = Bookkeeping()
        self._watches: set[Watch] = set()

    def __repr__(self) -> str:
        return f"RedisStore({self._connected.name}, namespace={self._namespace.name!r})"

    def clone(self) -> RedisStore:
        clone = RedisStore(self._deployment, namespace=self._namespace.name, timeout=self._timeout)
        # The eviction check ran when the original store was opened; do not repeat it.
        clone._connected.allow_eviction = True
        return clone

    async def __aenter__(self) -> Self:
        if self._home is not None:
            if not self._home.is_lost:
                raise self._home.forked() or ConfigurationError(
                    f"the store at {self._connected.name} is open already; `clone()` makes another one"
                )
            # Its connections are closed with the loop's own objects.
            allow_eviction = self._connected.allow_eviction
            self._connected = self._new_client()
            self._connected.allow_eviction = allow_eviction
            self._watches.clear()
        self._home = Home(f"the store at {self._connected.name}")
        client = self._connected
        try:
            await client.topology.refresh()
            if not client.allow_eviction:
                await inspection.check_eviction(client)
        except BaseException:
            self._home = None
            await finish(client.close())
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After a fork the connections are the other process's.
        if self._home is not None and not self._home.forked():
            self._home = None
            await finish(self._close())

    async def _close(self) -> None:
        for watch in list(self._watches):
            await watch.close()
        await self._connected.close()

    @property
    def _client(self) -> Client:
        """The client, on the event loop where the store was opened."""
        if self._home is None:
            raise self._not_open()
        self._home.check()
        return self._connected

    def _not_open(self) -> ConfigurationError:
        return ConfigurationError(f"the store at {self._connected.name} is not open; use it inside `async with`")

    # Log.

    async def append(
        self,
        stream: str,
        records: Sequence[Record],
        *,
        dedup_window: float | None = None,
        search_after: str | None = None,
    ) -> list[str]:
        client, keys = self._client, self._namespace.stream(stream)
        for watch in self._watches:
            # Consumers of this process read in the same round trip, after the append.
            watch.report(stream)
        return await log.append(client, keys, records, dedup_window=dedup_window, search_after=search_after)

    async def schedule(
        self,
        stream: str,
        records: Sequence[Record],
        *,
        delay: float | None = None,
        at: datetime | None = None,
        dedup_window: float | None = None,
    ) -> None:
        keys = self._namespace.stream(stream)
        await log.schedule(self._client, keys, records, delay=delay, at=at, dedup_window=dedup_window)

    async def append_due(self, stream: str, *, limit: int = 500) -> int:
        return await log.append_due(self._client, self._namespace.stream(stream), limit=limit)

    def is_position(self, text: str) -> bool:
        return positions.is_position(text)

    def position_key(self, position: str) -> tuple[int, ...]:
        return positions.as_numbers(positions.check_full(position))

    async def scan(
        self, stream: str, *, after: str = START, until: str = END, limit: int = 100, newest: bool = False
    ) -> list[Entry]:
        keys = self._namespace.stream(stream)
        return await log.scan(self._client, keys, after=after, until=until, limit=limit, newest=newest)

    async def locate(self, stream: str, moment: datetime) -> str:
        return await log.locate(self._client, self._namespace.stream(stream), moment)

    async def trim(
        self,
        stream: str,
        *,
        max_length: int | None = None,
        max_age: float | None = None,
        force: bool = False,
        ignore_groups: Collection[str] = (),
    ) -> Trimmed:
        return await log.trim(
            self._client,
            self._namespace.stream(stream),
            max_length=max_length,
            max_age=max_age,
            force=force,
            ignore_groups=ignore_groups,
        )

    async def arrivals(self) -> AsyncGenerator[str | None, None]:
        watch = Watch(self._client, self._namespace.name)
        self._watches.add(watch)
        try:
            await watch.open()
            while True:
                names = await watch.next()
                if self._home is None:
                    raise self._not_open()
                # No turn of the loop between names that came together.
                for name in names:
                    yield name
        finally:
            self._watches.discard(watch)
            await finish(watch.close())

    # Leases.

    async def join(self, stream: str, group: str, *, start: str = START) -> bool:
        return await leases.join(self._client, self._namespace.group(stream, group), start=start)

    async def seek(self, stream: str, group: str, to: str) -> None:
        await leases.seek(self._client, self._namespace.group(stream, group), to)

    async def leave(self, stream: str, group: str) -> None:
        await leases.leave(self._client, self._namespace.group(stream, group), self._books)

    async def trimmed_unread(self, stream: str, group: str) -> int | None:
        return await leases.trimmed_unread(self._client, self._namespace.group(stream, group))

    async def read(self, *readers: Reader, limit: int, wait: float = 0.0) -> list[Delivery]:
        return await leases.read(self._client, self._namespace, self._books, readers, limit=limit, wait=wait)

    async def take_due(self, reader: Reader, *, limit: int) -> list[Delivery]:
        group = self._namespace.reader(reader)
        return await leases.take_due(self._client, group, self._books, reader, limit=limit)

    async def claim(self, reader: Reader, *, idle: float, limit: int = 1) -> list[Delivery]:
        group = self._namespace.reader(reader)
        return await leases.claim(self._client, group, self._books, reader, idle=idle, limit=limit)

    async def extend(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        return await leases.extend(self._client, self._namespace, self._books, deliveries)

    async def outlook(self, readers: Sequence[Reader]) -> list[Outlook | None]:
        return await leases.outlook(self._client, self._namespace, self._books, readers)

    async def ack(self, deliveries: Sequence[Delivery], *, remember: float | None = None) -> int:
        return await leases.ack(self._client, self._namespace, deliveries, remember=remember)

    async def handled(self, stream: str, group: str, ids: Sequence[str]) -> set[str]:
        return await leases.handled(self._client, self._namespace.group(stream, group), ids)

    async def retry(
        self, delivery: Delivery, *, delay: float, keep: bool = False, failure: Failure | None = None
    ) -> bool:
        group = self._namespace.reader(delivery.reader)
        return await leases.retry(self._client, group, self._books, delivery, delay=delay, keep=keep, failure=failure)

    async def release(self, deliveries: Sequence[Delivery]) -> int:
        return await leases.release(self._client, self._namespace, self._books, deliveries)

    async def dead_letter(
        self, delivery: Delivery, *, reason: str, traceback: str = "", attempts: int | None = None
    ) -> bool:
        group = self._namespace.reader(delivery.reader)
        return await leases.dead_letter(
            self._client, group, self._books, delivery, reason=reason, traceback=traceback, attempts=attempts
        )

    # Dead letters.

    async def dead_letters(
        self, stream: str, *, group: str | None = None, after: str = "", limit: int = 100
    ) -> list[DeadLetter]:
        keys = self._namespace.stream(stream)
        return await dead_letters.dead_letters(self._client, keys, group=group, after=after, limit=limit)

    async def redrive(self, stream: str, ids: Sequence[str]) -> int:
        return await dead_letters.redrive(self._client, self._namespace.stream(stream), ids)

    async def discard(self, stream: str, ids: Sequence[str]) -> int:
        return await dead_letters.discard(self._client, self._namespace.stream(stream), ids)

    # Inspection.

    async def stats(self, streams: Sequence[str] | None = None) -> list[StreamStats]:
        return await inspection.stats(self._client, self._namespace, streams)

    async def streams(self) -> list[str]:
        return await inspection.streams(self._client, self._namespace)

    async def time(self, stream: str) -> float:
        return await self._client.ask_time(self._namespace.stream(stream).stream) + boottime()

    async def groups(self, stream: str) -> list[str]:
        return await inspection.groups(self._client, self._namespace.stream(stream))

    async def pending(self, stream: str, group: str, *, after: str = START, limit: int = 100) -> list[Pending]:
        return await inspection.pending(self._client, self._namespace.group(stream, group), after=after, limit=limit)

    async def strays(self) -> list[str]:
        return await inspection.strays(self._client, self._namespace)

    async def durability(self) -> Durability:
        return await inspection.durability(self._client)

    # Notes.

    async def notes(self, stream: str, *, names: Collection[str] | None = None) -> dict[str, bytes]:
        return await notes.notes(self._client, self._namespace.stream(stream), names)

    async def streams_with_notes(self) -> list[str]:
        return await notes.streams_with_notes(self._client, self._namespace)

    async def set_note(
        self, stream: str, name: str, value: bytes | None, *, expected: bytes | EllipsisType | None = ...
    ) -> bool:
        return await notes.set_note(self._client, self._namespace.stream(stream), name, value, expected=expected)

    # Transfer.

    async def scheduled(self, stream: str, *, after: str = "", limit: int = 100) -> list[Scheduled]:
        return await transfer.scheduled(self._client, self._namespace.stream(stream), after=after, limit=limit)

    async def remembered(
        self, stream: str, *, group: str | None = None, after: str = "", limit: int = 100
    ) -> list[RememberedId]:
        keys = self._namespace.stream(stream)
        return await transfer.remembered(self._client, keys, group=group, after=after, limit=limit)

    async def restore(
        self,
        stream: str,
        items: Sequence[StreamItem],
        *,
        notes: Mapping[str, bytes | None] | None = None,
        expected: Mapping[str, bytes | None] | None = None,
    ) -> list[str] | None:
        keys = self._namespace.stream(stream)
        return await transfer.restore(self._client, keys, items, notes=notes or {}, expected=expected or {})

    async def drop(
        self, stream: str, *, keep_entries: bool = False, expected: Mapping[str, bytes | None] | None = None
    ) -> bool:
        keys = self._namespace.stream(stream)
        return await transfer.drop(self._client, keys, keep_entries=keep_entries, expected=expected or {})

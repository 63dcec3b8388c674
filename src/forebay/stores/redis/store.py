"""Events in Redis or Valkey Streams."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from types import EllipsisType, TracebackType
from typing import Self

import hiredis

from forebay.cleanup import finish
from forebay.clock import boottime
from forebay.errors import ConfigurationError, OutcomeUnknown, StoreError, StoreUnavailable
from forebay.event import Record
from forebay.home import Home
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
from forebay.stores.redis import inspection, transfer
from forebay.stores.redis.address import Deployment, parse
from forebay.stores.redis.client import MARGIN, Client
from forebay.stores.redis.codec import (
    Fields,
    add,
    decode,
    decode_dead_letter,
    encode,
    fields_of,
    pack_failure,
    unpack_failure,
)
from forebay.stores.redis.keys import Keys
from forebay.stores.redis.node import Part

CHUNK = 500
"""Entries that one script call handles at most; a server does nothing else meanwhile."""
PAGE = 1000
"""Pending entries that one `claim` looks at."""
SWEEP_INTERVAL = 60.0
"""Seconds between looks for consumers that are gone for good."""
FORGOTTEN_AFTER = 3600.0
"""Seconds after which a consumer is gone for good: it has read nothing since, and holds nothing."""
POLL = 0.05
"""Seconds between looks of an ordered reader that waits."""
LAST = 2**64 - 1
"""The highest count in a position."""

_POSITION = re.compile(r"\d{1,20}(-\d{1,20})?", re.ASCII)

Row = tuple[bytes, Fields | None, int, int, bytes]
"""Position, fields, attempt, failures, the last failure as it is noted."""


class RedisStore:
    """A store on one server, on the master that Sentinel names, or on a cluster, as the URL says.

    Redis from 6.2, Valkey from 7.2. `timeout` is how long, in seconds, the server may take to connect
    or to answer; the URL may say it too (`?timeout=`), and wins. What is stored can be read with XRANGE: see
    `keys` and `codec`.
    """

    def __init__(self, url: str | Deployment, *, namespace: str = "events", timeout: float = 5.0) -> None:
        self._deployment = parse(url) if isinstance(url, str) else url
        self._namespace = check_name("namespace", namespace)
        self._timeout = self._deployment.timeout or timeout
        self._new_client = partial(Client, self._deployment, self._timeout)
        self._connected = self._new_client()
        self._home: Home | None = None
        self._streams: dict[str, Keys] = {}
        self._cursors: dict[tuple[str, str], str] = {}
        self._sweep_at: dict[tuple[str, str], float] = {}

    def __repr__(self) -> str:
        return f"RedisStore({self._connected.name}, namespace={self._namespace!r})"

    def clone(self) -> RedisStore:
        clone = RedisStore(self._deployment, namespace=self._namespace, timeout=self._timeout)
        # What this store began on is not to stop what it needs in order to go on.
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
            await finish(self._connected.close())

    @property
    def _client(self) -> Client:
        """The client, on the event loop where the store was opened."""
        if self._home is None:
            raise ConfigurationError(f"the store at {self._connected.name} is not open; use it inside `async with`")
        self._home.check()
        return self._connected

    # Streams.

    async def append(
        self,
        stream: str,
        records: Sequence[Record],
        *,
        dedup_window: float | None = None,
        search_after: str | None = None,
    ) -> list[str]:
        client, keys = self._client, self._keys(stream)
        started = boottime()
        try:
            if len(records) == 1 and dedup_window is None and search_after is None:
                key, command = keys.stream, add(keys.stream, records[0])
                begun = client.begin(key, command)
                try:
                    position = await (begun or client.send(key, command))
                except hiredis.ReplyError as reply:
                    position = await client.follow(reply, key, command)
                except (StoreUnavailable, OutcomeUnknown):
                    client.invalidate(key)
                    raise
                return [position.decode()]
            if not records:
                return []
            positions = None
            if dedup_window is None and search_after is None:
                adds = (add(keys.stream, record) for record in records)
                positions = await client.transact(keys.stream, adds)
            if positions is None:
                positions = await client.run(
                    "append",
                    (keys.stream, keys.ids, keys.ids_expiry),
                    "" if dedup_window is None else _ms(dedup_window),
                    "" if search_after is None else await self._since(keys, search_after),
                    *_packed(records),
                )
        except OutcomeUnknown as error:
            sent = client.server_time(keys.stream, started) - MARGIN
            # Also when that was by the clock of this process, as the server's may be set until it is asked again.
            raise OutcomeUnknown(str(error), search_after=f"{_ms(sent)}-0@{started!r}") from error.__cause__
        return [position.decode() for position in positions]

    async def _since(self, keys: Keys, search_after: str) -> str:
        """The position to search behind; for what an append has left unknown, by the server's clock then and now."""
        position, _, started = search_after.partition("@")
        if not started:
            return _position(position)
        by_now = await self._client.ask_time(keys.stream) + float(started) - MARGIN
        return f"{max(0, min(int(position.partition('-')[0]), _ms(by_now)))}-0"

    async def schedule(
        self,
        stream: str,
        records: Sequence[Record],
        *,
        delay: float | None = None,
        at: datetime | None = None,
        dedup_window: float | None = None,
    ) -> None:
        if records:
            keys = self._keys(stream)
            window = "" if dedup_window is None else _ms(dedup_window)
            await self._client.watch(
                "schedule",
                (keys.stream, keys.scheduled, keys.moments, keys.ids, keys.ids_expiry),
                _ms(delay or 0.0),
                "" if at is None else _ms(at.timestamp()),
                window,
                *_packed(records),
            )

    async def scan(
        self, stream: str, *, after: str = START, until: str = END, limit: int = 100, newest: bool = False
    ) -> list[Entry]:
        key = self._keys(stream).stream
        first, last = f"({_position(after)}", "+" if until == END else _position(until)
        command = ("XREVRANGE", key, last, first) if newest else ("XRANGE", key, first, last)
        if after == END or limit < 1:
            return []
        rows = await self._client.call(key, *command, "COUNT", limit)
        if newest:
            rows.reverse()
        return [
            Entry(position.decode(), decode(fields), int(position.partition(b"-")[0]) / 1000)
            for position, fields in rows
        ]

    async def locate(self, stream: str, moment: datetime) -> str:
        key = self._keys(stream).stream
        first = max(0, int(moment.timestamp() * 1000))
        # The end is looked at first: what comes in between is behind it, and lost to nobody.
        last, found = await asyncio.gather(
            self._client.call(key, "XREVRANGE", key, "+", "-", "COUNT", 1),
            self._client.call(key, "XRANGE", key, first, "+", "COUNT", 1),
        )
        if found:
            return f"{first - 1}-{LAST}" if first else START
        return last[0][0].decode() if last else START

    async def trim(
        self,
        stream: str,
        *,
        max_length: int | None = None,
        max_age: float | None = None,
        force: bool = False,
        ignore_groups: Collection[str] = (),
    ) -> Trimmed:
        key = self._keys(stream).stream
        limits = ("" if max_length is None else max_length, "" if max_age is None else _ms(max_age))
        removed = dropped = 0
        while True:
            count, unfinished = await self._client.run("trim", (key,), *limits, int(force), CHUNK, *ignore_groups)
            removed += count
            dropped += unfinished
            if count < CHUNK:
                return Trimmed(removed, dropped)

    # Groups.

    async def join(self, stream: str, group: str, *, start: str = START) -> bool:
        keys = self._keys(stream)
        own = keys.group(group)
        place = END if start == END else _full_position(start)
        return bool(
            await self._client.run(
                "join", (keys.stream, own.finished, own.waiting, own.attempts, own.progress), group, place
            )
        )

    async def seek(self, stream: str, group: str, to: str) -> None:
        keys = self._keys(stream)
        own = keys.group(group)
        place = END if to == END else _full_position(to)
        companions = (own.waiting, own.attempts, own.finished, own.progress)
        await self._client.run("seek", (keys.stream, *companions), group, place)

    async def leave(self, stream: str, group: str) -> None:
        keys = self._keys(stream)
        own = keys.group(group)
        self._cursors.pop((stream, group), None)
        companions = (own.waiting, own.attempts, own.handled, own.finished, own.progress)
        await self._client.run("leave", (keys.stream, *companions), group)

    async def trimmed_unread(self, stream: str, group: str) -> int | None:
        keys = self._keys(stream)
        own = keys.group(group)
        count: int | None = await self._client.run("missed", (keys.stream, own.waiting, own.progress), group)
        return count

    async def read(self, *readers: Reader, limit: int, wait: float = 0.0) -> list[Delivery]:
        reader = check_readers(readers)
        if limit < 1:
            return []
        deadline = time.monotonic() + wait
        while True:
            deliveries = []
            rows: list[Row] = []
            for each in readers:
                rows = await self._read(each, limit, wait if len(readers) == 1 else 0.0)
                deliveries += await self._deliver(each, rows) if rows else []
            wait = deadline - time.monotonic()
            if deliveries or (not rows and wait <= 0):
                return deliveries
            if not rows and (reader.ordered or len(readers) > 1):
                await asyncio.sleep(min(wait, POLL))

    async def _read(self, reader: Reader, limit: int, wait: float) -> list[Row]:
        key = self._keys(reader.stream).stream
        if reader.ordered:
            waiting = self._keys(reader.stream).group(reader.group).waiting
            reply = await self._client.run("read_ordered", (key, waiting), reader.group, reader.consumer, limit)
        else:
            who = ("XREADGROUP", "GROUP", reader.group, reader.consumer, "COUNT", limit)
            if wait > 0:
                # BLOCK 0 would be for ever.
                block = max(1, _ms(wait))
                reply = await self._client.block(key, wait, *who, "BLOCK", block, "STREAMS", key, ">")
            else:
                reply = await self._client.call(key, *who, "STREAMS", key, ">")
        return [(position, fields, 1, 0, b"") for position, fields in reply[0][1]] if reply else []

    async def append_due(self, stream: str, *, limit: int = 500) -> int:
        keys = self._keys(stream)
        [count] = await self._client.watch(
            "append_due",
            (keys.stream, keys.scheduled, keys.moments, keys.ids, keys.dead_letter),
            max(0, min(limit, CHUNK)),
        )
        return int(count)

    async def take_due(self, reader: Reader, *, limit: int) -> list[Delivery]:
        keys = self._keys(reader.stream)
        own = keys.group(reader.group)
        [rows] = await self._client.watch(
            "take_due",
            (keys.stream, own.waiting, own.attempts, keys.dead_letter),
            reader.group,
            reader.consumer,
            min(limit, CHUNK),
            int(reader.ordered),
        )
        return await self._deliver(reader, rows)

    async def outlook(self, readers: Sequence[Reader]) -> list[Outlook | None]:
        return list(await asyncio.gather(*map(self._outlook_of, readers)))

    async def _outlook_of(self, reader: Reader) -> Outlook | None:
        keys = self._keys(reader.stream)
        own = keys.group(reader.group)
        companions = (keys.stream, keys.scheduled, keys.moments, own.waiting)
        [row] = await self._client.watch("outlook", companions, reader.group, reader.consumer)
        if not row:
            return None
        scheduled, waiting, leased, unread = row
        return Outlook(
            scheduled=None if scheduled is None else int(scheduled) / 1000,
            waiting=None if waiting is None else int(waiting) / 1000,
            leased=bool(leased),
            unread=bool(unread),
        )

    def arrivals(self) -> AsyncGenerator[str | None, None]:
        raise StoreError(f"the store at {self._connected.name} cannot watch its streams; read with `wait`")

    async def claim(self, reader: Reader, *, idle: float, limit: int = 1) -> list[Delivery]:
        keys = self._keys(reader.stream)
        place = (reader.stream, reader.group)
        sweep = time.monotonic() >= self._sweep_at.get(place, 0.0)
        own = keys.group(reader.group)
        cursor, rows, waited = await self._client.watch(
            "claim",
            (keys.stream, own.attempts, own.waiting, own.finished),
            reader.group,
            reader.consumer,
            _ms(idle),
            min(limit, CHUNK),
            self._cursors.get(place, "-"),
            PAGE,
            int(reader.ordered),
            _ms(FORGOTTEN_AFTER) if sweep else "",
            self._client.pace(keys.stream).trust(idle),
        )
        self._cursors[place] = cursor.decode()
        if sweep:
            self._sweep_at[place] = time.monotonic() + SWEEP_INTERVAL
        found = [*await self._deliver(reader, waited), *await self._deliver(reader, rows, recovered=True)]
        return sorted(found, key=lambda delivery: [int(part) for part in delivery.position.split("-")])

    async def _deliver(self, reader: Reader, rows: Iterable[Row], *, recovered: bool = False) -> list[Delivery]:
        """The deliveries in these rows; entries meant for another group are finished on the way."""
        deliveries = [
            Delivery(
                reader,
                position.decode(),
                None if fields is None else decode(fields),
                attempt,
                failures,
                recovered,
                unpack_failure(noted) if noted else None,
            )
            for position, fields, attempt, failures, noted in rows
        ]
        passed = [
            delivery
            for delivery in deliveries
            if delivery.record is not None
            and delivery.record.only_group is not None
            and delivery.record.only_group != reader.group
        ]
        if passed:
            positions = [delivery.position for delivery in passed]
            await self._finish(reader, positions)
            gone = set(positions)
            deliveries = [delivery for delivery in deliveries if delivery.position not in gone]
        return deliveries

    async def extend(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        kept: list[Delivery] = []
        for reader, some in _batches(deliveries):
            keys = self._keys(reader.stream)
            own = keys.group(reader.group)
            flags = await self._client.run(
                "extend",
                (keys.stream, own.progress),
                reader.group,
                reader.consumer,
                *(delivery.position for delivery in some),
            )
            kept += (delivery for delivery, flag in zip(some, flags, strict=True) if flag)
        return kept

    async def ack(self, deliveries: Sequence[Delivery], *, remember: float | None = None) -> int:
        done = 0
        for reader, some in _batches(deliveries):
            positions = [delivery.position for delivery in some]
            ids = [] if remember is None else [each.record.id for each in some if isinstance(each.record, Record)]
            done += await self._finish(reader, positions, ids=[id for id in ids if id], remember=remember)
        return done

    async def _finish(
        self,
        reader: Reader,
        positions: Sequence[str | bytes],
        *,
        ids: Sequence[str] = (),
        remember: float | None = None,
    ) -> int:
        keys = self._keys(reader.stream)
        own = keys.group(reader.group)
        count: int = await self._client.run(
            "ack",
            (keys.stream, own.waiting, own.attempts, own.progress, own.handled),
            reader.group,
            "" if remember is None else _ms(remember),
            len(ids),
            *ids,
            *positions,
        )
        return count

    async def handled(self, stream: str, group: str, ids: Sequence[str]) -> set[str]:
        key = self._keys(stream).group(group).handled
        known: set[str] = set()
        for start in range(0, len(ids), CHUNK):
            some = ids[start : start + CHUNK]
            flags = await self._client.run("handled", (key,), *some)
            known.update(id for id, flag in zip(some, flags, strict=True) if flag)
        return known

    async def retry(
        self, delivery: Delivery, *, delay: float, keep: bool = False, failure: Failure | None = None
    ) -> bool:
        reader = delivery.reader
        keys = self._keys(reader.stream)
        own = keys.group(reader.group)
        held = await self._client.run(
            "retry",
            (keys.stream, own.waiting, own.attempts),
            reader.group,
            reader.consumer,
            delivery.position,
            _ms(delay),
            int(keep),
            delivery.attempt,
            pack_failure(failure),
        )
        return bool(held)

    async def release(self, deliveries: Sequence[Delivery]) -> int:
        released = 0
        for reader, some in _batches(deliveries):
            keys = self._keys(reader.stream)
            own = keys.group(reader.group)
            released += await self._client.run(
                "release",
                (keys.stream, own.waiting, own.attempts),
                reader.group,
                reader.consumer,
                *(delivery.position for delivery in some),
            )
        return released

    async def dead_letter(
        self, delivery: Delivery, *, reason: str, traceback: str = "", attempts: int | None = None
    ) -> bool:
        reader = delivery.reader
        keys = self._keys(reader.stream)
        own = keys.group(reader.group)
        moment = datetime.fromtimestamp(self._client.server_time(keys.stream), UTC)
        held = await self._client.run(
            "dead_letter",
            (keys.stream, keys.dead_letter, keys.dead_counts, own.attempts, own.progress),
            reader.group,
            reader.consumer,
            delivery.position,
            traceback.encode(errors="replace"),
            reason.encode(errors="replace"),
            moment.isoformat(),
            "" if attempts is None else attempts,
            *fields_of(delivery),
        )
        return bool(held)

    # Dead letters.

    async def dead_letters(
        self, stream: str, *, group: str | None = None, after: str = "", limit: int = 100
    ) -> list[DeadLetter]:
        key = self._keys(stream).dead_letter
        found: list[DeadLetter] = []
        first = f"({_position(after)}" if after else "-"
        while len(found) < limit:
            rows = await self._client.call(key, "XRANGE", key, first, "+", "COUNT", limit)
            letters = (decode_dead_letter(stream, id, fields) for id, fields in rows)
            found += (letter for letter in letters if group is None or letter.group == group)
            if len(rows) < limit:
                break
            first = f"({rows[-1][0].decode()}"
        return found[:limit]

    async def redrive(self, stream: str, ids: Sequence[str]) -> int:
        keys = self._keys(stream)
        return await self._in_chunks("redrive", (keys.stream, keys.dead_letter, keys.dead_counts), ids)

    async def discard(self, stream: str, ids: Sequence[str]) -> int:
        keys = self._keys(stream)
        return await self._in_chunks(
            "discard", (keys.dead_letter, keys.dead_counts, keys.ids, keys.ids_expiry, keys.handled), ids
        )

    async def _in_chunks(self, script: str, keys: Sequence[str], ids: Sequence[str]) -> int:
        count = 0
        for start in range(0, len(ids), CHUNK):
            count += await self._client.run(script, keys, *map(_position, ids[start : start + CHUNK]))
        return count

    # What operators ask.

    async def stats(self, streams: Sequence[str] | None = None) -> list[StreamStats]:
        guessed = streams is None
        names = await inspection.find_streams(self._client, self._namespace) if streams is None else streams
        found = [await inspection.stream_stats(self._client, self._keys(name), name, guessed=guessed) for name in names]
        return [stats for stats in found if stats is not None]

    async def streams(self) -> list[str]:
        return [stats.stream for stats in await self.stats()]

    async def time(self, stream: str) -> float:
        return await self._client.ask_time(self._keys(stream).stream) + boottime()

    async def groups(self, stream: str) -> list[str]:
        return await inspection.find_groups(self._client, self._keys(stream))

    async def pending(self, stream: str, group: str, *, after: str = START, limit: int = 100) -> list[Pending]:
        keys = self._keys(stream)
        own = keys.group(group)
        rows = await inspection.pending_rows(self._client, keys, own, group, after=_full_position(after), limit=limit)
        return [
            Pending(
                position=position.decode(),
                consumer=None if consumer is None else consumer.decode(errors="replace"),
                attempt=attempt,
                failures=failures,
                idle=None if consumer is None else moment / 1000,
                due=moment / 1000 if consumer is None else None,
                last_failure=unpack_failure(noted),
            )
            for position, consumer, attempt, failures, moment, noted in rows
        ]

    async def strays(self) -> list[str]:
        return await inspection.find_strays(self._client, self._namespace)

    async def durability(self) -> Durability:
        return await inspection.durability(self._client)

    # Notes.

    async def notes(self, stream: str, *, names: Collection[str] | None = None) -> dict[str, bytes]:
        key = self._keys(stream).notes
        if names is not None:
            # One HGET each, which every role may send; HMGET would be one more right.
            values = await asyncio.gather(*(self._client.call(key, "HGET", key, name) for name in names))
            return {name: value for name, value in zip(names, values, strict=True) if value is not None}
        found = await self._client.call(key, "HGETALL", key)
        return inspection.named_notes(found)

    async def streams_with_notes(self) -> list[str]:
        return await inspection.find_noted(self._client, self._namespace)

    async def set_note(
        self, stream: str, name: str, value: bytes | None, *, expected: bytes | EllipsisType | None = ...
    ) -> bool:
        condition: tuple[Part, ...]
        match expected:
            case None:
                condition = ("none", "")
            case bytes():
                condition = ("just", expected)
            case _:
                condition = ("any", "")
        change = ("remove",) if value is None else ("keep", value)
        return bool(await self._client.run("note", (self._keys(stream).notes,), name, *condition, *change))

    # From one store to another.

    async def scheduled(self, stream: str, *, after: str = "", limit: int = 100) -> list[Scheduled]:
        return await transfer.scheduled(self._client, self._keys(stream), after=after, limit=limit)

    async def remembered(
        self, stream: str, *, group: str | None = None, after: str = "", limit: int = 100
    ) -> list[RememberedId]:
        return await transfer.remembered(self._client, self._keys(stream), group=group, after=after, limit=limit)

    async def restore(
        self,
        stream: str,
        items: Sequence[StreamItem],
        *,
        notes: Mapping[str, bytes | None] | None = None,
        expected: Mapping[str, bytes | None] | None = None,
    ) -> list[str] | None:
        return await transfer.restore(
            self._client, self._keys(stream), items, notes=notes or {}, expected=expected or {}
        )

    async def drop(
        self, stream: str, *, keep_entries: bool = False, expected: Mapping[str, bytes | None] | None = None
    ) -> bool:
        return await transfer.drop(self._client, self._keys(stream), keep_entries=keep_entries, expected=expected or {})

    def _keys(self, stream: str) -> Keys:
        keys = self._streams.get(stream)
        if keys is None:
            keys = self._streams[stream] = Keys(self._namespace, stream)
        return keys


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _position(text: str) -> str:
    """The text, if it is a position; else a ConfigurationError."""
    if text != END and not _POSITION.fullmatch(text):
        raise ConfigurationError(f"{text!r} is not a position: it looks like 1700000000000-0")
    return text


def _full_position(text: str) -> str:
    return text if "-" in _position(text) else f"{text}-0"


def _packed(records: Sequence[Record]) -> Iterator[Part]:
    for record in records:
        fields = encode(record)
        yield record.id
        yield len(fields)
        yield from fields


def _batches(deliveries: Sequence[Delivery]) -> Iterator[tuple[Reader, Sequence[Delivery]]]:
    """The deliveries by their reader, in batches that a script may handle in one call."""
    by_reader: dict[Reader, Sequence[Delivery]] = {}
    first = deliveries[0].reader if deliveries else None
    if all(delivery.reader is first for delivery in deliveries):
        by_reader = {first: deliveries} if first else {}
    else:
        grouped: dict[Reader, list[Delivery]] = {}
        for delivery in deliveries:
            grouped.setdefault(delivery.reader, []).append(delivery)
        by_reader = dict(grouped)
    for reader, all_of_it in by_reader.items():
        for start in range(0, len(all_of_it), CHUNK):
            yield reader, all_of_it[start : start + CHUNK]

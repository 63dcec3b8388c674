"""The moves of groups and consumers: join, read, take due entries, claim, settle.

A lease is an entry of the server's own pending list; its token is made of the server's delivery count: see `tokens`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Coroutine, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from forebay.errors import StoreError
from forebay.event import Record
from forebay.store import Delivery, Failure, Outlook, Reader, check_readers
from forebay.stores.redis import positions, scripts
from forebay.stores.redis.client import Client
from forebay.stores.redis.codec import Fields, decode, fields_of, pack_failure, unpack_failure
from forebay.stores.redis.keys import Group, Keys, Namespace
from forebay.stores.redis.node import Part
from forebay.stores.redis.positions import as_numbers, to_ms
from forebay.stores.redis.scripts import Leased
from forebay.stores.redis.tokens import Tokens
from forebay.stores.redis.upkeep import Upkeep

T = TypeVar("T")

BATCH = 500
"""Entries that one script call handles at most; the server does nothing else meanwhile."""
OUTLOOK_READERS = 200
"""Readers of one script call of `outlook`."""
POLL_SECONDS = 0.05
"""Seconds between reads that wait and cannot block: those of ordered readers, or from several nodes."""


class Bookkeeping:
    """The state that a store object keeps of groups between moves."""

    def __init__(self) -> None:
        self.tokens = Tokens()
        self.upkeep = Upkeep()
        self.cursors: dict[Group, str] = {}
        """Where the next claim of a group goes on."""

    def forget(self, group: Group) -> None:
        """Forget a group that was removed. Its tokens are kept: they are gone if the group is made again."""
        self.cursors.pop(group, None)
        self.upkeep.forget(group)


async def join(client: Client, group: Group, *, start: str) -> bool:
    """Make the group; False if it exists."""
    return await scripts.join(client, group, positions.check_place(start))


async def seek(client: Client, group: Group, to: str) -> None:
    """Let the group read on after a position."""
    await scripts.seek(client, group, positions.check_place(to))


async def leave(client: Client, group: Group, books: Bookkeeping) -> None:
    """Remove the group with its pending and waiting entries."""
    books.forget(group)
    await scripts.leave(client, group)


async def trimmed_unread(client: Client, group: Group) -> int | None:
    """The number of entries that were removed unread; None if it is unknown."""
    return await scripts.trimmed_unread(client, group)


async def read(
    client: Client, namespace: Namespace, books: Bookkeeping, readers: Sequence[Reader], *, limit: int, wait: float
) -> list[Delivery]:
    """Lease unread entries; wait for the first."""
    first = check_readers(readers)
    groups = [namespace.reader(reader) for reader in readers]
    if limit < 1:
        return []
    parts = _by_partition(client, groups)
    may_block = len(parts) == 1 and not first.ordered
    deadline = time.monotonic() + wait
    while True:
        if len(parts) == 1:
            found = await _read(client, groups, first, limit=limit, wait=wait if may_block else 0.0)
        else:
            reads = [_read(client, part, first, limit=limit, wait=0.0) for part in parts]
            found = await _read_all(client, groups, first, reads)
        deliveries: list[Delivery] = []
        if found:
            places = {group.keys.encoded_stream: place for place, group in enumerate(groups)}
            for key, rows in found:
                reader, group = readers[places[key]], groups[places[key]]
                token = books.tokens.of_read(group, reader.consumer, rows[0][0].decode(), rows[-1][0].decode())
                leased = [Delivery(reader, position.decode(), decode(fields), lease=token) for position, fields in rows]
                deliveries += await _pass_over(client, group, leased)
        wait = deadline - time.monotonic()
        if deliveries or (not found and wait <= 0):
            return deliveries
        if not found and not may_block:
            await asyncio.sleep(min(wait, POLL_SECONDS))


Found = list[tuple[bytes, list[tuple[bytes, Fields]]]]
"""A reply of XREADGROUP: for each stream with unread entries its key, and the positions and fields of these."""
Read = Coroutine[Any, Any, Found]


async def _read(client: Client, groups: Sequence[Group], reader: Reader, *, limit: int, wait: float) -> Found:
    """Read from streams of one partition."""
    if reader.ordered:
        return await scripts.read_ordered(client, groups, reader.consumer, limit=limit) or []
    streams = [group.keys.stream for group in groups]
    command: list[Part] = ["XREADGROUP", "GROUP", reader.group, reader.consumer, "COUNT", limit]
    names: list[Part] = ["STREAMS", *streams, *[">"] * len(streams)]
    if wait > 0:
        # BLOCK 0 would never end.
        return await client.block(streams[0], wait, *command, "BLOCK", max(1, to_ms(wait)), *names) or []
    return await client.call(streams[0], *command, *names) or []


async def _read_all(client: Client, groups: Sequence[Group], reader: Reader, reads: Sequence[Read]) -> Found:
    """Read from several partitions. If a read fails, release the entries of the others and raise its error."""
    results = await asyncio.gather(*reads, return_exceptions=True)
    found = [each for result in results if not isinstance(result, BaseException) for each in result]
    errors = [result for result in results if isinstance(result, BaseException)]
    if errors:
        group_of = {group.keys.encoded_stream: group for group in groups}
        for key, rows in found:
            leases = [part for position, _ in rows for part in (position, 1)]
            with contextlib.suppress(StoreError):
                await scripts.release(client, group_of[key], reader.consumer, leases)
        raise errors[0]
    return found


def _by_partition(client: Client, groups: list[Group]) -> list[list[Group]]:
    if len(groups) == 1:
        return [groups]
    parts: dict[int, list[Group]] = {}
    for group in groups:
        parts.setdefault(client.topology.partition(group.keys.stream), []).append(group)
    return list(parts.values())


async def _pass_over(client: Client, group: Group, deliveries: list[Delivery]) -> list[Delivery]:
    """The deliveries without the entries for other groups, which are finished."""
    passed = [
        delivery.position
        for delivery in deliveries
        if delivery.record is not None and delivery.record.only_group not in (None, group.name)
    ]
    if not passed:
        return deliveries
    # If this fails, they stay leased: a claim finds them and passes over them again. The others are delivered now.
    with contextlib.suppress(StoreError):
        await scripts.ack(client, group, passed, ids=(), remember=None)
    gone = set(passed)
    return [delivery for delivery in deliveries if delivery.position not in gone]


async def take_due(client: Client, group: Group, books: Bookkeeping, reader: Reader, *, limit: int) -> list[Delivery]:
    """Lease waiting entries that are due."""
    limit = min(limit, BATCH)
    rows = await scripts.take_due(client, group, reader.consumer, limit=limit, ordered=reader.ordered)
    return await _pass_over(client, group, _deliveries(group, books, reader, rows))


async def claim(
    client: Client, group: Group, books: Bookkeeping, reader: Reader, *, idle: float, limit: int
) -> list[Delivery]:
    """Take over entries, from where the last claim of the group stopped."""
    await books.upkeep.run(client, [(group, None)])
    claimed = await scripts.claim(
        client,
        group,
        reader.consumer,
        idle=idle,
        limit=min(limit, BATCH),
        ordered=reader.ordered,
        cursor=books.cursors.get(group, "-"),
    )
    books.cursors[group] = claimed.cursor
    found = _deliveries(group, books, reader, claimed.waited)
    found += _deliveries(group, books, reader, claimed.leased, recovered=True)
    found = await _pass_over(client, group, found)
    return sorted(found, key=lambda delivery: as_numbers(delivery.position))


def _deliveries(
    group: Group, books: Bookkeeping, reader: Reader, rows: Sequence[Leased], *, recovered: bool = False
) -> list[Delivery]:
    return [
        Delivery(
            reader,
            row.position.decode(),
            None if row.fields is None else decode(row.fields),
            row.attempt,
            row.failures,
            recovered,
            unpack_failure(row.failure),
            books.tokens.of_lease(group, reader.consumer, row.number),
        )
        for row in rows
    ]


async def extend(
    client: Client, namespace: Namespace, books: Bookkeeping, deliveries: Sequence[Delivery]
) -> list[Delivery]:
    """Renew the leases; return those that are still held."""
    batches = _batches(namespace, deliveries)
    groups = dict.fromkeys(group for group, _ in batches)
    if len(groups) > 1:
        # One that does not exist raises before any lease is renewed.
        await _together(client.call(group.keys.stream, "XPENDING", group.keys.stream, group.name) for group in groups)
    moves = (
        scripts.extend(client, group, some[0].reader.consumer, _leases(group, books, some)) for group, some in batches
    )
    flags = [flag for batch in await _together(moves) for flag in batch]
    held = (delivery for _, some in batches for delivery in some)
    return [delivery for delivery, flag in zip(held, flags, strict=True) if flag]


async def ack(client: Client, namespace: Namespace, deliveries: Sequence[Delivery], *, remember: float | None) -> int:
    """Finish the entries; return how many were pending."""
    batches = _batches(namespace, deliveries)
    if len(batches) == 1:
        return await _ack(client, *batches[0], remember)
    return sum(await _together(_ack(client, group, some, remember) for group, some in batches))


def _ack(
    client: Client, group: Group, deliveries: Sequence[Delivery], remember: float | None
) -> Coroutine[Any, Any, int]:
    positions = [delivery.position for delivery in deliveries]
    records = [] if remember is None else [delivery.record for delivery in deliveries]
    ids = [record.id for record in records if isinstance(record, Record) and record.id]
    return scripts.ack(client, group, positions, ids=ids, remember=remember)


async def handled(client: Client, group: Group, ids: Sequence[str]) -> set[str]:
    """The ids that the group remembers."""
    batches = [ids[start : start + BATCH] for start in range(0, len(ids), BATCH)]
    flags = [
        flag for some in await _together(scripts.handled(client, group, each) for each in batches) for flag in some
    ]
    return {id for id, flag in zip(ids, flags, strict=True) if flag}


async def retry(
    client: Client,
    group: Group,
    books: Bookkeeping,
    delivery: Delivery,
    *,
    delay: float,
    keep: bool,
    failure: Failure | None,
) -> bool:
    """Count a failure, and let the entry wait or keep its lease; False if the lease is lost."""
    return await scripts.retry(
        client,
        group,
        delivery.reader.consumer,
        position=delivery.position,
        number=books.tokens.number(group, delivery),
        failures=delivery.failures,
        delay=delay,
        keep=keep,
        failure=pack_failure(failure),
    )


async def release(client: Client, namespace: Namespace, books: Bookkeeping, deliveries: Sequence[Delivery]) -> int:
    """Let the entries wait, due at once; return how many were held."""
    batches = _batches(namespace, deliveries)
    moves = (
        scripts.release(client, group, some[0].reader.consumer, _leases(group, books, some)) for group, some in batches
    )
    return sum(await _together(moves))


async def dead_letter(
    client: Client,
    group: Group,
    books: Bookkeeping,
    delivery: Delivery,
    *,
    reason: str,
    traceback: str,
    attempts: int | None,
) -> bool:
    """Move the entry to the dead letters; False if the lease is lost."""
    moment = datetime.fromtimestamp(client.server_time(group.keys.stream), UTC)
    return await scripts.dead_letter(
        client,
        group,
        delivery.reader.consumer,
        position=delivery.position,
        number=books.tokens.number(group, delivery),
        traceback=traceback.encode(errors="replace"),
        reason=reason.encode(errors="replace"),
        moment=moment.isoformat(),
        attempts=attempts,
        fields=fields_of(delivery),
    )


async def outlook(
    client: Client, namespace: Namespace, books: Bookkeeping, readers: Sequence[Reader]
) -> list[Outlook | None]:
    """The outlook of each reader's group: one script call for each partition, or several if there are many readers."""
    by_stream: dict[Keys, list[int]] = {}
    groups = [namespace.reader(reader) for reader in readers]
    for place, group in enumerate(groups):
        by_stream.setdefault(group.keys, []).append(place)
    found: list[Outlook | None] = [None] * len(readers)
    made: dict[Group, tuple[bytes, int, int]] = {}

    async def ask(streams: Mapping[Keys, Sequence[int]]) -> None:
        asked = {keys: [(groups[place], readers[place].consumer) for place in streams[keys]] for keys in streams}
        replies = await scripts.outlook(client, asked)
        for places, stream in zip(streams.values(), replies, strict=True):
            scheduled = None if stream.scheduled is None else stream.scheduled / 1000
            for place, row in zip(places, stream.groups, strict=True):
                if row is not None:
                    waiting = None if row.waiting is None else row.waiting / 1000
                    found[place] = Outlook(scheduled, waiting, bool(row.leased), bool(row.unread))
                    made[groups[place]] = (row.delivered, row.pending, row.waits)

    await _together(ask(chunk) for chunk in _chunks(client, by_stream))
    await books.upkeep.run(client, made.items())
    return found


def _chunks(client: Client, by_stream: Mapping[Keys, Sequence[int]]) -> Iterator[Mapping[Keys, Sequence[int]]]:
    """Streams with their readers, as one script call takes them: of one partition, and not too many readers."""
    partitions: dict[int, dict[Keys, Sequence[int]]] = {}
    for keys, places in by_stream.items():
        chunk = partitions.setdefault(client.topology.partition(keys.stream), {})
        chunk[keys] = places
        if sum(map(len, chunk.values())) >= OUTLOOK_READERS:
            yield partitions.pop(client.topology.partition(keys.stream))
    yield from partitions.values()


def _leases(group: Group, books: Bookkeeping, deliveries: Sequence[Delivery]) -> list[Part]:
    return [part for delivery in deliveries for part in (delivery.position, books.tokens.number(group, delivery))]


def _batches(namespace: Namespace, deliveries: Sequence[Delivery]) -> list[tuple[Group, Sequence[Delivery]]]:
    """The deliveries by their reader, in batches that one script call may handle."""
    first = deliveries[0].reader if deliveries else None
    by_reader: dict[Reader, Sequence[Delivery]] = {}
    if all(delivery.reader is first for delivery in deliveries):
        by_reader = {first: deliveries} if first else {}
    else:
        grouped: dict[Reader, list[Delivery]] = {}
        for delivery in deliveries:
            grouped.setdefault(delivery.reader, []).append(delivery)
        by_reader = dict(grouped)
    return [
        (group, some[start : start + BATCH])
        for group, some in ((namespace.reader(reader), some) for reader, some in by_reader.items())
        for start in range(0, len(some), BATCH)
    ]


async def _together(moves: Iterable[Awaitable[T]]) -> list[T]:
    """The results of moves that are sent together; the first error once all have ended."""
    started = list(moves)
    if len(started) == 1:
        return [await started[0]]
    results = await asyncio.gather(*started, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]

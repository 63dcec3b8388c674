"""The moves of the streams themselves: append, schedule, scan, trim."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime

from forebay.clock import boottime
from forebay.errors import OutcomeUnknown
from forebay.event import Record
from forebay.store import END, START, Entry, Trimmed
from forebay.stores.redis import positions, scripts
from forebay.stores.redis.client import FAULTS, Client
from forebay.stores.redis.codec import add, decode, encode
from forebay.stores.redis.keys import Keys
from forebay.stores.redis.node import Part
from forebay.stores.redis.positions import HIGHEST_COUNT, to_ms

BATCH = 500
"""Entries that one script call appends or removes at most; the server does nothing else meanwhile."""
DRIFT_SECONDS = 2.0
"""Seconds by which the search for an unanswered append begins earlier, against drift between clocks."""


async def append(
    client: Client, keys: Keys, records: Sequence[Record], *, dedup_window: float | None, search_after: str | None
) -> list[str]:
    """Append the records: one with XADD, several in a transaction, and with a script if ids are searched for."""
    started = boottime()
    try:
        if len(records) == 1 and dedup_window is None and search_after is None:
            command = add(keys.stream, records[0])
            try:
                position = await client.send_now(keys.stream, command)
            except FAULTS as fault:
                position = await client.recover(fault, keys.stream, command)
            return [position.decode()]
        if not records:
            return []
        found = None
        if dedup_window is None and search_after is None:
            found = await client.transact(keys.stream, (add(keys.stream, record) for record in records))
        if found is None:
            after = None if search_after is None else await _search_after(client, keys, search_after)
            packed = list(_packed(records))
            found = await scripts.append(client, keys, packed, dedup_window=dedup_window, search_after=after)
    except OutcomeUnknown as error:
        sent = client.server_time(keys.stream, started) - DRIFT_SECONDS
        # With the moment, too: the estimate of the server's time is corrected by its answer to the repetition.
        raise OutcomeUnknown(str(error), search_after=f"{to_ms(sent)}-0@{started!r}") from error.__cause__
    return [position.decode() for position in found]


async def _search_after(client: Client, keys: Keys, search_after: str) -> str:
    """The position to search after; for an unanswered append, by the server's clock then and now."""
    position, _, started = search_after.partition("@")
    if not started:
        return positions.check(position)
    by_now = await client.ask_time(keys.stream) + float(started) - DRIFT_SECONDS
    return f"{max(0, min(int(position.partition('-')[0]), to_ms(by_now)))}-0"


async def schedule(
    client: Client,
    keys: Keys,
    records: Sequence[Record],
    *,
    delay: float | None,
    at: datetime | None,
    dedup_window: float | None,
) -> None:
    """Keep the records until they are due."""
    if records:
        moment = None if at is None else at.timestamp()
        packed = list(_packed(records))
        await scripts.schedule(client, keys, packed, delay=delay or 0.0, moment=moment, dedup_window=dedup_window)


async def append_due(client: Client, keys: Keys, *, limit: int) -> int:
    """Append scheduled records that are due, batch by batch; return how many."""
    count = 0
    while count < limit:
        batch = min(limit - count, BATCH)
        appended, aside = await scripts.append_due(client, keys, limit=batch)
        count += appended
        # Members that went to the dead letters take the places of records, too.
        if appended + aside < batch:
            break
    return count


async def scan(client: Client, keys: Keys, *, after: str, until: str, limit: int, newest: bool) -> list[Entry]:
    """The entries after `after`, up to and including `until`: the first ones, or the last ones."""
    key = keys.stream
    first, last = f"({positions.check(after)}", "+" if until == END else positions.check(until)
    command = ("XREVRANGE", key, last, first) if newest else ("XRANGE", key, first, last)
    if after == END or limit < 1:
        return []
    rows = await client.call(key, *command, "COUNT", limit)
    if newest:
        rows.reverse()
    return [
        Entry(position.decode(), decode(fields), int(position.partition(b"-")[0]) / 1000) for position, fields in rows
    ]


async def locate(client: Client, keys: Keys, moment: datetime) -> str:
    """The position just before the first entry appended at or after `moment`."""
    key = keys.stream
    first = max(0, int(moment.timestamp() * 1000))
    # The end is read first: entries that are appended in between come after it.
    last, found = await asyncio.gather(
        client.call(key, "XREVRANGE", key, "+", "-", "COUNT", 1),
        client.call(key, "XRANGE", key, first, "+", "COUNT", 1),
    )
    if found:
        return f"{first - 1}-{HIGHEST_COUNT}" if first else START
    return last[0][0].decode() if last else START


async def trim(
    client: Client,
    keys: Keys,
    *,
    max_length: int | None,
    max_age: float | None,
    force: bool,
    ignore_groups: Collection[str],
) -> Trimmed:
    """Remove the oldest entries, batch by batch."""
    for group in ignore_groups:
        keys.group(group)
    removed = dropped = 0
    while True:
        count, unfinished = await scripts.trim(
            client,
            keys,
            max_length=max_length,
            max_age=max_age,
            force=force,
            limit=BATCH,
            ignore_groups=ignore_groups,
        )
        removed += count
        dropped += unfinished
        if count < BATCH:
            return Trimmed(removed, dropped)


def _packed(records: Sequence[Record]) -> Iterator[Part]:
    for record in records:
        fields = encode(record)
        yield record.id
        yield len(fields)
        yield from fields

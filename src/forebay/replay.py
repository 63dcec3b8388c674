"""Reading a stream again: its history, and a range handed once more to one group."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import timedelta
from functools import partial
from typing import TypeVar

import msgspec

from forebay.callables import completed, refuse_generator
from forebay.errors import NotFound
from forebay.event import Record, id_timestamp
from forebay.positions import StreamPosition, last_position, resolve
from forebay.runtime.supervise import OnFailure, OnOutage, outlast
from forebay.store import END, START, Entry, GroupStats, Log, Store, StreamStats

T = TypeVar("T")

CHUNK = 500
FOLLOW = 0.1
"""Seconds between two looks of a follower."""
CHECK_SECONDS = 1.0
"""Seconds between two looks of a follower that finds nothing, whether the entry that it saw last is still there."""
PASSED = 1000
"""Positions that a follower remembers, to find its place again in a stream that lost its newest entries."""
SKEW = 60.0
"""Seconds by which a publisher's clock may differ from the store's, when an event is looked up by its id."""


async def history(
    log: Log,
    stream: str,
    *,
    start: StreamPosition,
    end: StreamPosition,
    newest: int | None = None,
    follow: bool = False,
    on_outage: OnOutage | None = None,
    on_failure: OnFailure | None = None,
) -> AsyncIterator[Entry]:
    """The entries from `start` to `end`; with `newest` only the last so many of them; then, with
    `follow`, each new one. Copies meant for one group (replayed, redriven) are left out.

    With `follow`, transient errors of the store are waited out, and reading goes on after the last entry.
    """

    async def ask(look: Callable[[], Awaitable[T]]) -> T:
        return await (outlast(look, on_outage, on_failure) if follow else look())

    after = await ask(partial(resolve, log, stream, start))
    if after == END:
        after = await ask(partial(last_position, log, stream))
    until = END if follow else await resolve(log, stream, end)
    if until == END and not follow:
        until = await last_position(log, stream)
    if newest is not None:
        last = await ask(partial(last_position, log, stream)) if until == END else until
        for entry in await ask(partial(_newest, log, stream, after, last, newest)):
            yield entry
        if not follow:
            return
        after = last
    if follow:
        after = await ask(partial(_last_until, log, stream, after))
    passed = deque([(after, "")], maxlen=PASSED)
    clock = asyncio.get_running_loop().time
    checked_at = clock()
    while True:
        entries = await ask(partial(log.scan, stream, after=after, until=until, limit=CHUNK))
        for entry in entries:
            if not _is_copy(entry):
                yield entry
            after = entry.position
            passed.append((after, _id(entry)))
        if not entries:
            if not follow:
                return
            await asyncio.sleep(FOLLOW)
            if clock() - checked_at >= CHECK_SECONDS:
                after = await ask(partial(_standing, log, stream, passed))
                checked_at = clock()


async def _standing(log: Log, stream: str, passed: deque[tuple[str, str]]) -> str:
    """The last of the positions passed whose entry is still there; START if the stream lost them all.

    A store that lost its data may give later entries the same positions, or earlier ones.
    """
    while passed:
        position, id = passed[-1]
        found = await log.scan(stream, until=position, limit=1, newest=True)
        if not found:
            break
        if found[0].position == position and id in ("", _id(found[0])):
            return position
        passed.pop()
    passed.clear()
    passed.append((START, ""))
    return START


def _id(entry: Entry) -> str:
    return entry.record.id if isinstance(entry.record, Record) else ""


async def _last_until(log: Log, stream: str, position: str) -> str:
    """The position of the last entry up to this one; START if there is none."""
    found = await log.scan(stream, until=position, limit=1, newest=True)
    return found[0].position if found else START


async def _newest(log: Log, stream: str, after: str, until: str, count: int) -> list[Entry]:
    """The last `count` entries that are not copies, found page by page from the end."""
    found: list[Entry] = []
    passed: set[str] = set()
    while len(found) < count:
        # A page begins with the entry where the one before it ended: positions cannot be counted back.
        page = await log.scan(stream, after=after, until=until, limit=CHUNK, newest=True)
        fresh = [entry for entry in page if entry.position not in passed]
        if not fresh:
            break
        found[:0] = [entry for entry in fresh if not _is_copy(entry)]
        until, passed = fresh[0].position, {fresh[0].position}
    return found[len(found) - min(count, len(found)) :]


def _is_copy(entry: Entry) -> bool:
    return entry.record.only_group is not None


async def find(log: Log, stream: str, id: str) -> Entry:
    """The entry with this event id or position; `NotFound` after the whole stream was searched.

    An id made by forebay carries its time, so the search begins there.
    """
    if log.is_position(id):
        there = await log.scan(stream, until=id, limit=1, newest=True)
        if there and there[0].position == id:
            return there[0]
    if made := id_timestamp(id):
        near = await log.locate(stream, made - timedelta(seconds=SKEW))
        far = await log.locate(stream, made + timedelta(seconds=SKEW))
        if near != END and (found := await _search(log, stream, id, near, far)):
            return found
    if found := await _search(log, stream, id, START, END):
        return found
    raise NotFound(f"no event {id!r} in {stream!r}; it may have been trimmed, or still be scheduled")


async def _search(log: Log, stream: str, id: str, after: str, until: str) -> Entry | None:
    while entries := await log.scan(stream, after=after, until=until, limit=CHUNK):
        for entry in entries:
            if isinstance(entry.record, Record) and entry.record.id == id and entry.record.only_group is None:
                return entry
        after = entries[-1].position
    return None


async def replay(
    store: Store,
    stream: str,
    *,
    group: str,
    start: StreamPosition,
    end: StreamPosition,
    rate: float | None = None,
    dry_run: bool = False,
    progress: Callable[[int], object] | None = None,
) -> int:
    """Append the events of a range again, for one group only; return how many.

    The end is fixed when the replay begins. Copies made by earlier replays and redrives are skipped,
    and so are entries that are not events. Stopped half-way, it can be begun again from the
    place it had reached: `progress` hears the count after each chunk.
    """
    if progress is not None:
        refuse_generator("progress", progress)
    await require_group(store, stream, group)
    count = 0
    began = asyncio.get_running_loop().time()
    chunk: list[Record] = []
    size = CHUNK if rate is None else max(1, min(CHUNK, int(rate / 10)))

    async def send() -> None:
        nonlocal count
        if not dry_run:
            await store.append(stream, chunk)
        count += len(chunk)
        chunk.clear()
        if progress is not None:
            await completed(progress(count))
        if rate is not None and not dry_run:
            ahead = began + count / rate - asyncio.get_running_loop().time()
            await asyncio.sleep(max(0.0, ahead))

    async for entry in history(store, stream, start=start, end=end):
        if isinstance(entry.record, Record):
            chunk.append(msgspec.structs.replace(entry.record, id=entry.record.id or entry.position, only_group=group))
            if len(chunk) >= size:
                await send()
    if chunk:
        await send()
    return count


async def require_stream(store: Store, stream: str) -> StreamStats:
    """The stream's counts; `NotFound`, with the nearest existing name, if it does not exist."""
    found = await store.stats([stream])
    if not found:
        names = await store.streams()
        otherwise = "nothing was ever published to it" if names else "nothing was ever published here"
        raise NotFound(f"no stream {stream!r}; {nearest(stream, names) or otherwise}")
    return found[0]


async def require_group(store: Store, stream: str, group: str) -> GroupStats:
    """The group's counts; `NotFound`, with the nearest name or the stream's groups, if the stream has no such group."""
    groups = {entry.group: entry for entry in (await require_stream(store, stream)).groups}
    if group not in groups:
        known = ", ".join(sorted(groups)) or "none yet"
        raise NotFound(f"no group {group!r} on {stream!r}; {nearest(group, groups) or f'its groups: {known}'}")
    return groups[group]


def nearest(name: str, names: Iterable[str]) -> str:
    """The question whether another name was meant; empty if none is near.

    >>> nearest("order_palced", ["order_paid", "order_placed"])
    "did you mean 'order_placed'?"
    """
    import difflib

    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else ""

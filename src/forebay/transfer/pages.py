"""Read a stream's parts page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Protocol, TypeVar

import msgspec

from forebay.announcer import STREAM as PRESENCE
from forebay.event import Foreign, Record
from forebay.store import START, DeadLetter, Entry, Pending, RememberedId, Scheduled, Store, StreamItem, StreamStats

HOME = "forebay.copy"
"""The name under which a target keeps the notes about a copy into it."""
PAGE_ITEMS = 500
"""Items in a page."""
BYTES = 2 * 1024 * 1024
"""Bytes of a page: so much is held in memory, and sent in one call of the target."""
FIRST_PAGE_ITEMS = 10
"""Items in the first page, before it is known how large they are."""

Part = TypeVar("Part", Entry, DeadLetter, Scheduled, RememberedId, Pending)


class Fetch(Protocol[Part]):
    """A store's method, with all but the page fixed."""

    def __call__(self, *, after: str, limit: int) -> Awaitable[list[Part]]:
        """The page of at most `limit` parts after `after`."""
        ...


async def pages(fetch: Fetch[Part], *, after: str, key: Callable[[Part], str]) -> AsyncIterator[list[Part]]:
    """All parts after `after`, in pages of a sensible size; `key` of its last part is the next page's `after`."""
    limit = FIRST_PAGE_ITEMS
    while page := await fetch(after=after, limit=limit):
        yield page
        after = key(page[-1])
        size = sum(map(_size, page))
        limit = max(1, min(PAGE_ITEMS, 2 * limit, BYTES * len(page) // size))


async def pending_of(store: Store, stream: str, group: str) -> list[Pending]:
    """All pending entries of a group."""

    def fetch(*, after: str, limit: int) -> Awaitable[list[Pending]]:
        return store.pending(stream, group, after=after, limit=limit)

    return [each async for page in pages(fetch, after=START, key=lambda each: each.position) for each in page]


async def remembered_of(store: Store, stream: str, group: str | None) -> list[RememberedId]:
    """All ids that a stream or one of its groups remembers."""

    def fetch(*, after: str, limit: int) -> Awaitable[list[RememberedId]]:
        return store.remembered(stream, group=group, after=after, limit=limit)

    return [each async for page in pages(fetch, after="", key=lambda each: each.id) for each in page]


async def streams_of(store: Store) -> list[StreamStats]:
    """The streams that hold anything."""
    return [each for each in await store.stats() if each.length or each.groups or each.dead or each.scheduled]


async def noted_of(store: Store, streams: Iterable[StreamStats] = ()) -> list[str]:
    """The other names that have notes: programs keep notes under names of their own."""
    known = {HOME, PRESENCE, *(stats.stream for stats in streams)}
    return [name for name in await store.streams_with_notes() if name not in known]


def named(record: Record | Foreign, position: str) -> Record | Foreign:
    """The record with its event's id. Without one the id is the position, which a copy changes."""
    if isinstance(record, Record) and not record.id and position:
        return msgspec.structs.replace(record, id=position)
    return record


def in_chunks(items: Sequence[StreamItem]) -> list[Sequence[StreamItem]]:
    """Small items, so many at a time as one call may handle."""
    return [items[first : first + PAGE_ITEMS] for first in range(0, len(items), PAGE_ITEMS)]


def _size(part: Entry | DeadLetter | Scheduled | RememberedId | Pending) -> int:
    """About how many bytes a part takes."""
    if isinstance(part, RememberedId | Pending):
        failure = part.last_failure if isinstance(part, Pending) else None
        return 100 if failure is None else 100 + len(failure.error) + len(failure.traceback)
    record = part.record
    own = 100 + len(part.traceback) if isinstance(part, DeadLetter) else 100
    if isinstance(record, Foreign):
        return own + sum(len(name) + len(value) for name, value in record.fields)
    return own + len(record.data) + len(record.headers or b"")

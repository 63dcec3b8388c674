"""A chain of events, each published because of another, found by the ids in their headers."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from forebay.cause import CAUSATION, correlation
from forebay.errors import MalformedEvent
from forebay.event import Event, Record, id_timestamp, to_event
from forebay.payload import LIMITS, Limits
from forebay.replay import CHUNK, SKEW
from forebay.store import END, START, Entry, Store

LOOKED_AT = 100_000
"""Entries of one stream that a search looks at, at most."""


class Chain(msgspec.Struct, frozen=True):
    """The events of a chain, oldest first.

    `unsearched` are the streams of which only the first LOOKED_AT entries after the chain's beginning were
    searched: they may hold more of it.
    """

    events: tuple[Event, ...]
    unsearched: tuple[str, ...] = ()

    def roots(self) -> list[Event]:
        """Those whose cause is not in the chain: what began it, and what lost its cause to a trim."""
        ids = {event.id for event in self.events}
        return [event for event in self.events if event.headers.get(CAUSATION) not in ids]

    def caused_by(self, event: Event) -> list[Event]:
        """The events that were published while this one was handled."""
        return [other for other in self.events if other.headers.get(CAUSATION) == event.id]


async def chain(store: Store, event: Event, *, limits: Limits = LIMITS) -> Chain:
    """The chain to which an event belongs, searched for in all streams, from the time when it began."""
    first = correlation(event)
    found = {event.id: event}
    unsearched = []
    for stream in sorted(stats.stream for stats in await store.stats()):
        after = await _beginning(store, stream, first, event)
        looked_at = 0
        while entries := await store.scan(stream, after=after, until=END, limit=CHUNK):
            for entry in entries:
                if member := _member(entry, first, limits):
                    found.setdefault(member.id, member)
            looked_at += len(entries)
            after = entries[-1].position
            if looked_at >= LOOKED_AT:
                unsearched.append(stream)
                break
    return Chain(tuple(sorted(found.values(), key=lambda each: each.timestamp)), tuple(unsearched))


async def _beginning(store: Store, stream: str, first: str, event: Event) -> str:
    """The place from which the stream may hold events of the chain.

    An id made by forebay carries its time; another id needs a search through everything.
    """
    began = id_timestamp(first) or (event.timestamp if first == event.id else None)
    if began is None:
        return START
    return await store.locate(stream, began - timedelta(seconds=SKEW))


def _member(entry: Entry, first: str, limits: Limits) -> Event | None:
    """The event in an entry, if it belongs to the chain; copies for one group are not members of their own."""
    record = entry.record
    if not isinstance(record, Record) or record.only_group is not None:
        return None
    if record.id != first and (record.headers is None or first.encode() not in record.headers):
        return None
    try:
        event = to_event(record, position=entry.position, limits=limits)
    except MalformedEvent:
        return None
    return event if correlation(event) == first else None

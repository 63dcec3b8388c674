"""Putting back what another store held."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from forebay.errors import NotFound
from forebay.payload import check_name
from forebay.store import DeadLetter, Entry, GroupCursor, GroupPending, RememberedId, Scheduled, StreamItem
from forebay.stores.memory.state import Group, Lease, StoredEntry, Stream, Waiting


def check_groups(stream: Stream, items: Sequence[StreamItem]) -> None:
    """`NotFound`, unless each group that something belongs to is there or is made by these items."""
    known = stream.groups.keys() | {check_name("group", item.group) for item in items if isinstance(item, GroupCursor)}
    for item in items:
        if isinstance(item, GroupPending | RememberedId) and item.group is not None and item.group not in known:
            raise NotFound(f"no group {item.group!r} to restore into; its place comes first")


def restore(stream: Stream, items: Sequence[StreamItem], *, now: float, epoch: float) -> list[str]:
    """Put the items back; return the positions of the entries."""
    positions = []
    for item in sorted(items, key=lambda item: not isinstance(item, GroupCursor)):
        match item:
            case Entry():
                positions.append(_restore_entry(stream, item, item.appended - epoch))
            case GroupCursor():
                group = stream.groups.setdefault(item.group, Group(item.group, 0))
                group.cursor = stream.place(item.position)
            case GroupPending():
                _restore_begun(stream, item, now)
            case DeadLetter():
                _restore_letter(stream, item)
            case Scheduled(at=None):
                stream.schedule(item.record, now + item.delay)
            case Scheduled(at=datetime() as moment):
                stream.schedule_at(item.record, moment.timestamp())
            case RememberedId(group=None):
                stream.seen.put(item.id, item.position or "", now=now, span=item.expires_in)
            case RememberedId(group=str(name)):
                stream.groups[name].handled.put(item.id, "", now=now, span=item.expires_in)
    return positions


def _restore_entry(stream: Stream, entry: Entry, appended: float) -> str:
    """Entries stand without gaps, so only the first one is free to keep a place of its own."""
    if not stream.last and entry.position.isascii() and entry.position.isdecimal():
        stream.first = max(int(entry.position), 1)
    stream.entries.append(StoredEntry(entry.record, appended))
    return str(stream.last)


def _restore_begun(stream: Stream, begun: GroupPending, now: float) -> None:
    group, pending = stream.groups[begun.group], begun.pending
    history = pending.attempt, pending.failures, pending.last_failure
    position = stream.place(pending.position)
    if pending.consumer is not None:
        renewed = now - (pending.idle or 0.0)
        # The holder has a token of another store: the lease expires, and another consumer claims the entry.
        group.leased[position] = Lease(pending.consumer, renewed, "restored", *history)
    else:
        group.waiting[position] = Waiting(now + (pending.due or 0.0), *history)


def _restore_letter(stream: Stream, letter: DeadLetter) -> None:
    number = int(letter.id) if letter.id.isascii() and letter.id.isdecimal() else 0
    if number <= max(stream.dead, default=0):
        number = stream.deaths + 1
    stream.deaths = max(stream.deaths, number)
    stream.dead[number] = msgspec.structs.replace(letter, id=f"{number:012}")


def scheduled(stream: Stream, *, after: str, limit: int, now: float, wall: float) -> list[Scheduled]:
    """What is scheduled: what has a delay, then what has a moment. The id is which one, the time, and the arrival."""
    found = [(0, *each) for each in stream.scheduled] + [(1, *each) for each in stream.moments]
    if after:
        kind, due, arrival = after.split(" ")
        found = [each for each in found if each[:3] > (int(kind), float(due), int(arrival))]
    return [
        Scheduled(f"{kind} {due!r} {arrival}", record, due - wall, datetime.fromtimestamp(due, UTC))
        if kind
        else Scheduled(f"{kind} {due!r} {arrival}", record, due - now)
        for kind, due, arrival, record in heapq.nsmallest(limit, found, key=lambda each: each[:3])
    ]


def remembered(stream: Stream, *, group: str | None, after: str, limit: int, now: float) -> list[RememberedId]:
    """The ids that the stream or the group remembers, by the alphabet."""
    if group is None:
        known = stream.seen.items(now)
    else:
        known = stream.groups[group].handled.items(now) if group in stream.groups else []
    behind = [each for each in known if each[0] > after][:limit]
    return [RememberedId(id, left, position or None, group) for id, position, left in behind]

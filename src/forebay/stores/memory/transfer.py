"""Putting back what another store held."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import msgspec

from forebay.errors import NotFound
from forebay.payload import check_name
from forebay.store import Begun, DeadLetter, Entry, GroupPlace, Item, Remembered, Scheduled
from forebay.stores.memory.state import Group, Kept, Lease, Stream, Wait


def check_groups(stream: Stream, items: Sequence[Item]) -> None:
    """`NotFound`, unless each group that something belongs to is there or is made by these items."""
    known = stream.groups.keys() | {check_name("group", item.group) for item in items if isinstance(item, GroupPlace)}
    for item in items:
        if isinstance(item, Begun | Remembered) and item.group is not None and item.group not in known:
            raise NotFound(f"no group {item.group!r} to restore into; its place comes first")


def restore(stream: Stream, items: Sequence[Item], *, now: float, epoch: float) -> list[str]:
    """Put the items back; return the positions of the entries."""
    positions = []
    for item in sorted(items, key=lambda item: not isinstance(item, GroupPlace)):
        match item:
            case Entry():
                positions.append(_restore_entry(stream, item, item.appended - epoch))
            case GroupPlace():
                group = stream.groups.setdefault(item.group, Group(item.group, 0))
                group.cursor = stream.place(item.position)
            case Begun():
                _restore_begun(stream, item, now)
            case DeadLetter():
                _restore_letter(stream, item)
            case Scheduled():
                stream.schedule(item.record, now, delay=item.delay)
            case Remembered(group=None):
                stream.seen.put(item.id, item.position or "", now=now, span=item.left)
            case Remembered(group=str(name)):
                stream.groups[name].handled.put(item.id, "", now=now, span=item.left)
    return positions


def _restore_entry(stream: Stream, entry: Entry, appended: float) -> str:
    """Entries stand without gaps, so only the first one is free to keep a place of its own."""
    if not stream.last and entry.position.isascii() and entry.position.isdecimal():
        stream.first = max(int(entry.position), 1)
    stream.entries.append(Kept(entry.record, appended))
    return str(stream.last)


def _restore_begun(stream: Stream, begun: Begun, now: float) -> None:
    group, pending = stream.groups[begun.group], begun.pending
    position = stream.place(pending.position)
    if pending.consumer is not None:
        renewed = now - (pending.idle or 0.0)
        group.leased[position] = Lease(pending.consumer, renewed, pending.attempt, pending.failures)
    else:
        group.waiting[position] = Wait(now + (pending.due or 0.0), pending.attempt, pending.failures)


def _restore_letter(stream: Stream, letter: DeadLetter) -> None:
    number = int(letter.id) if letter.id.isascii() and letter.id.isdecimal() else 0
    if number <= max(stream.dead, default=0):
        number = stream.deaths + 1
    stream.deaths = max(stream.deaths, number)
    stream.dead[number] = msgspec.structs.replace(letter, id=f"{number:012}")


def scheduled(stream: Stream, *, after: str, limit: int, now: float) -> list[Scheduled]:
    """What is scheduled, by its time. The id is the time and the number of its arrival."""
    found = [(f"{due!r} {number}", due, number, record) for due, number, record in stream.scheduled]
    if after:
        moment, _, arrival = after.partition(" ")
        found = [each for each in found if each[1:3] > (float(moment), int(arrival))]
    soonest = heapq.nsmallest(limit, found, key=lambda each: each[1:3])
    return [Scheduled(id, record, due - now) for id, due, _, record in soonest]


def remembered(stream: Stream, *, group: str | None, after: str, limit: int, now: float) -> list[Remembered]:
    """The ids that the stream or the group remembers, by the alphabet."""
    if group is None:
        known = stream.seen.items(now)
    else:
        known = stream.groups[group].handled.items(now) if group in stream.groups else []
    behind = [each for each in known if each[0] > after][:limit]
    return [Remembered(id, left, position or None, group) for id, position, left in behind]

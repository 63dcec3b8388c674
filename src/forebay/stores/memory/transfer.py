"""The moves that copy a stream between stores: scheduled, remembered, restore, drop."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from forebay.errors import NotFound
from forebay.payload import check_name
from forebay.store import (
    DeadLetter,
    Entry,
    GroupCursor,
    GroupPending,
    RememberedId,
    Scheduled,
    StreamItem,
)
from forebay.stores.memory import notes
from forebay.stores.memory.state import Group, Lease, State, StoredEntry, Stream, Waiting


def scheduled(state: State, stream: str, *, after: str, limit: int) -> list[Scheduled]:
    """Scheduled records: those with a delay, then those with a moment, each in the order of their times.

    An id consists of the kind (0 or 1), the time, and the number of the arrival.
    """
    log, now, wall = state.stream(stream), state.clock(), state.wall()
    found = [(0, *each) for each in log.scheduled] + [(1, *each) for each in log.moments]
    if after:
        kind, due, number = after.split(" ")
        found = [each for each in found if each[:3] > (int(kind), float(due), int(number))]
    return [
        Scheduled(f"{kind} {due!r} {number}", record, due - wall, datetime.fromtimestamp(due, UTC))
        if kind
        else Scheduled(f"{kind} {due!r} {number}", record, due - now)
        for kind, due, number, record in heapq.nsmallest(limit, found, key=lambda each: each[:3])
    ]


def remembered(state: State, stream: str, *, group: str | None, after: str, limit: int) -> list[RememberedId]:
    """The ids that the stream or the group remembers, sorted."""
    if group is None:
        ids = state.stream(stream).remembered_ids
    elif own := state.find_group(stream, group):
        ids = own.handled
    else:
        return []
    found = [each for each in ids.items(state.clock()) if each[0] > after][:limit]
    return [RememberedId(id, expires_in, position or None, group) for id, position, expires_in in found]


def restore(
    state: State,
    stream: str,
    items: Sequence[StreamItem],
    *,
    values: Mapping[str, bytes | None],
    expected: Mapping[str, bytes | None],
) -> list[str] | None:
    """Put items back, and change notes; return the positions of the entries, None if notes are not as expected."""
    log = state.stream(stream)
    if not notes.are_as_expected(state, stream, expected):
        return None
    _check_groups(log, items)
    log = state.make_stream(stream) if items else log
    positions = []
    for item in sorted(items, key=lambda item: not isinstance(item, GroupCursor)):
        if isinstance(item, Entry):
            positions.append(_restore_entry(log, item, item.appended - state.epoch))
        else:
            _restore_other(log, item, now=state.clock())
    notes.change(state, stream, values)
    state.report_growth(stream, log)
    return positions


def drop(state: State, stream: str, *, keep_entries: bool, expected: Mapping[str, bytes | None]) -> bool:
    """Remove a stream; False if its notes are not as expected."""
    check_name("stream", stream)
    if not notes.are_as_expected(state, stream, expected):
        return False
    dropped = state.streams.pop(stream, None)
    if not keep_entries:
        state.notes.pop(stream, None)
    elif dropped:
        kept = state.make_stream(stream)
        kept.entries, kept.first = dropped.entries, dropped.first
        # The id of a dead letter is not given to another one later.
        kept.last_dead = dropped.last_dead
    if dropped:
        dropped.notify()
    return True


def _check_groups(log: Stream, items: Sequence[StreamItem]) -> None:
    """Raise `NotFound`, unless each group that an item needs exists, or is made by another item."""
    known = log.groups.keys() | {check_name("group", item.group) for item in items if isinstance(item, GroupCursor)}
    for item in items:
        if isinstance(item, GroupPending | RememberedId) and item.group is not None and item.group not in known:
            raise NotFound(f"no group {item.group!r} to restore into; its cursor comes first")


def _restore_entry(log: Stream, entry: Entry, appended: float) -> str:
    # Entries have no gaps between them, so only the first one can keep a position of its own.
    if not log.last and entry.position.isascii() and entry.position.isdecimal():
        log.first = max(int(entry.position), 1)
    log.entries.append(StoredEntry(entry.record, appended))
    return str(log.last)


def _restore_other(log: Stream, item: StreamItem, *, now: float) -> None:
    match item:
        case GroupCursor():
            group = log.groups.setdefault(item.group, Group(item.group, 0))
            group.cursor = log.number(item.position)
        case GroupPending():
            _restore_pending(log, item, now)
        case DeadLetter():
            _restore_dead_letter(log, item)
        case Scheduled():
            log.last_scheduled += 1
            if item.at is None:
                heapq.heappush(log.scheduled, (now + item.delay, log.last_scheduled, item.record))
            else:
                heapq.heappush(log.moments, (item.at.timestamp(), log.last_scheduled, item.record))
        case RememberedId(group=None):
            log.remembered_ids.put(item.id, item.position or "", now=now, span=item.expires_in)
        case RememberedId(group=str(name)):
            log.groups[name].handled.put(item.id, "", now=now, span=item.expires_in)


def _restore_pending(log: Stream, item: GroupPending, now: float) -> None:
    group, pending = log.groups[item.group], item.pending
    history = pending.attempt, pending.failures, pending.last_failure
    position = log.number(pending.position)
    if pending.consumer is None:
        group.waiting[position] = Waiting(now + (pending.due or 0.0), *history)
    else:
        # No consumer has its token: the lease expires, and another consumer claims the entry.
        renewed = now - (pending.idle or 0.0)
        group.leased[position] = Lease(pending.consumer, renewed, "restored", *history)


def _restore_dead_letter(log: Stream, letter: DeadLetter) -> None:
    number = int(letter.id) if letter.id.isascii() and letter.id.isdecimal() else 0
    if number <= max(log.dead, default=0):
        number = log.last_dead + 1
    log.last_dead = max(log.last_dead, number)
    log.dead[number] = msgspec.structs.replace(letter, id=f"{number:012}")

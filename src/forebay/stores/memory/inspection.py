"""The questions of operators: stats, streams, groups, pending."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from forebay.payload import check_name
from forebay.store import GroupStats, Pending, StreamStats
from forebay.stores.memory.state import Group, Lease, State, Stream


def stats(state: State, streams: Sequence[str] | None) -> list[StreamStats]:
    """All streams, or some, by name."""
    for name in streams or ():
        check_name("stream", name)
    names = state.streams.keys() if streams is None else state.streams.keys() & set(streams)
    return [_stream_stats(name, state.streams[name], state.clock()) for name in sorted(names)]


def _stream_stats(name: str, stream: Stream, now: float) -> StreamStats:
    return StreamStats(
        stream=name,
        length=len(stream.entries),
        scheduled=len(stream.scheduled) + len(stream.moments),
        dead=len(stream.dead),
        first=str(stream.first) if stream.entries else None,
        last=str(stream.last) if stream.entries else None,
        groups=tuple(_group_stats(stream, stream.groups[group], now) for group in sorted(stream.groups)),
    )


def _group_stats(stream: Stream, group: Group, now: float) -> GroupStats:
    pending = [position for position in (*group.leased, *group.waiting) if position >= stream.first]
    return GroupStats(
        group=group.name,
        position=str(group.cursor),
        lag=sum(group.is_unread(position, entry) for position, entry in stream.after(group.cursor)),
        pending=len(group.leased) + len(group.waiting),
        waiting=len(group.waiting),
        dead=sum(letter.group == group.name for letter in stream.dead.values()),
        oldest=now - stream.entries[min(pending) - stream.first].appended if pending else None,
        consumers=len({lease.consumer for lease in group.leased.values()}),
    )


def groups(state: State, stream: str) -> list[str]:
    """The names of a stream's groups, sorted."""
    return sorted(state.stream(stream).groups)


def pending(state: State, stream: str, group: str, *, after: str, limit: int) -> list[Pending]:
    """The pending and waiting entries of a group, by position."""
    own = state.find_group(stream, group)
    if own is None:
        return []
    first = state.stream(stream).number(after) + 1
    positions = heapq.nsmallest(limit, (each for each in (*own.leased, *own.waiting) if each >= first))
    return [_pending(own, position, state.clock()) for position in positions]


def _pending(group: Group, position: int, now: float) -> Pending:
    entry = group.leased.get(position) or group.waiting[position]
    if isinstance(entry, Lease):
        consumer, idle, due = entry.consumer, now - entry.renewed, None
    else:
        consumer, idle, due = None, None, entry.due - now
    return Pending(str(position), consumer, entry.attempt, entry.failures, idle, due, entry.last_failure)

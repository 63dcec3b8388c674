"""The moves of the streams themselves: append, schedule, append_due, scan, locate, trim."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence
from datetime import datetime

from forebay.event import Record
from forebay.payload import check_name
from forebay.store import Entry, Trimmed
from forebay.stores.memory.state import State, StoredEntry, Stream


def append(
    state: State, stream: str, records: Sequence[Record], *, dedup_window: float | None, search_after: str | None
) -> list[str]:
    """Append the records whose ids are not known yet; return the positions of all."""
    if not records:
        state.stream(stream)  # checks the name
        return []
    log, now = state.make_stream(stream), state.clock()
    if dedup_window is None and search_after is None:
        first = log.last + 1
        log.entries += [StoredEntry(record, now) for record in records]
        positions = [str(position) for position in range(first, first + len(records))]
    else:
        positions = _append_once(log, records, now, dedup_window=dedup_window, search_after=search_after)
    state.report_growth(stream, log)
    return positions


def _append_once(
    log: Stream, records: Sequence[Record], now: float, *, dedup_window: float | None, search_after: str | None
) -> list[str]:
    found: dict[str, str] = {}
    if search_after is not None:
        for number, entry in log.after(log.number(search_after)):
            if isinstance(entry.record, Record) and entry.record.id:
                found.setdefault(entry.record.id, str(number))
    positions = []
    for record in records:
        position = found.get(record.id)
        if position is None and dedup_window is not None:
            position = log.remembered_ids.get(record.id, now)
        if position is None:
            position = log.append(record, now)
        if dedup_window is not None:
            log.remembered_ids.put(record.id, position, now=now, span=dedup_window)
        positions.append(position)
    return positions


def schedule(
    state: State,
    stream: str,
    records: Sequence[Record],
    *,
    delay: float | None,
    at: datetime | None,
    dedup_window: float | None,
) -> None:
    """Keep records until `append_due` appends them, in `delay` seconds or at a moment."""
    if not records or (at is not None and at.timestamp() <= state.wall()):
        append(state, stream, records, dedup_window=dedup_window, search_after=None)
        return
    log, now = state.make_stream(stream), state.clock()
    for record in records:
        if dedup_window is not None:
            known = log.remembered_ids.get(record.id, now)
            log.remembered_ids.put(record.id, known or "", now=now, span=dedup_window)
            if known is not None:
                continue
        log.last_scheduled += 1
        if at is None:
            heapq.heappush(log.scheduled, (now + (delay or 0.0), log.last_scheduled, record))
        else:
            heapq.heappush(log.moments, (at.timestamp(), log.last_scheduled, record))


def append_due(state: State, stream: str, *, limit: int) -> int:
    """Append scheduled records that are due, in the order of their times; return how many."""
    log, now, wall = state.stream(stream), state.clock(), state.wall()
    count = 0
    while count < limit and (heap := _next_heap(log, now, wall)) is not None:
        _, _, record = heapq.heappop(heap)
        log.remembered_ids.complete(record.id, log.append(record, now))
        count += 1
    if count:
        state.report_growth(stream, log)
    return count


def _next_heap(log: Stream, now: float, wall: float) -> list[tuple[float, int, Record]] | None:
    """The heap whose first record has been due for longest; None if no record is due."""
    due = [
        (heap[0][0] - time, heap[0][1], heap)
        for heap, time in ((log.scheduled, now), (log.moments, wall))
        if heap and heap[0][0] <= time
    ]
    return min(due, key=lambda each: each[:2])[2] if due else None


def next_scheduled(state: State, log: Stream) -> float | None:
    """Seconds until the next scheduled record is due; None if there are none."""
    times = [heap[0][0] - time for heap, time in ((log.scheduled, state.clock()), (log.moments, state.wall())) if heap]
    return min(times, default=None)


def scan(state: State, stream: str, *, after: str, until: str, limit: int, newest: bool) -> list[Entry]:
    """The entries after one position, up to another one."""
    log = state.stream(stream)
    first = max(log.number(after) + 1, log.first)
    end = min(log.number(until), log.last) + 1
    if newest:
        first = max(first, end - limit)
    chosen = range(first, min(end, first + limit))
    entries = ((position, log.entries[position - log.first]) for position in chosen)
    return [Entry(str(position), entry.record, state.epoch + entry.appended) for position, entry in entries]


def locate(state: State, stream: str, moment: datetime) -> str:
    """The position just before the first entry that was appended at or after a moment."""
    log = state.stream(stream)
    # Entries keep the clock's time.
    time = moment.timestamp() - state.epoch
    found = (position for position, entry in log.after(0) if entry.appended >= time)
    return str(next(found, log.last + 1) - 1)


def trim(
    state: State,
    stream: str,
    *,
    max_length: int | None,
    max_age: float | None,
    force: bool,
    ignore_groups: Collection[str],
) -> Trimmed:
    """Remove the first entries, up to the first one that a group has not finished."""
    log = state.stream(stream)
    ignored = {check_name("group", group) for group in ignore_groups}
    excess = 0 if max_length is None else len(log.entries) - max_length
    oldest = float("-inf") if max_age is None else state.clock() - max_age
    groups = log.groups.values()
    waited_for = [] if force else [group for group in groups if group.name not in ignored]
    removed = dropped = 0
    for position, entry in log.after(0):
        if removed >= excess and entry.appended >= oldest:
            break
        if any(not group.has_finished(position, entry) for group in waited_for):
            break
        dropped += any(not group.has_finished(position, entry) for group in groups)
        for group in groups:
            group.trimmed_unread += group.is_unread(position, entry)
        removed += 1
    del log.entries[:removed]
    log.first += removed
    return Trimmed(removed, dropped)

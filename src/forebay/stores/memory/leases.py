"""The moves of groups and consumers: join, read, claim, settle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from forebay.event import Foreign, Record
from forebay.payload import check_name
from forebay.store import DeadLetter, Delivery, Failure, Outlook, Reader
from forebay.stores.memory import log
from forebay.stores.memory.state import Group, Lease, State, Stream, Waiting


def join(state: State, stream: str, group: str, *, start: str) -> bool:
    """Make a group; False if it exists."""
    name = check_name("group", group)
    found = state.make_stream(stream)
    if name in found.groups:
        return False
    # The entries that have left the stream by now do not count as trimmed unread.
    found.groups[name] = Group(name, max(min(found.number(start), found.last), found.first - 1))
    return True


def seek(state: State, stream: str, group: str, to: str) -> None:
    """Set a group's cursor; its pending entries after it are unread again."""
    own, found = state.group(stream, group), state.stream(stream)
    cursor = min(found.number(to), found.last)
    own.cursor = max(cursor, found.first - 1)
    for pending in (own.leased, own.waiting):
        for position in [position for position in pending if position > cursor]:
            del pending[position]
    state.report_growth(stream, found)


def leave(state: State, stream: str, group: str) -> None:
    """Remove a group with its pending entries."""
    found = state.stream(stream)
    found.groups.pop(check_name("group", group), None)
    # A read that waits for the group raises.
    found.notify()


def trimmed_unread(state: State, stream: str, group: str) -> int | None:
    """The number of entries that the group lost unread, reported once."""
    own = state.find_group(stream, group)
    if own is None:
        return None
    count, own.trimmed_unread = own.trimmed_unread, 0
    return count


# Taking entries.


def read(state: State, readers: Sequence[Reader], *, limit: int) -> list[Delivery]:
    """Lease unread entries of each reader's stream."""
    groups = [state.group_of(reader) for reader in readers]
    return [
        delivery
        for reader, group in zip(readers, groups, strict=True)
        for delivery in _read(state, group, reader, limit)
    ]


def _read(state: State, group: Group, reader: Reader, limit: int) -> list[Delivery]:
    if reader.ordered and (group.waiting or group.is_held_by_another(reader.consumer)):
        return []
    now, token = state.clock(), next(state.tokens)
    deliveries: list[Delivery] = []
    for position, entry in state.stream(reader.stream).after(group.cursor):
        if len(deliveries) >= limit:
            break
        if entry.record.only_group in (None, group.name):
            group.leased[position] = Lease(reader.consumer, now, token)
            deliveries.append(Delivery(reader, str(position), entry.record, lease=token))
        group.cursor = position
    return deliveries


def take_due(state: State, reader: Reader, *, limit: int) -> list[Delivery]:
    """Lease waiting entries that are due."""
    group = state.group_of(reader)
    if reader.ordered and group.is_held_by_another(reader.consumer):
        return []
    due = _due(group, state.clock())
    # An ordered group takes the oldest entry first, others the one that has been due for longest.
    due.sort(key=lambda position: (0.0 if reader.ordered else group.waiting[position].due, position))
    return [_lease_again(state, group, reader, position) for position in due[:limit]]


def claim(state: State, reader: Reader, *, idle: float, limit: int) -> list[Delivery]:
    """Lease entries whose leases have expired."""
    group = state.group_of(reader)
    latest = state.clock() - idle
    if reader.ordered and group.is_held_by_another(reader.consumer, since=latest):
        return []
    expired = [position for position, lease in group.leased.items() if lease.renewed <= latest]
    if reader.ordered and expired:
        expired += _due(group, state.clock())
    return [_lease_again(state, group, reader, position) for position in sorted(expired)[:limit]]


def _due(group: Group, now: float) -> list[int]:
    return [position for position, waiting in group.waiting.items() if waiting.due <= now]


def _lease_again(state: State, group: Group, reader: Reader, position: int) -> Delivery:
    """Lease a pending entry: take it from its holder, or end its wait."""
    held = group.leased.get(position)
    before = held or group.waiting.pop(position)
    lease = group.leased[position] = Lease(
        reader.consumer,
        state.clock(),
        next(state.tokens),
        before.attempt + 1,
        before.failures,
        before.last_failure,
    )
    return Delivery(
        reader,
        str(position),
        state.stream(reader.stream).record_at(position),
        lease.attempt,
        lease.failures,
        held is not None,
        lease.last_failure,
        lease.token,
    )


# Settling.


class Held(NamedTuple):
    """A delivery whose lease is still held, with its stream, its group and the lease."""

    delivery: Delivery
    stream: Stream
    group: Group
    lease: Lease

    def wait(self, due: float, *, attempt: int) -> None:
        """Let the entry wait for its next attempt."""
        lease = self.lease
        self.group.waiting[int(self.delivery.position)] = Waiting(due, attempt, lease.failures, lease.last_failure)
        self.end()

    def end(self) -> None:
        """End the lease."""
        del self.group.leased[int(self.delivery.position)]
        _notify(self.stream, self.delivery.reader)


def _notify(stream: Stream, reader: Reader) -> None:
    """Let another reader of an ordered group go on: it may wait for this very settlement."""
    if reader.ordered:
        stream.notify()


def _held(state: State, delivery: Delivery) -> Held | None:
    """The delivery with its lease; None if that is no longer held."""
    group = state.find_group_of(delivery.reader)
    lease = group and group.leased.get(int(delivery.position))
    if group and lease and lease.token == delivery.lease:
        return Held(delivery, state.stream(delivery.reader.stream), group, lease)
    return None


def extend(state: State, deliveries: Sequence[Delivery]) -> list[Delivery]:
    """Renew leases; return those that are still held."""
    for reader, _ in _by_reader(deliveries):
        state.group_of(reader)
    kept = []
    for delivery in deliveries:
        if held := _held(state, delivery):
            held.lease.renewed = state.clock()
            kept.append(delivery)
    return kept


def ack(state: State, deliveries: Sequence[Delivery], *, remember: float | None) -> int:
    """Finish entries, whatever their leases; return how many were pending."""
    finished = 0
    for group, own in [(state.find_group_of(reader), own) for reader, own in _by_reader(deliveries)]:
        if group is None:
            continue
        for delivery in own:
            position = int(delivery.position)
            if group.leased.pop(position, None) or group.waiting.pop(position, None):
                finished += 1
            if remember is not None and isinstance(delivery.record, Record):
                group.handled.put(delivery.record.id, "", now=state.clock(), span=remember)
        _notify(state.stream(own[0].reader.stream), own[0].reader)
    return finished


def handled(state: State, stream: str, group: str, ids: Sequence[str]) -> set[str]:
    """Those of the ids that the group acked with `remember`."""
    own = state.find_group(stream, group)
    now = state.clock()
    return set() if own is None else {id for id in ids if own.handled.get(id, now) is not None}


def retry(state: State, delivery: Delivery, *, delay: float, keep: bool, failure: Failure | None) -> bool:
    """Count a failure; let the entry wait, or its holder keep it."""
    state.group_of(delivery.reader)
    held = _held(state, delivery)
    if held is None:
        return False
    lease, now = held.lease, state.clock()
    # Else an answer was lost, and this failure is counted already.
    is_new = lease.failures == delivery.failures
    if is_new:
        lease.failures += 1
        lease.last_failure = failure
    if keep:
        lease.renewed = now
        lease.attempt += is_new
    else:
        held.wait(now + delay, attempt=lease.attempt)
    return True


def release(state: State, deliveries: Sequence[Delivery]) -> int:
    """Let entries wait, due at once, without counting their last delivery; return how many were held."""
    for reader, _ in _by_reader(deliveries):
        state.find_group_of(reader)  # checks the names of all before anything is done
    released = 0
    for delivery in deliveries:
        if held := _held(state, delivery):
            held.wait(state.clock(), attempt=held.lease.attempt - 1)
            released += 1
    return released


def dead_letter(state: State, delivery: Delivery, *, reason: str, traceback: str, attempts: int | None) -> bool:
    """Move an entry to the dead letters."""
    state.group_of(delivery.reader)
    held = _held(state, delivery)
    if held is None:
        return False
    stream = held.stream
    stream.last_dead += 1
    stream.dead[stream.last_dead] = DeadLetter(
        id=f"{stream.last_dead:012}",
        stream=delivery.reader.stream,
        group=held.group.name,
        position=delivery.position,
        # A forced trim may have removed the entry; then the delivery has the last copy.
        record=stream.record_at(int(delivery.position)) or delivery.record or Foreign(()),
        error=reason,
        failed_at=datetime.now(UTC),
        attempts=held.lease.attempt if attempts is None else attempts,
        traceback=traceback,
    )
    held.end()
    return True


def outlook(state: State, readers: Sequence[Reader]) -> list[Outlook | None]:
    """The outlook of each reader; None if its group does not exist."""
    return [_outlook(state, reader) for reader in readers]


def _outlook(state: State, reader: Reader) -> Outlook | None:
    group, stream = state.find_group_of(reader), state.stream(reader.stream)
    if group is None:
        return None
    due = min((waiting.due for waiting in group.waiting.values()), default=None)
    return Outlook(
        scheduled=log.next_scheduled(state, stream),
        waiting=None if due is None else due - state.clock(),
        leased=group.is_held_by_another(reader.consumer),
        unread=stream.last > group.cursor,
    )


def _by_reader(deliveries: Sequence[Delivery]) -> Iterator[tuple[Reader, list[Delivery]]]:
    """The deliveries in runs of one reader each."""
    for reader, run in groupby(deliveries, key=attrgetter("reader")):
        yield reader, list(run)

"""The state of one event in each group."""

from __future__ import annotations

from functools import partial
from typing import Literal

import msgspec

from forebay.dead_letters import event_id
from forebay.event import Event, Record
from forebay.paging import paged
from forebay.store import START, DeadLetter, Entry, Pending, Store

DeliveryState = Literal["unread", "pending", "waiting", "dead", "done"]
"""unread: not yet delivered to the group; pending: held by a consumer; waiting: for its next attempt; dead: the group
gave up on it; done: handled, or published before the group began to read."""


class EventDelivery(msgspec.Struct, frozen=True):
    """The state of an event in a group, at one position.

    An event that was redriven or replayed to a group has a further position there for each time. `attempt` counts the
    deliveries so far; None if it is unread or done. `consumer` holds it for `idle` seconds (pending). It is `due` in
    that many seconds (waiting; negative: overdue). `error` is that of its last failure, or the dead letter's.
    """

    group: str
    position: str
    state: DeliveryState
    attempt: int | None = None
    consumer: str | None = None
    idle: float | None = None
    due: float | None = None
    error: str | None = None


async def deliveries(store: Store, event: Event) -> list[EventDelivery]:
    """The state of the event in each group of its stream, at its own position and at its copies for that group."""
    stream = event.type
    copies = await _copies(store, event)
    found = []
    for stats in await store.stats([stream]):
        for group in stats.groups:
            waiting = partial(store.pending, stream, group.group)
            held = {each.position: each async for each in paged(waiting, after=START, key=_position)}
            given_up = partial(store.dead_letters, stream, group=group.group)
            dead = {
                letter.position: letter
                async for letter in paged(given_up, after="", key=_id)
                if event_id(letter) == event.id
            }
            for position in [event.position, *copies.get(group.group, [])]:
                unread = await store.scan(stream, after=group.position, until=position, limit=1)
                found.append(
                    _delivery(group.group, position, dead.get(position), held.get(position), is_unread=bool(unread))
                )
    return found


async def _copies(store: Store, event: Event) -> dict[str, list[str]]:
    """The positions to which the event was redriven or replayed, by group."""
    found: dict[str, list[str]] = {}
    async for entry in paged(partial(store.scan, event.type), after=event.position, key=_position):
        record = entry.record
        if isinstance(record, Record) and record.only_group is not None and record.id == event.id:
            found.setdefault(record.only_group, []).append(entry.position)
    return found


def _delivery(
    group: str, position: str, dead: DeadLetter | None, held: Pending | None, *, is_unread: bool
) -> EventDelivery:
    if dead is not None:
        return EventDelivery(group, position, "dead", attempt=dead.attempts, error=dead.error)
    if held is None:
        return EventDelivery(group, position, "unread" if is_unread else "done")
    return EventDelivery(
        group,
        position,
        "waiting" if held.consumer is None else "pending",
        attempt=held.attempt,
        consumer=held.consumer,
        idle=held.idle,
        due=held.due,
        error=None if held.last_failure is None else held.last_failure.error,
    )


def _position(item: Pending | Entry) -> str:
    return item.position


def _id(letter: DeadLetter) -> str:
    return letter.id

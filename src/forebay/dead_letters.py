"""Dead letters that match a filter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable
from datetime import datetime
from functools import partial

import msgspec

from forebay.callables import is_async, name_of, refuse_generator
from forebay.errors import ConfigurationError, MalformedEvent
from forebay.event import Event, Record, to_event
from forebay.paging import paged
from forebay.payload import plain
from forebay.store import DeadLetter
from forebay.store import DeadLetters as Letters


class DeadLetterFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Conditions on dead letters: one that meets all of those that are given matches.

    `ids` are ids of dead letters or of their events; an empty list matches none. `group` gave up on the event. `error`
    is a text in the error, in upper or lower case. `since` is an aware datetime: the event died then or later. `event`
    is a condition on the event, a plain function; a dead letter that cannot be read as an event does not meet it.
    Raises `ConfigurationError` for a condition of another type.
    """

    ids: Collection[str] | None = None
    group: str | None = None
    error: str | None = None
    since: datetime | None = None
    event: Callable[[Event], bool] | None = None

    def __post_init__(self) -> None:
        if self.ids is not None:
            msgspec.structs.force_setattr(self, "ids", _set_of(self.ids))
        if self.group is not None:
            plain("group", self.group)
        if self.error is not None:
            plain("error", self.error)
        if self.since is not None:
            _check_since(self.since)
        if self.event is not None:
            _check_condition(self.event)

    def matches(self, letter: DeadLetter) -> bool:
        """Whether the dead letter meets all conditions."""
        if self.ids is not None and letter.id not in self.ids and event_id(letter) not in self.ids:
            return False
        if self.group is not None and letter.group != self.group:
            return False
        if self.error is not None and self.error.casefold() not in letter.error.casefold():
            return False
        if self.since is not None and letter.failed_at < self.since:
            return False
        if self.event is None:
            return True
        event = event_of(letter)
        return event is not None and self.event(event)


def _set_of(ids: object) -> frozenset[str]:
    if isinstance(ids, (str, bytes)) or not isinstance(ids, Iterable):
        raise ConfigurationError(f"ids={ids!r}: give a list of ids, also for one of them")
    return frozenset(plain("id", id) for id in ids)


def _check_since(since: object) -> None:
    if not isinstance(since, datetime):
        raise ConfigurationError(f"since={since!r}: give an aware datetime, e.g. in UTC")
    if since.utcoffset() is None:
        raise ConfigurationError(f"since={since.isoformat()} has no zone; give an aware datetime, e.g. in UTC")


def _check_condition(event: object) -> None:
    if not callable(event):
        raise ConfigurationError(f"event={event!r}: give a function that takes an Event and returns a bool")
    refuse_generator("the condition", event)
    if is_async(event):
        # The coroutine that it returns would be true for each event.
        raise ConfigurationError(f"the condition {name_of(event)} is async; give a plain function")


async def find(store: Letters, stream: str, wanted: DeadLetterFilter) -> AsyncIterator[DeadLetter]:
    """The dead letters of the stream that match, oldest first."""
    fetch = partial(store.dead_letters, stream, group=wanted.group)
    async for letter in paged(fetch, after="", key=lambda letter: letter.id):
        if wanted.matches(letter):
            yield letter


def event_of(letter: DeadLetter) -> Event | None:
    """The event of a dead letter, or None if it cannot be read as one."""
    try:
        return to_event(letter.record, position=letter.position)
    except MalformedEvent:
        return None


def event_id(letter: DeadLetter) -> str:
    """The id of a dead letter's event: its position if it has no id of its own."""
    record = letter.record
    return record.id or letter.position if isinstance(record, Record) else letter.position

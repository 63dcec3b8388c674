"""Dead letters that match a filter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from functools import partial

import msgspec

from forebay.errors import ConfigurationError, MalformedEvent
from forebay.event import Event, Record, to_event
from forebay.paging import paged
from forebay.store import DeadLetter
from forebay.store import DeadLetters as Letters


class DeadLetterFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Conditions on dead letters: one that meets all of those that are given matches.

    `ids` are ids of dead letters or of their events. `group` gave up on the event. `error` is a text in the error, in
    upper or lower case. `since` is an aware datetime: the event died then or later. `event` is a condition on the
    event; a dead letter that cannot be read as an event does not meet it.
    """

    ids: Sequence[str] = ()
    group: str | None = None
    error: str | None = None
    since: datetime | None = None
    event: Callable[[Event], bool] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.ids, str):
            raise ConfigurationError(f"ids={self.ids!r}: give a list of ids, also for one of them")
        if self.since is not None and self.since.utcoffset() is None:
            raise ConfigurationError(f"since={self.since.isoformat()} has no zone; give an aware datetime, e.g. in UTC")

    def matches(self, letter: DeadLetter) -> bool:
        """Whether the dead letter meets all conditions."""
        if self.ids and letter.id not in self.ids and event_id(letter) not in self.ids:
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

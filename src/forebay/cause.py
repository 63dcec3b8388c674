"""Causation: two headers by which a chain of events can be followed.

`correlation_id` is the id of the event that began the chain, `causation_id` that of the event whose
handling published this one. The names are those of the Enterprise Integration Patterns and of most
message frameworks (NServiceBus, MassTransit, Protean).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from forebay.event import Event

CORRELATION = "correlation_id"
CAUSATION = "causation_id"

_cause: ContextVar[Event | None] = ContextVar("forebay_cause", default=None)


enter_cause: Callable[[Event | None], object] = _cause.set
"""Make this event the cause in the current context, for good: the cheapest way, for a task that handles event after
event."""


@contextmanager
def caused_by(event: Event | None) -> Iterator[None]:
    """Make this event the cause of events published in the block, also from tasks started in it, and threads that
    copy the context, as those of `asyncio.to_thread` do."""
    before = _cause.set(event)
    try:
        yield
    finally:
        _cause.reset(before)


def with_cause(headers: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """The headers, with those of the cause added if there is one. The publisher's own headers win."""
    event = _cause.get()
    if event is None or not isinstance(headers or {}, Mapping):
        return headers  # the wrong type is refused when the event is made
    return {CORRELATION: correlation(event), CAUSATION: event.id, **(headers or {})}


def correlation(event: Event) -> str:
    """The id of the event that started the chain of this one: its own if it started one."""
    return event.headers.get(CORRELATION, event.id)

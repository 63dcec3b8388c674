"""What an event is published because of: two headers by which a chain of events can be followed.

`correlation_id` is the id of the event that began the chain, `causation_id` that of the event whose
handling published this one. The names are those of the Enterprise Integration Patterns and of most
message frameworks (NServiceBus, MassTransit, Protean).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from forebay.event import Event

CORRELATION = "correlation_id"
CAUSATION = "causation_id"

_cause: ContextVar[Event | None] = ContextVar("forebay_cause", default=None)


@contextmanager
def caused_by(event: Event | None) -> Iterator[None]:
    """What is published in here, also from tasks and threads begun in here, is caused by this event."""
    before = _cause.set(event)
    try:
        yield
    finally:
        _cause.reset(before)


def with_cause(headers: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """The headers, with the cause added where there is one; what the publisher wrote stays."""
    event = _cause.get()
    if event is None or not isinstance(headers or {}, Mapping):
        return headers  # what are no headers is refused where they are written
    return {CORRELATION: correlation(event), CAUSATION: event.id, **(headers or {})}


def correlation(event: Event) -> str:
    """The id of the event that began the chain to which this one belongs: its own where it began one."""
    return event.headers.get(CORRELATION, event.id)

"""Everything that forebay raises.

ForebayError
├── ConfigurationError (ValueError)     a wrong URL, option, name or handler; nothing was done
├── InvalidEvent (ValueError)           refused at publish; nothing was stored
│   └── PayloadTooLarge
├── MalformedEvent (ValueError)         an entry that cannot be read as the event that was asked for
├── NotFound (LookupError)              no such stream, group, event or dead letter
├── PublishUnknown                      perhaps stored, perhaps not; carries the ids, safe to repeat
├── TransferRefused                     a copy that would mix or lose something; it can be run again
├── AgentError                          an agent failed too often in a row, or cannot do its work now
├── HandlerTimeout (TimeoutError)       a handler ran longer than its `timeout`
└── StoreError                          the store refused the move; nothing of it was done, except:
    ├── StoreUnavailable (ConnectionError)   not reachable or not ready: worth another try
    ├── StoreFull                            no room: worth another try once there is room
    ├── StoreDenied (PermissionError)        wrong password, read-only, forbidden by an ACL
    ├── StoreDamaged                         the data is not what forebay wrote
    └── OutcomeUnknown                       the answer was lost on its way; the move may have been done

RetryAfter, Reject                      raised by handlers, to say what becomes of an event
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Sequence
from typing import Any

MOST_SECONDS = 1e9
"""Any time span is shorter than this, some thirty years."""


class ForebayError(Exception):
    """The root of every error that forebay raises."""


class ConfigurationError(ForebayError, ValueError):
    """A URL, option, name or handler that cannot work. Nothing was done."""


class InvalidEvent(ForebayError, ValueError):
    """An event that no store would keep faithfully. It was refused; nothing was stored."""


class PayloadTooLarge(InvalidEvent):
    """The JSON text of an event is larger than the limit (1 MiB unless configured)."""


class MalformedEvent(ForebayError, ValueError):
    """A stored entry that cannot be read as an event, or whose data does not fit its class."""


class NotFound(ForebayError, LookupError):
    """A stream, group, event or dead letter that does not exist."""


class PublishUnknown(ForebayError):
    """The answer to a publish was lost: the events may be stored or not.

    `ids` are the ids the events would have. Publishing them again on the same bus object under
    these ids stores each at most once; the bus remembers its latest 10,000 unanswered publishes.
    """

    def __init__(self, message: str, ids: Sequence[str]) -> None:
        super().__init__(message)
        self.ids = tuple(ids)

    @property
    def id(self) -> str:
        """The first id; the only one after a plain `publish`."""
        return self.ids[0]


class TransferRefused(ForebayError):
    """A copy between stores that cannot go on: the target holds something else, or the source was changed.

    The streams copied so far are whole; the message says how to continue.
    """


class HandlerTimeout(ForebayError, TimeoutError):
    """A handler ran longer than its `timeout` in seconds. It counts as a failed attempt.

    `still_running` is the thread's future if the handler is a plain function: nothing can stop it.
    """

    def __init__(self, message: str, still_running: Future[Any] | None = None) -> None:
        super().__init__(message)
        self.still_running = still_running


class AgentError(ForebayError):
    """An agent failed too often in a row to be started once more (its cause is the last failure), or says that it
    cannot do its work now."""


class StoreError(ForebayError):
    """The store refused a move. Nothing of the move was done, unless the error is an `OutcomeUnknown`."""


class StoreUnavailable(StoreError, ConnectionError):
    """The store cannot be reached or is not ready. Nothing was done; try again."""


class StoreFull(StoreError):
    """The store has no room. Nothing was done; try again once there is room."""


class StoreDenied(StoreError, PermissionError):
    """The store refuses this user: wrong password, read-only, or no right to the command."""


class StoreDamaged(StoreError):
    """The store holds data that forebay did not write in this form."""


class OutcomeUnknown(StoreError):
    """The connection broke, or a flush failed, after a move was sent: it may have happened.

    `search_after` is a position from before the move, from which a search for its events can start;
    None if the move was not an append.
    """

    def __init__(self, message: str, search_after: str | None = None) -> None:
        super().__init__(message)
        self.search_after = search_after


class RetryAfter(Exception):
    """Raise it in a handler: try this event again after `seconds`, at the price of one attempt."""

    def __init__(self, seconds: float, reason: str = "") -> None:
        given: object = seconds
        if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 <= given < MOST_SECONDS:
            raise ConfigurationError(f"RetryAfter({seconds!r}): give a number of seconds from 0")
        super().__init__(reason or f"retry after {seconds:g} s")
        self.seconds = seconds


class Reject(Exception):
    """Raise it in a handler: this event will never succeed, put it among the dead letters now."""

    def __init__(self, reason: str = "rejected by the handler") -> None:
        super().__init__(reason)

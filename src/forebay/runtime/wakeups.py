"""The reasons to wake one consumer, found by the shared services of its bus."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from forebay.store import Reader


class Wakeups:
    """The streams of a consumer that have work for it, and the events that wake its two loops.

    `may_read` wakes the loop that reads: it is set when a stream is added to `unread`, and when there is room again.
    `changed` wakes the loop that does the rest: it is set when a stream is added to another set, and at the beginning.

    - `unread`: streams that may have unread entries, for `read`: at first all of them. Without meaning while
      `Services.is_blocking`.
    - `due`: streams with waiting entries that are due, for `take_due`.
    - `claimable`: streams with leases that may have run out, for `claim`.
    - `lost`: streams on which the group no longer exists, for `join`.
    - `error`: an error that does not pass. The consumer stops and raises it.

    `lease` is the consumer's, in seconds. It has one of the `readers` for each stream, under its present name.

    The consumer clears an event before it looks at the sets. It removes a stream before it asks the store, and adds it
    again if the store found something: the next call may find more, and an addition in the meantime is kept.
    """

    __slots__ = ("changed", "claimable", "due", "error", "lease", "lost", "may_read", "readers", "streams", "unread")

    def __init__(self, lease: float, readers: Sequence[Reader]) -> None:
        self.lease = lease
        self.readers = readers
        self.streams = tuple(reader.stream for reader in readers)
        self.unread = set(self.streams)
        self.due = set[str]()
        self.claimable = set[str]()
        self.lost = set[str]()
        self.error: BaseException | None = None
        self.may_read = asyncio.Event()
        self.changed = asyncio.Event()
        self.changed.set()

    def reader(self, stream: str) -> Reader:
        """The reader of one of its streams."""
        return self.readers[self.streams.index(stream)]

    def ring(self, stream: str) -> None:
        """Add a stream to `unread`."""
        if stream not in self.unread:
            self.unread.add(stream)
            self.may_read.set()

    def add(self, streams: set[str], stream: str) -> None:
        """Add a stream to one of the other sets."""
        streams.add(stream)
        self.changed.set()

    def fail(self, error: BaseException) -> None:
        """Report an error that does not pass; the first one counts."""
        self.error = self.error or error
        self.changed.set()

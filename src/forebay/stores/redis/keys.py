"""The names of the keys of a namespace, by stream and group."""

from __future__ import annotations

from functools import lru_cache

from forebay.payload import check_name
from forebay.store import Reader

CHECKED_CONSUMERS = 10_000
"""Names of consumers that are remembered as valid."""


@lru_cache(CHECKED_CONSUMERS)
def _check_consumer(name: str) -> str:
    return check_name("consumer", name)


class Namespace:
    """The streams of a namespace. A name is checked once: `ConfigurationError` if it is not valid."""

    def __init__(self, name: str) -> None:
        self.name = check_name("namespace", name)
        self._streams: dict[str, Keys] = {}

    def stream(self, name: str) -> Keys:
        """The keys of a stream."""
        keys = self._streams.get(name)
        if keys is None:
            keys = self._streams[name] = Keys(self.name, name)
        return keys

    def group(self, stream: str, group: str) -> Group:
        """The keys of a group of a stream."""
        return self.stream(stream).group(group)

    def reader(self, reader: Reader) -> Group:
        """The keys of a reader's group; the name of its consumer is checked too."""
        _check_consumer(reader.consumer)
        return self.stream(reader.stream).group(reader.group)


class Keys:
    """The keys of a stream. Names hold no ':' or braces, so no two keys are the same.

    The companions carry the stream's whole key as their hash tag: on a cluster they share its slot,
    and a script may move an entry between them.
    """

    def __init__(self, namespace: str, stream: str) -> None:
        self.name = check_name("event type", stream)
        self.stream = f"{namespace}:{self.name}"
        self.encoded_stream = self.stream.encode()
        """The same, as replies name it."""
        tag = f"{{{self.stream}}}"
        self.dead_letter = f"{tag}:dead_letter"
        """A stream: the original fields, then traceback, error, failed_at, group, attempts, position."""
        self.dead_counts = f"{tag}:dead_counts"
        """A hash: group -> how many dead letters it has; '*' -> how many there are."""
        self.scheduled = f"{tag}:scheduled"
        """A sorted set: packed fields, by the time in ms when they are to be appended."""
        self.moments = f"{tag}:moments"
        """A sorted set: the same for events that are due at a moment, by Unix time in ms."""
        self.ids = f"{tag}:ids"
        """A hash: event id -> position, for ids appended with `dedup_window`."""
        self.ids_expiry = f"{tag}:ids_expiry"
        """A sorted set: the same ids, by the time in ms until which they are remembered."""
        self.clock = f"{tag}:clock"
        """A hash, in ms: the offset of the stream's own time from the server's wall clock (offset), when that clock was
        last set (since), and until when a store surely watched it (seen)."""
        self.notes = f"{tag}:notes"
        """A hash: name -> value."""
        self.handled = f"{tag}:handled:"
        """The prefix of the groups' `handled` keys."""
        self.all = (
            self.stream,
            self.dead_letter,
            self.dead_counts,
            self.scheduled,
            self.moments,
            self.ids,
            self.ids_expiry,
            self.notes,
        )
        """The keys above, in this order."""
        self._tag = tag
        self._groups: dict[str, Group] = {}

    def group(self, name: str) -> Group:
        """The keys of one of its groups."""
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = Group(self, self._tag, check_name("group", name))
        return group


class Group:
    """The keys of a group of a stream. Leases are in the server's own pending list."""

    def __init__(self, keys: Keys, tag: str, name: str) -> None:
        self.name = name
        self.keys = keys
        """The keys of its stream."""
        self.waiting = f"{tag}:waiting:{name}"
        """A sorted set: positions, by the time in ms when they are due."""
        self.attempts = f"{tag}:attempts:{name}"
        """A hash: position -> attempts, failures and more of an entry that was retried or released (prelude.lua)."""
        self.finished = f"{tag}:finished:{name}"
        """A string: the position up to which everything was finished at the last checkpoint, if the group is lost."""
        self.progress = f"{tag}:progress:{name}"
        """A hash: counts of finished entries, from which the entries trimmed unread follow (prelude.lua)."""
        self.handled = f"{tag}:handled:{name}"
        """A sorted set: event ids, by the time in ms until which they are remembered."""


def stream_of(key: bytes, namespace: str) -> str | None:
    """The stream that a key of the namespace belongs to, itself or as a companion; None for any other key.

    It need not be a valid name: see `payload.is_name`.
    """
    text = key.decode(errors="replace")
    if text.startswith("{"):
        text, closed, _ = text[1:].partition("}:")
        if not closed:
            return None
    prefix, _, stream = text.partition(":")
    return stream if prefix == namespace and stream and ":" not in stream else None

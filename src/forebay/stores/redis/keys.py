"""The names of the keys that belong to one stream."""

from __future__ import annotations

from forebay.payload import check_name


class Keys:
    """The keys of a stream. Names hold no ':' or braces, so no two of these are ever the same.

    The companions carry the stream's whole key as their hash tag: on a cluster they share its slot,
    and a script may move an entry between them.
    """

    def __init__(self, namespace: str, stream: str) -> None:
        self.stream = f"{namespace}:{check_name('event type', stream)}"
        tag = f"{{{self.stream}}}"
        self.dead_letter = f"{tag}:dead_letter"
        """A stream: the original fields, then traceback, error, failed_at, group, attempts, position."""
        self.dead_counts = f"{tag}:dead_counts"
        """A hash: group -> how many dead letters it has; '*' -> how many there are."""
        self.scheduled = f"{tag}:scheduled"
        """A sorted set: packed fields, by the time in ms when they are to be appended."""
        self.moments = f"{tag}:moments"
        """A sorted set: the same for what is due at a moment, by Unix time in ms."""
        self.ids = f"{tag}:ids"
        """A hash: event id -> position, for ids appended with `dedup_window`."""
        self.ids_expiry = f"{tag}:ids_expiry"
        """A sorted set: the same ids, by the time in ms until which they are remembered."""
        self.clock = f"{tag}:clock"
        """A hash: how far the stream's own time is from the server's wall clock (offset), when that clock was last
        set (since), and up to when somebody surely watched it (seen), in ms; there where it was set, or watched."""
        self.notes = f"{tag}:notes"
        """A hash: name -> value."""
        self.handled = f"{tag}:handled:"
        """The beginning of such a key of each group, which ends with the group's name."""
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
            group = self._groups[name] = Group(self._tag, check_name("group", name))
        return group


class Group:
    """The keys of one group of a stream; what is leased stands in the server's own pending list."""

    def __init__(self, tag: str, name: str) -> None:
        self.waiting = f"{tag}:waiting:{name}"
        """A sorted set: positions, by the time in ms when they are due."""
        self.attempts = f"{tag}:attempts:{name}"
        """A hash: position -> "attempts failures", then the last failure, where an entry was retried or released."""
        self.finished = f"{tag}:finished:{name}"
        """A string: the position up to which nothing was open at the last look, should the group be lost."""
        self.progress = f"{tag}:progress:{name}"
        """A hash: how many entries the group has finished, and what tells which it has missed (prelude.lua)."""
        self.handled = f"{tag}:handled:{name}"
        """A sorted set: event ids, by the time in ms until which they are remembered."""


def stream_of(key: bytes, namespace: str) -> str | None:
    """What a key of the namespace belongs to, itself or as a companion; None for any other key.

    It need not be a name: see `payload.is_name`.
    """
    text = key.decode(errors="replace")
    if text.startswith("{"):
        text, closed, _ = text[1:].partition("}:")
        if not closed:
            return None
    prefix, _, stream = text.partition(":")
    return stream if prefix == namespace and stream and ":" not in stream else None

"""Checks the names of streams, groups and consumers in calls, each name once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from forebay.payload import check_name
from forebay.store import Delivery, Reader

NAMES_KEPT = 10_000


class Names:
    """The valid names that were checked last, so that the check of a name that is used again costs one lookup.

    Each `check` raises `ConfigurationError` if a name is not valid.
    """

    def __init__(self) -> None:
        self._valid: set[str] = set()

    def check(self, stream: str, group: str | None = None) -> None:
        """Check the name of a stream, and of a group if there is one."""
        self._check("stream", stream)
        if group is not None:
            self._check("group", group)

    def check_groups(self, groups: Iterable[str]) -> None:
        """Check the names of groups."""
        for group in groups:
            self._check("group", group)

    def check_readers(self, readers: Iterable[Reader]) -> None:
        """Check the names in readers."""
        for reader in readers:
            self.check(reader.stream, reader.group)
            self._check("consumer", reader.consumer)

    def check_deliveries(self, deliveries: Sequence[Delivery]) -> None:
        """Check the names in the readers of deliveries: mostly all have the same reader object."""
        reader = None
        for delivery in deliveries:
            if delivery.reader is not reader:
                reader = delivery.reader
                self.check_readers([reader])

    def _check(self, what: str, name: str) -> None:
        if name.__class__ is str and name in self._valid:
            return
        valid = check_name(what, name)
        if len(self._valid) >= NAMES_KEPT:
            self._valid.clear()
        self._valid.add(valid)

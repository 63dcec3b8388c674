"""Mount points of watched folders: the files of a disk that is not mounted are not deleted, but out of sight."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping

import msgspec

from forebay.agents.files import below
from forebay.agents.leadership import Outdated
from forebay.store import Notes

_NOTE = "mounts"


class Mounts:
    """On which mount point each place lies: each watched folder, and each mount point below one.

    It is kept in a note, because a disk may also be missing when the process starts. A place is `away` while it
    lies on another mount point than when its files were last seen.
    """

    def __init__(self, store: Notes, stream: str, folders: Iterable[str]) -> None:
        self._store = store
        self._stream = stream
        self._folders = tuple(folders)
        self._known: dict[str, str] = {}
        self._kept: bytes | None = None

    async def load(self) -> None:
        """Read the note. One that is not of this form counts as none."""
        self._kept = (await self._store.notes(self._stream)).get(_NOTE)
        try:
            kept = {} if self._kept is None else msgspec.msgpack.decode(self._kept, type=dict[bytes, bytes])
        except ValueError:
            kept = {}
        self._known = {os.fsdecode(place): os.fsdecode(mount) for place, mount in kept.items()}

    def away(self) -> frozenset[str]:
        """The places whose files are out of sight. Asks the file system."""
        return frozenset(place for place, mount in self._known.items() if mount_of(place) != mount)

    def seen(self, found: Collection[str], told: Mapping[str, Collection[str]], devices: Mapping[int, str]) -> None:
        """Learn from a look at everything: the files `found`, and those `told` below each place that is away.

        A place that is away counts as moved to its present mount point when half of what was told there is found.
        `devices` has a file of each device that a file was found on.
        """
        for place, files in told.items():
            if 2 * sum(path in found for path in files) >= len(files):
                self._known.pop(place, None)
        now = {place: mount_of(place) for place in self._folders}
        now |= {mount: mount for mount in map(mount_of, devices.values())}
        self._known = {
            place: mount
            for place, mount in (now | self._known).items()
            if any(below(place, folder) for folder in self._folders)
        }

    async def save(self) -> None:
        """Write the note where something was learned; `Outdated` where another process has written it."""
        # A path may hold any bytes.
        known = {os.fsencode(place): os.fsencode(mount) for place, mount in sorted(self._known.items())}
        note = msgspec.msgpack.encode(known)
        if note == self._kept:
            return
        if not await self._store.note(self._stream, _NOTE, note, expected=self._kept):
            raise Outdated(_NOTE)
        self._kept = note


def mount_of(path: str) -> str:
    """The mount point that the path lies on, or would lie on if it were there."""
    while not os.path.ismount(path):
        parent = os.path.dirname(path)  # noqa: PTH120  # texts are quicker than paths, for many files
        if parent == path:
            break
        path = parent
    return path


def is_away(path: str, away: Iterable[str]) -> bool:
    """Whether the path lies in one of the places that are away."""
    return any(below(path, place) for place in away)

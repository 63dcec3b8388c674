"""Mount points of the watched folders: a file on an unmounted disk is unreachable, not deleted."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping

import msgspec

from forebay.agents.file_watch.files import below
from forebay.leadership import LeadershipLost
from forebay.store import Notes

_NOTE = "mounts"


class Mounts:
    """The mount point of each watched folder, and each mount point below a watched folder.

    They are stored in a note, because a disk may also be missing when the process starts. A folder is unmounted
    while its mount point differs from the one on which its files were last found.
    """

    def __init__(self, store: Notes, stream: str, folders: Iterable[str]) -> None:
        self._store = store
        self._stream = stream
        self._folders = tuple(folders)
        self._known: dict[str, str] = {}
        self._kept: bytes | None = None

    async def load(self) -> None:
        """Read the note. A note of another form is ignored."""
        self._kept = (await self._store.notes(self._stream)).get(_NOTE)
        try:
            kept = {} if self._kept is None else msgspec.msgpack.decode(self._kept, type=dict[bytes, bytes])
        except ValueError:
            kept = {}
        self._known = {os.fsdecode(folder): os.fsdecode(mount) for folder, mount in kept.items()}

    def unmounted(self) -> frozenset[str]:
        """The folders whose disk is not mounted now. Reads the file system."""
        return frozenset(folder for folder, mount in self._known.items() if mount_of(folder) != mount)

    def update(self, found: Collection[str], known: Mapping[str, Collection[str]], devices: Mapping[int, str]) -> None:
        """Record the mount points after a full scan.

        `found` are all files of the scan, `known` the files known below each unmounted folder, and `devices` one
        found file for each device. When at least half of an unmounted folder's files are found, its disk has moved
        to the present mount point.
        """
        for folder, files in known.items():
            if 2 * sum(path in found for path in files) >= len(files):
                self._known.pop(folder, None)
        now = {folder: mount_of(folder) for folder in self._folders}
        now |= {mount: mount for mount in map(mount_of, devices.values())}
        self._known = {
            folder: mount for folder, mount in (now | self._known).items() if below_any(folder, self._folders)
        }

    async def save(self) -> None:
        """Write the note if it changed. Raises `LeadershipLost` when another process has written it."""
        # A path may hold any bytes.
        known = {os.fsencode(folder): os.fsencode(mount) for folder, mount in sorted(self._known.items())}
        note = msgspec.msgpack.encode(known)
        if note == self._kept:
            return
        if not await self._store.set_note(self._stream, _NOTE, note, expected=self._kept):
            raise LeadershipLost(_NOTE)
        self._kept = note


def mount_of(path: str) -> str:
    """The mount point of a path, which need not exist."""
    while not os.path.ismount(path):
        parent = os.path.dirname(path)  # noqa: PTH120  # texts are quicker than paths, for many files
        if parent == path:
            break
        path = parent
    return path


def below_any(path: str, folders: Iterable[str]) -> bool:
    """Whether the path is in or below one of the folders."""
    return any(below(path, folder) for folder in folders)

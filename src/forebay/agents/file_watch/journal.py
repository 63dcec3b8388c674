"""An outbox of file changes, kept in notes of the store, by the hash of the path.

A file's entry first has a pending publish with its id; then the event is published; then the entry has none. A process
that finds a pending publish publishes again, under the same id.
"""

from __future__ import annotations

import asyncio
import os
import re
import zlib
from collections.abc import Iterator

import msgspec

from forebay.agents.file_watch.files import Content, below
from forebay.leadership import LeadershipLost
from forebay.store import Notes

BUCKETS = 256
"""Number of notes that share the files: with 300,000 files each note is about 80 KiB."""

_NAME = re.compile(r"[0-9a-f]{2}")

PendingPublish = tuple[str, str]
"""The type and the id of an event that may not be published yet."""


class FileState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The content of a file as last published, or, with `pending`, as it is being published."""

    content: Content
    pending: PendingPublish | None = None


class FileJournal:
    """The entries of all files, in memory and in the store.

    `damaged` are the names of unreadable notes; their files count as new.
    """

    def __init__(self, store: Notes, stream: str) -> None:
        self._store = store
        self._stream = stream
        self._entries: dict[int, dict[str, FileState]] = {}
        self._kept: dict[str, bytes] = {}
        self._changed: set[int] = set()
        self._unfinished: dict[str, FileState] = {}
        self.damaged: list[str] = []

    async def load(self) -> None:
        """Read the entries from the store."""
        notes = await self._store.notes(self._stream)
        self._kept = {name: note for name, note in notes.items() if _NAME.fullmatch(name)}
        for name, note in self._kept.items():
            entries = _decode(note)
            if entries is None:
                self.damaged.append(name)
                continue
            self._entries[int(name, 16)] = entries
            self._unfinished.update({path: entry for path, entry in entries.items() if entry.pending})

    def __len__(self) -> int:
        """The number of files that were published as existing."""
        return sum(map(len, self._entries.values())) - len(self._unfinished)

    def get(self, path: str) -> FileState | None:
        """The entry of this file; None if it was never published, or last as deleted."""
        return self._entries.get(bucket(path), {}).get(path)

    def content(self, path: str) -> Content | None:
        """The content of this file as last published."""
        entry = self.get(path)
        return None if entry is None else entry.content

    def within(self, folder: str) -> Iterator[str]:
        """The files in and below this folder that have an entry."""
        for entries in self._entries.values():
            yield from (path for path in entries if below(path, folder))

    def unfinished(self) -> dict[str, FileState]:
        """The files with a pending publish, as far as this process knows."""
        return dict(self._unfinished)

    def put(self, path: str, entry: FileState | None) -> None:
        """Change a file's entry; `save` keeps it."""
        entries = self._entries.setdefault(bucket(path), {})
        if entry is None:
            entries.pop(path, None)
        else:
            entries[path] = entry
        if entry is not None and entry.pending is not None:
            self._unfinished[path] = entry
        else:
            self._unfinished.pop(path, None)
        self._changed.add(bucket(path))

    async def save(self) -> None:
        """Write the changed entries; `LeadershipLost` if another process has changed them too."""
        changed, self._changed = sorted(self._changed), set()
        ends = await asyncio.gather(*(self._save(number) for number in changed), return_exceptions=True)
        for error in filter(None, ends):
            raise error

    async def _save(self, number: int) -> None:
        name = f"{number:02x}"
        entries = self._entries[number]
        note = _encode(entries) if entries else None
        before = self._kept.get(name)
        if note == before:
            return
        if not await self._store.set_note(self._stream, name, note, expected=before):
            raise LeadershipLost(name)
        if note is None:
            del self._kept[name]
        else:
            self._kept[name] = note


def bucket(path: str) -> int:
    """The number of the note that holds a file's entry."""
    return zlib.crc32(os.fsencode(path)) % BUCKETS


def _encode(entries: dict[str, FileState]) -> bytes:
    # Paths have much in common, so the fastest compression halves a note.
    return zlib.compress(msgspec.msgpack.encode({os.fsencode(path): entry for path, entry in entries.items()}), 1)


def _decode(note: bytes) -> dict[str, FileState] | None:
    try:
        entries = msgspec.msgpack.decode(zlib.decompress(note), type=dict[bytes, FileState])
    except (zlib.error, ValueError):
        return None
    return {os.fsdecode(path): entry for path, entry in entries.items()}

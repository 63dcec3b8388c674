"""Telling what has become of files: read, compare with what was told, note, publish, note that it is told."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import msgspec

from forebay import threads
from forebay.agents.file_watch import files
from forebay.agents.file_watch.files import Content, Outcome, Unsettled
from forebay.agents.file_watch.journal import FileJournal, FileState, bucket
from forebay.agents.file_watch.mounts import Mounts, below_any
from forebay.bus import EventBus
from forebay.errors import NotFound
from forebay.event import new_id
from forebay.event_types import EventType
from forebay.reason import describe

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")

BATCH = 1000
"""Files that are told at a time."""
PATIENCE = 2.0
"""Seconds of reading after which what was found is told, before the next file is read."""
LONGEST_KEY = 512
KINDS = (EventType.FILE_CREATED.value, EventType.FILE_MODIFIED.value, EventType.FILE_DELETED.value)
_CREATED, _MODIFIED, _DELETED = KINDS


class FileChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is told of a file: the data of `EventType.FILE_CREATED`, `FILE_MODIFIED` and `FILE_DELETED`.

    `path` is absolute, `size` in bytes, `sha256` in hexadecimal digits; a deleted file's are those of the last look at
    it. A time of `modified` before 1677 or after 2262 is the nearest one within (64 bits of nanoseconds). Where the
    name is no UTF-8, `path` has its odd bytes written out, and `raw` is the path's own bytes.

    >>> FileChange("/inbox/a.txt", 0, "e3b0c442...", datetime(2026, 1, 1, tzinfo=UTC)).file.name
    'a.txt'
    """

    path: str
    size: int
    sha256: str
    modified: datetime
    raw: bytes | None = None

    @property
    def file(self) -> Path:
        """The path, to be opened."""
        return files.to_path(self.path, self.raw)


class FileChangePublisher:
    """Tells what becomes of files, as the agent of this name.

    `postponed` are files that could not be told yet; `unreadable` are paths with the reason why nothing can be
    said of them: what was told of them stands. `links` are links to files: the system's notices name the file that
    changed, not the links to it.
    """

    def __init__(self, bus: EventBus, name: str, journal: FileJournal, mounts: Mounts, folders: Sequence[str]) -> None:
        self.journal = journal
        self.mounts = mounts
        self.postponed: set[str] = set()
        self.unreadable: dict[str, str] = {}
        self.links: set[str] = set()
        self._folders = folders
        self._bus = bus
        self._name = name

    async def begin(self) -> None:
        """Read what was told, and finish what was just being told when the last process ended."""
        await self.journal.load()
        await self.mounts.load()
        await self._finish(await self._already_published())

    async def publish_changes(self, suspects: Iterable[str]) -> int:
        """Look at these files, and tell what has become of them; return how many were told."""
        count = 0
        # Files of one note come together, so that each note is written once or twice.
        waiting = sorted(suspects, key=lambda path: (bucket(path), path))
        while waiting:
            batch = waiting[:BATCH]
            outcomes, unmounted = await in_thread(self._read, batch)
            waiting = waiting[len(outcomes) :]
            for path, outcome in outcomes:
                if not below_any(path, unmounted):
                    self._note(path, outcome)
            await self.journal.save()
            count += len(self.journal.unfinished())
            await self._finish()
        return count

    def _read(self, stop: threading.Event, paths: Sequence[str]) -> tuple[list[tuple[str, Outcome]], frozenset[str]]:
        """Read the first of these files: at least one, and as many as `PATIENCE` allows.

        Returns them with the folders that were unmounted afterwards: a disk may be unmounted during the reads.
        """
        outcomes: list[tuple[str, Outcome]] = []
        held = files.held_open()
        began = time.monotonic()
        for path in paths:
            outcomes.append((path, files.read(path, self.journal.content(path), held, self._folders, stop)))
            if stop.is_set() or time.monotonic() - began > PATIENCE:
                break
        return outcomes, self.mounts.unmounted()

    def _note(self, path: str, outcome: Outcome) -> None:
        """Note what is to be told of a file that was looked at."""
        self.postponed.discard(path)
        self.unreadable.pop(path, None)
        if isinstance(outcome, Unsettled):
            self.postponed.add(path)
        elif isinstance(outcome, OSError):
            self.unreadable[path] = describe(outcome)
        elif (entry := diff(self.journal.content(path), outcome)) is not None:
            self.journal.put(path, entry)

    async def _finish(self, published: frozenset[str] = frozenset()) -> None:
        """Publish what is noted as being told, unless it is published, then note that it is told."""
        unfinished = self.journal.unfinished()
        for kind in KINDS:
            chosen = [
                (path, entry.content, entry.pending[1])
                for path, entry in unfinished.items()
                if entry.pending is not None and entry.pending[0] == kind and entry.pending[1] not in published
            ]
            await self._bus.publish_many(
                kind,
                self._name,
                [_change(path, content) for path, content, _ in chosen],
                keys=[_key(path) for path, _, _ in chosen],
                ids=[id for _, _, id in chosen],
            )
        for path, entry in unfinished.items():
            deleted = entry.pending is not None and entry.pending[0] == _DELETED
            self.journal.put(path, None if deleted else FileState(entry.content))
        await self.journal.save()

    async def _already_published(self) -> frozenset[str]:
        """Ids of what is in its stream, but not noted as told: the bus knows an id again for a day only."""
        found = set()
        for entry in self.journal.unfinished().values():
            if entry.pending is not None:
                kind, id = entry.pending
                try:
                    await self._bus.get(kind, id)
                except NotFound:
                    continue
                found.add(id)
        return frozenset(found)


def diff(known: Content | None, found: Content | None) -> FileState | None:
    """The entry that says what is to be told of a file, or only how it was read; None where all is as it was known.

    >>> diff(None, Content(0, 1, 1, b"")).pending[0]
    'file_created'
    """
    if found is None:
        return None if known is None else FileState(known, (_DELETED, new_id()))
    if known is None:
        return FileState(found, (_CREATED, new_id()))
    if known.sha256 != found.sha256:
        return FileState(found, (_MODIFIED, new_id()))
    return None if found == known else FileState(found)


async def in_thread(
    call: Callable[Concatenate[threading.Event, Arguments], Result],
    *arguments: Arguments.args,
    **named: Arguments.kwargs,
) -> Result:
    """Call it in a thread, with an event that tells it to end where nobody waits any more."""
    stop = threading.Event()
    try:
        return await threads.in_thread(lambda: call(stop, *arguments, **named))
    finally:
        stop.set()


def _change(path: str, content: Content) -> FileChange:
    modified = datetime.fromtimestamp(content.modified / 1e9, UTC)
    return FileChange(files.as_text(path), content.size, content.sha256.hex(), modified, files.raw(path))


def _key(path: str) -> str:
    """The path; where that is too long for a key, its hash."""
    text = files.as_text(path)
    return text if len(text) <= LONGEST_KEY else f"sha256:{hashlib.sha256(os.fsencode(path)).hexdigest()}"

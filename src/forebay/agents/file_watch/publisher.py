"""Publishes changes of files: read, compare with the journal, save as pending, publish, save as published."""

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

BATCH_FILES = 1000
"""The most files whose changes are published together."""
BATCH_SECONDS = 2.0
"""Time of reading after which the changes found so far are published."""
KEY_CHARACTERS = 512
"""The longest path that is the key of its events."""
KINDS = (EventType.FILE_CREATED.value, EventType.FILE_MODIFIED.value, EventType.FILE_DELETED.value)
_CREATED, _MODIFIED, _DELETED = KINDS


class FileChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """A change of a file: the data of `EventType.FILE_CREATED`, `FILE_MODIFIED` and `FILE_DELETED`.

    `path` is absolute, `size` in bytes, `sha256` in hexadecimal digits; those of a deleted file are from its last
    reading. A time of `modified` before 1677 or after 2262 is replaced by the nearest one within (64 bits of
    nanoseconds). If the name is not UTF-8, `path` has its odd bytes written out, and `raw` has the bytes of the path.

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
    """Publishes the changes of files, as the agent of this name.

    `postponed` are files that could not be read yet, because they are being written. `unreadable` are paths with the
    reason; their entries stay. `links` are links to files: the system's notices name the file that changed, not the
    links to it.
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
        """Read the journal, and finish the publishes that the last process left pending."""
        await self.journal.load()
        await self.mounts.load()
        await self._finish(await self._already_published())

    async def publish_changes(self, suspects: Iterable[str]) -> int:
        """Read these files, and publish their changes; return how many were published."""
        count = 0
        # Files of one note come together, so that each note is written once or twice.
        waiting = sorted(suspects, key=lambda path: (bucket(path), path))
        while waiting:
            batch = waiting[:BATCH_FILES]
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
        """Read the first of these files: at least one, and as many as `BATCH_SECONDS` allows.

        Returns them with the folders that were unmounted afterwards: a disk may be unmounted during the reads.
        """
        outcomes: list[tuple[str, Outcome]] = []
        held = files.held_open()
        began = time.monotonic()
        for path in paths:
            outcomes.append((path, files.read(path, self.journal.content(path), held, self._folders, stop)))
            if stop.is_set() or time.monotonic() - began > BATCH_SECONDS:
                break
        return outcomes, self.mounts.unmounted()

    def _note(self, path: str, outcome: Outcome) -> None:
        """Enter the change of a file into the journal."""
        self.postponed.discard(path)
        self.unreadable.pop(path, None)
        if isinstance(outcome, Unsettled):
            self.postponed.add(path)
        elif isinstance(outcome, OSError):
            self.unreadable[path] = describe(outcome)
        elif (entry := diff(self.journal.content(path), outcome)) is not None:
            self.journal.put(path, entry)

    async def _finish(self, published: frozenset[str] = frozenset()) -> None:
        """Publish the pending changes, unless they are published already, and mark them as published."""
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
        """The ids of pending changes that are in their stream: the bus recognises an id for a day only."""
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
    """The entry for a file that has changed, or was only touched; None if it is untouched.

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
    """Call it in a thread, with an event that is set when the caller does not wait any more."""
    stop = threading.Event()
    try:
        return await threads.in_thread(lambda: call(stop, *arguments, **named))
    finally:
        stop.set()


def _change(path: str, content: Content) -> FileChange:
    modified = datetime.fromtimestamp(content.modified / 1e9, UTC)
    return FileChange(files.as_text(path), content.size, content.sha256.hex(), modified, files.raw(path))


def _key(path: str) -> str:
    """The path, or its hash if it is too long for a key."""
    text = files.as_text(path)
    return text if len(text) <= KEY_CHARACTERS else f"sha256:{hashlib.sha256(os.fsencode(path)).hexdigest()}"

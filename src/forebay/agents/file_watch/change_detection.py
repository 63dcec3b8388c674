"""An agent that publishes the changes in folders, each once, also those that happened while it was down."""

from __future__ import annotations

import asyncio
import fnmatch
import os
import re
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing
from pathlib import Path

from forebay.agents.agent import BaseAgent
from forebay.agents.file_watch import files
from forebay.agents.file_watch.journal import FileJournal
from forebay.agents.file_watch.mounts import Mounts
from forebay.agents.file_watch.publisher import FileChange, FileChangePublisher, in_thread
from forebay.agents.state import notes_of
from forebay.errors import AgentError, ConfigurationError, NotFound, StoreDamaged
from forebay.event import check_seconds
from forebay.leadership import Leadership
from forebay.reason import describe
from forebay.restarts import Backoff, Restarts
from forebay.signals import LoopFailed

__all__ = ["ChangeDetectionAgent", "FileChange"]

CHECK_SECONDS = 0.2
"""Time between two checks that the folders exist, and between two tries to read a file that is being written."""
MOST_FOLDERS = 50
"""The most changed folders that are scanned one by one; after more, everything is scanned."""


class NoticesFailed(Exception):
    """The system reports changes no longer; the cause of this error says why."""


class ChangeDetectionAgent(BaseAgent):
    """Watches folders, with their subfolders, and publishes the changes of their files.

    It publishes `file_created`, `file_modified` and `file_deleted`, with a `FileChange` as data and the path as key.
    Its journal is kept in the store: after a restart, however it ended, it publishes the changes since then, and none
    twice. A file counts as modified when its content differs. A file that exists only between two scans is not
    published. A file that is being written is published once it stays unchanged for the time that it takes to read it.

    `ignore` are patterns for names of files and folders, such as "*.tmp" or ".git". Changes within `debounce` seconds
    are read together. Each `rescan` seconds it scans everything, for changes that the system did not report. Several
    processes may run it: one of them watches, and another takes over when that one has been silent for `lease` seconds.

    A folder that does not exist at the first start is a `ConfigurationError`. A folder that vanishes later counts as
    empty, and the agent as unhealthy, until it is back. While the disk of known files is not mounted, no change of them
    is published, and the agent is unhealthy. A link to a file within the folders counts as a file, with the content of
    its target (so an update of a Kubernetes ConfigMap is a modified file); other links are not followed. Files that
    this very process has open (such as the bus's own database) are not read. Needs the extra `agents`. If the system
    does not report changes (network drives, some containers), set WATCHFILES_FORCE_POLLING=true.

    Put one in a module, say `watcher` in app/agents.py, and run it with `forebay agents app.agents:watcher`:

    >>> watcher = ChangeDetectionAgent("inbox", "outbox", ignore=("*.part", ".git"))
    >>> watcher.name, [folder.name for folder in watcher.folders]
    ('change_detection', ['inbox', 'outbox'])
    """

    def __init__(
        self,
        *folders: str | os.PathLike[str],
        name: str = "change_detection",
        ignore: Iterable[str] = (),
        debounce: float = 0.4,
        rescan: float = 60.0,
        lease: float = 5.0,
    ) -> None:
        self.name = name
        self._folders = files.resolved(_folder(folder) for folder in folders)
        if not self._folders:
            raise ConfigurationError("ChangeDetectionAgent(): name the folders that it is to watch")
        self._ignored = _matcher(ignore)
        self._debounce = check_seconds("debounce", debounce, least=0.001)
        self._rescan = check_seconds("rescan", rescan, least=0.1)
        self._lease = check_seconds("lease", lease, least=0.1)
        self._seen: set[str] = set()
        self._publisher: FileChangePublisher | None = None
        self._present: dict[str, tuple[int, int] | None] = {}
        self._unmounted: frozenset[str] = frozenset()
        self._blind: str | None = None

    @property
    def folders(self) -> tuple[Path, ...]:
        """The watched folders: real paths, without those within another one of them."""
        return tuple(map(Path, self._folders))

    async def initialize(self) -> None:
        """Check that it can work; `ConfigurationError` if it never could."""
        try:
            import watchfiles  # noqa: F401  # used later, by `_notices`
        except ImportError as error:
            raise ConfigurationError(
                "ChangeDetectionAgent needs watchfiles: install the extra, pip install 'forebay[agents]'"
            ) from error
        missing = [folder for folder in self._folders if folder not in self._seen and not files.identity(folder)]
        if missing:
            journal = FileJournal(self.bus.store, self._stream)
            await journal.load()
            for folder in missing:
                if not any(journal.within(folder)):
                    raise ConfigurationError(
                        f"there is no folder {files.as_text(folder)}; make it, or name the one that is meant"
                    )

    async def health(self) -> object:
        """Whether this process watches, and how many files; `AgentError` if it cannot read all of them."""
        publisher = self._publisher
        if publisher is None:
            return {"watching": False}
        ails = [
            _ailing(folder) for folder, found in self._present.items() if not found and folder not in self._unmounted
        ]
        ails += [str(_not_mounted(folder)) for folder in sorted(self._unmounted)]
        # A copy, because threads add to it.
        unreadable = list(publisher.unreadable.items())
        if unreadable:
            path, reason = unreadable[0]
            ails.append(f"{len(unreadable)} paths cannot be read, such as {files.as_text(path)}: {reason}")
        if self._blind is not None:
            ails.append(self._blind)
        if ails:
            raise AgentError("; ".join(ails))
        return {"watching": True, "files": len(publisher.journal)}

    async def work(self) -> None:
        """Watch while this process leads."""
        leadership = Leadership(self.bus.store, notes_of(self.name), seconds=self._lease)
        while True:
            async with leadership.lead():
                try:
                    await self._watch()
                finally:
                    self._publisher, self._present, self._unmounted, self._blind = None, {}, frozenset(), None

    @property
    def _stream(self) -> str:
        return f"{notes_of(self.name)}.files"

    # Following what happens.

    async def _watch(self) -> None:
        """Follow the folders; start again when one appears or vanishes, or when the notices fail."""
        store = self.bus.store
        mounts = Mounts(store, notes_of(self.name), self._folders)
        publisher = FileChangePublisher(self.bus, self.name, FileJournal(store, self._stream), mounts, self._folders)
        await publisher.begin()
        if damaged := publisher.journal.damaged:
            self._complain(
                StoreDamaged(
                    f"the journal of some files cannot be read (notes {', '.join(damaged)} of {self._stream}):"
                    " their changes are published once more"
                ),
                0.0,
            )
        self._publisher = publisher
        restarts = Restarts(backoff=Backoff(base=CHECK_SECONDS, cap=30.0))
        while True:
            await self._folders_changed(publisher)
            try:
                await self._follow(publisher, restarts)
            except NoticesFailed as failed:
                error, delay = failed.__cause__ or failed, restarts.failed()
                self._blind = (
                    f"the system's notices of changes have failed ({describe(error)}), so it scans everything "
                    "from time to time; set WATCHFILES_FORCE_POLLING=true, or raise fs.inotify.max_user_watches"
                )
                self._complain(error, delay)
                await self._scan(publisher)
                await asyncio.sleep(delay)

    async def _follow(self, publisher: FileChangePublisher, restarts: Restarts) -> None:
        """Publish changes until other folders exist than before, or the system has missed a change."""
        due = None
        async with aclosing(self._notices()) as notices:
            # The first scan comes after the first notices, so that no change is missed between them.
            async for noticed in notices:
                if await self._folders_changed(publisher):
                    return
                all_of_it = False
                if noticed or publisher.postponed:
                    suspects = await in_thread(self._suspects, publisher, noticed)
                    all_of_it = suspects is None
                    if await publisher.publish_changes(suspects or ()):
                        restarts.worked()
                if all_of_it or due is None or time.monotonic() >= due:
                    began = time.monotonic()
                    missed = await self._scan(publisher)
                    if missed and due is not None and not all_of_it:
                        return
                    self._blind = None
                    # Scans take at most a twentieth of the time.
                    due = time.monotonic() + max(self._rescan, 20 * (time.monotonic() - began))

    async def _notices(self) -> AsyncGenerator[set[str]]:
        """The changed paths that the system reports; an empty set each `CHECK_SECONDS`."""
        folders = [folder for folder, found in self._present.items() if found]
        while not folders:
            yield set()
            await asyncio.sleep(CHECK_SECONDS)
        from watchfiles import awatch

        wait = max(1, round(self._debounce * 1000))
        changes = awatch(
            *folders, watch_filter=None, debounce=wait, step=min(50, wait),
            rust_timeout=round(CHECK_SECONDS * 1000), yield_on_timeout=True, ignore_permission_denied=True,
        )  # fmt: skip
        async with aclosing(changes):
            try:
                async for noticed in changes:
                    yield {path for _, path in noticed}
            except (OSError, RuntimeError) as error:
                # A folder has just vanished, or the system's limit of watches is reached.
                raise NoticesFailed from error
            except ExceptionGroup as group:
                # A name is not UTF-8.
                raise NoticesFailed from group.exceptions[0]

    async def _folders_changed(self, publisher: FileChangePublisher) -> bool:
        """Check which folders exist; return whether that has changed, or one is another folder now."""
        before, unmounted = self._present, self._unmounted
        self._present, self._unmounted = await in_thread(self._look_for_folders, publisher.mounts)
        for place in self._unmounted - unmounted:
            self._complain(_not_mounted(place), CHECK_SECONDS)
        for folder, found in self._present.items():
            if found is not None:
                self._seen.add(folder)
            elif folder not in self._unmounted and before.get(folder, True) is not None:
                self._complain(NotFound(f"{_ailing(folder)}; its files count as deleted"), CHECK_SECONDS)
        return (before, unmounted) != (self._present, self._unmounted)

    def _look_for_folders(
        self, _stop: threading.Event, mounts: Mounts
    ) -> tuple[dict[str, tuple[int, int] | None], frozenset[str]]:
        return {folder: files.identity(folder) for folder in self._folders}, mounts.unmounted()

    def _complain(self, error: BaseException, delay: float) -> None:
        self.bus.signals.emit(LoopFailed("watch", "files", self.name, error, delay))

    # Finding the files that may have changed.

    def _suspects(self, stop: threading.Event, publisher: FileChangePublisher, noticed: set[str]) -> set[str] | None:
        """The files to read because of these notices, and the postponed ones; None if all must be read."""
        suspects, folders = publisher.postponed | publisher.links, set[str]()
        real: dict[str, str] = {}
        for notice in noticed:
            # The path of a notice may go through a link.
            parent, name = os.path.split(notice)
            if parent not in real:
                real[parent] = os.path.realpath(parent)
            path = os.path.join(real[parent], name)  # noqa: PTH118  # texts are quicker than paths, for many files
            if not self._watches(path):
                continue
            if publisher.journal.get(path) is not None or os.path.isfile(path):  # noqa: PTH113  # texts are quicker than paths, for many files
                suspects.add(path)
                if os.path.islink(path):  # noqa: PTH114  # texts are quicker than paths, for many files
                    publisher.links.add(path)
            else:
                folders.add(path)
        if len(folders) > MOST_FOLDERS:
            return None
        for folder in folders:
            suspects.update(publisher.journal.within(folder))
            if not os.path.islink(folder):  # noqa: PTH114  # texts are quicker than paths, for many files
                suspects.update(path for path, _ in self._walk(publisher, folder, stop))
        return suspects

    def _watches(self, path: str) -> bool:
        """Whether the path lies within its folders, and is not ignored."""
        for folder in self._folders:
            if files.below(path, folder):
                return not any(map(self._ignored, Path(path).relative_to(folder).parts))
        return False

    def _walk(
        self, publisher: FileChangePublisher, folder: str, stop: threading.Event
    ) -> Iterator[tuple[str, os.stat_result]]:
        def unreadable(path: str, error: OSError) -> None:
            publisher.unreadable[path] = describe(error)

        found = files.walk(folder, folders=self._folders, ignored=self._ignored, unreadable=unreadable, stop=stop)
        for path, status, is_link in found:
            if is_link:
                publisher.links.add(path)
            yield path, status

    async def _scan(self, publisher: FileChangePublisher) -> int:
        """Scan everything; return how many changes were published."""
        suspects = await in_thread(self._all_suspects, publisher)
        await publisher.mounts.save()
        return await publisher.publish_changes(suspects)

    def _all_suspects(self, stop: threading.Event, publisher: FileChangePublisher) -> set[str]:
        """The files that differ from the journal."""
        journal, unmounted = publisher.journal, publisher.mounts.unmounted()
        publisher.unreadable.clear()
        publisher.links.clear()
        found, suspects = set[str](), set(publisher.postponed)
        devices: dict[int, str] = {}
        for folder in self._folders:
            for path, status in self._walk(publisher, folder, stop):
                found.add(path)
                if path not in publisher.links:
                    devices.setdefault(status.st_dev, path)
                known = journal.content(path)
                if known is None or not files.untouched(known, status):
                    suspects.add(path)
        for folder in self._folders:
            suspects.update(path for path in journal.within(folder) if path not in found and self._watches(path))
        publisher.mounts.update(found, {folder: set(journal.within(folder)) for folder in unmounted}, devices)
        return suspects


def _ailing(folder: str) -> str:
    return f"the folder {files.as_text(folder)} is gone"


def _not_mounted(folder: str) -> NotFound:
    return NotFound(
        f"the disk of {files.as_text(folder)} is not mounted; mount it: until then no change below it is published"
    )


def _folder(folder: object) -> str | os.PathLike[str]:
    if not isinstance(folder, (str, os.PathLike)) or not os.fspath(folder):
        raise ConfigurationError(f"ChangeDetectionAgent({folder!r}): a folder is named by its path")
    return folder


def _matcher(patterns: Iterable[str]) -> Callable[[str], bool]:
    if isinstance(patterns, str):
        raise ConfigurationError(f"ignore={patterns!r}: give a tuple of patterns, such as ('*.tmp',)")
    joined = "|".join(fnmatch.translate(pattern) for pattern in patterns)
    match = re.compile(joined or r"(?!)").match
    return lambda name: match(name) is not None

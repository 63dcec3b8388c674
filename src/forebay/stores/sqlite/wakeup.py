"""Wakes readers when their stream has grown, by this process or by another one."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import apsw

from forebay.errors import StoreError
from forebay.stores.sqlite.database import Database
from forebay.stores.sqlite.guard import Line
from forebay.stores.sqlite.inotify import FileWatch

INTERVAL = 0.003
"""Seconds between two looks at whether another process has committed anything, where nothing tells of writes."""
IDLE_INTERVAL = 0.02
"""The same, where writes are told of and there are none: only in case that one was missed."""
CHECK_SECONDS = 0.5
"""The time between two looks at whether the files were changed."""
CLOSE_INTERVAL = 0.0003
"""The same, just after a write: what is written is committed any moment. The longer ago, the rarer."""
STIRRED = 0.02
"""Seconds after a write in which its commit is expected."""


class Wakeup:
    """Who waits for which stream.

    Commits of this process are reported through `tell`. Those of others are noticed by a thread
    that polls SQLite's `data_version`, only while somebody waits, and looks at the streams when it
    has changed. It looks closely when somebody writes to the log, and else hardly ever.
    """

    def __init__(self, database: Database, namespace: str) -> None:
        self._database = database
        self._namespace = namespace
        self._loop = asyncio.get_running_loop()
        self._waiters: dict[str, list[asyncio.Event]] = {}
        self._heads: dict[str, int | None] = {}
        self._sleepers = 0
        self._needed = threading.Event()
        self._stopped = False
        self._version: int | None = None
        self._checked_at = 0.0
        self._thread = threading.Thread(target=self._watch, name="forebay-sqlite-watcher", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def expect(self, stream: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever the stream may have grown since now."""
        woken = asyncio.Event()
        waiters = self._waiters.setdefault(stream, [])
        waiters.append(woken)
        try:
            yield woken
        finally:
            waiters.remove(woken)
            if not waiters:
                self._waiters.pop(stream, None)

    async def wait(self, woken: asyncio.Event, timeout: float) -> None:
        """Wait until `woken` is set, at most `timeout` seconds."""
        self._sleepers += 1
        self._needed.set()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await woken.wait()
        finally:
            self._sleepers -= 1
            if not self._sleepers and not self._stopped:
                self._needed.clear()

    def tell(self, heads: dict[str, int]) -> None:
        """This process changed these streams; their last positions."""
        self._heads |= heads
        self._wake(heads)

    def finish(self) -> None:
        """Wake all who wait, and let the thread end."""
        self.stop()
        self._wake(self._waiters)

    def stop(self) -> None:
        """Let the thread end. From any thread."""
        self._stopped = True
        self._needed.set()

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()

    def _wake(self, streams: Iterable[str]) -> None:
        for stream in streams:
            for woken in self._waiters.get(stream, ()):
                woken.set()

    def _watch(self) -> None:
        guard = self._database.guard
        line = self._database.line(query_only=True)
        interval = PollInterval(guard.log)
        generation = guard.generation
        while not self._stopped:
            if not self._needed.wait(CHECK_SECONDS):
                # Before another process opens what is left, and goes on without what is only open here.
                with contextlib.suppress(apsw.Error, StoreError):
                    guard.make_sure()
                continue
            interval.wait()
            waited_for = list(self._waiters)
            try:
                grown = guard.run(partial(self._look, line, waited_for))
            except (apsw.Error, StoreError):
                # What is wrong, the readers hear from their own moves.
                grown = waited_for
                time.sleep(0.1)
            if generation != guard.generation:
                # There is another log now, and another connection.
                interval.close()
                interval, generation = PollInterval(guard.log), guard.generation
                self._version, grown = None, waited_for
            if grown:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(self._wake, grown)
        interval.close()
        guard.end(line)

    def _look(self, line: Line, waited_for: list[str]) -> list[str]:
        with line as connection:
            now = time.monotonic()
            if now - self._checked_at >= CHECK_SECONDS:
                line.check()
                self._checked_at = now
            seen = connection.pragma("data_version")
            # A stream that was never looked at may have grown before its first waiter came.
            if seen == self._version and self._heads.keys() >= set(waited_for):
                return []
            grown = self._grown(connection, waited_for)
            self._version = seen
            return grown

    def _grown(self, connection: apsw.Connection, streams: list[str]) -> list[str]:
        grown = []
        for stream in streams:
            rows: list[tuple[Any, ...]] = connection.execute(
                "SELECT (SELECT max(seq) FROM entries WHERE stream_id = s.id) FROM streams s"
                " WHERE s.namespace = ? AND s.name = ?",
                (self._namespace, stream),
            ).fetchall()
            head = rows[0][0] if rows else None
            if stream not in self._heads or self._heads[stream] != head:
                self._heads[stream] = head
                grown.append(stream)
        return grown


class PollInterval:
    """How often to look at a file that is committed to by way of this log."""

    def __init__(self, log: Path) -> None:
        self._watch = FileWatch(log)
        self._stirred_at = 0.0

    def wait(self) -> None:
        """Wait until it is time for the next look."""
        if not self._watch.is_supported:
            time.sleep(INTERVAL)
            return
        ago = time.monotonic() - self._stirred_at
        if ago < STIRRED:
            time.sleep(max(CLOSE_INTERVAL, ago / 8))
            is_stirred = self._watch.wait(0.0)
        else:
            is_stirred = self._watch.wait(IDLE_INTERVAL)
        if is_stirred:
            self._stirred_at = time.monotonic()

    def close(self) -> None:
        """Watch no more."""
        self._watch.close()

"""Wakes readers when their stream has grown, by this process or by another one."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import apsw

from forebay.errors import StoreError
from forebay.stores.sqlite.database import Database

INTERVAL = 0.003
"""Seconds between two looks at whether another process has committed anything."""


class Wakeup:
    """Who waits for which stream.

    Commits of this process are reported through `tell`. Those of others are noticed by a thread
    that polls SQLite's `data_version`, only while somebody waits, and looks at the streams when it
    has changed.
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
        self._thread: threading.Thread | None = None

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
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="forebay-sqlite-watcher", daemon=True)
            self._thread.start()
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
        self._stopped = True
        self._needed.set()
        self._wake(self._waiters)

    def join(self) -> None:
        """Wait until the thread has ended."""
        if self._thread is not None:
            self._thread.join()

    def _wake(self, streams: Iterable[str]) -> None:
        for stream in streams:
            for woken in self._waiters.get(stream, ()):
                woken.set()

    def _watch(self) -> None:
        connection: apsw.Connection | None = None
        version = None
        while self._needed.wait() and not self._stopped:
            time.sleep(INTERVAL)
            waited_for = list(self._waiters)
            try:
                connection = connection or self._database.connect(query_only=True)
                seen = connection.pragma("data_version")
                # A stream that was never looked at may have grown before its first waiter came.
                if seen == version and self._heads.keys() >= set(waited_for):
                    continue
                grown = self._grown(connection, waited_for)
                version = seen
            except (apsw.Error, StoreError):
                # What is wrong, the readers hear from their own moves.
                grown = waited_for
                time.sleep(0.1)
            if grown:
                self._loop.call_soon_threadsafe(self._wake, grown)
        if connection is not None:
            connection.close()

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

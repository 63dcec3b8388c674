"""A thread that watches the file for commits, by any process, and reports the streams that have grown."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import msgspec

from forebay.errors import StoreError
from forebay.payload import is_name
from forebay.stores.sqlite.database import Database
from forebay.stores.sqlite.errors import to_store_error
from forebay.stores.sqlite.guard import Line
from forebay.stores.sqlite.inotify import FileWatch
from forebay.stores.sqlite.rows import as_text

POLL_SECONDS = 0.003
"""The time between two polls where the system has no inotify."""
IDLE_POLL_SECONDS = 0.1
"""The time between two polls while inotify reports no write: only in case that it misses one."""
CHECK_SECONDS = 0.5
"""The time between two checks of the files, and between two reads of the heads of all streams."""
CLOSE_POLL_SECONDS = 0.0003
"""The time between two polls just after a write to the log; later a part of the time since that write."""
COMMIT_SECONDS = 0.8
"""The time after a write to the log in which its commit is expected: as long as a slow disk takes to flush it."""
FIRST_PART, NEXT_PART = 1 / 8, 1 / 2
"""The parts of that time: until the commit is found, and then, if there was another write, until the next one is."""
OWN_COMMIT_SECONDS = 0.002
"""The time between two polls during an own transaction: after it this process is busy with what it committed."""
ERROR_PAUSE_SECONDS = 0.1
MILLISECOND = 0.001

NEW_ENTRIES = 1_000
"""New entries that are read to find the streams that have grown; if there are more, all streams are read."""
_NEW_HEADS = """
    SELECT CASE WHEN s.namespace = ? THEN CAST(s.name AS BLOB) END, max(e.seq), count(*)
    FROM (SELECT stream_id, seq FROM entries WHERE seq > ? ORDER BY seq LIMIT ?) e
    LEFT JOIN streams s ON s.id = e.stream_id GROUP BY e.stream_id"""
_ALL_HEADS = """
    SELECT CASE WHEN namespace = ? THEN CAST(name AS BLOB) END, (SELECT max(seq) FROM entries WHERE stream_id = s.id)
    FROM streams s"""


class Growth(msgspec.Struct, frozen=True):
    """The last positions of streams that may have grown. With `is_unknown` any other stream may have, too."""

    heads: dict[str, int]
    is_unknown: bool = False


class Watcher:
    """Polls SQLite's `data_version` while it is needed, and reads which streams have grown after each commit.

    After a write to the write-ahead log it polls each 0.3 ms, and soon less often, until the commit is visible;
    otherwise each 100 ms.
    `on_growth` and `on_error` are called on the event loop. The first growth after the start, and after an error, has
    `is_unknown`: each append after it is reported.
    """

    def __init__(
        self,
        database: Database,
        namespace: str,
        on_growth: Callable[[Growth], None],
        on_error: Callable[[StoreError], None],
    ) -> None:
        self._database = database
        self._namespace = namespace
        self._on_growth = on_growth
        self._on_error = on_error
        self._loop = asyncio.get_running_loop()
        self._needed = threading.Event()
        self._stopped = False
        self._heads = _Heads(namespace)
        self._checked_at = 0.0
        self._thread = threading.Thread(target=self._run, name="forebay-sqlite-watcher", daemon=True)
        self._thread.start()

    def resume(self) -> None:
        """Watch, from now on."""
        self._needed.set()

    def pause(self) -> None:
        """Watch no more until `resume`. The commits of the meantime are reported then."""
        if not self._stopped:
            self._needed.clear()

    def stop(self) -> None:
        """Let the thread end. From any thread."""
        self._stopped = True
        self._needed.set()

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()

    def _run(self) -> None:
        guard = self._database.guard
        line = self._database.line(query_only=True)
        interval = PollInterval(guard.log)
        generation = guard.generation
        while not self._stopped:
            if not self._needed.wait(CHECK_SECONDS):
                # Heal a deleted log before another process opens the file without it.
                with contextlib.suppress(apsw.Error, StoreError):
                    guard.make_sure()
                continue
            interval.wait()
            if self._database.is_locked:
                # The write to the log is that of this store, which reports its commit itself.
                time.sleep(OWN_COMMIT_SECONDS)
                continue
            self._poll(line, interval)
            if generation != guard.generation:
                # The files were healed: the log and the connection are new.
                interval.close()
                interval, generation = PollInterval(guard.log), guard.generation
                self._heads.forget()
        interval.close()
        guard.end(line)

    def _poll(self, line: Line, interval: PollInterval) -> None:
        try:
            growth = self._database.guard.run(lambda: self._read(line, is_idle=interval.is_idle))
        except (apsw.Error, StoreError) as error:
            self._heads.forget()
            self._report(self._on_error, self._to_store_error(error))
            time.sleep(ERROR_PAUSE_SECONDS)
            return
        if growth is not None:
            interval.found_commit()
            if growth.heads or growth.is_unknown:
                self._report(self._on_growth, growth)

    def _to_store_error(self, error: apsw.Error | StoreError) -> StoreError:
        return error if isinstance(error, StoreError) else to_store_error(error, str(self._database.path))

    def _report(self, report: Callable[[Any], None], found: Growth | StoreError) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(report, found)

    def _read(self, line: Line, *, is_idle: bool) -> Growth | None:
        with line as connection:
            now = time.monotonic()
            if now - self._checked_at >= CHECK_SECONDS:
                line.check()
                self._checked_at = now
            return self._heads.read(connection, now, is_idle=is_idle)


class _Heads:
    """The last positions of the streams of the namespace, as one connection saw them last."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._version: int | None = None
        self._last = 0
        self._all_read_at = 0.0
        self._is_partial = False

    def forget(self) -> None:
        """Read everything anew."""
        self._version = None
        self._last = 0

    def read(self, connection: apsw.Connection, now: float, *, is_idle: bool) -> Growth | None:
        """The streams that may have grown since the last call; None if nothing was committed since.

        The heads of all streams are read while `is_idle`: no commit is expected.
        """
        version = connection.pragma("data_version")
        is_unknown = self._version is None
        if version == self._version:
            is_due = self._is_partial and is_idle and now - self._all_read_at >= CHECK_SECONDS
            return self._read_all(connection, now) if is_due else None
        growth = self._read_all(connection, now) if is_unknown else self._read_new(connection, now)
        self._version = version
        return msgspec.structs.replace(growth, is_unknown=is_unknown)

    def _read_new(self, connection: apsw.Connection, now: float) -> Growth:
        rows: list[tuple[Any, ...]] = connection.execute(
            _NEW_HEADS, (self._namespace, self._last, NEW_ENTRIES)
        ).fetchall()
        if sum(count for _, _, count in rows) >= NEW_ENTRIES:
            return self._read_all(connection, now)
        # An entry that a copy or another program inserted at a lower position is found by `_read_all`.
        self._is_partial = True
        return self._growth([(name, head) for name, head, _ in rows])

    def _read_all(self, connection: apsw.Connection, now: float) -> Growth:
        rows = connection.execute(_ALL_HEADS, (self._namespace,)).fetchall()
        self._is_partial = False
        self._all_read_at = now
        return self._growth(rows)

    def _growth(self, rows: list[tuple[Any, ...]]) -> Growth:
        self._last = max([self._last, *(head for _, head in rows if head is not None)])
        named = ((as_text(raw), head) for raw, head in rows if raw is not None and head is not None)
        return Growth({name: head for name, head in named if name is not None and is_name(name)})


class PollInterval:
    """The time until the next poll of a file that is committed to by way of this log."""

    def __init__(self, log: Path) -> None:
        self._watch = FileWatch(log)
        self._written_at = 0.0
        self._expected_until = 0.0
        self._part = FIRST_PART
        self._has_new_write = False

    @property
    def is_idle(self) -> bool:
        """True if no commit is expected now."""
        return time.monotonic() >= self._expected_until

    def wait(self) -> None:
        """Wait until it is time for the next poll."""
        if not self._watch.is_supported:
            time.sleep(POLL_SECONDS)
            return
        now = time.monotonic()
        seconds = IDLE_POLL_SECONDS
        if now < self._expected_until:
            seconds = min((now - self._written_at) * self._part, IDLE_POLL_SECONDS)
            # At least so long, however many writes the log gets. A new write ends the rest, which is in milliseconds.
            time.sleep(CLOSE_POLL_SECONDS if seconds > MILLISECOND else max(seconds, CLOSE_POLL_SECONDS))
        self._has_new_write = self._watch.wait(seconds if seconds > MILLISECOND else 0.0)
        if self._has_new_write:
            self._written_at = time.monotonic()
            self._expected_until = self._written_at + COMMIT_SECONDS
            self._part = FIRST_PART

    def found_commit(self) -> None:
        """A poll found a commit: no other one is expected, unless there was a write just before that poll."""
        if self._has_new_write:
            self._part = NEXT_PART
        else:
            self._expected_until = 0.0

    def close(self) -> None:
        """Watch no more."""
        self._watch.close()

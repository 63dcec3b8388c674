"""Detects changes to the files of an open database that SQLite did not make, and heals if nothing is lost.

    check ---> Changed ---> heal ---> the connections are opened anew
                             |
                             +------> StoreDamaged, until the files are put back

SQLite assumes that no other program touches its three files while they are open. Before and after each transaction
`check` compares the inodes at the paths; the log with its index; and, if the database was written to, whether SQLite
has copied the log into it since, and whether its state is later than before. The table `writers` identifies a state:
each transaction sets the row of its writer to the next number.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar
from weakref import WeakValueDictionary

import apsw

from forebay.errors import StoreDamaged, StoreError, StoreUnavailable
from forebay.stores.sqlite.errors import SUSPICIOUS
from forebay.stores.sqlite.walindex import LOG_HEADER, REGION, SALTS, Index, WalIndex

Result = TypeVar("Result")

WRITERS_KEPT = 32
"""The number of rows in `writers`: those that have written last."""
_TRIES = 6
HEAL_PAUSE_SECONDS = 0.3
"""Seconds between two attempts to heal: time for other processes to detect the change, and to do their part."""
_MOVED = "it, or the -wal or -shm file beside it, was moved, replaced or deleted"
_STAMP = "UPDATE writers SET number = (SELECT max(number) FROM writers) + 1 WHERE id = ? RETURNING number"
_FIRST_STAMP = "INSERT INTO writers (id, number) SELECT ?, max(number) + 1 FROM writers RETURNING number"
_FORGET = "DELETE FROM writers WHERE number <= (SELECT number FROM writers ORDER BY number DESC LIMIT 1 OFFSET ?)"

Writers = Mapping[int, int]
"""A state of the file: the number of the last transaction of each writer."""


class Changed(Exception):
    """The files are not as SQLite left them. The text says how they differ."""


class Line:
    """One connection to the file, for one thread at a time. After a heal it is a new connection."""

    def __init__(self, guard: Guard, connect: Callable[[], apsw.Connection]) -> None:
        self.guard = guard
        self.lock = threading.Lock()
        self.connection: apsw.Connection | None = None
        self.index: WalIndex | None = None
        self.connect = connect
        self._writer = secrets.randbits(62)

    def __enter__(self) -> apsw.Connection:
        """The connection, for this thread. Raises `Changed` if the files have to be healed first."""
        self.lock.acquire()
        try:
            self.guard.check_places(is_open=self.connection is not None)
            return self.connection or self.open()
        except BaseException:
            self.lock.release()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.lock.release()

    def open(self) -> apsw.Connection:
        """Connect. The caller holds the lock."""
        self.adopt(self.connect())
        assert self.connection is not None
        return self.connection

    def reopen(self) -> apsw.Connection:
        """Connect again, then close the old connection. The caller holds the lock."""
        old = self.connection
        fresh = self.open()
        if old is not None:
            with contextlib.suppress(apsw.Error):
                old.close(True)
        return fresh

    def adopt(self, connection: apsw.Connection) -> None:
        """Use this connection."""
        try:
            self.index = WalIndex(connection)
        except BaseException:
            connection.close()
            raise
        self.connection = connection

    def check(self) -> None:
        """Raise `Changed` if the files are not as SQLite left them. The caller holds the lock."""
        if self.connection is not None and self.index is not None:
            self.guard.check(self.connection, self.index)

    def check_after(self, error: Exception) -> None:
        """Raise `Changed` if changed files are the cause of this error. The caller holds the lock."""
        if isinstance(error, SUSPICIOUS):
            self.check()

    def stamp(self) -> int:
        """Give the open transaction its number."""
        assert self.connection is not None
        number: int | None = self.connection.execute(_STAMP, (self._writer,)).get
        # None: this writer has not written yet, or WRITERS_KEPT others have written since.
        return number or self._first_stamp(self.connection)

    def _first_stamp(self, connection: apsw.Connection) -> int:
        number: int = connection.execute(_FIRST_STAMP, (self._writer,)).get
        connection.execute(_FORGET, (WRITERS_KEPT,))
        return number

    def has(self, number: int) -> bool:
        """True if the healed files contain the transaction of that number."""
        return self.guard.has(self._writer, number)

    def acknowledge(self, number: int) -> None:
        """Record that the transaction of that number is committed, and the files are unchanged."""
        self.guard.acknowledge(self._writer, number)

    def close(self, *, copy_log: bool) -> None:
        """Close the connection. With `copy_log` the last connection of all copies the log into the database."""
        connection, self.connection, self.index = self.connection, None, None
        if connection is not None:
            with contextlib.suppress(apsw.Error):
                connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, int(not copy_log))
                connection.close(True)


class _Places(NamedTuple):
    """The device and the inode of the file at each of the three paths."""

    database: tuple[int, int]
    log: tuple[int, int]
    memory: tuple[int, int]


class Guard:
    """One database file as this process has it open: all its connections, and the known state of its three files.

    SQLite shares locks and memory between the connections of a process. So they are closed and opened together.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_lost = False
        self.reason = ""
        self.generation = 0
        """Counts the heals: after each one the connections are new."""
        self._log = path.with_name(f"{path.name}-wal")
        self._index = path.with_name(f"{path.name}-shm")
        self._lines: list[Line] = []
        self._lock = threading.Lock()
        self._healing = threading.Lock()
        self._places: _Places | None = None
        self._index_size = REGION
        self._frames = (b"", 0)
        self._is_index_wrong = False
        self._written: tuple[int, int] | None = None
        self._copied: Index | None = None
        self._stored: Writers = {}
        """The state of the database without its log, as far as the index says that the log is copied into it."""
        self._floor: Writers = {}
        """The state of the database when the log began, or an older one."""
        self._known: dict[int, int] = {}
        self._refused: tuple[object, ...] = ()

    @staticmethod
    def of(path: Path) -> Guard:
        """The guard of a file: one in each process."""
        with _registry.lock:
            return _registry.guards.setdefault((os.getpid(), path), Guard(path))

    @property
    def log(self) -> Path:
        """The write-ahead log."""
        return self._log

    def line(self, connect: Callable[[], apsw.Connection]) -> Line:
        """A new line, which connects when it is first used."""
        line = Line(self, connect)
        with self._lock:
            self._lines.append(line)
        return line

    def begin(self, line: Line, *, read_only: bool) -> None:
        """Record the files as they are now if this is the first connection; otherwise check them.

        A read-only store may open a file in a folder without write access. Then the file is not guarded.
        """
        assert line.connection is not None
        assert line.index is not None
        with self._lock:
            if self._places is None:
                try:
                    self._adopt(line.connection, line.index, read_only=read_only)
                except OSError as error:
                    if not read_only:
                        raise Changed(_MOVED) from error
                return
        with line.lock:
            line.check()

    def end(self, line: Line) -> None:
        """Close a line, which is not opened again."""
        if line.connection is not None:
            with contextlib.suppress(StoreError):
                self._make_sure(line)
        with line.lock:
            line.close(copy_log=self._may_copy_log(line))
        with self._lock:
            self._lines.remove(line)
            if not self._lines:
                # This process has no connection left, so a backup may be put in the place of the file.
                self._places = None
                self.is_lost = False
                self._known = {}

    def make_sure(self) -> None:
        """Heal, if the files were changed since another store of this process opened them."""
        with self._lock:
            lines = list(self._lines) if self._places is not None else []
        for line in lines[:1]:
            self._make_sure(line)

    def _make_sure(self, line: Line) -> None:
        def check() -> None:
            with line:
                line.check()

        self.run(check)

    def run(self, action: Callable[[], Result]) -> Result:
        """Run the action. If it raises `Changed`, heal the files and run it again."""
        changed: Changed | None = None
        seen = self.generation
        for number in range(_TRIES):
            if number > 1:
                time.sleep(HEAL_PAUSE_SECONDS)
            try:
                if changed is not None:
                    self.heal(changed, seen)
                    seen = self.generation
                return action()
            except Changed as found:
                changed = found
        raise self._damaged(f"{changed}, again and again")

    def has(self, writer: int, number: int) -> bool:
        """True if the files that `heal` found contain the transaction of that writer with that number."""
        return self._known.get(writer, 0) >= number

    def acknowledge(self, writer: int, number: int) -> None:
        """Record that the transaction of that writer with that number is committed, and the files are unchanged."""
        with self._lock:
            self._known[writer] = number

    def check_places(self, *, is_open: bool) -> None:
        """Raise `Changed` if it would do harm to connect, or to go on with an open connection."""
        if self.is_lost:
            raise Changed(self.reason)
        with self._lock:
            if self._places is None:
                return
            try:
                size = self._index.stat().st_size
                places = self._places if is_open else self._identify()
            except OSError as error:
                raise Changed(_MOVED) from error
            if places != self._places:
                raise Changed(_MOVED)
            self._check_size(size)

    def _check_size(self, size: int) -> None:
        if size < self._index_size:
            # A read of the part that is missing would kill the process (SIGBUS).
            os.truncate(self._index, self._index_size)
            self._is_index_wrong = True
            raise Changed("the -shm file beside it was cut short")
        self._index_size = size

    def check(self, connection: apsw.Connection, index: WalIndex) -> None:
        """Raise `Changed` if the files are not as SQLite left them. Certain only while no other process writes."""
        with self._lock:
            try:
                self._check(connection, index)
            except OSError as error:
                raise Changed(_MOVED) from error
            except apsw.Error as error:
                raise Changed(f"it cannot be looked at ({error})") from error

    def _check(self, connection: apsw.Connection, index: WalIndex) -> None:
        if self._places is None:
            return
        # In this order: meanwhile SQLite may only enlarge the log, and it updates the index before it copies.
        index_status = self._index.stat()
        state = self._read_index(index, index_status)
        log_status, status = self._log.stat(), self.path.stat()
        if _Places(_identity(status), _identity(log_status), _identity(index_status)) != self._places:
            raise Changed(_MOVED)
        if state is not None and state.frames:
            _, header = connection.read("main", 1, 0, LOG_HEADER)
            if log_status.st_size < state.log_size or header[SALTS] != state.salts:
                raise Changed("the -wal file beside it was overwritten or cut short")
        self._check_written(connection, index, (status.st_mtime_ns, status.st_size), state)

    def _check_written(
        self, connection: apsw.Connection, index: WalIndex, written: tuple[int, int], state: Index | None
    ) -> None:
        """Raise `Changed` unless only SQLite wrote to the database: it copies the log into it, to a later state."""
        copied = None if state is None else state.without_frames()
        before = self._copied or copied
        is_new_log = copied is not None and before is not None and copied.salts != before.salts
        if copied is not None and before is not None and not is_new_log and copied.copied < before.copied:
            # A process that rebuilt the index copies the log from its start again, at first to an older state.
            self._stored = self._floor
        if written != self._written:
            if copied is not None and copied == self._copied and not copied.is_copying:
                raise Changed("it was written to by something other than SQLite")
            stored = self._read_stored()
            if stored is None and (now := index.read()) != state:
                return  # the next check is soon enough
            if stored is None and now is not None and now.is_between:
                # The database cannot be read without its log now. Later changes by other programs are detected.
                if not now.is_copying:
                    self._floor = self._stored if is_new_log else self._floor
                    self._copied, self._written = copied, written
                return
            if stored is None or not contains(stored, self._floor if copied is None else self._stored):
                raise Changed("it was overwritten")
            if not contains(_writers(connection), stored):
                raise Changed("it was overwritten")
            # More may have been copied since the index was read.
            is_exact = copied is not None and not copied.is_copying and _without_frames(index) == copied
            if is_new_log:
                self._floor = stored if is_exact and copied is not None and not copied.copied else self._stored
            if is_exact:
                self._stored = stored
            self._written = written
        elif is_new_log:
            self._floor = self._stored
        self._copied = copied or before

    def _read_index(self, index: WalIndex, status: os.stat_result) -> Index | None:
        if self._places is None or _identity(status) != self._places.memory:
            return None
        self._check_size(status.st_size)
        state = index.read()
        if state is not None:
            if state.salts == self._frames[0] and state.frames < self._frames[1]:
                self._is_index_wrong = True
                raise Changed("the -shm file beside it was overwritten")
            self._frames = (state.salts, state.frames)
        return state

    def heal(self, changed: Changed, seen: int) -> None:
        """Open the connections again, after `Changed` in the generation `seen`. The caller holds no line.

        Raises `StoreDamaged` if the files at the paths lack a transaction that this process has acknowledged or read.
        """
        with self._healing, _alone_in(self.path.parent), contextlib.ExitStack() as locks:
            if self.generation != seen and not self.is_lost:
                return
            with self._lock:
                lines = list(self._lines)
            for line in lines:
                locks.enter_context(line.lock)
            opened = [line for line in lines if line.connection is not None]
            if opened and self._is_in_order(opened[0]):
                return
            self._heal(lines, opened, changed)

    def _is_in_order(self, line: Line) -> bool:
        """True if the files are unchanged after all: checked while no process writes."""
        assert line.connection is not None
        assert line.index is not None
        try:
            if self._identify() != self._places or self._index.stat().st_size < self._index_size:
                return False
            if self._is_index_wrong:
                with _locked(line.connection):
                    line.index.empty()
                self._is_index_wrong = False
                self._frames = (b"", 0)
            with _locked(line.connection):
                line.check()
                self._learn(_writers(line.connection))
        except (Changed, apsw.Error, OSError):
            return False
        return True

    def _heal(self, lines: list[Line], opened: list[Line], changed: Changed) -> None:
        try:
            database = _identity(self.path.stat())
        except OSError as error:
            raise self._damaged(f"{changed}, and nothing is at its path") from error
        stored = self._read_stored(patient=True)
        places, is_same_index = self._places, False
        with contextlib.suppress(OSError):
            is_same_index = places is not None and _identity(self._index.stat()) == places.memory
        is_same = places is not None and database == places.database
        state = opened[0].index.read() if opened and opened[0].index is not None else None
        if stored is None and is_same and state is not None and state.is_between:
            stored = self._stored  # with its log it may be whole: the check after the opening decides
        if stored is None or not contains(stored, self._stored if is_same_index else self._floor):
            raise self._damaged(f"{changed}, and the file at its path now is an older state, or another file")
        try:
            if opened and places is not None and is_same and self._is_log_to_be_saved(places, opened[0]):
                self._save_log(opened[0])
        except apsw.Error as error:
            raise Changed(str(changed)) from error
        for line in opened:
            line.close(copy_log=False)
        self.is_lost, self.reason = True, str(changed)
        try:
            fresh = Line(self, lines[0].connect)
            try:
                connection = fresh.open()
                self._check_whole(connection, changed)
                for line in opened or lines[:1]:
                    line.open()
                assert fresh.index is not None
                with self._lock:
                    self._adopt(connection, fresh.index, read_only=False)
            finally:
                fresh.close(copy_log=False)
        except (apsw.Error, Changed, StoreUnavailable, OSError) as error:
            raise Changed(str(changed)) from error
        self.is_lost = False
        self.generation += 1

    def _is_log_to_be_saved(self, places: _Places, line: Line) -> bool:
        """True if the log was deleted while it is open here, and the index belongs to it."""
        try:
            status = self._log.stat()
            # A process that opens the file meanwhile makes an empty log, and waits while the index is this process's.
            is_missing = not status.st_size and _identity(status) != places.log
            is_missing = is_missing and _identity(self._index.stat()) == places.memory
        except OSError:
            is_missing = True
        state = None if line.index is None else line.index.read()
        if not is_missing or state is None or not state.frames or line.connection is None:
            return False
        return line.connection.read("main", 1, 0, LOG_HEADER)[1][SALTS] == state.salts

    def _save_log(self, line: Line) -> None:
        """Copy a deleted log, which is still open here, into the database."""
        assert line.connection is not None
        [(is_blocked, *_)] = line.connection.execute("PRAGMA main.wal_checkpoint(TRUNCATE)").fetchall()
        if is_blocked:
            raise apsw.BusyError("another process reads the log that was deleted")

    def _check_whole(self, connection: apsw.Connection, changed: Changed) -> None:
        connection.execute("BEGIN")
        try:
            if not contains(_writers(connection), self._known):
                raise self._damaged(f"{changed}, and the file at its path now lacks the last events")
            status = self.path.stat()
            state = (_identity(status), status.st_mtime_ns, status.st_size, self._log.stat().st_size)
            if state == self._refused or connection.execute("PRAGMA integrity_check(1)").get != "ok":
                self._refused = state
                raise self._damaged(f"{changed}, and the file at its path now is not whole")
        finally:
            connection.execute("ROLLBACK")

    def _damaged(self, found: str) -> StoreDamaged:
        return StoreDamaged(
            f"{self.path}: {found}: nothing more is written to it. Put back the files that were there; or, to go on"
            " with the file that is there now, or a backup, stop all programs that have it open, delete the -wal and"
            " -shm files beside it, and open the store again"
        )

    def _adopt(self, connection: apsw.Connection, index: WalIndex, *, read_only: bool) -> None:
        """Record the files as they are now: each check compares with this record."""
        places, mapped = self._identify(), index.inode()
        if mapped not in (None, places.memory[1]):
            raise Changed("another connection of this process has a -shm file open that was deleted")
        state = index.read()
        if state is not None and state.is_copying and not read_only:
            # A new index does not say how much of the log was copied into the database.
            connection.execute("PRAGMA main.wal_checkpoint(PASSIVE)").fetchall()
            state = index.read()
        status = self.path.stat()
        self._places = places
        self._index_size = self._index.stat().st_size
        self._frames, self._is_index_wrong = (b"", 0), False
        self._written, self._copied = (status.st_mtime_ns, status.st_size), state and state.without_frames()
        stored = self._read_stored() or {}
        is_exact = state is not None and not state.is_copying and _without_frames(index) == self._copied
        self._stored = stored if is_exact else {}
        self._floor = stored if is_exact and state is not None and not state.copied else {}
        self._learn(_writers(connection))

    def _learn(self, writers: Writers) -> None:
        self._known = dict(writers)

    def _read_stored(self, *, patient: bool = False) -> Writers | None:
        """The writers in the database without its log; None if that is not a whole database.

        With `patient` it is read again for as long as another process takes to copy the log into it.
        """
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        for tries_left in reversed(range(_TRIES if patient else 1)):
            try:
                connection = apsw.Connection(f"{self.path.as_uri()}?immutable=1", flags=flags)
                try:
                    return _writers(connection)
                finally:
                    connection.close()
            except apsw.SQLError:
                return {}  # no log was copied into it yet
            except apsw.Error:
                if tries_left:
                    time.sleep(HEAL_PAUSE_SECONDS / _TRIES)
        return None

    def _may_copy_log(self, line: Line) -> bool:
        """True if the close of this connection may copy the log: not into another state of the file."""
        try:
            line.check()
        except Changed:
            places = self._places
            with contextlib.suppress(OSError):
                if places is not None and _identity(self._log.stat()) == places.log:
                    return not self.path.exists() or _identity(self.path.stat()) != places.database
            return False
        except apsw.Error:
            return False
        return True

    def _identify(self) -> _Places:
        return _Places(*(_identity(path.stat()) for path in (self.path, self._log, self._index)))


class _Registry:
    """The guards of this process."""

    def __init__(self) -> None:
        self.guards: WeakValueDictionary[tuple[int, Path], Guard] = WeakValueDictionary()
        self.lock = threading.Lock()

    def renew(self) -> None:
        """After a fork a thread of the other process may hold the lock."""
        self.lock = threading.Lock()


_registry = _Registry()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_registry.renew)


@contextlib.contextmanager
def _locked(connection: apsw.Connection) -> Iterator[None]:
    """Hold the write lock."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Let one process at a time heal, if the system can lock a folder."""
    try:
        flock = importlib.import_module("fcntl").flock
        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield
        return
    try:
        flock(descriptor, 2)  # LOCK_EX
        yield
    finally:
        os.close(descriptor)


def contains(later: Writers, earlier: Writers) -> bool:
    """True if a state has all transactions of another one. Writers whose rows it has removed count as contained."""
    forgotten = min(later.values()) if len(later) >= WRITERS_KEPT else 0
    return all(later[id] >= number if id in later else number < forgotten for id, number in earlier.items())


def _writers(connection: apsw.Connection) -> Writers:
    rows: list[tuple[Any, ...]] = connection.execute("SELECT id, number FROM writers").fetchall()
    return dict(rows)


def _without_frames(index: WalIndex) -> Index | None:
    state = index.read()
    return None if state is None else state.without_frames()


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino

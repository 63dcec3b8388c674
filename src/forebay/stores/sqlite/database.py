"""The database file: check its path, open it, bring its tables up to date."""

from __future__ import annotations

import os
import random
import stat
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import apsw

from forebay.errors import ConfigurationError, NotFound, StoreDamaged, StoreDenied, StoreError
from forebay.stores.sqlite.clock import Clock
from forebay.stores.sqlite.errors import to_store_error
from forebay.stores.sqlite.filesystem import is_mount_point, network_filesystem
from forebay.stores.sqlite.guard import Guard, Line
from forebay.stores.sqlite.log import MOMENTS
from forebay.stores.sqlite.schema import VERSION, check_schema, script

APPLICATION = 0x666F7265
WAL_LIMIT = 64 * 1024 * 1024
"""The size in bytes to which SQLite truncates a larger write-ahead log when it starts the log again."""

Synchronous = Literal["full", "normal"]


class Database:
    """One database file, as one store uses it.

    Only SQLite opens the file: the close of a plain `open` would drop the locks that SQLite holds on it, and events of
    other processes would be lost.
    """

    def __init__(
        self,
        path: Path,
        *,
        synchronous: Synchronous,
        busy_timeout: float,
        any_file_system: bool,
        clock: Clock,
        read_only: bool = False,
    ) -> None:
        self.path = path
        self.clock = clock
        self.guard = Guard.of(path)
        self._synchronous = synchronous
        self._busy_timeout = busy_timeout
        self._any_file_system = any_file_system
        self._read_only = read_only
        self.epoch = clock.wall() - clock.now()
        self.is_locked = False
        """True if the writer of this store has the write lock now, so that no other process can commit."""

    def create(self) -> Line:
        """Open the file; a store that writes makes the file and its tables if they are missing."""
        self.guard.make_sure()
        is_new = not _exists(self.path)
        if is_new and self._read_only:
            raise NotFound(f"{self.path} does not exist: nothing was ever published there; name the store's file")
        if is_mount_point(self.path):
            raise ConfigurationError(
                f"{self.path} is itself a mount point, and SQLite keeps a part of the events in files beside it, which"
                f" are not mounted: mount the folder, here {self.path.parent}, in its place"
            )
        if not self._any_file_system and (kind := network_filesystem(self.path)) is not None:
            raise ConfigurationError(
                f"{self.path} is on a file system of type {kind}, where several processes can damage a database:"
                " use a local disk; or, if no other process uses it, say ?any_file_system=true in the URL"
            )
        try:
            connection = self._open(0 if self._read_only else apsw.SQLITE_OPEN_CREATE)
            try:
                if is_new:
                    # While it is empty. SQLite gives the files beside it the same rights.
                    self.path.chmod(0o600)
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            return self._watch(connection)
        except apsw.Error as error:
            raise self._explain(error) from error
        except UnicodeDecodeError as error:
            raise StoreDamaged(f"{self.path}: it is damaged: restore a backup ({error})") from error

    def line(self, *, query_only: bool = False) -> Line:
        """Another connection to the file that `create` opened; it connects when it is first used."""
        return self.guard.line(partial(self._connect, query_only=query_only))

    def _connect(self, *, query_only: bool = False) -> apsw.Connection:
        try:
            connection = self._open()
            if query_only:
                connection.pragma("query_only", True)
        except apsw.Error as error:
            raise self._explain(error) from error
        return connection

    def _watch(self, connection: apsw.Connection) -> Line:
        line = self.line()
        with line.lock:
            line.adopt(connection)
        try:
            self.guard.run(partial(self.guard.begin, line, read_only=self._read_only))
        except BaseException:
            self.guard.end(line)
            raise
        return line

    def _open(self, flags: int = 0) -> apsw.Connection:
        connection = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READWRITE | flags)
        busy_handler = BusyHandler(self._busy_timeout)
        connection.set_busy_handler(busy_handler)
        if self._read_only:
            connection.pragma("query_only", True)
        elif connection.readonly("main"):
            connection.close()
            raise StoreDenied(f"{self.path} may only be read: give this user the right to write to it")
        # SQLite would plan a query anew for each new value of a parameter, which takes ten times as long as the query.
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
        connection.pragma("trusted_schema", False)
        connection.pragma("cell_size_check", True)
        connection.pragma("synchronous", self._synchronous)
        # On macOS `fsync` leaves data in the cache of the disk; `fullfsync` flushes that, too. No effect elsewhere.
        connection.pragma("fullfsync", True)
        connection.pragma("checkpoint_fullfsync", True)
        connection.pragma("journal_size_limit", WAL_LIMIT)
        return connection

    def _prepare(self, connection: apsw.Connection) -> None:
        connection.execute("BEGIN")  # one state of the file: another process may be making the tables
        try:
            version = self._check_origin(connection)
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        if self._read_only:
            self._check_readable(version)
            if _boot_id(connection) == self.clock.boot_id:
                self._take_epoch(connection)
            return
        mode = self._insist(lambda: connection.pragma("journal_mode", "wal"))
        if mode != "wal":
            raise ConfigurationError(
                f"{self.path}: the file system cannot share memory between processes, found journal mode {mode!r};"
                " use a local disk"
            )
        boot_id = self.clock.boot_id
        is_known = connection.pragma("user_version") == VERSION and _boot_id(connection) == boot_id
        if is_known and self._take_epoch(connection):
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Another process may have done it while this one waited for the lock.
            for version in range(self._check_origin(connection) + 1, VERSION + 1):
                connection.execute(script(version))
            if _boot_id(connection) != boot_id:
                self._begin_anew(connection)
            elif not self._take_epoch(connection):
                self._set_epoch(connection)
            connection.execute("COMMIT")
            # The guard identifies the file by the database without its log.
            connection.execute("PRAGMA main.wal_checkpoint(PASSIVE)").fetchall()
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _check_readable(self, version: int) -> None:
        """Raise if a read-only store would have to make or upgrade the tables of this version."""
        if not version:
            raise NotFound(f"{self.path} is empty: nothing was ever published there; name the store's file")
        if version != VERSION:
            raise ConfigurationError(
                f"{self.path} was written by an older forebay (format {version}, this one reads {VERSION}): upgrade the"
                " programs that use it, and the first one to open it brings it up to date"
            )

    def _begin_anew(self, connection: apsw.Connection) -> None:
        """Convert the times of an earlier start of the machine: its clock began at 0 again, and leases have expired."""
        connection.execute("UPDATE pending SET leased_at = 0 WHERE consumer IS NOT NULL")
        connection.execute("UPDATE pending SET due = 0 WHERE consumer IS NULL")
        delayed = "UPDATE scheduled SET due = ? + at - ? WHERE due < ?"
        connection.execute(delayed, (self.clock.now(), self.clock.wall(), MOMENTS))
        connection.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('boot_id', ?)", (self.clock.boot_id,))
        self._set_epoch(connection)

    def _set_epoch(self, connection: apsw.Connection) -> None:
        """Set the file's Unix time by the wall clock: the first process after a start of the machine does, for all."""
        self.epoch = self.clock.wall() - self.clock.now()
        connection.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('epoch', ?)", (repr(self.epoch),))

    def _take_epoch(self, connection: apsw.Connection) -> bool:
        """Use the epoch in the file; False if it has none yet."""
        sql = "SELECT CAST(value AS REAL) FROM meta WHERE name = 'epoch'"
        rows: list[tuple[Any, ...]] = connection.execute(sql).fetchall()
        if rows:
            self.epoch = rows[0][0]
        return bool(rows)

    def _check_origin(self, connection: apsw.Connection) -> int:
        """The version of forebay's tables in the file, 0 if the file is empty. Raises for files of other programs."""
        version: int = connection.pragma("user_version")
        application: int = connection.pragma("application_id")
        if application == APPLICATION:
            if version > VERSION:
                raise ConfigurationError(
                    f"{self.path} was written by a newer forebay (format {version}, this one knows {VERSION}):"
                    " upgrade forebay"
                )
            if version < 0:
                raise StoreDamaged(
                    f"{self.path}: it has the format {version}, which no forebay wrote: restore a backup"
                )
            check_schema(connection, version, str(self.path))
            return version
        tables = connection.execute(
            "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite^_%' ESCAPE '^'"
            " LIMIT 4"
        ).fetchall()
        if ("events",) in tables:
            raise ConfigurationError(
                f"{self.path} is another program's database, with a table 'events': give forebay a file of its own, and"
                " if this one has the single-table format (`processed`, `retry_count`), `forebay copy` takes it over"
            )
        if tables:
            raise ConfigurationError(
                f"{self.path} is another program's database, with the tables"
                f" {', '.join(repr(name) for (name,) in tables)}, ...: give forebay a file of its own"
            )
        if application or version:
            raise ConfigurationError(
                f"{self.path} is another program's database, without tables yet (application_id {application},"
                f" user_version {version}): give forebay a file of its own"
            )
        return 0

    def _insist(self, action: Callable[[], str]) -> str:
        """Repeat an action that raises BusyError without a call of the busy handler: the change of the journal mode."""
        busy_handler = BusyHandler(self._busy_timeout)
        tries = 0
        while True:
            try:
                return action()
            except apsw.BusyError:
                if not busy_handler(tries):
                    raise
                tries += 1

    def _explain(self, error: apsw.Error) -> StoreError:
        folder = self.path.parent
        if isinstance(error, (apsw.CantOpenError, apsw.ReadOnlyError)):
            if not os.access(folder, os.W_OK | os.X_OK):
                return StoreDenied(f"{folder} may not be written to, and SQLite keeps files beside {self.path}")
            if not os.access(self.path, os.R_OK | os.W_OK):
                return StoreDenied(f"{self.path} may not be read and written by this user")
        return to_store_error(error, str(self.path))


class BusyHandler:
    """A busy handler that waits up to 2 ms, with jitter, until `timeout` seconds are over.

    SQLite's own handler backs off to 100 ms, so a process that has waited long loses to those that just came.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._since = 0.0

    def __call__(self, tries: int) -> bool:
        now = time.monotonic()
        if tries == 0:
            self._since = now
        if now - self._since >= self._timeout:
            return False
        time.sleep(random.uniform(0.0002, min(0.002, 0.0003 + 0.0001 * tries)))
        return True


def normalise(path: str | os.PathLike[str]) -> Path:
    """The absolute path of a database file, with `~` and links resolved. Raises if the text does not name a file."""
    text = os.fsdecode(path)
    if not text or "\0" in text or text.startswith((":memory:", "file:")):
        raise ConfigurationError(f"{path!r} names no file; give a path such as events.db, or use a MemoryStore")
    try:
        return Path(text).expanduser().resolve()
    except RuntimeError as error:
        raise ConfigurationError(f"{text!r} leads nowhere: {error}") from error


def _exists(path: Path) -> bool:
    """True if the file exists. Raises if the path is not a file and cannot become one."""
    folder = path.parent
    try:
        if not folder.is_dir():
            raise ConfigurationError(f"the folder {folder} does not exist: create it, or name another file")
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StoreDenied(f"{path} cannot be looked at: {error.strerror}") from error
    if stat.S_ISDIR(mode):
        raise ConfigurationError(f"{path} is a folder: name a file in it, such as {path / 'events.db'}")
    if not stat.S_ISREG(mode):
        raise ConfigurationError(f"{path} is not a regular file: name another one")
    return True


def _boot_id(connection: apsw.Connection) -> str | None:
    rows: list[tuple[Any, ...]] = connection.execute("SELECT value FROM meta WHERE name = 'boot_id'").fetchall()
    return rows[0][0] if rows else None

"""The StoreError of each error of SQLite: one table."""

from __future__ import annotations

import errno

import apsw

from forebay.errors import StoreDamaged, StoreDenied, StoreError, StoreFull, StoreUnavailable

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SUSPICIOUS = (apsw.CorruptError, apsw.NotADBError, apsw.IOError, apsw.SQLError, apsw.CantOpenError)
"""Errors that SQLite raises, among other reasons, if another program has changed the files."""
_FLUSHES = (apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_DIR_FSYNC)

_MEANING: tuple[tuple[type[apsw.Error], type[StoreError], str], ...] = (
    (apsw.BusyError, StoreUnavailable, "another process kept it locked for longer than busy_timeout"),
    (apsw.LockedError, StoreUnavailable, "another connection kept it locked"),
    (apsw.FullError, StoreFull, "its disk is full: make room, and try again"),
    (apsw.ReadOnlyError, StoreDenied, "it may only be read: give this user the right to write to it and its folder"),
    (apsw.PermissionsError, StoreDenied, "the system refused access"),
    (apsw.AuthError, StoreDenied, "the system refused access"),
    (apsw.NotADBError, StoreDamaged, "it is not an SQLite database: name another file"),
    (apsw.CorruptError, StoreDamaged, "it is damaged: restore a backup"),
    (apsw.FormatError, StoreDamaged, "it is damaged: restore a backup"),
    (apsw.SQLError, StoreDamaged, "its tables are not those that forebay made"),
    (apsw.ConstraintError, StoreDamaged, "its tables are not those that forebay made"),
    (apsw.CantOpenError, StoreUnavailable, "it, or a file beside it, cannot be opened"),
    (apsw.IOError, StoreUnavailable, "its disk failed to read or write"),
    (apsw.NoMemError, StoreUnavailable, "there is no memory left"),
)


def is_out_of_room(error: apsw.Error, system_error: int) -> bool:
    """True if a write failed because the disk, a quota or a limit on file sizes left no room.

    False for a failed flush: the data written before it may be on the disk.
    """
    if getattr(error, "extendedresult", 0) in _FLUSHES:
        return False
    return isinstance(error, apsw.FullError) or (isinstance(error, apsw.IOError) and system_error in _NO_ROOM)


def to_store_error(error: apsw.Error, path: str, system_error: int = 0) -> StoreError:
    """The StoreError for an error of SQLite. `system_error` is the errno of its cause, if any."""
    if is_out_of_room(error, system_error):
        return StoreFull(f"{path}: there is no room for it to grow: make room, and try again ({error})")
    for kind, meaning, words in _MEANING:
        if isinstance(error, kind):
            return meaning(f"{path}: {words} ({error})")
    return StoreError(f"{path}: {error}")

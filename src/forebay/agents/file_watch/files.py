"""The files on the disk: which ones a folder holds, and their contents. Runs in threads.

Only regular files count, and links to such files within the watched folders, as a Kubernetes ConfigMap has them.
Links to folders, and links that lead out of the watched folders, are not followed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

BLOCK_BYTES = 1024 * 1024
"""Bytes of a file that are in memory at a time."""
TIMESTAMP_NANOSECONDS = 2_000_000_000
"""Resolution of the coarsest timestamps of files: two changes within it may have the same one (FAT: two seconds)."""
_FLAGS = os.O_RDONLY
for _name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):
    _FLAGS |= getattr(os, _name, 0)  # not every system has all of them
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class Content(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The content of a file at the time when it was read. Times in nanoseconds since 1970, within 64 bits.

    `changed` is when its inode last changed; 0 if that was so shortly before that a later change might have the same
    timestamp.
    """

    size: int
    modified: int
    changed: int
    sha256: bytes


class Unsettled(Exception):
    """A file whose change cannot be published yet: it is being written, or open in this process."""


class Stopped(Exception):
    """The caller does not wait any more."""


Outcome = Content | None | Unsettled | OSError
"""The result of reading a path: its content, None if it is not a file, or the reason why it cannot be read."""


def read(
    path: str, known: Content | None, held: frozenset[tuple[int, int]], folders: Sequence[str], stop: threading.Event
) -> Outcome:
    """Return the content of the file now; None if it does not exist. If it is untouched since, that is `known`."""
    try:
        place = real_place(path, folders)
        if place is None:
            return None
        status = os.lstat(place)
        if not stat.S_ISREG(status.st_mode):
            return None
        if known is not None and untouched(known, status):
            return known
        # Closing any handle on a file releases all locks of this process on it, also those of SQLite.
        if (status.st_dev, status.st_ino) in held:
            return Unsettled(f"{path} is open in this process")
        return _digest(place, stop)
    except OSError as error:
        return None if error.errno in _GONE else error
    except Unsettled as error:
        return error


def real_place(path: str, folders: Sequence[str]) -> str | None:
    """The path, with a link resolved; None if the link leads out of the folders."""
    if not os.path.islink(path):  # noqa: PTH114  # texts are quicker than paths, for many files
        return path
    place = os.path.realpath(path)
    return place if any(below(place, folder) for folder in folders) else None


def untouched(known: Content, status: os.stat_result) -> bool:
    """Whether the file is certainly unchanged since it was read."""
    return (known.size, known.modified, known.changed) == _times(status)


def _digest(path: str, stop: threading.Event) -> Content | None:
    # The file may have been replaced by a link, or by a pipe without a writer.
    handle = os.open(path, _FLAGS)
    with open(handle, "rb", buffering=0) as file:  # noqa: PTH123  # by its handle
        before = os.fstat(handle)
        if not stat.S_ISREG(before.st_mode):
            return None
        now = time.time_ns()
        digest = hashlib.sha256()
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            if stop.is_set():
                raise Stopped
            if _times(os.fstat(handle)) != _times(before):
                raise Unsettled(f"{path} is being written")
        if _times(os.fstat(handle)) != _times(before):
            raise Unsettled(f"{path} is being written")
    sure = now - before.st_ctime_ns > TIMESTAMP_NANOSECONDS
    size, modified, changed = _times(before)
    return Content(size, modified, changed if sure else 0, digest.digest())


def _times(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, _within_64_bits(status.st_mtime_ns), _within_64_bits(status.st_ctime_ns)


def _within_64_bits(time: int) -> int:
    # Archives and other systems hold times from 1601 to beyond the year 30000.
    return max(-(2**63), min(time, 2**63 - 1))


def held_open() -> frozenset[tuple[int, int]]:
    """Device and inode of each regular file that this process has open; empty if the system does not list them."""
    found = set()
    try:
        handles = os.listdir("/dev/fd")  # noqa: PTH208  # names are enough
    except OSError:
        return frozenset()
    for handle in handles:
        try:
            status = os.fstat(int(handle))
        except (OSError, ValueError):
            continue
        if stat.S_ISREG(status.st_mode):
            found.add((status.st_dev, status.st_ino))
    return frozenset(found)


def identity(folder: str) -> tuple[int, int] | None:
    """Device and inode of the folder; None if it does not exist. A folder that cannot be read counts as existing."""
    try:
        status = os.lstat(folder)
    except OSError as error:
        return None if error.errno in _GONE else (0, 0)
    return (status.st_dev, status.st_ino) if stat.S_ISDIR(status.st_mode) else None


def walk(
    folder: str,
    *,
    folders: Sequence[str],
    ignored: Callable[[str], bool],
    unreadable: Callable[[str, OSError], None],
    stop: threading.Event,
) -> Iterator[tuple[str, os.stat_result, bool]]:
    """The files in and below the folder, except `ignored` names: path, status, and whether it is a link.

    A link within the `folders` has the status of its target.
    """
    left = [folder]
    while left:
        if stop.is_set():
            raise Stopped
        here = left.pop()
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    if ignored(entry.name):
                        continue
                    try:
                        if entry.is_dir(follow_symlinks=False):
                            left.append(entry.path)
                        elif (found := _file(entry, folders)) is not None:
                            yield found
                    except OSError as error:
                        # The other entries of the folder are still read.
                        if error.errno not in _GONE:
                            unreadable(entry.path, error)
        except OSError as error:
            if error.errno not in _GONE:
                unreadable(here, error)


def _file(entry: os.DirEntry[str], folders: Sequence[str]) -> tuple[str, os.stat_result, bool] | None:
    if entry.is_file(follow_symlinks=False):
        return entry.path, entry.stat(follow_symlinks=False), False
    if not entry.is_symlink() or (place := real_place(entry.path, folders)) is None:
        return None
    status = os.lstat(place)
    return (entry.path, status, True) if stat.S_ISREG(status.st_mode) else None


def resolved(folders: Iterable[str | os.PathLike[str]]) -> tuple[str, ...]:
    """The folders' real paths, without those that lie within another one of them."""
    paths = sorted({os.path.realpath(folder) for folder in folders})
    return tuple(path for path in paths if not any(path != other and below(path, other) for other in paths))


def below(path: str, folder: str) -> bool:
    """Whether the path is the folder, or lies within it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def as_text(path: str) -> str:
    """The path for people and JSON: bytes that are not UTF-8 are written as \\xff."""
    return os.fsencode(path).decode(errors="backslashreplace")


def raw(path: str) -> bytes | None:
    """The bytes of the path, unless they are UTF-8."""
    name = os.fsencode(path)
    return None if as_text(path) == path else name


def to_path(text: str, name: bytes | None) -> Path:
    """The path that `as_text` and `raw` were made of."""
    return Path(text if name is None else os.fsdecode(name))

"""A disk that remembers its writes and flushes, and can fail: an SQLite file system of its own.

The state after a power failure is made from the log: all that was flushed, and of the rest nothing, all, or
some of it, torn at sectors. SQLite's own tests work the same way.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import apsw

SECTOR = 512


class Write(NamedTuple):
    """Bytes that were written to a file; None: it was cut to `offset` bytes."""

    file: str
    offset: int
    data: bytes | None


class Flush(NamedTuple):
    """A file was flushed: everything written to it before survives."""

    file: str


class Delete(NamedTuple):
    """A file was deleted."""

    file: str


class Acknowledged(NamedTuple):
    """The publisher heard that this event is stored."""

    id: str


Operation = Write | Flush | Delete | Acknowledged


class Disk(apsw.VFS):
    """The default file system of SQLite, watched. `fail_at` counts the calls to come until one raises `error`.

    With `late` the call that fails has done its work all the same. While the disk is `full` no write succeeds.
    """

    def __init__(self) -> None:
        self.log: list[Operation] = []
        self.fail_at: int | None = None
        self.error: type[apsw.Error] = apsw.IOError
        self.late = False
        self.full = False
        super().__init__("watched", "unix", makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802  # SQLite's name
        return _File(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802  # SQLite's name
        super().xDelete(filename, syncdir)
        self.log.append(Delete(filename))

    def fails(self) -> bool:
        """Whether this call is the one to fail."""
        if self.fail_at is None:
            return False
        self.fail_at -= 1
        return not self.fail_at


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: Any, flags: list[int]) -> None:
        self._disk = disk
        self._name = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        super().__init__("unix", name, flags)

    def _do(self, operation: Write | Flush, act: Any, *arguments: Any) -> None:
        if self._disk.full and isinstance(operation, Write):
            raise apsw.FullError("the disk is full")
        fails = self._disk.fails()
        if fails and not self._disk.late:
            raise self._disk.error("the disk is broken")
        act(*arguments)
        self._disk.log.append(operation)
        if fails:
            raise self._disk.error("the disk is broken")

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802  # SQLite's name
        self._do(Write(self._name, offset, bytes(data)), super().xWrite, data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802  # SQLite's name
        self._do(Write(self._name, newsize, None), super().xTruncate, newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802  # SQLite's name
        self._do(Flush(self._name), super().xSync, flags)


@contextmanager
def watched_disk() -> Iterator[Disk]:
    """All files that are opened meanwhile are on this disk."""
    disk = Disk()
    try:
        yield disk
    finally:
        gc.collect()
        disk.unregister()


def after_power_loss(
    log: list[Operation], moment: int, kept: Literal["nothing", "all", "some"], chance: random.Random
) -> dict[str, bytes]:
    """The files as the disk has them when the power fails before the operation number `moment`."""
    safe: dict[str, bytearray] = {}
    pending: dict[str, list[Write]] = {}
    for operation in log[:moment]:
        match operation:
            case Write(file):
                pending.setdefault(file, []).append(operation)
            case Flush(file):
                _apply(safe.setdefault(file, bytearray()), pending.pop(file, []))
            case Delete(file):
                safe.pop(file, None)
                pending.pop(file, None)
    for file, writes in pending.items():
        _apply(safe.setdefault(file, bytearray()), _survivors(writes, kept, chance))
    return {file: bytes(content) for file, content in safe.items()}


def _survivors(writes: list[Write], kept: str, chance: random.Random) -> Iterator[Write]:
    for write in writes:
        if kept == "all" or (kept == "some" and chance.random() < 0.5):
            torn = kept == "some" and write.data is not None and chance.random() < 0.3
            yield write._replace(data=write.data[: SECTOR * chance.randrange(8)]) if torn and write.data else write


def _apply(content: bytearray, writes: Any) -> None:
    for write in writes:
        if write.data is None:
            del content[write.offset :]
            continue
        content.extend(bytes(max(0, write.offset - len(content))))
        content[write.offset : write.offset + len(write.data)] = write.data


def put(files: dict[str, bytes], folder: Path) -> Path:
    """Write these files into a folder; the path of the database among them."""
    database = folder / "events.db"
    for name, content in files.items():
        (folder / Path(name).name).write_bytes(content)
    return database

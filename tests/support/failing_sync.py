"""A file system for SQLite whose flushes fail."""

from __future__ import annotations

import gc
from typing import Any

import apsw


class FailingSync(apsw.VFS):
    """The default file system, whose flushes fail while `on`."""

    def __init__(self) -> None:
        self.on = False
        super().__init__("failing-sync", "unix", makedefault=True)

    def close(self) -> None:
        """Use the file system before again."""
        gc.collect()
        self.unregister()

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802  # SQLite's name
        """Open a file."""
        return _FailingSyncFile(self, name, flags)


class _FailingSyncFile(apsw.VFSFile):
    def __init__(self, vfs: FailingSync, name: Any, flags: list[int]) -> None:
        self._vfs = vfs
        super().__init__("unix", name, flags)

    def xSync(self, flags: int) -> None:  # noqa: N802  # SQLite's name
        if self._vfs.on:
            raise apsw.IOError("the disk is broken")
        super().xSync(flags)

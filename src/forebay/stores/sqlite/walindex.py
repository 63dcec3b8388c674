"""The index of the write-ahead log: the memory that SQLite shares between processes, through the -shm file.

It is read through SQLite's own mapping: to open and close the file would drop the locks of this process.
https://sqlite.org/walformat.html describes the layout.
"""

from __future__ import annotations

import ctypes
import re
import struct
from pathlib import Path

import apsw
import msgspec

REGION = 32768
"""The least size in bytes of the -shm file while a connection is open."""
LOG_HEADER, FRAME_HEADER = 32, 24
SALTS = slice(16, 24)
"""The slice of the salts in the header of the log."""

_SHM_MAP = 13
"""The index of `xShmMap` among the pointers of SQLite's `sqlite3_io_methods`."""
_HEADER = struct.Struct("=12xBxHI12x8s")
_COPIED = struct.Struct("=I28xI")
_HEADER_SIZE = 48
_SIZE = 136


class Index(msgspec.Struct, frozen=True):
    """The state of a log: the number of frames committed, and of those copied into the database."""

    page_size: int
    frames: int
    salts: bytes
    copied: int
    to_copy: int

    @property
    def log_size(self) -> int:
        """The least size in bytes of the log that holds these frames."""
        return LOG_HEADER + self.frames * (FRAME_HEADER + self.page_size) if self.frames else 0

    def without_frames(self) -> Index:
        """The part that changes only when frames are copied, or the log starts again."""
        return msgspec.structs.replace(self, frames=0)

    @property
    def is_copying(self) -> bool:
        """True if frames may be being copied into the database now."""
        return self.copied != self.to_copy

    @property
    def is_between(self) -> bool:
        """True if the database without its log may be a mix of states, and not whole.

        It may be while frames are copied, and after a copy that did not reach the last frame, until one does: SQLite
        copies the last frame of each page, and omits a page whose last frame may not be copied yet.
        """
        return self.is_copying or 0 < self.copied < self.frames


class WalIndex:
    """The index of one connection. Do not read it when the connection is closed or the file was cut short."""

    def __init__(self, connection: apsw.Connection) -> None:
        connection.pragma("schema_version")  # makes SQLite map the index
        self._address = _address(connection)

    def read(self) -> Index | None:
        """The state of the log; None if it changes just now, or the platform has no mapped index."""
        if self._address is None:
            return None
        text = ctypes.string_at(self._address, _SIZE)
        is_made, page_size, frames, salts = _HEADER.unpack_from(text)
        if not is_made or text[:_HEADER_SIZE] != text[_HEADER_SIZE : 2 * _HEADER_SIZE]:
            return None
        copied, to_copy = _COPIED.unpack_from(text, 2 * _HEADER_SIZE)
        return Index((page_size & 0xFE00) + ((page_size & 1) << 16), frames, salts, copied, to_copy)

    def empty(self) -> None:
        """Let SQLite rebuild the index from the log at its next access. Only while no other process can write."""
        if self._address is not None:
            ctypes.memset(self._address, 0, 2 * _HEADER_SIZE)

    def inode(self) -> int | None:
        """The inode of the mapped file on Linux; None elsewhere."""
        try:
            maps = Path("/proc/self/maps").read_text("utf-8", "surrogateescape")
        except OSError:
            return None
        for line in maps.splitlines():
            found = re.match(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ (\d+)", line)
            if found and self._address and int(found[1], 16) <= self._address < int(found[2], 16):
                return int(found[3])
        return None


def _address(connection: apsw.Connection) -> int | None:
    """The address of the first region of the index, mapped by SQLite's file system (VFS)."""
    if connection.pragma("journal_mode") != "wal":
        return None
    file = ctypes.c_void_p()
    if not connection.file_control("main", apsw.SQLITE_FCNTL_FILE_POINTER, ctypes.addressof(file)) or not file.value:
        return None
    methods = ctypes.c_void_p.from_address(file.value).value
    if not methods or ctypes.c_int.from_address(methods).value < 2:
        return None
    pointer = ctypes.c_void_p.from_address(methods + _SHM_MAP * ctypes.sizeof(ctypes.c_void_p)).value
    if not pointer:
        return None
    integer, result = ctypes.c_int, ctypes.c_void_p
    map_region = ctypes.CFUNCTYPE(integer, result, integer, integer, integer, ctypes.POINTER(result))(pointer)
    address = ctypes.c_void_p()
    failed = map_region(file.value, 0, REGION, 0, ctypes.byref(address))
    return None if failed else address.value

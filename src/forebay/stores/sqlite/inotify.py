"""Notices that somebody writes to a file, without looking at it: inotify, where the system has it."""

from __future__ import annotations

import ctypes
import os
import select
import time
from pathlib import Path

_IN_MODIFY = 0x2


class FileWatch:
    """Waits for writes to a file by any process.

    A write is noticed when it begins, before what it brings can be seen. `is_supported` is False where the
    system tells nothing, as on macOS or when its watches are used up: then `wait` only waits.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = _watch(path)
        self.is_supported = self._descriptor >= 0
        self._poll = select.poll() if self.is_supported else None
        if self._poll is not None:
            self._poll.register(self._descriptor, select.POLLIN)

    def wait(self, timeout: float) -> bool:
        """Whether there was a write since the last call, or is one within `timeout` seconds."""
        if self._poll is None:
            time.sleep(timeout)
            return False
        if not self._poll.poll(timeout * 1000):
            return False
        os.read(self._descriptor, 65536)
        return True

    def close(self) -> None:
        """Watch no more."""
        if self.is_supported:
            os.close(self._descriptor)


def _watch(path: Path) -> int:
    """A descriptor that can be read when the file is written to; -1 where there is none."""
    try:
        system = ctypes.CDLL(None, use_errno=True)
        descriptor: int = system.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if descriptor >= 0 and system.inotify_add_watch(descriptor, os.fsencode(path), _IN_MODIFY) < 0:
            os.close(descriptor)
            return -1
    except (OSError, AttributeError, TypeError):
        return -1
    return descriptor

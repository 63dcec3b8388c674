"""Reports writes to a file by any process, by inotify (Linux)."""

from __future__ import annotations

import ctypes
import os
import select
import time
from pathlib import Path

_IN_MODIFY = 0x2


class FileWatch:
    """Waits for writes to a file by any process.

    inotify fires when a write begins, before its commit is visible. `is_supported` is False if the system has no
    inotify or its watches are exhausted: then `wait` only waits.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = _watch(path)
        self.is_supported = self._descriptor >= 0
        self._poll = select.poll() if self.is_supported else None
        if self._poll is not None:
            self._poll.register(self._descriptor, select.POLLIN)

    def wait(self, timeout: float) -> bool:
        """True if the file was written to since the last call, or is written to within `timeout` seconds."""
        if self._poll is None:
            time.sleep(timeout)
            return False
        if not self._poll.poll(timeout * 1000):
            return False
        os.read(self._descriptor, 65536)
        return True

    def close(self) -> None:
        """End the watch."""
        if self.is_supported:
            os.close(self._descriptor)


def _watch(path: Path) -> int:
    """A descriptor that becomes readable when the file is written to; -1 if inotify is not available."""
    try:
        system = ctypes.CDLL(None, use_errno=True)
        descriptor: int = system.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if descriptor >= 0 and system.inotify_add_watch(descriptor, os.fsencode(path), _IN_MODIFY) < 0:
            os.close(descriptor)
            return -1
    except (OSError, AttributeError, TypeError):
        return -1
    return descriptor

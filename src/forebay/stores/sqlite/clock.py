"""The two clocks of the SQLite store, each in seconds."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol


class Clock(Protocol):
    """The source of the store's time."""

    @property
    def boot_id(self) -> str:
        """Changes whenever `now` may have begun at 0 again."""
        ...

    def now(self) -> float:
        """Seconds of a monotonic clock that all processes of the machine share."""
        ...

    def wall(self) -> float:
        """Unix time."""
        ...


class MachineClock:
    """Time since the start of the machine, sleep included, and the boot id of the kernel.

    On other systems than Linux `now` is Unix time. All processes share that, too, and it goes on over a restart, but
    setting the clock moves the leases.
    """

    def __init__(self) -> None:
        try:
            self.boot_id = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        except OSError:
            self.boot_id = ""
        if not hasattr(time, "CLOCK_BOOTTIME") or not hasattr(time, "clock_gettime"):
            self.boot_id = ""

    def now(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME) if self.boot_id else time.time()

    def wall(self) -> float:
        return time.time()

"""The clock that leases are held against."""

from __future__ import annotations

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def uptime() -> float:
    """Seconds by a clock that runs on while the process stands still, and, on Linux, while the machine sleeps."""
    return time.clock_gettime(_CLOCK)

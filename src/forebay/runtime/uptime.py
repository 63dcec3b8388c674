"""The clock that leases are held against."""

from __future__ import annotations

import time
from functools import partial

uptime = partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
"""Seconds by a clock that runs on while the process stands still, and, on Linux, while the machine sleeps."""

"""The clock by which this process measures durations."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))

boottime: Callable[[], float] = time.monotonic if _CLOCK is None else partial(time.clock_gettime, _CLOCK)
"""Seconds by a clock that cannot be set. It runs on while the process stands still, and while the machine sleeps."""

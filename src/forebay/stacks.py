"""The stack of another thread."""

from __future__ import annotations

import sys
from types import TracebackType


def stack_of(thread: int) -> TracebackType | None:
    """The stack of the thread with this identifier, as a traceback; None if it has ended."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001  # documented, for debuggers
    stack = None
    while frame is not None:
        stack = TracebackType(stack, frame, frame.f_lasti, frame.f_lineno)
        frame = frame.f_back
    return stack

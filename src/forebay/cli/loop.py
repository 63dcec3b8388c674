"""The event loop of commands that move many events."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


def run_fast(work: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop where the extra `fast` is installed, else on asyncio's own loop."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(work)
    else:
        uvloop.run(work)

"""Lines from stdin, as they come, without a thread that Ctrl-C would have to wait for."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from forebay.payload import LIMITS

CHUNK = 500
"""The most lines handed over at once."""
BLOCK = 256 * 1024


async def line_chunks(descriptor: int) -> AsyncIterator[list[tuple[int, bytes]]]:
    """The numbered lines of a file, pipe or terminal: those that are there, at most 500 at once.

    A line that outgrows every event is handed over before its end, to be refused.
    """
    rest = b""
    lines: list[tuple[int, bytes]] = []
    number = 0
    while block := await _read(descriptor):
        *whole, rest = (rest + block).split(b"\n")
        if len(rest) > LIMITS.max_bytes:
            whole.append(rest)
            rest = b""
        for line in whole:
            number += 1
            lines.append((number, line))
            if len(lines) == CHUNK:
                yield lines
                lines = []
        if lines:
            yield lines
            lines = []
    if rest:
        yield [(number + 1, rest)]


async def _read(descriptor: int) -> bytes:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
    except PermissionError:
        pass  # a plain file, which can be read at any time
    else:
        try:
            await ready.wait()
        finally:
            loop.remove_reader(descriptor)
    return os.read(descriptor, BLOCK)

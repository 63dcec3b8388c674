"""Lines from stdin, as they come, without a thread that Ctrl-C would have to wait for."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import threading
from collections.abc import AsyncIterator

from forebay.errors import MalformedEvent
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


def without_mark(line: bytes) -> bytes:
    """The line without a byte order mark in front; `MalformedEvent` if it is UTF-16 or UTF-32.

    Editors and PowerShell begin a file with a mark, and files may have been put together.
    """
    if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in line[:4]:
        raise MalformedEvent(
            "this is UTF-16 or UTF-32, as its byte order mark or its zero bytes show; write it as UTF-8, in PowerShell"
            " with `Out-File -Encoding utf8`"
        )
    return line.removeprefix(codecs.BOM_UTF8)


async def _read(descriptor: int) -> bytes:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
    except PermissionError:
        pass  # a plain file, which can be read at any time
    except NotImplementedError:
        return await _read_in_thread(descriptor)
    else:
        try:
            await ready.wait()
        finally:
            loop.remove_reader(descriptor)
    return os.read(descriptor, BLOCK)


async def _read_in_thread(descriptor: int) -> bytes:
    """For the loop of Windows. The thread is a daemon, so that Ctrl-C need not wait for it."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[bytes] = loop.create_future()

    def settle(block: bytes, error: OSError | None) -> None:
        if found.done():
            return
        if error is not None:
            found.set_exception(error)
        else:
            found.set_result(block)

    def read() -> None:
        block, error = b"", None
        try:
            block = os.read(descriptor, BLOCK)
        except OSError as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, block, error)

    threading.Thread(target=read, name="forebay-stdin", daemon=True).start()
    return await found

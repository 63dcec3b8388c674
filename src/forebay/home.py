"""The event loop, and the process, to which an open bus or store belongs."""

from __future__ import annotations

import asyncio
import os
from asyncio import _get_running_loop as running_loop  # None if no loop runs; the public one raises then
from typing import cast
from weakref import WeakSet

from forebay.errors import ConfigurationError

__all__ = ["Home", "running_loop"]


class Home:
    """The running loop and this process, at the moment when it is made.

    Raises `ConfigurationError` outside of an event loop. In a fork of the process `loop` is replaced by an object that
    is not a loop, so a comparison with the running loop is the whole check.
    """

    def __init__(self, what: str) -> None:
        loop = running_loop()
        if loop is None:
            raise ConfigurationError(f"{what} is used outside of an asyncio event loop: await it in a coroutine of one")
        self.loop: asyncio.AbstractEventLoop = loop
        self.process = os.getpid()
        self._what = what
        _homes.add(self)

    @property
    def is_here(self) -> bool:
        """True on its loop, in its process."""
        return running_loop() is self.loop

    @property
    def is_lost(self) -> bool:
        """True if its loop was closed, in this process: nothing can be awaited on it any more."""
        return self.loop is not _ANOTHER_PROCESS and self.loop.is_closed()

    def check(self) -> None:
        """Raise `ConfigurationError` on any other loop, in any other thread, and in a fork of the process."""
        if self.is_here:
            return
        if (error := self.forked()) is not None:
            raise error
        if self.is_lost:
            raise ConfigurationError(f"the event loop on which {self._what} was opened is closed: open it again here")
        raise ConfigurationError(
            f"{self._what} belongs to the event loop on which it was opened, and this is another loop or thread, so"
            " nothing was done: hand the call over with asyncio.run_coroutine_threadsafe(..., loop), or open another"
            " one here, with connect(...)"
        )

    def forked(self) -> ConfigurationError | None:
        """The error to raise if this process is a fork of the one that opened it; else None."""
        if self.loop is not _ANOTHER_PROCESS:
            return None
        return ConfigurationError(
            f"{self._what} was opened by process {self.process}, and does not survive a fork: open another one here,"
            " such as its `clone()`, or with connect(...)"
        )


_ANOTHER_PROCESS = cast("asyncio.AbstractEventLoop", object())
_homes: WeakSet[Home] = WeakSet()


def _forget_loops() -> None:
    for home in _homes:
        home.loop = _ANOTHER_PROCESS


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget_loops)

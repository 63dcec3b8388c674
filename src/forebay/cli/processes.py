"""Several processes of one command, under one supervisor: they start, and end, together."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence

from forebay.cli.commands import say
from forebay.cli.loop import INTERRUPTED
from forebay.interrupts import interrupted_by_signals
from forebay.runtime.supervise import Backoff, wait_for

MOST_RESTARTS = 10
"""How often one that dies is started again; one that ran for a minute begins a new row."""
RESTART_WINDOW = 60.0
PATIENCE = 5.0
"""Seconds beyond the grace of its handlers that a process may take to end."""


class Processes:
    """Runs a command in several processes at once, and starts again what dies.

    Each has a pipe for its stdin that nobody writes to: where this process is killed it closes, and a
    command that watches it ends too. They have a session of their own, so that Ctrl-C reaches them once,
    from here.
    """

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str], grace: float) -> None:
        self._command = command
        self._environment = {**os.environ, **environment}
        self._grace = grace
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    async def run(self, count: int) -> int:
        """Run so many until all have ended by themselves, or SIGTERM or SIGINT; return the exit code.

        The first signal is passed on, a second one ends them at once. When one cannot be kept alive, all are ended.
        """
        with interrupted_by_signals(self._stop.set, self._hurry.set, alone=True):
            codes = await asyncio.gather(*(self._keep_alive(number) for number in range(1, count + 1)))
        return INTERRUPTED if self._hurry.is_set() else max(codes)

    async def _keep_alive(self, number: int) -> int:
        backoff = Backoff(base=0.5, cap=30.0)
        in_a_row = 0
        while not self._stop.is_set():
            began = time.monotonic()
            process = await asyncio.create_subprocess_exec(
                *self._command, env=self._environment, stdin=PIPE, start_new_session=True
            )
            code = await self._watch(process)
            if code == 0 or self._stop.is_set():
                return max(code, 0)
            if time.monotonic() - began > RESTART_WINDOW:
                in_a_row = 0
                backoff.reset()
            in_a_row += 1
            how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            if in_a_row > MOST_RESTARTS:
                say(f"process {number} {how}, {in_a_row} times in a row; ending all")
                self._stop.set()
                return 1
            delay = backoff.next()
            say(f"process {number} {how}; started again in {delay:.1f} s")
            await wait_for(self._stop, delay)
        return 0

    async def _watch(self, process: Process) -> int:
        """Wait for its end, which a stop hastens; its exit code."""
        ended = asyncio.create_task(process.wait())
        stopping = asyncio.create_task(self._stop.wait())
        hurrying = asyncio.create_task(self._hurry.wait())
        try:
            await asyncio.wait([ended, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
                patience = self._grace + PATIENCE
                await asyncio.wait([ended, hurrying], timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            hurrying.cancel()
            if not ended.done():
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        return await ended

"""Several processes of one command, under one supervisor: they start, and end, together."""

from __future__ import annotations

import asyncio
import contextlib
import os
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence

from forebay.cleanup import until_first_ends
from forebay.cli.commands import say
from forebay.cli.loop import INTERRUPTED
from forebay.interrupts import interrupted_by_signals
from forebay.restarts import Backoff, Restarts
from forebay.runtime.supervise import wait_for

RESTART_LIMIT = 10
"""Failures in a row after which a process is not started again."""
RESTART_WINDOW_SECONDS = 60.0
"""Running time after which an earlier failure does not count."""
EXIT_SECONDS = 5.0
"""The time that a process may take to end, beyond the grace of its handlers."""


class Processes:
    """Runs a command in several processes at once, and restarts each one that dies.

    The stdin of each is a pipe without data. It closes if this process is killed, and a command that watches it ends
    too. Each has a session of its own, so that Ctrl-C reaches it once, from here.
    """

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str], grace: float) -> None:
        self._command = command
        self._environment = {**os.environ, **environment}
        self._grace = grace
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    async def run(self, count: int) -> int:
        """Run so many until all have ended by themselves, or SIGTERM or SIGINT; return the exit code.

        The first signal is passed on, a second one kills them. If one process exceeds the limit of restarts, all end.
        """
        with interrupted_by_signals(self._stop.set, self._hurry.set, alone=True):
            codes = await asyncio.gather(*(self._keep_alive(number) for number in range(1, count + 1)))
        return INTERRUPTED if self._hurry.is_set() else max(codes)

    async def _keep_alive(self, number: int) -> int:
        restarts = Restarts(limit=RESTART_LIMIT, window=RESTART_WINDOW_SECONDS, backoff=Backoff(base=0.5, cap=30.0))
        while not self._stop.is_set():
            restarts.started()
            process = await asyncio.create_subprocess_exec(
                *self._command, env=self._environment, stdin=PIPE, start_new_session=True
            )
            code = await self._watch(process)
            if code == 0 or self._stop.is_set():
                return max(code, 0)
            delay = restarts.failed()
            how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            if restarts.is_exhausted:
                say(f"process {number} {how}, {restarts.in_a_row} times in a row; ending all")
                self._stop.set()
                return 1
            say(f"process {number} {how}; started again in {delay:.1f} s")
            await wait_for(self._stop, delay)
        return 0

    async def _watch(self, process: Process) -> int:
        """Wait for its end, which a stop hastens; its exit code."""
        ended = asyncio.create_task(process.wait())
        try:
            await until_first_ends(ended, self._stop.wait())
            if not ended.done():
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
                await until_first_ends(ended, self._hurry.wait(), timeout=self._grace + EXIT_SECONDS)
        finally:
            if not ended.done():
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        return await ended

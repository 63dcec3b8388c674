"""The writers and consumers of a soak, as processes that come and go."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Iterator, Mapping

from tests.support.processes import Process

from chaos.workers import Plan, consume, write
from forebay.testing import eventually

Work = Callable[[Plan, str], Awaitable[None]]


class Staff:
    """A member that leaves is replaced by one of another name."""

    def __init__(self, plan: Plan, *, write: Work = write, consume: Work = consume) -> None:
        self._plan = plan
        self._write, self._consume = write, consume
        self._numbers = itertools.count()
        self.writers: dict[str, Process] = {}
        self.consumers: dict[str, Process] = {}
        self.failed: dict[str, int | None] = {}
        """The exit codes of those who did not leave in peace."""

    def hire(self, *, writers: int = 0, consumers: int = 0) -> None:
        """Let so many more begin."""
        for _ in range(consumers):
            name = f"c{next(self._numbers)}"
            self.consumers[name] = Process(self._consume, self._plan, name)
        for _ in range(writers):
            name = f"w{next(self._numbers)}"
            self.writers[name] = Process(self._write, self._plan, name)

    @contextlib.contextmanager
    def away(self, crew: dict[str, Process], pick: float) -> Iterator[tuple[str, Process]]:
        """Take one out of a crew, so that no other fault befalls it meanwhile."""
        name = sorted(crew)[int(pick * len(crew)) % len(crew)]
        process = crew.pop(name)
        yield name, process

    async def dismiss(self, leaving: Mapping[str, Process]) -> None:
        """SIGTERM to all of these, once they have begun, and wait for them."""
        await eventually(lambda: all((self._plan.folder / name).exists() for name in leaving), within=60)
        codes = await asyncio.gather(*(asyncio.to_thread(process.terminate, 30.0) for process in leaving.values()))
        self.failed |= {name: code for name, code in zip(leaving, codes, strict=True) if code != 0}

    def kill(self) -> None:
        """kill -9 to all that are left."""
        for process in (*self.writers.values(), *self.consumers.values()):
            process.kill()

"""Publishers and consumers as real processes that may be killed, and their records."""

from __future__ import annotations

import asyncio
import atexit
import multiprocessing
import multiprocessing.context
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forebay import Event, EventBus, ForebayError, Retry
from forebay.signals import DeadLettered
from forebay.testing import eventually

LEASE = 1.0

# A fork server that has forebay loaded starts a process in some 10 ms, and never forks a thread's lock.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["forebay", "forebay.stores.sqlite", "forebay.stores.redis"])


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of a history."""

    time: float
    process: int
    what: str
    id: str


class History:
    """Facts of many processes in one file; each is one write, so a kill tears none but the last."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def writer(self) -> Callable[[str, str], None]:
        """A function that writes facts down, for the process that calls it."""
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

        def note(what: str, id: str) -> None:
            os.write(file, f"{time.monotonic()} {os.getpid()} {what} {id}\n".encode())

        return note

    def facts(self, *whats: str) -> list[Fact]:
        """The records so far."""
        if not self.path.exists():
            return []
        lines = [line.split(" ", 3) for line in self.path.read_text().split("\n")[:-1]]
        return [Fact(float(t), int(p), w, i) for t, p, w, i in lines if not whats or w in whats]

    def ids(self, what: str) -> list[str]:
        """The ids of one kind of fact, in order."""
        return [fact.id for fact in self.facts(what)]


class Process:
    """A child process running one of the functions below."""

    def __init__(self, target: Callable[..., Awaitable[None]], *arguments: Any, **options: Any) -> None:
        self._process = _context.Process(target=_main, args=(target, arguments, options), daemon=True)
        self._process.start()
        # A failed test may leave one that stands still, and would not hear the politer signal of multiprocessing.
        atexit.register(self._process.kill)

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> float:
        """kill -9; returns when, on the histories' clock."""
        moment = time.monotonic()
        self._process.kill()
        self._process.join(10)
        return moment

    def terminate(self, within: float = 15.0) -> int | None:
        """SIGTERM; the exit code, None if it did not end."""
        if self._process.is_alive():
            self._process.terminate()
        self._process.join(within)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
            return None
        return self._process.exitcode

    async def ended(self, within: float) -> int | None:
        """Wait for its own end; the exit code.

        In this thread: multiprocessing mistakes the code where two threads look for it at once.
        """
        await eventually(lambda: self._process.exitcode is not None, within=within)
        return self._process.exitcode

    def join(self, within: float) -> int | None:
        """Wait for its own end; the exit code, None if it did not come."""
        self._process.join(within)
        return self._process.exitcode


def _main(target: Callable[..., Awaitable[None]], arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    asyncio.run(target(*arguments, **options))  # type: ignore[arg-type]  # it is a coroutine


async def publish(
    url: str, namespace: str, history: Path, *, stream: str = "t", count: int = 1_000_000, pause: float = 0.0
) -> None:
    """Publish one event after the other, writing down each acknowledged id, and each error."""
    note = History(history).writer()
    async with EventBus(url, namespace=namespace) as bus:
        for number in range(count):
            try:
                note("acked", await bus.publish(stream, source=f"process-{os.getpid()}", data={"number": number}))
            except ForebayError as error:
                note("error", f"{type(error).__name__}: {error}".replace("\n", " "))
            await asyncio.sleep(pause)


async def consume(
    url: str,
    namespace: str,
    history: Path,
    group: str,
    *,
    stream: str = "t",
    busy: float = 0.0,
    poison: str | None = None,
    retry: Retry | None = None,
    concurrency: int = 16,
    lease: float = LEASE,
) -> None:
    """Handle until SIGTERM; each event takes `busy` seconds, and `poison` as its data kills the process."""
    note = History(history).writer()
    bus = EventBus(url, namespace=namespace)
    bus.signals.listen(lambda signal: note("dead", str(getattr(signal.delivery.record, "id", ""))), DeadLettered)

    @bus.on(stream, group=group, lease=lease, concurrency=concurrency, retry=retry)
    async def handle(event: Event) -> None:
        note(f"begun-{group}", event.id)
        if poison is not None and event.data == poison:
            os._exit(66)
        if busy:
            await asyncio.sleep(busy)
        note(f"ended-{group}", event.id)

    async with bus:
        await bus.run()

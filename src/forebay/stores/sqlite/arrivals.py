"""Wakes readers, and names the streams that have grown, on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence

from forebay.errors import StoreError
from forebay.stores.sqlite.database import Database
from forebay.stores.sqlite.watcher import Growth, Watcher


class Arrivals:
    """The readers and iterations that wait for streams to grow, and the one watcher that serves them.

    Commits of this store object are reported by `report`, those of others by the watcher, which runs only while
    a reader or an iteration waits.
    """

    def __init__(self, database: Database, namespace: str) -> None:
        self._waiters: dict[str, list[asyncio.Event]] = {}
        self._iterations: list[_Iteration] = []
        self._heads: dict[str, int] = {}
        self._waiting = 0
        self._is_watching = False
        self._is_finished = False
        self._watcher = Watcher(database, namespace, self._on_growth, self._on_error)

    @contextlib.contextmanager
    def expect(self, streams: Sequence[str]) -> Iterator[asyncio.Event]:
        """An event that is set whenever one of the streams may have grown since now."""
        woken = asyncio.Event()
        for stream in streams:
            self._waiters.setdefault(stream, []).append(woken)
        try:
            yield woken
        finally:
            for stream in streams:
                waiters = self._waiters[stream]
                waiters.remove(woken)
                if not waiters:
                    del self._waiters[stream]

    async def wait(self, woken: asyncio.Event, timeout: float) -> None:
        """Wait until `woken` is set, at most `timeout` seconds."""
        with self._watched(), contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await woken.wait()

    async def names(self) -> AsyncGenerator[str | None, None]:
        """The streams that grow, until the store is closed; see `Log.arrivals`."""
        iteration = _Iteration(is_watching=self._is_watching)
        self._iterations.append(iteration)
        try:
            with self._watched():
                while not self._is_finished and (names := await iteration.take()):
                    for name in names:
                        yield name
        finally:
            self._iterations.remove(iteration)

    def report(self, heads: dict[str, int]) -> None:
        """This store object changed these streams; their last positions, or 0 if earlier entries became unread."""
        grown = self._raise_heads(heads)
        self._notify([stream for stream, head in heads.items() if not head or stream in grown])

    def finish(self) -> None:
        """Wake all readers, end all iterations, and let the watcher end."""
        self._is_finished = True
        self.stop()
        self._wake_all_readers()
        for iteration in self._iterations:
            iteration.end()

    def stop(self) -> None:
        """Let the watcher end. From any thread."""
        self._watcher.stop()

    def join(self) -> None:
        """Wait until the watcher has ended."""
        self._watcher.join()

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        self._waiting += 1
        self._watcher.resume()
        try:
            yield
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._watcher.pause()

    def _on_growth(self, growth: Growth) -> None:
        if growth.is_unknown:
            self._is_watching = True
            self._heads = growth.heads
            self._wake_all_readers()
            for iteration in self._iterations:
                iteration.add(None)
            return
        self._notify(self._raise_heads(growth.heads))

    def _on_error(self, error: StoreError) -> None:
        """Readers get the error from their own moves, iterations from here."""
        self._is_watching = False
        self._wake_all_readers()
        for iteration in self._iterations:
            iteration.end(error)

    def _raise_heads(self, heads: dict[str, int]) -> dict[str, int]:
        """The streams that have grown: a commit of this store object is reported by its writer and by the watcher."""
        grown = {stream: head for stream, head in heads.items() if head > self._heads.get(stream, 0)}
        self._heads |= grown
        return grown

    def _notify(self, streams: Iterable[str]) -> None:
        for stream in streams:
            for woken in self._waiters.get(stream, ()):
                woken.set()
            for iteration in self._iterations:
                iteration.add(stream)

    def _wake_all_readers(self) -> None:
        for waiters in self._waiters.values():
            for woken in waiters:
                woken.set()


class _Iteration:
    """The names for one iteration over `arrivals`, each once until it is taken. None, any stream, is the first."""

    def __init__(self, *, is_watching: bool) -> None:
        self._names: dict[str | None, None] = {}
        self._is_begun = False
        self._is_ended = False
        self._error: StoreError | None = None
        self._woken = asyncio.Event()
        if is_watching:
            self.add(None)

    def add(self, name: str | None) -> None:
        """Add a name. Names before the first None are left out: it stands for them, too."""
        if self._is_begun or name is None:
            self._is_begun = True
            self._names[name] = None
            self._woken.set()

    def end(self, error: StoreError | None = None) -> None:
        """End the iteration, with this error if there is one."""
        self._is_ended = True
        self._error = error
        self._woken.set()

    async def take(self) -> list[str | None]:
        """Wait for names, and take them; an empty list ends the iteration."""
        await self._woken.wait()
        if self._error is not None:
            raise self._error
        names, self._names = list(self._names), {}
        if not self._is_ended:
            self._woken.clear()
        return names

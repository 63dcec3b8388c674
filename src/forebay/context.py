"""An open bus: its store, its consumers, and the event loop to which they belong.

closed ---> opening ---> open ---> draining ---> closing ---> closed
                          |  its loop was closed first          ^
                          +-------------------------------------+
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import warnings
from weakref import WeakSet

from forebay.announcer import Announcer
from forebay.cleanup import done, finish
from forebay.errors import ConfigurationError
from forebay.home import Home, running_loop
from forebay.middleware import Middleware
from forebay.payload import Limits
from forebay.retention import Pruner
from forebay.runtime import LeaseKeeper, Run, Runnable, Services
from forebay.signals import LoopFailed, Signals
from forebay.store import Store

FORGOTTEN = "a bus was not closed: use `async with bus`, or `await bus.close()` before its event loop ends"


class Runs:
    """The runs of one bus, begun or not."""

    def __init__(self) -> None:
        self._runs: WeakSet[Run] = WeakSet()

    def begin(self) -> Run:
        """A run that `stop` ends from now on, also before it has any parts."""
        run = Run()
        self._runs.add(run)
        return run

    @property
    def parts(self) -> list[Runnable]:
        """All that runs now."""
        return [part for run in self._runs for part in run.parts]

    def stop(self) -> None:
        """Let every run end in its orderly way, also one that was made and has not begun yet."""
        for run in list(self._runs):
            run.stop()

    def forget(self) -> None:
        """Drop the runs that have begun: their event loop was closed under them."""
        for run in [run for run in self._runs if run.ended is not None]:
            self._runs.discard(run)

    async def drain(self) -> None:
        """Stop all runs, and wait until they have ended: each within its grace."""
        while True:
            # Again, as a handler that ends may have begun another one.
            self.stop()
            endings = [run.ended for run in self._runs if run.ended is not None and not run.ended.done()]
            if not endings:
                return
            await asyncio.wait(endings)


class BusContext:
    """The shared parts of one bus's consumers.

    The bus is open on one event loop at a time: by `open`, or by its first use, which calls `enter`. Both refuse
    another loop, another thread and a fork before anything is done.
    """

    def __init__(self, store: Store, signals: Signals, limits: Limits) -> None:
        self.store = store
        self.signals = signals
        self.limits = limits
        self.middlewares: tuple[Middleware, ...] = ()
        self.runs = Runs()
        self.keeper = LeaseKeeper(
            store.clone,
            lambda error: signals.emit(LoopFailed("lease", "*", "*", error, 0.0)),
            on_blocked=signals.emit,
        )
        self.services = Services(store, signals)
        self.announcer = Announcer(store, signals)
        self.pruner = Pruner(store, signals, self.announcer)
        self.session: Session | None = None
        self._gate = threading.Lock()

    def __del__(self) -> None:
        if (session := getattr(self, "session", None)) is not None:
            session.forget()

    async def open(self) -> None:
        """Open the bus; `ConfigurationError` if it is open already, here or elsewhere."""
        while not await (session := self._take(is_explicit=True)).opened():
            await done([session.task])

    async def enter(self) -> None:
        """Open the bus unless it is open; `ConfigurationError` if it is open elsewhere."""
        while not await (session := self._take(is_explicit=False)).opened():
            await done([session.task])

    async def ready(self) -> None:
        """Open the bus unless it is open here. Cheap if it is."""
        session = self.session
        if session is None or running_loop() is not session.loop:
            await self.enter()

    async def close(self) -> None:
        """Drain what runs, then close the store. A bus that is not open is left as it is."""
        with self._gate:
            session = self._current()
            if session is None or session.home.forked():
                return
            session.home.check()
            session.closing.set()
        await done([session.task])
        if not session.task.cancelled() and (error := session.task.exception()) is not None:
            raise error

    def stop(self) -> None:
        """Let every run end in its orderly way. From any thread."""
        session = self.session
        stop = self.runs.stop
        if session is None or session.is_over or session.home.is_here:
            stop()
            # A signal handler does not end the wait of a loop that has nothing else to do.
            stop = _nothing
        if session is not None and not session.is_over and not session.home.forked():
            with contextlib.suppress(RuntimeError):  # the loop is closed, and so its runs have ended
                session.home.loop.call_soon_threadsafe(stop)

    def _take(self, *, is_explicit: bool) -> Session:
        """The session of the running loop, a new one where the bus is closed."""
        with self._gate:
            session = self._current()
            if session is None:
                session = self.session = Session(self, is_explicit=is_explicit)
            elif is_explicit and not session.is_over and (session.is_explicit or not session.home.is_here):
                raise session.home.forked() or ConfigurationError(
                    "this bus is open already; one `async with bus` or `bus.open()` at a time, in all threads together"
                )
            session.home.check()
            session.is_explicit = session.is_explicit or is_explicit
            return session

    def _current(self) -> Session | None:
        session = self.session
        if session is not None and session.home.is_lost:
            session.forget()
            session = self.session = None
        return None if session is None or session.is_over else session


def _nothing() -> None:
    pass


class Session:
    """The time in which a bus is open. Its task opens the store, and closes it, also if it is cancelled.

    `loop` is the event loop on which the bus can be used now; None before and after. `is_explicit` is True if `open`
    was called, and False if the bus opened itself at its first use.
    """

    def __init__(self, context: BusContext, *, is_explicit: bool) -> None:
        self.home = Home("this bus")
        self.loop: asyncio.AbstractEventLoop | None = None
        self.is_explicit = is_explicit
        self._is_lost = False
        self.closing = asyncio.Event()
        self._opened: asyncio.Future[bool] = self.home.loop.create_future()
        # The task's references live as long as its loop, so it must not hold the context.
        self._runs, self._keeper, self._services = context.runs, context.keeper, context.services
        self._signals, self._pruner, self._announcer = context.signals, context.pruner, context.announcer
        self.task = self.home.loop.create_task(self._live(context.store), name="forebay-bus")
        self.task.add_done_callback(self._ended)

    @property
    def is_over(self) -> bool:
        """Whether all is closed, or the loop that could close it is gone."""
        return self._is_lost or self.task.done()

    async def opened(self) -> bool:
        """Wait until the bus can be used; False if it is being closed. Raises the error of the opening."""
        if not self._opened.done():
            try:
                return await asyncio.shield(self._opened)
            except asyncio.CancelledError:
                if self.is_explicit and not self.is_over:
                    # close will not be called.
                    self.closing.set()
                    self.task.cancel()
                    await done([self.task])
                raise
        return self.loop is not None

    def forget(self) -> None:
        """Close it without a caller: the bus was collected, or its loop is gone."""
        if self.is_over or self.home.forked():
            return
        self._keeper.drop()
        if not self.home.is_lost:
            with contextlib.suppress(RuntimeError):  # the loop closed meanwhile
                self.home.loop.call_soon_threadsafe(self.task.cancel)
            return
        self._is_lost = True
        self._runs.forget()
        self._services.drop()
        self._announcer.drop()
        warnings.warn(FORGOTTEN, ResourceWarning, stacklevel=2)

    async def _live(self, store: Store) -> None:
        try:
            await store.__aenter__()
        except BaseException as error:
            if not isinstance(error, Exception):
                raise
            self._opened.set_exception(error)
            self._opened.exception()  # the caller may not wait any more
            return
        self.loop = self._signals.home = self.home.loop
        self._opened.set_result(True)
        pruning = asyncio.create_task(self._pruner.run(), name="forebay-retention")
        with contextlib.suppress(asyncio.CancelledError):
            await self.closing.wait()
        await finish(self._shut(store, pruning))
        if not self.closing.is_set():
            warnings.warn(FORGOTTEN, ResourceWarning, stacklevel=2)

    def _ended(self, _: asyncio.Task[None]) -> None:
        """The task is done: perhaps it was cancelled before the bus was open."""
        self.loop = None
        if not self._opened.done():
            self._opened.set_result(False)

    async def _shut(self, store: Store, pruning: asyncio.Task[None]) -> None:
        try:
            await self._runs.drain()
            await self._signals.drain()
        finally:
            pruning.cancel()
            await asyncio.wait([pruning])
            await self._announcer.close()
            self.loop = None
            await store.__aexit__(None, None, None)

"""Signals: what happens on a bus, as values for listeners: logs, metrics, traces, tests.

Listen with `bus.signals.listen(listener, *kinds)`. A signal is a frozen value of one of the classes below; seconds are
floats. The signals of each event (`Published`, `Delivered`, `Finished`) are made only if a listener wants them.
The shape follows stamina's instrumentation and Solid Queue's log subscriber.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar, overload

import msgspec

from forebay.callables import completed, discard, refuse_generator
from forebay.cause import caused_by
from forebay.errors import ConfigurationError
from forebay.home import running_loop
from forebay.store import Delivery

__all__ = [
    "DeadLettered",
    "Delivered",
    "EntryMissing",
    "Finished",
    "GroupAbandoned",
    "GroupCreated",
    "LateAck",
    "LeaseLost",
    "Listener",
    "Listening",
    "LogLine",
    "LoggedSignal",
    "LoopBlocked",
    "LoopFailed",
    "LoopRecovered",
    "Published",
    "Recovered",
    "Released",
    "Retried",
    "Signal",
    "Signals",
    "Skipped",
    "StreamTrimmed",
    "TrimmedUnread",
]

logger = logging.getLogger("forebay")

DRAIN_SECONDS = 5.0
"""The longest that a closing bus waits for its listeners."""


class Signal(msgspec.Struct, frozen=True):
    """The base class of all signals. A class of your own, derived from it, may be emitted on a bus too."""


class LogLine(msgspec.Struct, frozen=True):
    """One line of the log: `text` at a `level` of `logging`, and the lines of a `traceback` below it.

    If the `error` is one of a store that does not work, and is `retried`, the line is written at DEBUG while an outage
    is reported already.
    """

    level: int
    text: str
    traceback: str = ""
    error: BaseException | None = None
    retried: bool = False


class LoggedSignal(Signal, frozen=True):
    """A signal that says itself how it is logged. Each bus writes its line to the logger `forebay`."""

    def log_line(self) -> LogLine:
        """The line of the log."""
        raise NotImplementedError


Listener = Callable[[Signal], object]
"""A function that takes a signal. An awaitable that it returns is awaited in a task of its own."""


class Published(Signal, frozen=True):
    """The store acknowledged events of one call of `publish` or `publish_many`, or keeps them scheduled.

    `type` is their type; `ids` has one id for each. `elapsed` is in seconds, from the call to the acknowledgement.
    """

    type: str
    ids: tuple[str, ...]
    elapsed: float


class Delivered(Signal, frozen=True):
    """A handler is about to be called with an event; one signal for each event of a batch."""

    delivery: Delivery


class Finished(Signal, frozen=True):
    """A handler returned; its events are being acked. `elapsed` is its running time in seconds, of the whole batch."""

    delivery: Delivery
    elapsed: float


class Retried(Signal, frozen=True):
    """A handler failed with `error`; the event waits `delay` seconds for its next attempt."""

    delivery: Delivery
    error: BaseException
    delay: float


class DeadLettered(Signal, frozen=True):
    """An event became a dead letter of its group.

    `reason` is one line, the `error` of the dead letter. `traceback` has the last lines of its last error's
    traceback, without any values; it is empty if nothing was raised.
    """

    delivery: Delivery
    reason: str
    traceback: str = ""


class Released(Signal, frozen=True):
    """A consumer gave deliveries back unstarted: it stops, or its leases may have expired."""

    deliveries: tuple[Delivery, ...]


class Recovered(Signal, frozen=True):
    """A consumer took an event over from another one, whose lease had expired."""

    delivery: Delivery


class Skipped(Signal, frozen=True):
    """An event was acked without its handler: this group had handled its id before (option `dedup`)."""

    delivery: Delivery


class EntryMissing(Signal, frozen=True):
    """A pending event was trimmed or deleted before its handler was called; `delivery.record` is None."""

    delivery: Delivery


class TrimmedUnread(Signal, frozen=True):
    """`count` events were trimmed or deleted from a stream before the group read them."""

    stream: str
    group: str
    count: int


class LeaseLost(Signal, frozen=True):
    """A consumer lost an unsettled delivery: its lease expired, and another consumer may have the event."""

    delivery: Delivery


class LateAck(Signal, frozen=True):
    """`count` acks came after another consumer had settled the events: they were handled more than once."""

    stream: str
    group: str
    count: int


class GroupCreated(Signal, frozen=True):
    """A group was made, or made again after the store had lost it (`recreated`).

    `history` counts the events with which a new group begins, if its name is that of its function and `start` was not
    given: an earlier name of the function may have handled them. Otherwise it is 0.
    """

    stream: str
    group: str
    recreated: bool
    history: int = 0


class StreamTrimmed(Signal, frozen=True):
    """The retention rule of a stream removed `removed` events; a group had not finished `dropped` of them."""

    stream: str
    removed: int
    dropped: int


class GroupAbandoned(Signal, frozen=True):
    """A group has had no consumer for `silent` seconds; its stream is trimmed without waiting for it from now on."""

    stream: str
    group: str
    silent: float


class LoopFailed(Signal, frozen=True):
    """A background loop met a transient error and tries again in `delay` seconds; with 0.0 at its next turn.

    `loop` is its name, such as "read" or "claim". `stream` and `group` are "*" if it serves all of them.
    """

    loop: str
    stream: str
    group: str
    error: BaseException
    delay: float


class LoopRecovered(Signal, frozen=True):
    """A loop works again after it failed. Fields as for `LoopFailed`."""

    loop: str
    stream: str
    group: str


class LoopBlocked(Signal, frozen=True):
    """A handler has blocked its event loop for `seconds`, and still does.

    `handler` is its name, and `event_id` its event's; both are empty if other code blocks the loop. `traceback` has
    the last frames of the loop's thread. With `yielding`, the consumer's leases are no longer renewed, so that other
    consumers take its events over. Emitted once for each blocking, and a second time with `yielding`, from another
    thread than the loop's.
    """

    handler: str
    stream: str
    group: str
    event_id: str
    seconds: float
    traceback: str
    yielding: bool


A = TypeVar("A", bound=Signal)
B = TypeVar("B", bound=Signal)
C = TypeVar("C", bound=Signal)
D = TypeVar("D", bound=Signal)


class Listening:
    """Returned by `listen`: the listener is called until `stop`, or until the end of a `with` block."""

    def __init__(self, signals: Signals, listener: Listener, kinds: tuple[type[Signal], ...]) -> None:
        self.listener = listener
        self.kinds = kinds
        self._signals = signals

    def stop(self) -> None:
        """Call the listener no more. Stopping twice does nothing."""
        self._signals.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class ListenerTable(dict[type[Signal], tuple[Listener, ...]]):
    """The listeners of each class of signals, found when the class is first asked for."""

    def __init__(self, listenings: tuple[Listening, ...]) -> None:
        super().__init__()
        self._listenings = listenings

    def __missing__(self, kind: type[Signal]) -> tuple[Listener, ...]:
        if not issubclass(kind, Signal):
            raise ConfigurationError(f"{kind.__name__} is not a signal: derive its class from forebay.signals.Signal")
        found = self[kind] = tuple(each.listener for each in self._listenings if issubclass(kind, each.kinds))
        return found


class Signals:
    """The listeners of one bus. A listener that raises is logged, and stays."""

    home: asyncio.AbstractEventLoop | None = None
    """The event loop of the bus, while it is open."""

    def __init__(self) -> None:
        self._listenings: tuple[Listening, ...] = ()
        self.listeners = ListenerTable(())
        """By the class of a signal; an empty tuple if no listener takes it, so it need not be made."""
        self._running: set[asyncio.Task[None]] = set()

    @overload
    def listen(self, listener: Listener, /) -> Listening: ...
    @overload
    def listen(self, listener: Callable[[A], object], kind: type[A], /) -> Listening: ...
    @overload
    def listen(self, listener: Callable[[A | B], object], kind: type[A], second: type[B], /) -> Listening: ...
    @overload
    def listen(
        self, listener: Callable[[A | B | C], object], kind: type[A], second: type[B], third: type[C], /
    ) -> Listening: ...
    @overload
    def listen(
        self,
        listener: Callable[[A | B | C | D], object],
        kind: type[A],
        second: type[B],
        third: type[C],
        fourth: type[D],
        /,
        *kinds: type[D],
    ) -> Listening: ...
    def listen(self, listener: Callable[[Any], object], *kinds: type[Signal]) -> Listening:
        """Call `listener` with every signal of these classes and of those derived from them; without any, with all.

        It is called on the bus's event loop, at the place that emits the signal, and must return soon. `LoopBlocked`
        comes from another thread, while the loop stands still. An awaitable that the listener returns is awaited on
        the loop in a task of its own; a bus that closes waits at most 5 seconds for these tasks. An error of the
        listener is logged, and the bus goes on. A listener of all signals also gets the signals of each event
        (`Published`, `Delivered`, `Finished`), which take time to make.
        """
        function: object = listener
        wanted: tuple[object, ...] = kinds
        if not callable(function) or not all(isinstance(kind, type) and issubclass(kind, Signal) for kind in wanted):
            raise ConfigurationError("`listen` takes a function, and then classes of signals, such as DeadLettered")
        refuse_generator("listener", listener)
        listening = Listening(self, listener, kinds or (Signal,))
        self._keep((*self._listenings, listening))
        return listening

    def remove(self, listening: Listening) -> None:
        """Call this listener no more."""
        self._keep(tuple(each for each in self._listenings if each is not listening))

    def emit(self, signal: Signal) -> None:
        """Call the listeners of the signal's class with it."""
        for listener in self.listeners[type(signal)]:
            try:
                if (result := listener(signal)) is not None:
                    self._complete(listener, result)
            except Exception:
                logger.exception("the listener %r failed", listener)

    async def drain(self) -> None:
        """Wait for the tasks of listeners, at most `DRAIN_SECONDS`; then cancel them."""
        loop = asyncio.get_running_loop()
        # The others are of a loop that was closed before they were done.
        running = {task for task in self._running if task.get_loop() is loop}
        if running:
            _, late = await asyncio.wait(running, timeout=DRAIN_SECONDS)
            for task in late:
                task.cancel()

    def _keep(self, listenings: tuple[Listening, ...]) -> None:
        self._listenings = listenings
        self.listeners = ListenerTable(listenings)

    def _complete(self, listener: Listener, result: object) -> None:
        if running_loop() is not None:
            self._start(listener, result)
            return
        try:  # emitted from a thread without a loop
            if self.home is not None:
                self.home.call_soon_threadsafe(self._start, listener, result)
                return
        except RuntimeError:  # the loop was closed meanwhile
            pass
        discard(result)

    def _start(self, listener: Listener, result: object) -> None:
        loop = asyncio.get_running_loop()

        async def complete() -> None:
            try:
                await completed(result)
            except Exception:
                logger.exception("the listener %r failed", listener)

        # The task's context is that of a worker, which handled an event before.
        with caused_by(None):
            task = loop.create_task(complete(), name="forebay-listener")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

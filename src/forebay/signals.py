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

from forebay.callables import completed, refuse_generator
from forebay.errors import ConfigurationError
from forebay.store import Delivery

__all__ = [
    "AgentFailed",
    "AgentStatusChanged",
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


Listener = Callable[[Signal], object]
"""A function that takes a signal. An awaitable that it returns is awaited in a task of its own."""


class Published(Signal, frozen=True):
    """Events were stored. `elapsed` is in seconds, from the call to the acknowledgement."""

    type: str
    ids: tuple[str, ...]
    elapsed: float


class Delivered(Signal, frozen=True):
    """An event is about to be handed to its handler."""

    delivery: Delivery


class Finished(Signal, frozen=True):
    """A handler returned. `elapsed` is its running time in seconds."""

    delivery: Delivery
    elapsed: float


class Retried(Signal, frozen=True):
    """A handler failed; the event waits `delay` seconds for its next attempt."""

    delivery: Delivery
    error: BaseException
    delay: float


class DeadLettered(Signal, frozen=True):
    """An event became a dead letter of its group. `traceback` is that of its last error, as the letter has it."""

    delivery: Delivery
    reason: str
    traceback: str = ""


class Released(Signal, frozen=True):
    """Events were given back untried: their consumer stops, or can no longer be sure of their leases."""

    deliveries: tuple[Delivery, ...]


class Recovered(Signal, frozen=True):
    """An event was taken over from a consumer whose lease had run out."""

    delivery: Delivery


class Skipped(Signal, frozen=True):
    """An event was not handled again: this group had handled its id before (`dedup=True`)."""

    delivery: Delivery


class EntryMissing(Signal, frozen=True):
    """A pending event is no longer in its stream: somebody trimmed or deleted it."""

    delivery: Delivery


class TrimmedUnread(Signal, frozen=True):
    """`count` events left the stream before the group could read them: somebody trimmed it, or deleted them."""

    stream: str
    group: str
    count: int


class LeaseLost(Signal, frozen=True):
    """A delivery is no longer this consumer's: its lease ran out and another one took it over."""

    delivery: Delivery


class LateAck(Signal, frozen=True):
    """Work was done on `count` events that others had finished, or taken over, in the meantime."""

    stream: str
    group: str
    count: int


class GroupCreated(Signal, frozen=True):
    """A group was made, or made again after the store had lost it (`recreated`).

    `history` counts the events with which it begins, where its name was made of its function's and `start` was not
    given: they may have been handled under another name of the function.
    """

    stream: str
    group: str
    recreated: bool
    history: int = 0


class StreamTrimmed(Signal, frozen=True):
    """Events left a stream by its rule for keeping them; some group had not finished `dropped` of them."""

    stream: str
    removed: int
    dropped: int


class GroupAbandoned(Signal, frozen=True):
    """A group has had no consumer for `silent` seconds, and its stream waits for it no longer."""

    stream: str
    group: str
    silent: float


class LoopFailed(Signal, frozen=True):
    """A loop of a consumer met a transient error and goes on in `delay` seconds."""

    loop: str
    stream: str
    group: str
    error: BaseException
    delay: float


class LoopRecovered(Signal, frozen=True):
    """A loop that had failed works again."""

    loop: str
    stream: str
    group: str


class LoopBlocked(Signal, frozen=True):
    """A handler has blocked its event loop for `seconds`, and still does.

    `handler` is its name, `traceback` the last frames of the loop's thread. With `yielding`, its consumer's
    leases are renewed no more, so that another one takes its events over. Emitted once a blocking, and once more
    with `yielding`, from another thread than the loop's.
    """

    handler: str
    stream: str
    group: str
    event_id: str
    seconds: float
    traceback: str
    yielding: bool


class AgentFailed(Signal, frozen=True):
    """An agent failed; it is started again in `delay` seconds, or, with None, no more."""

    agent: str
    error: BaseException
    delay: float | None


class AgentStatusChanged(Signal, frozen=True):
    """An agent went on to the next part of its life: initializing, started, draining, stopped, failed."""

    agent: str
    status: str


A = TypeVar("A", bound=Signal)
B = TypeVar("B", bound=Signal)
C = TypeVar("C", bound=Signal)
D = TypeVar("D", bound=Signal)


class Listening:
    """A listener at work: it is called until `stop`, or until the end of a `with` block."""

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


class Signals:
    """The listeners of one bus. A listener that raises is logged, and stays."""

    def __init__(self) -> None:
        self._listenings: tuple[Listening, ...] = ()
        # The listeners of each kind, found when the kind is first emitted.
        self._listeners: dict[type[Signal], tuple[Listener, ...]] = {}
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

        It is called on the bus's event loop, where the signal is emitted, and must return soon. (`LoopBlocked` is
        the exception: it comes from another thread.) An awaitable that the listener returns runs as a task of its
        own; the bus waits at most 5 seconds for these tasks when it closes. An error that the listener raises is
        logged and harms nothing else. A listener of all signals makes the bus emit the signals of each event, which
        costs time.
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

    def wanted(self, kind: type[Signal]) -> bool:
        """Whether a listener takes signals of this class."""
        try:
            return self._listeners[kind] != ()
        except KeyError:
            return self._listeners_of(kind) != ()

    def emit(self, signal: Signal) -> None:
        """Call the listeners of the signal's class with it."""
        for listener in self._listeners_of(type(signal)):
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
        # In this order: another thread that fills the table meanwhile fills the former one, or the new one rightly.
        self._listenings = listenings
        self._listeners = {}

    def _listeners_of(self, kind: type[Signal]) -> tuple[Listener, ...]:
        table = self._listeners
        if (found := table.get(kind)) is None:
            found = table[kind] = tuple(each.listener for each in self._listenings if issubclass(kind, each.kinds))
        return found

    def _complete(self, listener: Listener, result: object) -> None:
        async def complete() -> None:
            try:
                await completed(result)
            except Exception:
                logger.exception("the listener %r failed", listener)

        task = asyncio.get_running_loop().create_task(complete(), name="forebay-listener")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

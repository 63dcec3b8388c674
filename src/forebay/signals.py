"""What the core tells whoever listens: logs, metrics, traces, tests. The core knows none of them.

A signal is a frozen value. A listener is any callable that takes one. Signals about every single
event (`Published`, `Delivered`, `Finished`) are only made where somebody asked for them.
The shape follows stamina's instrumentation and Solid Queue's log subscriber.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec

from forebay.callables import completed, refuse_generator
from forebay.errors import ConfigurationError
from forebay.store import Delivery

logger = logging.getLogger("forebay")

Listener = Callable[[Any], object]

DRAIN_SECONDS = 5.0
"""The longest that a closing bus waits for its listeners."""


class Published(msgspec.Struct, frozen=True):
    """Events were stored. `elapsed` is in seconds, from the call to the acknowledgement."""

    type: str
    ids: tuple[str, ...]
    elapsed: float


class Delivered(msgspec.Struct, frozen=True):
    """An event is about to be handed to its handler."""

    delivery: Delivery


class Finished(msgspec.Struct, frozen=True):
    """A handler returned. `elapsed` is its running time in seconds."""

    delivery: Delivery
    elapsed: float


class Retried(msgspec.Struct, frozen=True):
    """A handler failed; the event waits `delay` seconds for its next attempt."""

    delivery: Delivery
    error: BaseException
    delay: float


class DeadLettered(msgspec.Struct, frozen=True):
    """An event became a dead letter of its group. `traceback` is that of its last error, as the letter has it."""

    delivery: Delivery
    reason: str
    traceback: str = ""


class Released(msgspec.Struct, frozen=True):
    """Events were given back untried: their consumer stops, or can no longer be sure of their leases."""

    deliveries: tuple[Delivery, ...]


class Recovered(msgspec.Struct, frozen=True):
    """An event was taken over from a consumer whose lease had run out."""

    delivery: Delivery


class Skipped(msgspec.Struct, frozen=True):
    """An event was not handled again: this group had handled its id before (`dedup=True`)."""

    delivery: Delivery


class EntryMissing(msgspec.Struct, frozen=True):
    """A pending event is no longer in its stream: somebody trimmed or deleted it."""

    delivery: Delivery


class TrimmedUnread(msgspec.Struct, frozen=True):
    """`count` events left the stream before the group could read them: somebody trimmed it, or deleted them."""

    stream: str
    group: str
    count: int


class LeaseLost(msgspec.Struct, frozen=True):
    """A delivery is no longer this consumer's: its lease ran out and another one took it over."""

    delivery: Delivery


class LateAck(msgspec.Struct, frozen=True):
    """Work was done on `count` events that others had finished, or taken over, in the meantime."""

    stream: str
    group: str
    count: int


class GroupCreated(msgspec.Struct, frozen=True):
    """A group was made, or made again after the store had lost it (`recreated`).

    `history` counts the events with which it begins, where its name was made of its function's and `start` was not
    given: they may have been handled under another name of the function.
    """

    stream: str
    group: str
    recreated: bool
    history: int = 0


class StreamTrimmed(msgspec.Struct, frozen=True):
    """Events left a stream by its rule for keeping them; some group had not finished `dropped` of them."""

    stream: str
    removed: int
    dropped: int


class GroupAbandoned(msgspec.Struct, frozen=True):
    """A group has had no consumer for `silent` seconds, and its stream waits for it no longer."""

    stream: str
    group: str
    silent: float


class LoopFailed(msgspec.Struct, frozen=True):
    """A loop of a consumer met a transient error and goes on in `delay` seconds."""

    loop: str
    stream: str
    group: str
    error: BaseException
    delay: float


class LoopRecovered(msgspec.Struct, frozen=True):
    """A loop that had failed works again."""

    loop: str
    stream: str
    group: str


class LoopBlocked(msgspec.Struct, frozen=True):
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


class AgentFailed(msgspec.Struct, frozen=True):
    """An agent failed; it is started again in `delay` seconds, or, with None, no more."""

    agent: str
    error: BaseException
    delay: float | None


class AgentStatusChanged(msgspec.Struct, frozen=True):
    """An agent went on to the next part of its life: initializing, started, draining, stopped, failed."""

    agent: str
    status: str


class Signals:
    """The listeners of one bus. A listener that raises is logged and goes on listening."""

    def __init__(self) -> None:
        self._listeners: dict[type, list[Listener]] = {}
        self._running: set[asyncio.Task[None]] = set()

    def listen(self, listener: Listener, *kinds: type) -> None:
        """Call `listener` with every signal of these kinds.

        It is called on the bus's event loop, and must return soon. An awaitable that it returns runs as a task of its
        own; the bus waits for these tasks when it closes.
        """
        function: object = listener
        if not callable(function) or not all(isinstance(kind, type) for kind in kinds):
            raise ConfigurationError("`listen` takes a function, and then classes of signals, such as DeadLettered")
        refuse_generator("listener", listener)
        for kind in kinds:
            self._listeners.setdefault(kind, []).append(listener)

    def wanted(self, kind: type) -> bool:
        """Whether anybody listens to signals of this kind."""
        return kind in self._listeners

    def emit(self, signal: object) -> None:
        """Hand a signal to its listeners."""
        for listener in self._listeners.get(type(signal), ()):
            try:
                if (result := listener(signal)) is not None:
                    self._complete(listener, result)
            except Exception:
                logger.exception("the listener %r failed", listener)

    async def drain(self) -> None:
        """Wait for what listeners still do, at most `DRAIN_SECONDS`."""
        loop = asyncio.get_running_loop()
        # The others are of a loop that was closed before they were done.
        running = {task for task in self._running if task.get_loop() is loop}
        if running:
            _, late = await asyncio.wait(running, timeout=DRAIN_SECONDS)
            for task in late:
                task.cancel()

    def _complete(self, listener: Listener, result: object) -> None:
        async def complete() -> None:
            try:
                await completed(result)
            except Exception:
                logger.exception("the listener %r failed", listener)

        task = asyncio.get_running_loop().create_task(complete(), name="forebay-listener")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

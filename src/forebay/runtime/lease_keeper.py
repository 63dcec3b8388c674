"""Renews the leases of the consumers' deliveries, from a thread of its own.

A handler may block the event loop for longer than its lease (BullMQ #3183 shows the price), so the renewals do not run
on that loop. The thread has a loop and a store of its own. It opens the store for its first renewal.

If the loop has not turned for two leases, and for a minute at least, its leases are no longer renewed: another process
takes its events over. The thread also reports which handler blocks the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from forebay.clock import boottime
from forebay.errors import ForebayError, NotFound
from forebay.event import Record
from forebay.policy import last_frames
from forebay.signals import LoopBlocked
from forebay.stacks import stack_of
from forebay.store import Delivery, Store
from forebay.threads import Threads

if TYPE_CHECKING:
    from forebay.runtime.in_flight import Key

BLOCKED_SECONDS = 10.0
"""Seconds without a turn of the loop after which a handler is reported; half a lease, at least 1 s, if that is less."""
YIELD_SECONDS = 60.0
"""Seconds without a turn of the loop after which its leases are not renewed; two leases if these are longer."""
STANDSTILL_SECONDS = 0.5
"""If a wait of the thread takes so many seconds longer than asked for, the whole process stood still."""
CHECK_SECONDS = 5.0
"""The longest time between two checks whether the loop turns."""
END_SECONDS = 1.0
"""Seconds to wait for the end of the thread, which may be waiting for a server that does not answer."""


class Holder(Protocol):
    """A consumer, as the keeper sees it. `lease`, `leased` and `blocking` are used from the keeper's thread."""

    @property
    def lease(self) -> float: ...

    @property
    def leased(self) -> Mapping[Key, Delivery]: ...

    def blocking(self, task: object) -> tuple[str, Delivery] | None:
        """The name of the handler that this task runs, and its event; None for other tasks."""
        ...

    def renewed(self, kept: list[Delivery], lost: list[Delivery], requested_at: float) -> None:
        """Some leases were renewed, others were found gone. The renewal was requested at that time of `boottime`."""
        ...


class LeaseKeeper:
    """Renews, each quarter of a lease, the deliveries that its consumers have held for longer than that."""

    def __init__(
        self,
        clone: Callable[[], Store],
        on_error: Callable[[BaseException], None],
        *,
        on_blocked: Callable[[LoopBlocked], None],
    ) -> None:
        self._clone = clone
        self._on_blocked = on_blocked
        self._on_error = on_error
        self._holders: dict[Holder, Mapping[Key, Delivery]] = {}
        self._shift: _Shift | None = None
        self._home: asyncio.AbstractEventLoop | None = None

    def add(self, holder: Holder) -> None:
        """Keep the leases of this consumer from now on. Called on its event loop."""
        self._holders[holder] = {}
        if self._shift is None:
            self._home = asyncio.get_running_loop()
            self._shift = _Shift(self._run, Turns(self._home))
        # A shorter lease than the others must not wait for their next check. A wake for each holder would be a switch
        # of threads for each.
        self._shift.check_within(holder.lease / 4)

    async def remove(self, holder: Holder) -> None:
        """Stop keeping the leases of this consumer. With the last one the thread ends; wait for it a short time."""
        self._holders.pop(holder, None)
        if self._shift is not None and not self._holders:
            shift, self._shift = self._shift, None
            shift.end()
            threads = Threads(1, name="forebay-leases-end")
            ended, _ = await asyncio.wait([threads.run(shift.join)], timeout=END_SECONDS)
            if ended:
                threads.end()
            else:
                threads.close()

    def drop(self) -> None:
        """Stop keeping all leases: the event loop of the consumers is gone. From any thread."""
        self._holders.clear()
        if self._shift is not None:
            self._shift.end()
            self._shift = None

    def _run(self, shift: _Shift) -> None:
        with asyncio.Runner() as runner:
            store: Store | None = None
            checked_at = boottime()
            while not shift.is_over(wait := min(self._tick(), CHECK_SECONDS)):
                self._watch(shift.turns, wait)
                if boottime() < checked_at + 0.95 * self._tick():
                    continue
                checked_at = boottime()
                aging = self._aging(shift.turns)
                if not aging:
                    continue
                try:
                    if store is None:
                        store = runner.run(self._clone().__aenter__())
                    runner.run(self._renew(store, aging))
                except Exception as error:  # noqa: BLE001  # nothing awaits this thread; it must not fail silently
                    self._call_soon(self._on_error, error)
            if store is not None:
                with contextlib.suppress(ForebayError):
                    runner.run(store.__aexit__(None, None, None))

    def _tick(self) -> float:
        return min((holder.lease for holder in list(self._holders)), default=1.0) / 4

    def _watch(self, turns: Turns, wait: float) -> None:
        """Report a handler that blocks the loop: once, and once more when its leases are no longer renewed."""
        blocked = turns.check(wait)
        leases = [holder.lease for holder in list(self._holders)]
        if not blocked or not leases:
            return
        yielding = blocked >= _yields_after(min(leases))
        if blocked >= max(1.0, min(BLOCKED_SECONDS, min(leases) / 2)) and turns.must_report(yielding=yielding):
            self._on_blocked(self._describe(turns, blocked, yielding=yielding))

    def _describe(self, turns: Turns, blocked: float, *, yielding: bool) -> LoopBlocked:
        task, frames = turns.place()
        for holder in list(self._holders):
            if (found := holder.blocking(task)) is not None:
                handler, delivery = found
                record = delivery.record
                id = record.id if isinstance(record, Record) and record.id else delivery.position
                reader = delivery.reader
                return LoopBlocked(handler, reader.stream, reader.group, id, blocked, frames, yielding)
        return LoopBlocked("", "*", "*", "", blocked, frames, yielding)

    def _aging(self, turns: Turns) -> list[tuple[Holder, list[Delivery]]]:
        """The deliveries that were held at the last check and still are: fast handlers never cost a renewal."""
        found = []
        for holder, before in list(self._holders.items()):
            now = dict(holder.leased)
            if holder in self._holders:
                self._holders[holder] = now
            if turns.blocked >= _yields_after(holder.lease):
                continue
            aging = [delivery for key, delivery in now.items() if before.get(key) is delivery]
            if aging:
                found.append((holder, aging))
        return found

    async def _renew(self, store: Store, aging: list[tuple[Holder, list[Delivery]]]) -> None:
        for holder, deliveries in aging:
            # Each stream by itself: the group may be lost on one of them only.
            for own in _by_stream(deliveries):
                requested_at = boottime()
                try:
                    positions = {delivery.position for delivery in await store.extend(own)}
                except NotFound:
                    continue  # the consumer makes the group again
                kept = [delivery for delivery in own if delivery.position in positions]
                lost = [delivery for delivery in own if delivery.position not in positions]
                self._call_soon(holder.renewed, kept, lost, requested_at)

    def _call_soon(self, listener: Callable[..., None], *arguments: object) -> None:
        if self._home is not None:
            with contextlib.suppress(RuntimeError):  # the loop may have closed meanwhile
                self._home.call_soon_threadsafe(listener, *arguments)


def _by_stream(deliveries: Iterable[Delivery]) -> Iterable[list[Delivery]]:
    streams: dict[str, list[Delivery]] = {}
    for delivery in deliveries:
        streams.setdefault(delivery.reader.stream, []).append(delivery)
    return streams.values()


def _yields_after(lease: float) -> float:
    return max(YIELD_SECONDS, 2 * lease)


class Turns:
    """Checks from another thread whether an event loop turns. Made in the thread of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.blocked = 0.0
        """Seconds since the loop was asked for a turn that it has not made; 0 while it turns."""
        self._loop = loop
        self._thread = threading.get_ident()
        self._turned = True
        self._asked_at = self._waits_since = boottime()
        self._reported = 0

    def wait(self) -> None:
        """Remember when this thread began to wait for its next check."""
        self._waits_since = boottime()

    def check(self, wait: float) -> float:
        """Check, after a wait of so many seconds, if the loop has turned since the last check. Return `blocked`."""
        now = boottime()
        if self._turned or now - self._waits_since > wait + STANDSTILL_SECONDS:
            # If this thread did not run either, the whole process stood still, and no handler is the cause.
            self._reported, self._asked_at = 0, now
            if self._turned:
                self._turned = False
                with contextlib.suppress(RuntimeError):  # the loop may have closed meanwhile
                    self._loop.call_soon_threadsafe(self._turn)
            self.blocked = 0.0
        else:
            self.blocked = now - self._asked_at
        return self.blocked

    def must_report(self, *, yielding: bool) -> bool:
        """True once for each time that the loop is blocked, and once more if it is `yielding`."""
        step = 2 if yielding else 1
        if self._reported >= step:
            return False
        self._reported = step
        return True

    def place(self) -> tuple[object, str]:
        """Return the task that the loop runs now, and the last frames of its thread."""
        stack = stack_of(self._thread)
        frames = last_frames(TimeoutError().with_traceback(stack)).rpartition("\n")[0]
        return asyncio.current_task(self._loop), frames

    def _turn(self) -> None:
        self._turned = True


class _Shift:
    """One thread of the keeper, from its first holder to its last."""

    def __init__(self, run: Callable[[_Shift], None], turns: Turns) -> None:
        self.turns = turns
        self._wake = threading.Event()
        # Infinite while the thread does not wait: what it waits for next may be computed already.
        self._waits = math.inf
        self._ended = False
        self._thread = threading.Thread(target=run, args=(self,), name="forebay-leases", daemon=True)
        self._thread.start()

    def is_over(self, seconds: float) -> bool:
        """Wait so many seconds, or until woken; return whether the shift is over."""
        self.turns.wait()
        self._waits = seconds
        self._wake.wait(seconds)
        self._waits = math.inf
        self._wake.clear()
        return self._ended

    def check_within(self, seconds: float) -> None:
        """Wake the thread if it waits for longer than so many seconds."""
        if seconds < self._waits:
            self._wake.set()

    def end(self) -> None:
        """End the shift at the next check of its thread."""
        self._ended = True
        self._wake.set()

    def join(self) -> None:
        """Wait for the end of its thread."""
        self._thread.join()

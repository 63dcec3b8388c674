"""Keeps the leases of what consumers hold, from a thread of its own.

A handler may block the event loop for longer than its lease (BullMQ #3183 shows the price); so the
renewals do not run on that loop. The thread has a loop and a store of its own, opened when there is
first something to renew.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from forebay.errors import ForebayError, NotFound
from forebay.store import Delivery, Store
from forebay.threads import Threads
from forebay.uptime import uptime

END_SECONDS = 1.0
"""Seconds to wait for the end of the thread, which may just be waiting for a server that does not answer."""


class Holder(Protocol):
    """Somebody who holds deliveries: a consumer. Only `leased` is touched from the keeper's thread."""

    @property
    def lease(self) -> float: ...

    @property
    def leased(self) -> Mapping[str, Delivery]: ...

    def renewed(self, kept: list[Delivery], lost: list[Delivery], asked: float) -> None:
        """Some leases were renewed, asked for at `asked` by `uptime`; others were found gone."""
        ...


class LeaseKeeper:
    """Renews, each quarter of a lease, what its holders have held for longer than that."""

    def __init__(self, twin: Callable[[], Store], on_error: Callable[[BaseException], None]) -> None:
        self._twin = twin
        self._on_error = on_error
        self._holders: dict[Holder, Mapping[str, Delivery]] = {}
        self._shift: _Shift | None = None
        self._home: asyncio.AbstractEventLoop | None = None

    def add(self, holder: Holder) -> None:
        """Begin to keep what this holder holds. Called on the consumers' loop."""
        self._holders[holder] = {}
        if self._shift is None:
            self._home = asyncio.get_running_loop()
            self._shift = _Shift(self._run)
        # A shorter lease than those before must not wait for their next look.
        self._shift.wake.set()

    async def remove(self, holder: Holder) -> None:
        """Keep nothing more for this holder; the thread ends with the last one, and is waited for a little."""
        self._holders.pop(holder, None)
        if self._shift is not None and not self._holders:
            shift, self._shift = self._shift, None
            shift.end()
            threads = Threads(1, name="forebay-leases-end")
            await asyncio.wait([threads.run(shift.join)], timeout=END_SECONDS)
            threads.close()

    def drop(self) -> None:
        """Keep nothing more for anybody: their event loop is gone. From any thread."""
        self._holders.clear()
        if self._shift is not None:
            self._shift.end()
            self._shift = None

    def _run(self, shift: _Shift) -> None:
        with asyncio.Runner() as runner:
            store: Store | None = None
            while not shift.is_over(self._tick()):
                aging = self._aging()
                if not aging:
                    continue
                try:
                    if store is None:
                        store = runner.run(self._twin().__aenter__())
                    runner.run(self._renew(store, aging))
                except Exception as error:  # noqa: BLE001  # nobody awaits this thread; it must not die in silence
                    self._tell(self._on_error, error)
            if store is not None:
                with contextlib.suppress(ForebayError):
                    runner.run(store.__aexit__(None, None, None))

    def _tick(self) -> float:
        return min((holder.lease for holder in list(self._holders)), default=1.0) / 4

    def _aging(self) -> list[tuple[Holder, list[Delivery]]]:
        """What was held at the last look and still is: fast handlers never cost a renewal."""
        found = []
        for holder, before in list(self._holders.items()):
            now = dict(holder.leased)
            if holder in self._holders:
                self._holders[holder] = now
            aging = [delivery for position, delivery in now.items() if before.get(position) is delivery]
            if aging:
                found.append((holder, aging))
        return found

    async def _renew(self, store: Store, aging: list[tuple[Holder, list[Delivery]]]) -> None:
        for holder, deliveries in aging:
            asked = uptime()
            try:
                kept = await store.extend(deliveries)
            except NotFound:
                continue  # the group is lost; its readers make it again
            positions = {delivery.position for delivery in kept}
            lost = [delivery for delivery in deliveries if delivery.position not in positions]
            self._tell(holder.renewed, kept, lost, asked)

    def _tell(self, listener: Callable[..., None], *news: object) -> None:
        if self._home is not None:
            with contextlib.suppress(RuntimeError):  # the loop may have closed meanwhile
                self._home.call_soon_threadsafe(listener, *news)


class _Shift:
    """One thread of the keeper, from its first holder to its last."""

    def __init__(self, run: Callable[[_Shift], None]) -> None:
        self.wake = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=run, args=(self,), name="forebay-leases", daemon=True)
        self._thread.start()

    def is_over(self, seconds: float) -> bool:
        """Wait so long, or until woken; whether the shift is over."""
        self.wake.wait(seconds)
        self.wake.clear()
        return self._ended

    def end(self) -> None:
        """End the shift, when its thread comes to look."""
        self._ended = True
        self.wake.set()

    def join(self) -> None:
        """Wait for the end of its thread."""
        self._thread.join()

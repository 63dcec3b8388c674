"""A store that writes down the leases it gives and what becomes of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from chaos.history import Leased, Move, Pen, Settled, now
from chaos.wrapped import Wrapped
from forebay.errors import ForebayError, OutcomeUnknown
from forebay.event import Record
from forebay.store import Delivery, Failure, Reader, Store

SECOND = 1_000_000_000

Count = TypeVar("Count", int, bool)


def name(delivery: Delivery) -> str:
    """How histories name the event of a delivery; empty if its entry is missing or foreign."""
    return delivery.record.source if isinstance(delivery.record, Record) else ""


class Witness(Wrapped):
    """Stands between the bus and its store. `lease` is the consumers', in seconds."""

    def __init__(self, store: Store, pen: Pen, *, lease: float) -> None:
        super().__init__(store)
        self._pen = pen
        self._lease = int(lease * SECOND)

    async def read(self, *readers: Reader, limit: int, wait: float = 0.0) -> list[Delivery]:
        # The wait is part of the call: a lease that is given at its end begins later than this says.
        return await self._leasing("read", lambda: self.store.read(*readers, limit=limit, wait=wait))

    async def take_due(self, reader: Reader, *, limit: int) -> list[Delivery]:
        return await self._leasing("take_due", lambda: self.store.take_due(reader, limit=limit))

    async def claim(self, reader: Reader, *, idle: float, limit: int = 1) -> list[Delivery]:
        return await self._leasing("claim", lambda: self.store.claim(reader, idle=idle, limit=limit))

    async def extend(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        return await self._leasing("extend", lambda: self.store.extend(deliveries))

    async def _leasing(self, move: str, act: Callable[[], Awaitable[list[Delivery]]]) -> list[Delivery]:
        asked = now()
        given = await act()
        if given:
            events = [name(delivery) for delivery in given]
            self._pen.write(Leased(now(), given[0].reader.group, move, asked + self._lease, events))
        return given

    async def ack(self, deliveries: Sequence[Delivery], *, remember: float | None = None) -> int:
        return await self._settling("ack", deliveries, lambda: self.store.ack(deliveries, remember=remember))

    async def release(self, deliveries: Sequence[Delivery]) -> int:
        return await self._settling("release", deliveries, lambda: self.store.release(deliveries))

    async def retry(
        self, delivery: Delivery, *, delay: float, keep: bool = False, failure: Failure | None = None
    ) -> bool:
        return await self._settling(
            "retry", [delivery], lambda: self.store.retry(delivery, delay=delay, keep=keep, failure=failure)
        )

    async def dead_letter(
        self, delivery: Delivery, *, reason: str, traceback: str = "", attempts: int | None = None
    ) -> bool:
        return await self._settling(
            "dead",
            [delivery],
            lambda: self.store.dead_letter(delivery, reason=reason, traceback=traceback, attempts=attempts),
        )

    async def _settling(self, move: Move, deliveries: Sequence[Delivery], act: Callable[[], Awaitable[Count]]) -> Count:
        asked = now()
        count: int | None = None
        try:
            answer = await act()
            count = int(answer)
            return answer
        except OutcomeUnknown:
            raise
        except ForebayError:
            # Surely not done; it will be tried again.
            deliveries = ()
            raise
        finally:
            if deliveries:
                events = [name(delivery) for delivery in deliveries]
                self._pen.write(Settled(asked, deliveries[0].reader.group, move, events, count))

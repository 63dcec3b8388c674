"""A store that writes down the leases it gives and what becomes of them."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from chaos.history import Leased, Move, Pen, Settled, now
from forebay.errors import ForebayError, OutcomeUnknown
from forebay.event import Record
from forebay.store import Delivery, Store
from forebay.testing import StoreProxy, proxy

SECOND = 1_000_000_000

T = TypeVar("T")


def name(delivery: Delivery) -> str:
    """How histories name the event of a delivery; empty if its entry is missing or foreign."""
    return delivery.record.source if isinstance(delivery.record, Record) else ""


class Witness(StoreProxy):
    """Stands between the bus and its store. `lease` is the consumers', in seconds."""

    def __init__(self, store: Store, pen: Pen, *, lease: float) -> None:
        super().__init__(store)
        self._pen = pen
        self._lease = int(lease * SECOND)

    async def around(self, move: proxy.Move, call: partial[Coroutine[Any, Any, T]]) -> T:
        match move:
            case "read" | "take_due" | "claim" | "extend":
                return await self._leasing(move, call)
            case "ack" | "release":
                return await self._settling(move, call.args[0], call)
            case "retry":
                return await self._settling(move, call.args, call)
            case "dead_letter":
                return await self._settling("dead", call.args, call)
            case _:
                return await call()

    async def _leasing(self, move: str, call: partial[Coroutine[Any, Any, T]]) -> T:
        # The wait is part of the call: a lease that is given at its end begins later than this says.
        requested_at = now()
        given: Any = await call()
        if given:
            events = [name(delivery) for delivery in given]
            self._pen.write(Leased(now(), given[0].reader.group, move, requested_at + self._lease, events))
        result: T = given
        return result

    async def _settling(self, move: Move, deliveries: Sequence[Delivery], call: partial[Coroutine[Any, Any, T]]) -> T:
        requested_at = now()
        count: int | None = None
        try:
            answer: Any = await call()
            count = int(answer)
            result: T = answer
            return result
        except OutcomeUnknown:
            raise
        except ForebayError:
            # Not done for certain; the caller tries again.
            deliveries = ()
            raise
        finally:
            if deliveries:
                events = [name(delivery) for delivery in deliveries]
                self._pen.write(Settled(requested_at, deliveries[0].reader.group, move, events, count))

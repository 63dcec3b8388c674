"""Twelve bugs that event buses have had, each as a store around a good one; the checker is to find every one."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Sequence

import msgspec

from chaos.dump import Dump
from forebay.errors import StoreUnavailable
from forebay.event import Record
from forebay.store import Delivery, Reader, Store
from forebay.testing import StoreProxy


class Counting(StoreProxy):
    """A bug that strikes each `every`-th time; twins count together."""

    every = 1

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._calls: Iterator[int] = itertools.count(1)

    def strikes(self) -> bool:
        return next(self._calls) % self.every == 0


class DropsAcknowledged(Counting):
    """A publish in a hundred is acknowledged and not stored."""

    every = 100

    async def append(self, stream: str, records: Sequence[Record], **options: float | str | None) -> list[str]:
        if self.strikes():
            return ["1"] * len(records)
        return await self.store.append(stream, records, **options)  # type: ignore[arg-type]  # passed on


class AcksBeforeHandling(StoreProxy):
    """Every read entry is acked at once."""

    async def read(self, *readers: Reader, limit: int, wait: float = 0.0) -> list[Delivery]:
        deliveries = await self.store.read(*readers, limit=limit, wait=wait)
        await self.store.ack(deliveries)
        return deliveries


class ClaimsNothing(StoreProxy):
    """What dead consumers hold is never taken over."""

    async def claim(self, reader: Reader, *, idle: float, limit: int = 1) -> list[Delivery]:
        return []


class DeletesConsumersWithTheirPending(StoreProxy):
    """A consumer that has fallen silent is removed, with all it holds."""

    async def claim(self, reader: Reader, *, idle: float, limit: int = 1) -> list[Delivery]:
        await self.store.ack(await self.store.claim(reader, idle=idle, limit=1000))
        return []


class TrimsByLength(StoreProxy):
    """Each publish trims the stream to its newest twenty, read or not."""

    async def append(self, stream: str, records: Sequence[Record], **options: float | str | None) -> list[str]:
        positions = await self.store.append(stream, records, **options)  # type: ignore[arg-type]  # passed on
        await self.store.trim(stream, max_length=20, force=True)
        return positions


class AcksBeforeTheDeadLetter(StoreProxy):
    """The move to the dead letters is two steps, in the wrong order, and something happens in between."""

    async def dead_letter(
        self, delivery: Delivery, *, reason: str, traceback: str = "", attempts: int | None = None
    ) -> bool:
        await self.store.ack([delivery])
        raise StoreUnavailable("gone between the two steps")


class ClaimsWhatIsHeld(StoreProxy):
    """A claim does not look how long an entry has been idle."""

    async def claim(self, reader: Reader, *, idle: float, limit: int = 1) -> list[Delivery]:
        return await self.store.claim(reader, idle=0.0, limit=limit)


class RenewsWhatOthersHold(StoreProxy):
    """A lease is renewed without a look at who holds it now."""

    async def extend(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        await self.store.extend(deliveries)
        return list(deliveries)


class SwapsTwo(Counting):
    """A publish in fifty is acknowledged first and stored a little later, after the next of its key."""

    every = 50

    async def append(self, stream: str, records: Sequence[Record], **options: float | str | None) -> list[str]:
        if self.strikes():
            asyncio.get_running_loop().call_later(0.1, self._catch_up, stream, records)
            return ["1"] * len(records)
        return await self.store.append(stream, records, **options)  # type: ignore[arg-type]  # passed on

    def _catch_up(self, stream: str, records: Sequence[Record]) -> None:
        self._late = asyncio.ensure_future(self.store.append(stream, records))


class RedrivesTwice(StoreProxy):
    """A dead letter that is sent round again is sent twice."""

    async def redrive(self, stream: str, ids: Sequence[str]) -> int:
        for letter in await self.store.dead_letters(stream):
            if letter.id in ids and isinstance(letter.record, Record):
                await self.store.append(stream, [msgspec.structs.replace(letter.record, only_group=letter.group)])
        return await self.store.redrive(stream, ids)


class CallsTimeoutsFailures(Counting):
    """A publish in fifty is stored, and reported as surely not stored."""

    every = 50

    async def append(self, stream: str, records: Sequence[Record], **options: float | str | None) -> list[str]:
        positions = await self.store.append(stream, records, **options)  # type: ignore[arg-type]  # passed on
        if self.strikes():
            raise StoreUnavailable("timed out")
        return positions


def cut_unsynced_tail(dump: Dump) -> None:
    """The effect of a power failure on a store that acknowledges before it syncs: the last events are missing."""
    for event in list(dump.stored)[-10:]:
        del dump.stored[event]
        for events in dump.open.values():
            events.discard(event)


BUGS: dict[type[StoreProxy], str] = {
    DropsAcknowledged: "lost",
    AcksBeforeHandling: "lost",
    ClaimsNothing: "stuck",
    DeletesConsumersWithTheirPending: "lost",
    TrimsByLength: "lost",
    AcksBeforeTheDeadLetter: "lost",
    ClaimsWhatIsHeld: "overlap",
    RenewsWhatOthersHold: "overlap",
    SwapsTwo: "inversion",
    RedrivesTwice: "redriven twice",
    CallsTimeoutsFailures: "ghost",
}
"""The bugs of stores, and the breach that each of them is."""

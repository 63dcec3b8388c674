"""The shared parts of the contract suite: fixtures to override, readers, records."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

import pytest

from forebay.event import Foreign, Record, to_record
from forebay.store import Delivery, Entry, Reader, Store

Fields = Sequence[tuple[bytes, bytes]]
Plant = Callable[[str, Fields], Awaitable[None]]
"""Puts an entry with these fields into a stream, as a program would that knows nothing of forebay."""

STREAM = "order_placed"
GROUP = "billing"
A = Reader(STREAM, GROUP, "worker-a")
B = Reader(STREAM, GROUP, "worker-b")
MAIL = Reader(STREAM, "mail", "worker-a")
HOUR = 3600.0
LOOKS = 20
"""How many claims are enough to see everything in these small streams."""
STRANGE: Fields = ((b"source", b"another program"), (b"data", b"\xff\x00 no JSON, no UTF-8"))
"""The fields of an entry that is not an event. SQLite stores have a column for each."""


class Contract:
    """The fixtures: a subclass overrides `store`, `plant` and `survives`."""

    @pytest.fixture
    def store(self) -> Store:
        """An open store without any stream."""
        raise NotImplementedError("override the fixture `store`")

    @pytest.fixture
    def plant(self) -> Plant:
        """A function that puts foreign entries into the state of `store`."""
        raise NotImplementedError("override the fixture `plant`")

    @pytest.fixture
    def survives(self) -> tuple[str, str, str]:
        """The words of `durability` for this store, in the order of the fields."""
        raise NotImplementedError("override the fixture `survives`")

    @pytest.fixture
    def counts_trimmed_unread(self) -> bool:
        """Whether the store knows `trimmed_unread`."""
        return True

    @pytest.fixture
    def can_watch(self) -> bool:
        """Whether the store has `arrivals`."""
        return True

    @pytest.fixture
    async def other(self, store: Store) -> AsyncIterator[Store]:
        """A second open store on the same state."""
        async with store.clone() as other:
            yield other


def order(number: int = 1, *, id: str | None = None, key: str | None = None) -> Record:
    """An event whose data is the number."""
    return to_record(STREAM, source="shop", data=number, id=id, key=key)


def orders(*given: int) -> list[Record]:
    """Events with these numbers."""
    return [order(number) for number in given]


def numbers(found: Iterable[Entry | Delivery]) -> list[int]:
    """The numbers of events that were read."""
    return [int(each.record.data) for each in found if isinstance(each.record, Record)]


async def begun(store: Store, reader: Reader, count: int) -> list[Delivery]:
    """Join, append the orders 1 to `count`, and lease them all."""
    await store.join(reader.stream, reader.group)
    await store.append(reader.stream, orders(*range(1, count + 1)))
    deliveries = await store.read(reader, limit=count)
    assert list(range(1, count + 1)) == numbers(deliveries)
    return deliveries


async def claimed(store: Store, reader: Reader, *, idle: float = 0.0, limit: int = 100) -> list[Delivery]:
    """All entries that claims find."""
    found: list[Delivery] = []
    for _ in range(LOOKS):
        # The entries that this reader has just taken have been idle for 0 seconds, too.
        known = {delivery.position for delivery in found}
        found += [d for d in await store.claim(reader, idle=idle, limit=limit) if d.position not in known]
    return found


async def planted(plant: Plant, fields: Fields = STRANGE) -> Foreign:
    """Plant one entry; return the record that a store has for it."""
    await plant(STREAM, fields)
    return Foreign(tuple(fields))

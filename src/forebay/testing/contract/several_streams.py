"""The promise of `read` about several readers: one consumer reads one stream or many in one call."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from forebay.errors import ConfigurationError, NotFound
from forebay.store import Reader, Store
from forebay.testing.contract.base import GROUP, STREAM, A, B, Contract, numbers, order, orders

LONG = 30.0
"""Seconds that a read may wait; a test that used them up would be too slow to pass."""
PAID = Reader("order_paid", GROUP, "worker-a")
SENT = Reader("order_sent", GROUP, "worker-a")


class SeveralStreamsContract(Contract):
    """Reads of several streams."""

    async def test_one_read_leases_up_to_its_limit_of_each_stream(self, store: Store) -> None:
        await _join(store, A, PAID, SENT)
        await store.append(STREAM, orders(1, 2, 3))
        await store.append("order_paid", orders(4))

        first = await store.read(A, PAID, SENT, limit=2)
        second = await store.read(SENT, PAID, A, limit=2)

        assert {STREAM: [1, 2], "order_paid": [4]} == {
            reader.stream: numbers(each for each in first if each.reader == reader) for reader in (A, PAID)
        }
        assert {A, PAID} == {delivery.reader for delivery in first}
        assert [(A, [3])] == [(delivery.reader, numbers([delivery])) for delivery in second]
        assert [] == await store.read(A, PAID, SENT, limit=2)
        assert 4 == await store.ack([*first, *second])

    async def test_a_read_of_several_streams_waits_until_any_of_them_grows(self, store: Store, other: Store) -> None:
        await _join(store, A, PAID, SENT)
        for reader in (SENT, A, PAID):
            async with asyncio.timeout(LONG / 2), asyncio.TaskGroup() as tasks:
                waiting = tasks.create_task(store.read(A, PAID, SENT, limit=10, wait=LONG))
                await asyncio.sleep(0)
                await other.append(reader.stream, orders(7))
            assert [(reader, [7])] == [(delivery.reader, numbers([delivery])) for delivery in waiting.result()]

    async def test_a_read_of_several_streams_that_finds_nothing_returns_when_its_wait_is_over(
        self, store: Store
    ) -> None:
        await _join(store, A, PAID)
        clock = asyncio.get_running_loop().time
        started = clock()
        assert [] == await store.read(A, PAID, limit=1, wait=0.1)
        assert 0.09 <= clock() - started < LONG / 2

    async def test_fifty_streams_are_read_at_once(self, store: Store) -> None:
        readers = [Reader(f"stream_{number:02}", GROUP, "worker-a") for number in range(50)]
        await _join(store, *readers)
        for number, reader in enumerate(readers):
            await store.append(reader.stream, orders(number))

        found = await store.read(*readers, limit=10)

        assert {reader: [number] for number, reader in enumerate(readers)} == {
            delivery.reader: numbers([delivery]) for delivery in found
        }

    async def test_a_read_of_several_streams_names_the_one_whose_group_does_not_exist(self, store: Store) -> None:
        await _join(store, A, SENT)
        for reader in (A, SENT):
            await store.append(reader.stream, orders(1))

        with pytest.raises(NotFound, match="order_paid"):
            await store.read(A, PAID, SENT, limit=10)

        assert [[], []] == [await store.pending(reader.stream, GROUP) for reader in (A, SENT)]
        assert [1, 1] == numbers(await store.read(A, SENT, limit=10))

    async def test_a_read_of_several_streams_skips_entries_for_another_group(self, store: Store) -> None:
        await _join(store, A, PAID)
        await store.append(STREAM, [msgspec.structs.replace(order(1), only_group="mail"), order(2)])
        await store.append("order_paid", [msgspec.structs.replace(order(3), only_group="mail")])

        assert [2] == numbers(await store.read(A, PAID, limit=10))
        assert 1 == len(await store.pending(STREAM, GROUP))
        assert [] == await store.pending("order_paid", GROUP)

    async def test_an_ordered_reader_of_several_streams_reads_those_that_no_other_consumer_works_on(
        self, store: Store
    ) -> None:
        mine = [msgspec.structs.replace(reader, ordered=True) for reader in (A, PAID)]
        theirs = msgspec.structs.replace(B, ordered=True)
        await _join(store, *mine)
        for reader in mine:
            await store.append(reader.stream, orders(1, 2))
        held = await store.read(theirs, limit=1)

        assert [("order_paid", [1]), ("order_paid", [2])] == [
            (delivery.reader.stream, numbers([delivery])) for delivery in await store.read(*mine, limit=10)
        ]
        await store.ack(held)
        assert [2] == numbers(await store.read(*mine, limit=10))

    @pytest.mark.parametrize(
        "readers",
        [
            (),
            (A, A),
            (A, Reader("order_paid", "mail", "worker-a")),
            (A, Reader("order_paid", GROUP, "worker-b")),
            (A, Reader("order_paid", GROUP, "worker-a", ordered=True)),
        ],
        ids=["none", "one stream twice", "two groups", "two consumers", "ordered and not"],
    )
    async def test_the_readers_of_one_read_are_one_consumer_of_different_streams(
        self, store: Store, readers: tuple[Reader, ...]
    ) -> None:
        await _join(store, A, B, *readers)
        for stream in (STREAM, "order_paid"):
            await store.append(stream, orders(1))

        with pytest.raises(ConfigurationError):
            await store.read(*readers, limit=1)

        assert [] == await store.pending(STREAM, GROUP)


async def _join(store: Store, *readers: Reader) -> None:
    for reader in readers:
        await store.join(reader.stream, reader.group)

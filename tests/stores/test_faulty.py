"""The faulty store: what tests order befalls the calls they named, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from forebay.errors import ConfigurationError, OutcomeUnknown, StoreFull, StoreUnavailable
from forebay.event import Record, to_record
from forebay.store import START
from forebay.stores.memory import MemoryStore
from forebay.testing import FaultyStore

STREAM = "order_placed"


@pytest.fixture
async def store() -> AsyncIterator[FaultyStore]:
    async with FaultyStore(MemoryStore()) as store:
        yield store


def order(number: int = 1) -> Record:
    return to_record(STREAM, source="shop", data=number)


async def test_without_an_order_nothing_fails(store: FaultyStore) -> None:
    assert ["1"] == await store.append(STREAM, [order()])
    assert {"append": 1} == store.calls


async def test_a_call_that_fails_before_did_not_happen(store: FaultyStore) -> None:
    store.fail_before("append")

    with pytest.raises(StoreUnavailable):
        await store.append(STREAM, [order()])

    assert [] == await store.scan(STREAM)


async def test_a_call_that_fails_after_happened_and_a_repetition_can_find_it(store: FaultyStore) -> None:
    [before] = await store.append(STREAM, [order(1)])
    store.fail_after("append")
    record = order(2)

    with pytest.raises(OutcomeUnknown) as unknown:
        await store.append(STREAM, [record])

    assert before == unknown.value.search_after
    assert ["2"] == await store.append(STREAM, [record], dedup_window=60.0, search_after=unknown.value.search_after)


async def test_the_first_append_of_a_stream_is_looked_for_from_the_start(store: FaultyStore) -> None:
    store.fail_after("append")
    with pytest.raises(OutcomeUnknown) as unknown:
        await store.append(STREAM, [order()])
    assert START == unknown.value.search_after


async def test_faults_befall_calls_in_the_order_in_which_they_were_ordered(store: FaultyStore) -> None:
    store.fail_before("append", StoreFull("no room"))
    store.fail_after("append", times=2)

    seen = []
    for number in range(4):
        try:
            await store.append(STREAM, [order(number)])
            seen.append("stored")
        except (StoreFull, OutcomeUnknown) as error:
            seen.append(type(error).__name__)

    assert ["StoreFull", "OutcomeUnknown", "OutcomeUnknown", "stored"] == seen
    assert 3 == len(await store.scan(STREAM))


async def test_a_fault_of_one_move_leaves_the_others_alone(store: FaultyStore) -> None:
    store.fail_before("read")
    assert await store.join(STREAM, "billing")
    assert ["1"] == await store.append(STREAM, [order()])


async def test_a_delayed_call_happens_later(store: FaultyStore) -> None:
    store.delay("append", 0.05)
    began = asyncio.get_running_loop().time()

    await store.append(STREAM, [order()])

    assert asyncio.get_running_loop().time() - began >= 0.05


async def test_mending_forgets_the_faults_to_come(store: FaultyStore) -> None:
    store.fail_before("append", times=100)
    store.mend()
    assert ["1"] == await store.append(STREAM, [order()])


async def test_a_twin_has_the_same_faults(store: FaultyStore) -> None:
    async with store.clone() as clone:
        store.fail_before("append")
        with pytest.raises(StoreUnavailable):
            await clone.append(STREAM, [order()])
    assert ["1"] == await store.append(STREAM, [order()])
    assert 2 == store.calls["append"]


async def test_a_move_that_does_not_exist_is_refused(store: FaultyStore) -> None:
    with pytest.raises(ConfigurationError, match="no move 'apend'; there are append"):
        store.fail_before("apend")  # type: ignore[arg-type]  # the mistake that is tested

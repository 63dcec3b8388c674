"""All consumers of a process share one watch of the store and one query for due, expired and lost entries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack

import pytest

from forebay import StoreDenied, StoreUnavailable
from forebay.errors import StoreDamaged
from forebay.event import Record, to_record
from forebay.runtime.lookout import Lookout
from forebay.runtime.services import BLOCKING_CONSUMERS, Services
from forebay.runtime.wakeups import Wakeups
from forebay.signals import LoopFailed, LoopRecovered, Signals
from forebay.store import Outlook, Reader
from forebay.stores.memory import MemoryStore
from forebay.testing import eventually


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Store(MemoryStore):
    """A memory store that counts queries, and raises the errors of a test."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock=clock or Clock())
        self.watches = 0
        self.asked: list[tuple[Reader, ...]] = []
        self.appended: list[str] = []
        self.errors: dict[str, Exception] = {}

    async def arrivals(self) -> AsyncGenerator[str | None, None]:
        self._fail("arrivals")
        self.watches += 1
        async for stream in super().arrivals():
            yield stream
            self._fail("arrivals")

    async def outlook(self, readers: Sequence[Reader]) -> list[Outlook | None]:
        self.asked.append(tuple(readers))
        self._fail("outlook")
        for reader in readers:
            self._fail(reader.stream)
        return await super().outlook(readers)

    async def append_due(self, stream: str, *, limit: int = 500) -> int:
        self.appended.append(stream)
        self._fail(f"append_due {stream}")
        return await super().append_due(stream, limit=limit)

    def _fail(self, move: str) -> None:
        if move in self.errors:
            raise self.errors[move]


def consumer(*streams: str, group: str = "g", ordered: bool = False, lease: float = 30.0) -> Wakeups:
    """A consumer, as the services see it."""
    return Wakeups(lease, [Reader(stream, group, f"{group}-1", ordered) for stream in streams])


def record(stream: str = "a") -> Record:
    return to_record(stream, source="s", data=1)


async def joined(store: MemoryStore, wakeups: Wakeups) -> Wakeups:
    for reader in wakeups.readers:
        await store.join(reader.stream, reader.group)
    return wakeups


class Serving:
    """Services with consumers that are served until the test ends."""

    def __init__(self, store: MemoryStore, stack: AsyncExitStack) -> None:
        self.signals = Signals()
        self.heard: list[LoopFailed | LoopRecovered] = []
        self.signals.listen(self.heard.append, LoopFailed, LoopRecovered)
        self.services = Services(store, self.signals, poll=0.01)
        self._store = store
        self._stack = stack

    async def serve(self, *consumers: Wakeups) -> list[Wakeups]:
        for each in consumers:
            await self._stack.enter_async_context(self.services.serving(await joined(self._store, each)))
        return list(consumers)


@pytest.fixture
async def stack() -> AsyncGenerator[AsyncExitStack, None]:
    async with AsyncExitStack() as stack:
        yield stack


def many(count: int = BLOCKING_CONSUMERS + 1) -> list[Wakeups]:
    return [consumer(f"s{number}") for number in range(count)]


async def test_a_few_consumers_of_one_stream_each_wait_in_their_reads(stack: AsyncExitStack) -> None:
    store = Store()
    serving = Serving(store, stack)

    await serving.serve(*many(BLOCKING_CONSUMERS))

    assert serving.services.is_blocking
    await eventually(lambda: len(store.asked) > 1)
    assert store.watches == 0


async def test_more_consumers_share_one_watch(stack: AsyncExitStack) -> None:
    store = Store()
    serving = Serving(store, stack)

    await serving.serve(*many(100))

    assert not serving.services.is_blocking
    await eventually(lambda: store.watches == 1)


async def test_a_consumer_of_several_streams_is_served_by_the_watch(stack: AsyncExitStack) -> None:
    store = Store()
    serving = Serving(store, stack)

    [wakeups] = await serving.serve(consumer("a", "b"))

    assert not serving.services.is_blocking
    await eventually(lambda: store.watches == 1)
    wakeups.unread.clear()
    await store.append("b", [record("b")])
    await eventually(lambda: wakeups.unread == {"b"})


async def test_an_event_wakes_each_group_of_its_stream_and_no_other_consumer(stack: AsyncExitStack) -> None:
    store = Store()
    serving = Serving(store, stack)
    consumers = [*many(), consumer("a", group="g"), consumer("a", group="h")]
    *others, first, second = await serving.serve(*consumers)
    await eventually(lambda: store.watches)
    for wakeups in (*others, first, second):
        wakeups.unread.clear()
        wakeups.may_read.clear()

    await store.append("a", [record()])

    await asyncio.wait_for(asyncio.gather(first.may_read.wait(), second.may_read.wait()), 10)
    assert (first.unread, second.unread) == ({"a"}, {"a"})
    assert not any(wakeups.may_read.is_set() for wakeups in others)


async def test_all_consumers_read_once_more_when_the_watch_is_made_again(stack: AsyncExitStack) -> None:
    store = Store()
    serving = Serving(store, stack)
    consumers = await serving.serve(*many())
    await eventually(lambda: store.watches == 1)

    store.errors["arrivals"] = StoreUnavailable("the server is gone")
    await store.append("s0", [record()])
    await eventually(lambda: serving.heard)
    for wakeups in consumers:
        wakeups.unread.clear()
    await store.append("s1", [record()])
    del store.errors["arrivals"]

    await eventually(lambda: all(wakeups.unread for wakeups in consumers))
    assert not serving.services.is_blocking
    assert isinstance(serving.heard[0], LoopFailed)
    assert LoopRecovered("doorbell", "*", "*") in serving.heard


async def test_consumers_wait_in_their_reads_where_the_store_refuses_to_watch(stack: AsyncExitStack) -> None:
    store = Store()
    store.errors["arrivals"] = denied = StoreDenied("no right to CLIENT TRACKING")
    serving = Serving(store, stack)

    consumers = await serving.serve(*many())
    for wakeups in consumers:
        wakeups.unread.clear()
        wakeups.may_read.clear()

    await eventually(lambda: serving.services.is_blocking)
    assert all(wakeups.may_read.is_set() for wakeups in consumers)
    assert serving.heard == [LoopFailed("doorbell", "*", "*", denied, 0.0)]


async def test_the_watch_ends_with_the_last_consumer_and_begins_again_with_the_next_one() -> None:
    store = Store()
    services = Services(store, Signals(), poll=0.01)
    tasks = asyncio.all_tasks()

    for number in (1, 2):
        async with services.serving(await joined(store, consumer("a", "b"))):
            await eventually(lambda number=number: store.watches == number)

        assert asyncio.all_tasks() == tasks


async def test_services_serve_on_another_event_loop_after_the_first_one_is_gone() -> None:
    store = Store()
    services = Services(store, Signals(), poll=0.01)

    async def serve() -> None:
        wakeups = await joined(store, consumer("a", "b"))
        async with services.serving(wakeups):
            wakeups.unread.clear()
            await eventually(lambda: wakeups.unread == {"a", "b"})

    await asyncio.to_thread(asyncio.run, serve())
    await asyncio.to_thread(asyncio.run, serve())


async def test_one_question_a_look_is_all_that_idle_consumers_cost(stack: AsyncExitStack) -> None:
    store = Store()
    consumers = await Serving(store, stack).serve(*many(100))
    readers = {wakeups.readers[0] for wakeups in consumers}

    await eventually(lambda: any(len(asked) == 100 for asked in store.asked))
    before = len(store.asked)
    await eventually(lambda: len(store.asked) > before + 3)

    assert all(set(asked) == readers for asked in store.asked[before:])
    assert store.appended == []
    assert not any(wakeups.due or wakeups.claimable or wakeups.lost for wakeups in consumers)


async def test_scheduled_records_are_appended_when_they_are_due(stack: AsyncExitStack) -> None:
    clock = Clock()
    store = Store(clock)
    await store.schedule("a", [record() for _ in range(1200)], delay=60)
    await Serving(store, stack).serve(consumer("a"), consumer("a", group="h"))
    await eventually(lambda: len(store.asked) > 3)
    assert store.appended == []

    clock.now += 60

    async def all_are_appended() -> bool:
        [stats] = await store.stats(["a"])
        return (stats.length, stats.scheduled) == (1200, 0)

    await eventually(all_are_appended)


async def test_a_record_that_is_due_before_the_next_look_is_appended_at_its_moment() -> None:
    clock = Clock()
    store = Store(clock)
    lookout = Lookout(store, Signals(), poll=3600)
    lookout.add(await joined(store, consumer("a")))
    await store.schedule("a", [record()], delay=0.01)
    running = asyncio.create_task(lookout.run())
    await eventually(lambda: store.asked)

    clock.now += 0.01

    await eventually(lambda: store.appended)
    running.cancel()
    # Once more for the next record of the stream.
    assert len(store.asked) <= 2


async def test_a_consumer_is_woken_for_a_waiting_entry_when_it_is_due(stack: AsyncExitStack) -> None:
    clock = Clock()
    store = Store(clock)
    [wakeups, other] = await Serving(store, stack).serve(consumer("a"), consumer("b"))
    await store.append("a", [record()])
    [delivery] = await store.read(wakeups.readers[0], limit=1)
    await store.retry(delivery, delay=60)
    looks = len(store.asked)
    await eventually(lambda: len(store.asked) > looks + 3)
    assert wakeups.due == set()

    clock.now += 60

    await eventually(lambda: wakeups.due == {"a"})
    assert other.due == set()


async def test_a_consumer_claims_while_another_one_holds_entries_of_its_group(stack: AsyncExitStack) -> None:
    store = Store()
    [wakeups] = await Serving(store, stack).serve(consumer("a", lease=0.2))
    wakeups.claimable.clear()
    await store.append("a", [record()])
    [held] = await store.read(Reader("a", "g", "another"), limit=1)

    await eventually(lambda: wakeups.claimable == {"a"})

    wakeups.claimable.clear()
    await eventually(lambda: wakeups.claimable == {"a"})
    assert await store.ack([held]) == 1


async def test_a_lease_whose_answer_was_lost_is_claimed_within_a_lease(stack: AsyncExitStack) -> None:
    store = Store()
    [wakeups] = await Serving(store, stack).serve(consumer("a", lease=0.2))
    await store.append("a", [record()])
    await store.read(wakeups.readers[0], limit=1)

    await eventually(lambda: wakeups.claimable == {"a"}, within=5)


async def test_a_consumer_learns_that_its_group_is_lost(stack: AsyncExitStack) -> None:
    store = Store()
    [wakeups, other] = await Serving(store, stack).serve(consumer("a"), consumer("b"))

    await store.leave("a", "g")

    await eventually(lambda: wakeups.lost == {"a"})
    assert other.lost == set()


async def test_unread_entries_are_found_though_nothing_has_arrived(stack: AsyncExitStack) -> None:
    store = Store()
    serving = Serving(store, stack)
    await store.append("s0", [record()])
    [wakeups, *_] = await serving.serve(*many())
    await store.ack(await store.read(wakeups.readers[0], limit=1))
    looks = len(store.asked)
    await eventually(lambda: len(store.asked) > looks + 3)
    wakeups.unread.clear()

    await store.seek("s0", "g", "0")

    await eventually(lambda: wakeups.unread == {"s0"})


async def test_an_ordered_consumer_is_not_woken_for_entries_that_it_may_not_read_yet(stack: AsyncExitStack) -> None:
    store = Store()
    serving = Serving(store, stack)
    [wakeups, *_] = await serving.serve(consumer("a", ordered=True), *many())
    await store.append("a", [record(), record()])
    [held] = await store.read(Reader("a", "g", "another", ordered=True), limit=1)
    await eventually(lambda: store.watches)
    looks = len(store.asked)
    await eventually(lambda: len(store.asked) > looks + 3)
    wakeups.unread.clear()
    looks = len(store.asked)
    await eventually(lambda: len(store.asked) > looks + 3)
    assert wakeups.unread == set()

    await store.ack([held])

    await eventually(lambda: wakeups.unread == {"a"})


async def test_the_look_goes_on_after_an_outage(stack: AsyncExitStack) -> None:
    store = Store()
    serving = Serving(store, stack)
    [wakeups] = await serving.serve(consumer("a"))
    store.errors["outlook"] = StoreUnavailable("the server is gone")
    await eventually(lambda: serving.heard)
    await store.leave("a", "g")
    del store.errors["outlook"]

    await eventually(lambda: wakeups.lost == {"a"})
    assert LoopRecovered("lookout", "*", "*") in serving.heard
    assert wakeups.error is None


@pytest.mark.parametrize("move", ["a", "append_due a"], ids=["look", "append"])
async def test_a_damaged_stream_ends_its_own_consumer_alone(stack: AsyncExitStack, move: str) -> None:
    store = Store()
    store.errors[move] = error = StoreDamaged("it is not a stream")
    await store.schedule("a", [record()], delay=0.0)
    damaged, other = await Serving(store, stack).serve(consumer("a"), consumer("b"))

    await eventually(lambda: damaged.error is error)

    looks = len(store.asked)
    await eventually(lambda: len(store.asked) > looks + 3)
    assert other.error is None


async def test_a_bug_in_a_service_ends_the_consumers_with_its_error(stack: AsyncExitStack) -> None:
    store = Store()
    store.errors["outlook"] = bug = ValueError("a bug")
    [wakeups] = await Serving(store, stack).serve(consumer("a"))

    await eventually(lambda: wakeups.error is bug)

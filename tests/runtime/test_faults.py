"""A store that fails before or after its moves: nothing is lost, and no handler runs for nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from forebay import Event, EventBus, PublishUnknown, Reject, Retry, StoreDenied, StoreFull, StoreUnavailable
from forebay.signals import DeadLettered, GroupCreated, LateAck, LeaseLost, LoopFailed, Recovered, Retried, Skipped
from forebay.store import Delivery, Reader
from forebay.stores.memory import MemoryStore
from forebay.testing import FaultyStore, eventually
from forebay.testing.proxy import Move

QUICK = Retry(attempts=3, base=0.001, cap=0.002)
LEASE = 0.15
"""Seconds: short, where a test waits for leases to run out."""


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore(MemoryStore())


@pytest.fixture
async def bus(store: FaultyStore) -> AsyncIterator[EventBus]:
    async with EventBus(store) as bus:
        yield bus


class Seen:
    """Handles events and counts them by their data; the first `failures` times of each it fails."""

    def __init__(self, *, failures: int = 0) -> None:
        self.times: Counter[int] = Counter()
        self.attempts: list[int] = []
        self._failures = failures

    async def __call__(self, event: Event) -> None:
        self.times[event.data] += 1
        self.attempts.append(event.attempt)
        if self.times[event.data] <= self._failures:
            raise ConnectionError("not yet")


def heard(bus: EventBus, *kinds: type) -> list[object]:
    """The signals of these kinds, from now on."""
    signals: list[object] = []
    bus.signals.listen(signals.append, *kinds)
    return signals


# Publishing.


async def test_a_publish_that_did_not_happen_is_an_error_and_stores_nothing(store: FaultyStore, bus: EventBus) -> None:
    store.fail_before("append")
    with pytest.raises(StoreUnavailable):
        await bus.publish("t", source="s", data=1)
    assert [] == await store.scan("t")


@pytest.mark.parametrize("chosen", [None, "order-1"])
async def test_a_publish_without_an_answer_is_stored_once_when_it_is_repeated(
    store: FaultyStore, bus: EventBus, chosen: str | None
) -> None:
    await bus.publish("t", source="s", data=0)
    store.fail_after("append", times=2)
    with pytest.raises(PublishUnknown) as first:
        await bus.publish("t", source="s", data=1, id=chosen)
    with pytest.raises(PublishUnknown):
        await bus.publish("t", source="s", data=1, id=first.value.id)

    assert first.value.id == await bus.publish("t", source="s", data=1, id=first.value.id)

    assert [0, 1] == [event.data async for event in bus.events("t") if isinstance(event, Event)]
    assert chosen in (None, first.value.id)


async def test_a_publish_of_many_without_an_answer_is_stored_once_when_it_is_repeated(
    store: FaultyStore, bus: EventBus
) -> None:
    store.fail_after("append")
    with pytest.raises(PublishUnknown) as unknown:
        await bus.publish_many("t", source="s", data=range(5))

    await bus.publish_many("t", source="s", data=range(5), ids=unknown.value.ids)

    assert [0, 1, 2, 3, 4] == [event.data async for event in bus.events("t") if isinstance(event, Event)]


async def test_a_delayed_publish_without_an_answer_is_scheduled_once_when_it_is_repeated(
    store: FaultyStore, bus: EventBus
) -> None:
    store.fail_after("schedule")
    with pytest.raises(PublishUnknown):
        await bus.publish("t", source="s", id="order-1", delay=60)

    await bus.publish("t", source="s", id="order-1", delay=60)

    assert [1] == [stats.scheduled for stats in await bus.stats()]


# Taking.


async def test_moves_that_did_not_happen_are_repeated_and_every_event_is_handled_once(
    store: FaultyStore, bus: EventBus
) -> None:
    failed, handle = heard(bus, LoopFailed), Seen()
    bus.on("t", group="g")(handle.__call__)
    await bus.publish_many("t", source="s", data=range(50))
    moves: tuple[Move, ...] = ("join", "read", "outlook", "stats")
    for move in moves:
        store.fail_before(move, times=2)
    store.fail_before("read", StoreFull("ordered: no room"))

    await bus.run(until_idle=True)

    assert dict.fromkeys(range(50), 1) == handle.times
    assert {"read", "lookout"} == {signal.loop for signal in failed if isinstance(signal, LoopFailed)}
    assert all(store.calls[move] > 2 for move in moves)


async def test_a_read_whose_answer_was_lost_comes_back_when_its_leases_run_out(
    store: FaultyStore, bus: EventBus
) -> None:
    recovered, handle = heard(bus, Recovered), Seen()
    bus.on("t", group="g", lease=LEASE)(handle.__call__)
    await bus.publish_many("t", source="s", data=range(3))
    store.fail_after("read")

    await bus.run(until_idle=True)

    assert dict.fromkeys(range(3), 1) == handle.times
    assert [2, 2, 2] == handle.attempts
    assert 3 == len(recovered)


@pytest.mark.parametrize("move", ["take_due", "claim"])
async def test_entries_leased_by_a_read_without_an_answer_come_back_too(
    store: FaultyStore, bus: EventBus, move: Move
) -> None:
    handle = Seen(failures=1)
    bus.on("t", group="g", lease=LEASE, retry=QUICK)(handle.__call__)
    await bus.publish("t", source="s", data=1)
    if move == "claim":
        store.fail_after("read")
    store.fail_after(move)

    await bus.run(until_idle=True)

    assert {1: 2} == handle.times
    assert [] == await bus.dead_letters("t")


async def test_a_join_whose_answer_was_lost_is_repeated(store: FaultyStore, bus: EventBus) -> None:
    handle = Seen()
    bus.on("t", group="g")(handle.__call__)
    await bus.publish("t", source="s", data=1)
    store.fail_after("join")

    await bus.run(until_idle=True)

    assert {1: 1} == handle.times


async def test_an_error_that_does_not_pass_ends_the_run(store: FaultyStore, bus: EventBus) -> None:
    bus.on("t", group="g")(Seen().__call__)
    store.fail_before("read", StoreDenied("ordered: no right to read"))
    with pytest.raises(StoreDenied):
        await bus.run()


# Settling.


async def test_acks_that_did_not_happen_are_repeated_until_they_hold(store: FaultyStore, bus: EventBus) -> None:
    late, handle = heard(bus, LateAck), Seen()
    bus.on("t", group="g")(handle.__call__)
    await bus.publish_many("t", source="s", data=range(20))
    store.fail_before("ack", times=3)

    await bus.run(until_idle=True)

    assert dict.fromkeys(range(20), 1) == handle.times
    assert [] == await bus.pending("t", "g")
    assert [] == late


async def test_acks_whose_answer_was_lost_are_repeated_and_are_not_late(store: FaultyStore, bus: EventBus) -> None:
    late, handle = heard(bus, LateAck), Seen()
    bus.on("t", group="g")(handle.__call__)
    await bus.publish_many("t", source="s", data=range(20))
    store.fail_after("ack", times=2)

    await bus.run(until_idle=True)

    assert dict.fromkeys(range(20), 1) == handle.times
    assert [] == late


@pytest.mark.parametrize("fault", ["before", "after"])
@pytest.mark.parametrize("ordered", [False, True])
async def test_a_retry_that_fails_is_repeated_and_counts_one_failure(
    store: FaultyStore, bus: EventBus, fault: str, ordered: bool
) -> None:
    signals, handle = heard(bus, Retried, LeaseLost), Seen(failures=2)
    bus.on("t", group="g", retry=QUICK, ordered=ordered)(handle.__call__)
    await bus.publish("t", source="s", data=1)
    _fail(store, fault, "retry", times=2)

    await bus.run(until_idle=True)

    assert {1: 3} == handle.times
    assert [1, 2, 3] == handle.attempts
    assert [Retried, Retried] == [type(signal) for signal in signals]
    assert [] == await bus.dead_letters("t")


@pytest.mark.parametrize("fault", ["before", "after"])
async def test_a_dead_letter_that_fails_is_repeated_and_there_is_one(
    store: FaultyStore, bus: EventBus, fault: str
) -> None:
    signals = heard(bus, DeadLettered, LeaseLost)
    calls = 0

    @bus.on("t", group="g")
    async def handle(event: Event) -> None:
        nonlocal calls
        calls += 1
        raise Reject("never")

    await bus.publish("t", source="s", data=1)
    _fail(store, fault, "dead_letter", times=2)

    await bus.run(until_idle=True)

    assert 1 == calls
    assert ["Reject: never"] == [letter.error for letter in await bus.dead_letters("t")]
    assert [DeadLettered] == [type(signal) for signal in signals]
    assert [] == await bus.pending("t", "g")


@pytest.mark.parametrize("fault", ["before", "after"])
async def test_a_delivery_that_could_not_be_released_returns_with_its_lease(
    store: FaultyStore, bus: EventBus, fault: str
) -> None:
    times: Counter[int] = Counter()

    @bus.on("t", group="g", concurrency=1, prefetch=10, lease=LEASE)
    async def handle(event: Event) -> None:
        times[event.data] += 1
        if event.data == 0:
            bus.stop()

    await bus.publish_many("t", source="s", data=range(5))
    _fail(store, fault, "release")
    await bus.run()
    assert {0: 1} == times

    await bus.run(until_idle=True)

    assert dict.fromkeys(range(5), 1) == times


async def test_a_handler_outlives_its_lease_though_renewals_fail_now_and_then(
    store: FaultyStore, bus: EventBus
) -> None:
    signals, attempts = heard(bus, LeaseLost, Recovered), list[int]()

    @bus.on("t", group="g", lease=1.0)
    async def handle(event: Event) -> None:
        attempts.append(event.attempt)
        await eventually(lambda: store.calls["extend"] >= 5)

    await bus.publish("t", source="s")
    store.fail_before("extend")
    store.fail_after("extend")

    await bus.run(until_idle=True)

    assert [1] == attempts
    assert [] == signals


async def test_a_consumer_that_took_its_own_lease_for_a_dead_ones_still_takes_over_from_others(
    store: FaultyStore, bus: EventBus
) -> None:
    recovered, handled, may_end = heard(bus, Recovered), list[str](), asyncio.Event()

    @bus.on("t", group="g", lease=LEASE)
    async def handle(event: Event) -> None:
        if event.data == "long":
            await may_end.wait()
        handled.append(event.data)

    await bus.publish("t", source="s", data="long")
    store.fail_before("extend", times=100_000)
    running = asyncio.create_task(bus.run(until_idle=True))
    await eventually(lambda: bool(recovered))
    store.mend()
    await bus.publish("t", source="s", data="taken and left")
    # It is there first: a store in memory does not wait.
    [taken] = await store.store.read(Reader("t", "g", "dies"), limit=1)
    may_end.set()

    await eventually(lambda: handled == ["long", "taken and left"])
    await running

    assert taken.position in {signal.delivery.position for signal in recovered if isinstance(signal, Recovered)}


# Ids that were handled before.


@pytest.mark.parametrize("taken_over", [False, True])
async def test_a_look_for_handled_ids_that_fails_loses_nothing(
    store: FaultyStore, bus: EventBus, taken_over: bool
) -> None:
    skipped, handle = heard(bus, Skipped), Seen()
    bus.on("t", group="g", dedup=True, lease=LEASE)(handle.__call__)
    await bus.publish_many("t", source="s", data=range(3))
    if taken_over:
        store.fail_after("read")
    store.fail_before("handled", times=2)

    async with asyncio.timeout(20):
        await bus.run(until_idle=True)

    assert dict.fromkeys(range(3), 1) == handle.times
    assert [] == skipped


async def test_an_event_whose_ack_was_lost_on_the_way_is_not_handled_again(store: FaultyStore, bus: EventBus) -> None:
    handle = Seen()
    bus.on("t", group="g", dedup=True)(handle.__call__)
    await bus.publish("t", source="s", data=1, id="order-1")
    store.fail_after("ack")
    await bus.run(until_idle=True)

    await bus.replay("t", group="g")
    await bus.run(until_idle=True)

    assert {1: 1} == handle.times


# Lost groups.


async def test_a_lost_group_is_created_again_at_its_last_position(store: FaultyStore, bus: EventBus) -> None:
    joined, handle = heard(bus, GroupCreated), Seen()
    bus.on("t", group="g")(handle.__call__)
    await bus.publish_many("t", source="s", data=range(3))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(bus.run())
        await eventually(lambda: handle.times.total() == 3)
        await eventually(lambda: _is_settled(bus))
        store.fail_before("join")
        await store.leave("t", "g")
        await bus.publish_many("t", source="s", data=range(3, 6))
        await eventually(lambda: handle.times.total() >= 6)
        await eventually(lambda: _is_settled(bus))
        bus.stop()

    assert dict.fromkeys(range(6), 1) == handle.times
    assert [False, True] == [signal.recreated for signal in joined if isinstance(signal, GroupCreated)]


async def test_events_finished_before_their_group_was_lost_are_not_handled_again(
    store: FaultyStore, bus: EventBus
) -> None:
    handled: list[int] = []
    lost, joined = asyncio.Event(), heard(bus, GroupCreated)

    @bus.on("t", group="g", prefetch=9, concurrency=1)
    async def handle(event: Event) -> None:
        handled.append(event.data)
        if event.data == 7:
            await lost.wait()

    await bus.publish_many("t", source="s", data=range(9))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(bus.run())
        await eventually(lambda: 7 in handled)
        await store.leave("t", "g")
        await bus.publish("t", source="s", data=9)
        await eventually(lambda: len(joined) == 2)
        lost.set()
        await eventually(lambda: 9 in handled)
        await eventually(lambda: _is_settled(bus))
        bus.stop()

    assert [1] * 7 == [handled.count(number) for number in range(7)]


async def test_a_group_lost_while_handlers_run_is_read_again_from_the_events_in_flight(
    store: FaultyStore, bus: EventBus
) -> None:
    handled: list[int] = []
    begun, lost = asyncio.Event(), asyncio.Event()

    @bus.on("t", group="g", retry=QUICK)
    async def handle(event: Event) -> None:
        handled.append(event.data)
        if event.data < 2:
            begun.set()
            await lost.wait()
        if event.data == 1 and handled.count(1) == 1:
            raise ConnectionError("while the group is lost")

    await bus.publish_many("t", source="s", data=range(2))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(bus.run())
        await begun.wait()
        await store.leave("t", "g")
        lost.set()
        await bus.publish("t", source="s", data=2)
        await eventually(lambda: 2 in handled)
        await eventually(lambda: _is_settled(bus))
        bus.stop()

    assert {0, 1, 2} == set(handled)
    assert 2 <= handled.count(1)


def _fail(store: FaultyStore, fault: str, move: Move, *, times: int = 1) -> None:
    (store.fail_before if fault == "before" else store.fail_after)(move, times=times)


async def _is_settled(bus: EventBus) -> bool:
    [stats] = await bus.stats("t")
    return all(not group.pending and not group.lag for group in stats.groups)


@pytest.mark.parametrize("move", ["read", "take_due", "claim"])
async def test_an_ordered_group_skips_no_entry_whose_lease_was_lost_with_the_answer(
    store: FaultyStore, bus: EventBus, move: Move
) -> None:
    handled: list[int] = []
    stray = Reader("t", "g", "stray", ordered=True)

    @bus.on("t", group="g", lease=LEASE, ordered=True)
    async def handle(event: Event) -> None:
        handled.append(event.data)

    await bus.publish("t", source="s", data=0, key="k")
    if move != "read":
        await store.join("t", "g")
        [begun] = await store.read(stray, limit=1)
        if move == "take_due":
            await store.retry(begun, delay=0)
        else:
            await eventually(lambda: _has_lapsed(store))
    store.fail_after(move)
    failures = heard(bus, LoopFailed)
    run = asyncio.create_task(bus.run())
    await eventually(lambda: failures)
    await bus.publish("t", source="s", data=1, key="k")
    await eventually(lambda: 1 in handled)
    bus.stop()
    await run

    assert [0, 1] == handled


async def test_after_a_refused_retry_an_ordered_group_waits_for_the_holder_of_the_event(
    store: FaultyStore, bus: EventBus
) -> None:
    happened: list[object] = []
    thief, taken = Reader("t", "g", "thief", ordered=True), list[Delivery]()

    @bus.on("t", group="g", ordered=True)
    async def handle(event: Event) -> None:
        happened.append(event.data)
        if event.data == 0:
            taken.extend(await store.claim(thief, idle=0.0))
            raise ConnectionError("too late")

    await bus.publish_many("t", source="s", data=[0, 1], keys=["k", "k"])
    lost = heard(bus, LeaseLost)
    run = asyncio.create_task(bus.run())
    await eventually(lambda: lost)
    happened.append("the thief is done")
    assert 1 == await store.ack(taken)
    await eventually(lambda: 1 in happened)
    bus.stop()
    await run

    assert [0, "the thief is done", 1] == happened


async def _has_lapsed(store: FaultyStore) -> bool:
    [pending] = await store.pending("t", "g")
    return (pending.idle or 0) > LEASE


async def test_an_ordered_group_passes_over_nothing_whose_retry_was_refused_for_a_whole_lease(
    store: FaultyStore, bus: EventBus
) -> None:
    begun: list[tuple[int, int]] = []

    @bus.on("t", group="g", lease=LEASE, ordered=True, retry=QUICK)
    async def handle(event: Event) -> None:
        begun.append((event.data, event.attempt))
        if begun == [(0, 1)]:
            raise ConnectionError

    await bus.publish_many("t", source="s", data=range(9))
    store.fail_before("retry", StoreFull("ordered: no room"), times=1000)
    # Else the lease would be kept until the store takes the outcome.
    store.fail_before("extend", StoreFull("ordered: no room"), times=1000)
    lost = heard(bus, LeaseLost)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(bus.run())
        await eventually(lambda: lost)
        store.mend()
        await eventually(lambda: len(begun) == 10)
        bus.stop()

    assert [0, 0, *range(1, 9)] == [number for number, _ in begun]

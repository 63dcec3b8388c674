"""What users see of the bus, on every store."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from forebay import (
    ConfigurationError,
    Event,
    EventBus,
    EventType,
    HandlerTimeout,
    InvalidEvent,
    MalformedEntry,
    NotFound,
    Reject,
    Retry,
    RetryAfter,
)
from forebay.signals import DeadLettered, Finished, LeaseLost, Published, Retried, Skipped
from forebay.store import Reader
from forebay.stores.memory import MemoryStore
from forebay.testing import eventually

QUICK = Retry(attempts=3, base=0.001, cap=0.002)


class OrderPlaced(msgspec.Struct):
    order_id: int


async def test_an_event_reaches_each_group_once_with_all_that_was_published(bus: EventBus) -> None:
    seen: dict[str, list[Event]] = {"billing": [], "mail": []}

    @bus.on("order_placed", group="billing")
    async def bill(event: Event) -> None:
        seen["billing"].append(event)

    @bus.on("order_placed", group="mail")
    async def mail(event: Event) -> None:
        seen["mail"].append(event)

    id = await bus.publish("order_placed", source="shop", data={"n": 2**70}, key="k", headers={"a": "b"})
    await bus.run(until_idle=True)

    for group in seen.values():
        assert [id] == [event.id for event in group]
        event = group[0]
        assert ("order_placed", "shop", {"n": 2**70}, "k", 1) == (
            event.type, event.source, event.data, event.key, event.attempt,
        )  # fmt: skip
        assert {"a": "b"} == dict(event.headers)
        assert abs(datetime.now(UTC) - event.timestamp) < timedelta(minutes=1)


async def test_many_events_are_published_at_once_and_handled_in_order_by_one_worker(bus: EventBus) -> None:
    seen: list[int] = []

    @bus.on("t", concurrency=1)
    async def handle(event: Event) -> None:
        seen.append(event.data)

    ids = await bus.publish_many("t", source="s", data=range(2500))
    await bus.run(until_idle=True)

    assert list(range(2500)) == seen
    assert 2500 == len(set(ids))


async def test_a_failed_event_is_tried_again_and_then_succeeds(bus: EventBus) -> None:
    attempts: list[int] = []

    @bus.on("t", group="g", retry=QUICK)
    async def handle(event: Event) -> None:
        attempts.append(event.attempt)
        if len(attempts) < 3:
            raise ConnectionError("not yet")

    await bus.publish("t", source="s")
    await bus.run(until_idle=True)

    assert [1, 2, 3] == attempts
    assert [] == await bus.dead_letters("t")


async def test_after_its_attempts_an_event_is_a_dead_letter_with_the_reason(bus: EventBus) -> None:
    @bus.on("t", group="g", retry=QUICK)
    async def handle(event: Event) -> None:
        raise ValueError("no such order")

    id = await bus.publish("t", source="s", data={"a": 1}, key="k")
    await bus.run(until_idle=True)

    (letter,) = await bus.dead_letters("t")
    assert ("g", 3, "ValueError: no such order") == (letter.group, letter.attempts, letter.error)
    assert (id, b'{"a":1}', "k") == (letter.record.id, letter.record.data, letter.record.key)  # type: ignore[union-attr]  # events, as the test knows
    assert [] == await bus.pending("t", "g")


async def test_reject_is_final_and_retry_after_waits_as_told(bus: EventBus) -> None:
    seen: Counter[str] = Counter()

    @bus.on("t", group="g", retry=Retry(attempts=2))
    async def handle(event: Event) -> None:
        seen[event.data] += 1
        if event.data == "reject":
            raise Reject("not for us")
        raise RetryAfter(0.01)

    await bus.publish_many("t", source="s", data=["reject", "later"])
    await bus.run(until_idle=True)

    assert {"reject": 1, "later": 2} == seen
    assert {"Reject: not for us", "RetryAfter: retry after 0.01 s"} == {
        letter.error for letter in await bus.dead_letters("t")
    }


async def test_a_redriven_event_goes_to_its_own_group_only_with_fresh_attempts(bus: EventBus) -> None:
    seen: list[tuple[str, str, int]] = []
    broken = True

    @bus.on("t", group="good")
    async def good(event: Event) -> None:
        seen.append(("good", event.id, event.attempt))

    @bus.on("t", group="bad", retry=Retry(attempts=1))
    async def bad(event: Event) -> None:
        if broken:
            raise ValueError
        seen.append(("bad", event.id, event.attempt))

    id = await bus.publish("t", source="s")
    await bus.run(until_idle=True)
    broken = False
    assert 1 == await bus.redrive("t")
    await bus.run(until_idle=True)

    assert [("good", id, 1), ("bad", id, 1)] == seen
    assert [] == await bus.dead_letters("t")


async def test_a_range_is_replayed_to_one_group(bus: EventBus) -> None:
    seen: dict[str, list[int]] = {"a": [], "b": []}

    @bus.on("t", group="a")
    async def a(event: Event) -> None:
        seen["a"].append(event.data)

    @bus.on("t", group="b", concurrency=1)
    async def b(event: Event) -> None:
        seen["b"].append(event.data)

    await bus.publish_many("t", source="s", data=range(10))
    await bus.run(until_idle=True)
    events = [event async for event in bus.events("t")]
    middle = events[3].position
    assert 6 == await bus.replay("t", group="b", start=middle, dry_run=True)
    assert 6 == await bus.replay("t", group="b", start=middle)
    await bus.run(until_idle=True)

    assert 10 == len(seen["a"])
    assert [*range(10), *range(4, 10)] == seen["b"]
    assert 10 == len([event async for event in bus.events("t")])


async def test_a_replay_to_nobody_is_refused(bus: EventBus) -> None:
    with pytest.raises(NotFound, match="no stream 't'"):
        await bus.replay("t", group="g")
    await bus.publish("t", source="s")
    with pytest.raises(NotFound, match="no group 'g'"):
        await bus.replay("t", group="g")


async def test_typed_payloads_are_decoded_and_misfits_are_dead_at_once(bus: EventBus) -> None:
    seen: list[tuple[OrderPlaced, str]] = []

    @bus.on(OrderPlaced, group="g")
    async def handle(order: OrderPlaced, event: Event) -> None:
        seen.append((order, event.source))

    await bus.publish(OrderPlaced(order_id=1), source="shop")
    await bus.publish("order_placed", source="shop", data={"order_id": "seven"})
    await bus.run(until_idle=True)

    assert [(OrderPlaced(1), "shop")] == seen
    (letter,) = await bus.dead_letters(OrderPlaced)
    assert "does not fit OrderPlaced" in letter.error
    assert b'{"order_id":"seven"}' == letter.record.data  # type: ignore[union-attr]  # events, as the test knows
    assert 1 == letter.attempts


async def test_plain_functions_run_in_threads_beside_each_other(bus: EventBus) -> None:
    both = threading.Barrier(2, timeout=10)

    @bus.on("t")
    def handle(event: Event) -> None:
        assert threading.current_thread() is not threading.main_thread()
        both.wait()

    await bus.publish_many("t", source="s", data=[1, 2])
    await bus.run(until_idle=True)

    assert [] == await bus.dead_letters("t")


async def test_batches_are_lists_and_one_bad_event_does_not_spoil_its_neighbours(bus: EventBus) -> None:
    sizes: list[int] = []

    @bus.on("t", group="g", batch=50, concurrency=1, retry=QUICK)
    async def handle(events: list[Event]) -> None:
        sizes.append(len(events))
        if any(event.data == 7 for event in events):
            raise ValueError("seven")

    await bus.publish_many("t", source="s", data=range(100))
    await bus.run(until_idle=True)

    assert 50 == max(sizes)
    (letter,) = await bus.dead_letters("t")
    assert b"7" == letter.record.data  # type: ignore[union-attr]  # events, as the test knows


async def test_a_handler_that_takes_too_long_has_failed(bus: EventBus) -> None:
    errors: list[BaseException] = []
    bus.signals.listen(lambda signal: errors.append(signal.error), Retried)

    @bus.on("t", timeout=0.02, retry=Retry(attempts=2, base=0))
    async def handle(event: Event) -> None:
        await asyncio.Event().wait()

    await bus.publish("t", source="s")
    await bus.run(until_idle=True)

    assert [HandlerTimeout] == [type(error) for error in errors]
    assert "ran longer than 0.02 s" in (await bus.dead_letters("t"))[0].error


async def test_events_of_a_key_keep_their_order_while_other_keys_go_on(bus: EventBus) -> None:
    seen: list[tuple[str, int]] = []

    @bus.on("t", ordered=True, retry=Retry(attempts=100_000, base=0.005, cap=0.005))
    async def handle(event: Event) -> None:
        if event.key == "slow" and sum(key != "slow" for key, _ in seen) < 40:
            raise ConnectionError
        await asyncio.sleep(0)
        seen.append((str(event.key), event.data))

    keys = ["slow", "a", "b"]
    await bus.publish_many("t", source="s", data=[n for n in range(20) for _ in keys], keys=keys * 20)
    await bus.run(until_idle=True)

    for key in keys:
        assert list(range(20)) == [n for k, n in seen if k == key]
    assert 40 == seen.index(("slow", 0))


async def test_an_event_published_twice_is_handled_once_with_dedup(bus: EventBus) -> None:
    seen: list[str] = []
    skipped: list[Any] = []
    bus.signals.listen(skipped.append, Skipped)

    @bus.on("t", group="g", dedup=True)
    async def handle(event: Event) -> None:
        seen.append(event.id)

    await bus.publish("t", source="s", id="one")
    await bus.run(until_idle=True)
    await bus.replay("t", group="g")
    await bus.run(until_idle=True)

    assert ["one"] == seen
    assert 1 == len(skipped)


async def test_publishing_an_id_again_stores_nothing_more(bus: EventBus) -> None:
    assert "order-1" == await bus.publish("t", source="s", data=1, id="order-1")
    assert "order-1" == await bus.publish("t", source="s", data=1, id="order-1")
    await bus.publish_many("t", source="s", data=[1, 2], ids=["order-1", "order-2"])

    assert ["order-1", "order-2"] == [event.id async for event in bus.events("t")]  # type: ignore[union-attr]  # events, as the test knows


async def test_a_delayed_event_comes_when_it_is_due(bus: EventBus) -> None:
    came = asyncio.Event()

    @bus.on("t")
    async def handle(event: Event) -> None:
        came.set()

    started = time.monotonic()
    await bus.publish("t", source="s", delay=0.3)
    await bus.publish("u", source="s", at=datetime.now(UTC) + timedelta(hours=1))
    run = asyncio.create_task(bus.run())
    await asyncio.wait_for(came.wait(), 10)
    waited = time.monotonic() - started
    bus.stop()
    await run

    assert 0.3 <= waited < 5
    assert [1] == [stream.scheduled for stream in await bus.stats("u")]


async def test_a_new_group_starts_where_it_is_told(bus: EventBus) -> None:
    seen: dict[str, list[int]] = {"all": [], "new": [], "rest": []}
    await bus.publish_many("t", source="s", data=[1, 2, 3])
    second = [event async for event in bus.events("t")][1].position
    for group, start in (("all", "earliest"), ("new", "latest"), ("rest", second)):
        bus.on("t", group=group, start=start)(functools.partial(_note, seen[group]))

    run = asyncio.create_task(bus.run())
    await eventually(lambda: seen["all"] == [1, 2, 3] and seen["rest"] == [3])
    await eventually(lambda: _groups(bus, "t", 3))
    await bus.publish("t", source="s", data=4)
    await eventually(lambda: all(4 in events for events in seen.values()))
    bus.stop()
    await run

    assert {"all": [1, 2, 3, 4], "new": [4], "rest": [3, 4]} == seen


async def _note(seen: list[int], event: Event) -> None:
    seen.append(event.data)


async def _groups(bus: EventBus, stream: str, count: int) -> bool:
    return len((await bus.stats(stream))[0].groups) == count


async def test_events_are_found_by_id_and_by_position(bus: EventBus) -> None:
    ids = await bus.publish_many("t", source="s", data=range(5))
    await bus.publish("t", source="s", data="mine", id="mine")

    found = await bus.get("t", ids[3])
    assert 3 == found.data
    assert found == await bus.get("t", found.position)
    assert "mine" == (await bus.get("t", "mine")).data
    with pytest.raises(NotFound, match="no event 'nobody'"):
        await bus.get("t", "nobody")


async def test_the_history_is_followed_from_its_newest_events(bus: EventBus) -> None:
    await bus.publish_many("t", source="s", data=range(5))
    seen: list[int] = []

    async def follow() -> None:
        async for event in bus.events("t", newest=2, follow=True):
            assert not isinstance(event, MalformedEntry)
            seen.append(event.data)

    task = asyncio.create_task(follow())
    await eventually(lambda: seen == [3, 4])
    await bus.publish("t", source="s", data=5)
    await eventually(lambda: seen == [3, 4, 5])
    task.cancel()


async def test_stopping_finishes_what_runs_and_gives_back_the_rest_uncharged(bus: EventBus) -> None:
    begun, go = asyncio.Event(), asyncio.Event()
    done: list[int] = []

    @bus.on("t", group="g", concurrency=1, prefetch=10)
    async def handle(event: Event) -> None:
        begun.set()
        await go.wait()
        done.append(event.data)

    await bus.publish_many("t", source="s", data=range(10))
    run = asyncio.create_task(bus.run())
    await begun.wait()
    bus.stop()
    await asyncio.sleep(0)
    go.set()
    await run

    assert [0] == done
    assert all(p.consumer is None and p.attempt == 0 for p in await bus.pending("t", "g"))
    await bus.run(until_idle=True)
    assert sorted(range(10)) == sorted(done)


async def test_a_handler_past_its_grace_is_cancelled_and_its_event_given_back(bus: EventBus) -> None:
    begun = asyncio.Event()
    attempts: list[int] = []
    patient = True

    @bus.on("t", group="g")
    async def handle(event: Event) -> None:
        attempts.append(event.attempt)
        begun.set()
        if patient:
            await asyncio.Event().wait()

    await bus.publish("t", source="s")
    run = asyncio.create_task(bus.run(grace=0.05))
    await begun.wait()
    bus.stop()
    await run
    patient = False
    await bus.run(until_idle=True)

    assert [1, 1] == attempts


async def test_a_handler_that_blocks_the_loop_keeps_its_lease(bus: EventBus) -> None:
    blocked, stop = threading.Event(), threading.Event()
    calls: list[int] = []
    stolen: list[int] = []
    lost: list[Any] = []
    bus.signals.listen(lost.append, LeaseLost)

    @bus.on("t", group="g", lease=0.4)
    async def handle(event: Event) -> None:
        calls.append(event.attempt)
        blocked.set()
        time.sleep(1.6)  # noqa: ASYNC251  # blocking the loop is the point

    async def rival() -> None:
        async def steal(event: Event) -> None:
            stolen.append(event.attempt)

        async with EventBus(bus.store.twin()) as other:
            await asyncio.to_thread(blocked.wait)
            consumer = other.subscribe_to_stream("t", "g", lease=0.4)
            task = asyncio.create_task(consumer.consume_events(steal))
            await asyncio.to_thread(stop.wait)
            other.stop()
            await task

    thread = threading.Thread(target=asyncio.run, args=(rival(),))
    thread.start()
    await bus.publish("t", source="s")
    await bus.run(until_idle=True)
    stop.set()
    await asyncio.to_thread(thread.join)

    assert [1] == calls
    assert [] == stolen
    assert [] == lost


async def test_the_names_of_the_proposal_are_the_same_machinery(bus: EventBus) -> None:
    seen: list[tuple[str, Any]] = []

    async def handler(event: Event) -> None:
        seen.append((event.type, event.data))

    await bus.publish(EventType.HEALTH_CHECK, "monitor", {"ok": True})
    consumer = bus.subscribe_to_stream(EventType.HEALTH_CHECK, "agents_group", "agent_1")
    task = asyncio.create_task(consumer.consume_events(handler))
    await eventually(lambda: bool(seen))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert [("health_check", {"ok": True})] == seen
    assert [] == await bus.pending("health_check", "agents_group")


async def test_listeners_hear_what_happens_and_cannot_hurt_the_bus(bus: EventBus) -> None:
    heard: list[str] = []

    def listener(signal: object) -> None:
        heard.append(type(signal).__name__)
        raise RuntimeError("a bad listener")

    bus.signals.listen(listener, Published, Finished, Retried, DeadLettered)

    @bus.on("t", retry=Retry(attempts=2, base=0))
    async def handle(event: Event) -> None:
        if event.data:
            raise ValueError

    await bus.publish("t", source="s", data=False)
    await bus.publish("t", source="s", data=True)
    await bus.run(until_idle=True)

    assert ["DeadLettered", "Finished", "Published", "Published", "Retried"] == sorted(heard)


async def test_the_sign_of_life_moves_while_a_bus_runs(bus: EventBus) -> None:
    bus.on("t")(functools.partial(_note, []))
    assert bus.last_read is None

    run = asyncio.create_task(bus.run())
    await eventually(lambda: bus.last_read is not None)
    first = bus.last_read
    await eventually(lambda: bus.last_read is not None and first is not None and bus.last_read > first)
    bus.stop()
    await run


@pytest.mark.parametrize(
    "handler", [lambda: None, lambda a, b: None, "not callable"], ids=["no argument", "two arguments", "a string"]
)
async def test_a_function_that_cannot_take_an_event_is_refused_at_once(bus: EventBus, handler: Any) -> None:
    with pytest.raises(ConfigurationError):
        bus.on("t", group="g")(handler)


async def test_wrong_use_is_refused_with_what_to_do_instead(bus: EventBus) -> None:
    bus.on("t", group="g")(functools.partial(_note, []))
    with pytest.raises(ConfigurationError, match="already handles"):
        bus.on("t", group="g")(functools.partial(_note, []))
    with pytest.raises(ConfigurationError, match="unknown option 'concurency'"):
        bus.subscribe_to_stream("t", "g", concurency=3)  # type: ignore[call-overload]  # the mistake that is tested
    with pytest.raises(ConfigurationError, match="no place in a stream"):
        await bus.subscribe_to_stream("t", "h", start="yesterday").consume_events(print)
    with pytest.raises(ConfigurationError, match="`delay` or `at`"):
        await bus.publish("t", source="s", delay=1, at=datetime.now(UTC))
    with pytest.raises(InvalidEvent, match="published as itself"):
        await bus.publish(OrderPlaced(1), source="s", data={})
    with pytest.raises(InvalidEvent, match="one for each"):
        await bus.publish_many("t", source="s", data=[1, 2], keys=["a"])
    with pytest.raises(ConfigurationError, match="open already"):
        async with bus:
            pass


async def test_a_history_leaves_out_the_copy_of_what_is_no_event_made_for_one_group() -> None:
    async with MemoryStore() as store, EventBus(store) as bus:
        await store.plant("t", [(b"a", b"1")])
        await store.join("t", "g")
        [held] = await store.read(Reader("t", "g", "consumer"), limit=1)
        await store.dead_letter(held, reason="no event")
        await bus.redrive("t")

        found = [each.position async for each in bus.events("t")]

        assert ["1"] == found
        assert 2 == len(await store.scan("t"))

"""Hostile users, handlers and operators, on every store."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from forebay import ConfigurationError, Event, EventBus, PublishUnknown, Retry, RetryAfter, StoreUnavailable
from forebay.signals import GroupCreated
from forebay.testing import FaultyStore, eventually
from tests.support.redis_servers import Server, binaries, version
from tests.support.stores import dealt

ONCE = Retry(attempts=1)


@dealt("options", {}, {"ordered": True}, {"batch": 5}, {"prefetch": 2}, {"concurrency": 1}, {})
async def test_more_failures_than_a_consumer_holds_do_not_stop_it(bus: EventBus, options: dict[str, Any]) -> None:
    @bus.on("t", group="g", retry=Retry(attempts=2, base=0), **options)  # type: ignore[untyped-decorator]  # their batch is known at run time
    async def handle(taken: Event | list[Event]) -> None:
        raise ValueError

    count = 12 if options.get("prefetch") == 2 else 60
    await bus.publish_many("t", source="s", data=range(count))
    await bus.run(until_idle=True)

    assert count == len(await bus.dead_letters("t"))


@pytest.mark.parametrize("options", [{}, {"prefetch": 4}, {"prefetch": 5}])
async def test_a_hand_that_is_free_gets_work_while_all_others_are_busy(bus: EventBus, options: dict[str, Any]) -> None:
    free = asyncio.Event()
    done: set[int] = set()

    @bus.on("t", group="g", concurrency=4, **options)  # type: ignore[untyped-decorator]  # their batch is known at run time
    async def handle(event: Event) -> None:
        if event.data < 3:
            await free.wait()
        done.add(event.data)

    await bus.publish_many("t", source="s", data=range(30))
    running = asyncio.create_task(bus.run(until_idle=True))
    await eventually(lambda: len(done) == 27)
    free.set()
    await running

    assert set(range(30)) == done


async def test_a_consumer_whose_handler_is_slow_reads_little_ahead_and_leaves_the_rest_to_others(bus: EventBus) -> None:
    handled: list[int] = []

    @bus.on("t", group="g", concurrency=1)
    async def handle(event: Event) -> None:
        await asyncio.sleep(0.02)
        handled.append(event.data)

    await bus.publish_many("t", source="s", data=range(3000))
    running = asyncio.create_task(bus.run())
    await eventually(lambda: len(handled) >= 40)
    [group] = (await bus.stats("t"))[0].groups
    bus.stop()
    await running

    assert 0 < group.pending < 100


@pytest.mark.parametrize("size", [100, 600, 1000])
async def test_batches_are_full_while_there_is_more_to_do(bus: EventBus, size: int) -> None:
    sizes: list[int] = []

    @bus.on("t", group="g", batch=size, concurrency=1)
    async def handle(events: list[Event]) -> None:
        await asyncio.sleep(0.01)
        sizes.append(len(events))

    await bus.publish_many("t", source="s", data=range(6 * size))
    await bus.run(until_idle=True)

    assert [size] * 6 == sizes


class Odd(BaseException):
    """What no `except Exception` catches."""


class Unreadable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


async def cancel_myself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


async def raise_it(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    "error", [Odd("odd"), GeneratorExit(), asyncio.CancelledError(), Unreadable(), ValueError("caf\udce9"), None]
)
async def test_whatever_a_handler_raises_is_its_events_fate_alone(bus: EventBus, error: BaseException | None) -> None:
    done: list[int] = []

    @bus.on("t", group="g", retry=Retry(attempts=2, base=0))
    async def handle(event: Event) -> None:
        if event.data == 1:
            await (cancel_myself() if error is None else raise_it(error))
        done.append(event.data)

    await bus.publish_many("t", source="s", data=range(3))
    await bus.run(until_idle=True)

    assert [0, 2] == sorted(done)
    assert [2] == [letter.attempts for letter in await bus.dead_letters("t")]


async def test_threads_that_hang_keep_their_place_and_no_event_dies_unhandled(bus: EventBus) -> None:
    free = threading.Event()
    called: set[int] = set()

    @bus.on("t", group="g", concurrency=2, timeout=0.1, prefetch=50, retry=ONCE)
    def handle(event: Event) -> None:
        called.add(event.data)
        if event.data < 2:
            free.wait(30)

    await bus.publish_many("t", source="s", data=range(12))
    run = asyncio.create_task(bus.run(until_idle=True))
    await eventually(lambda: _dead(bus, 2))
    free.set()
    await run

    assert set(range(12)) == called
    assert {b"0", b"1"} == {letter.record.data for letter in await bus.dead_letters("t")}  # type: ignore[union-attr]  # events, as the test knows


async def _dead(bus: EventBus, count: int) -> bool:
    return len(await bus.dead_letters("t")) >= count


async def test_an_event_in_hand_while_its_group_is_lost_is_still_retried(bus: EventBus) -> None:
    begun, go = asyncio.Event(), asyncio.Event()
    recreated: list[Any] = []
    done: set[int] = set()
    bus.signals.listen(recreated.append, GroupCreated)

    @bus.on("t", group="g", concurrency=4, retry=Retry(attempts=5, base=0))
    async def handle(event: Event) -> None:
        begun.set()
        await go.wait()
        if event.data == 1 and event.data not in done:
            done.add(event.data)
            raise ConnectionError
        done.add(event.data + 100)

    await bus.publish_many("t", source="s", data=range(4))
    run = asyncio.create_task(bus.run())
    await begun.wait()
    await bus.store.leave("t", "g")
    go.set()
    await eventually(lambda: {100, 101, 102, 103} <= done)
    bus.stop()
    await run

    assert any(signal.recreated for signal in recreated)


async def test_a_group_that_was_to_see_only_news_is_not_given_the_history_when_it_is_healed(bus: EventBus) -> None:
    seen: list[int] = []
    await bus.publish_many("t", source="s", data=range(50))

    @bus.on("t", group="g", start="latest")
    async def handle(event: Event) -> None:
        seen.append(event.data)

    run = asyncio.create_task(bus.run())
    await eventually(lambda: _has_group(bus))
    await bus.store.leave("t", "g")
    await eventually(lambda: _has_group(bus))
    await bus.publish("t", source="s", data=99)
    await eventually(lambda: bool(seen))
    bus.stop()
    await run

    assert [99] == seen


async def _has_group(bus: EventBus) -> bool:
    return any(group.group == "g" for stream in await bus.stats("t") for group in stream.groups)


async def test_a_short_lease_is_kept_beside_a_long_one_that_came_first(bus: EventBus) -> None:
    runs: list[str] = []
    begun = asyncio.Event()

    async def slow(event: Event) -> None:
        runs.append("first")
        begun.set()
        await asyncio.sleep(1.5)

    async def steal(event: Event) -> None:
        runs.append("second")

    async def nothing(event: Event) -> None:
        pass

    long = asyncio.create_task(bus.subscribe_to_stream("other", "g", lease=60).consume_events(nothing))
    await eventually(lambda: bus.last_read is not None)
    short = asyncio.create_task(bus.subscribe_to_stream("t", "g", lease=0.4).consume_events(slow))
    await bus.publish("t", source="s")
    await begun.wait()
    async with EventBus(bus.store.clone()) as other:
        rival = asyncio.create_task(other.subscribe_to_stream("t", "g", lease=0.4).consume_events(steal))
        await eventually(lambda: _nothing_pending(bus))
        other.stop()
        await rival
    bus.stop()
    await asyncio.gather(long, short)

    assert ["first"] == runs


async def _nothing_pending(bus: EventBus) -> bool:
    return not await bus.pending("t", "g")


async def test_a_consumer_that_comes_while_the_last_one_leaves_is_kept_too(bus: EventBus) -> None:
    async def nothing(event: Event) -> None:
        pass

    for _ in range(2):
        tasks = [
            asyncio.create_task(bus.subscribe_to_stream("t", name, lease=0.2).consume_events(nothing))
            for name in ("a", "b")
        ]
        await eventually(lambda: bus.last_read is not None)
        tasks[0].cancel()
        await asyncio.wait(tasks[:1])
        bus.stop()
        await asyncio.wait_for(tasks[1], 10)


async def test_two_consumers_of_one_name_do_not_take_each_other_for_themselves(bus: EventBus) -> None:
    running = most = 0
    done: list[int] = []

    async def handle(event: Event) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1
        done.append(event.data)

    await bus.publish_many("t", source="s", data=range(30), keys=["k"] * 30)
    async with EventBus(bus.store.clone()) as other:
        tasks = [
            asyncio.create_task(b.subscribe_to_stream("t", "g", "worker", ordered=True).consume_events(handle))
            for b in (bus, other)
        ]
        await eventually(lambda: len(done) == 30)
        bus.stop()
        other.stop()
        await asyncio.gather(*tasks)

    assert list(range(30)) == done
    assert 1 == most


async def test_an_unanswered_publish_is_stored_once_however_often_it_is_repeated(bus: EventBus) -> None:
    store = FaultyStore(bus.store.clone())
    async with EventBus(store) as lossy:
        store.fail_after("append", times=1)
        with pytest.raises(PublishUnknown) as unknown:
            await lossy.publish("t", source="s")
        store.fail_before("append", times=1)
        with pytest.raises(StoreUnavailable):
            await lossy.publish("t", source="s", id=unknown.value.id)
        for _ in range(2):
            await lossy.publish("t", source="s", id=unknown.value.id)

        store.fail_after("schedule", times=1)
        with pytest.raises(PublishUnknown) as unknown:
            await lossy.publish("u", source="s", delay=60)
        await lossy.publish("u", source="s", delay=60, id=unknown.value.id)

    assert [1, 0] == [stream.length for stream in await bus.stats("t", "u")]
    assert [0, 1] == [stream.scheduled for stream in await bus.stats("t", "u")]


@pytest.mark.parametrize("on", [[ValueError], 5, {ValueError: 3}, "ValueError", (ValueError, 1)])
def test_a_retry_rule_that_is_none_is_refused_at_once(on: Any) -> None:
    with pytest.raises(ConfigurationError, match="give an exception class"):
        Retry(on=on)


@pytest.mark.parametrize(
    "option",
    [
        {"ordered": "no"},
        {"ordered": 1},
        {"dedup": "yes"},
        {"concurrency": 10**6},
        {"concurrency": True},
        {"batch": 0},
        {"prefetch": 10**9},
        {"timeout": True},
    ],
    ids=str,
)
def test_an_option_of_the_wrong_kind_is_refused_with_the_right_kind(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"{next(iter(option))}=.*give"):
        EventBus("memory://").on("t", **option)(lambda event: None)


@pytest.mark.parametrize("option", [{"attempts": True}, {"attempts": 1.0}, {"base": True}, {"cap": "1"}], ids=str)
def test_a_retry_of_the_wrong_kind_is_refused_with_the_right_kind(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"{next(iter(option))}=.*give"):
        Retry(**option)


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), 1e300, -1])
def test_a_wait_that_never_ends_is_refused(seconds: float) -> None:
    with pytest.raises(ConfigurationError):
        RetryAfter(seconds)
    with pytest.raises(ConfigurationError):
        Retry(base=seconds, cap=seconds)


@pytest.mark.parametrize("start", ["nope", 5, None])
async def test_a_wrong_start_position_is_refused_at_once(bus: EventBus, start: Any) -> None:
    with pytest.raises(ConfigurationError, match="not a position in a stream"):
        bus.on("t", start=start)(print)


@pytest.mark.parametrize("binary", binaries(), ids=version)
async def test_a_consumer_that_starts_on_a_full_server_handles_the_stored_events(
    servers: dict[str, Server], binary: str, namespace: str
) -> None:
    server = servers[binary]
    seen: list[int] = []
    async with EventBus(server.url, namespace=namespace) as bus:

        @bus.on("t", group="g")
        async def handle(event: Event) -> None:
            seen.append(event.data)

        await bus.publish_many("t", source="s", data=range(100))
        await bus.store.join("t", "g")
        server.redis.config_set("maxmemory", 1)
        try:
            await bus.run(until_idle=True)
        finally:
            server.redis.config_set("maxmemory", 0)

    assert list(range(100)) == sorted(seen)


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_tearing_down_the_loop_charges_no_handler(store: str, sqlite_url: str) -> None:
    bus = EventBus("memory://" if store == "memory" else sqlite_url)
    running: list[int] = []

    @bus.on("t", group="g", retry=ONCE)
    async def handle(event: Event) -> None:
        running.append(event.data)
        await asyncio.Event().wait()

    async def leave_while_it_runs() -> asyncio.Task[None]:
        await bus.open()
        await bus.publish_many("t", source="s", data=range(4))
        run = asyncio.create_task(bus.run(grace=0.1))
        await eventually(lambda: len(running) == 4)
        return run

    async def look() -> tuple[int, list[int]]:
        pending = await bus.store.pending("t", "g")
        return len(await bus.store.dead_letters("t")), [entry.failures for entry in pending]

    with asyncio.Runner() as runner:
        runner.run(leave_while_it_runs())
    if store == "sqlite":
        bus = EventBus(sqlite_url)

    async def reopen() -> tuple[int, list[int]]:
        async with bus.store:
            return await look()

    assert (0, [0, 0, 0, 0]) == asyncio.run(reopen())

"""Rows A of docs/faults.md: processes that stand still, stop, or die."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from forebay import Event, EventBus, Reject, Retry
from forebay.signals import LoopFailed
from forebay.store import Reader
from forebay.stores.memory import MemoryStore
from forebay.testing import FaultyStore, eventually
from forebay.testing.proxy import Move
from tests.support import killing
from tests.support.consumers import Span, consume, spans
from tests.support.killing import Point
from tests.support.processes import History, Process

LEASE = 0.6


async def _handled(bus: EventBus, groups: int = 1) -> bool:
    [stats] = await bus.stats("t")
    return len(stats.groups) == groups and all(not group.lag and not group.pending for group in stats.groups)


async def test_f5_a_consumer_that_stood_still_begins_nothing_that_another_one_has_now(
    durable_url: str, namespace: str, tmp_path: Path
) -> None:
    history = History(tmp_path / "history")
    groups = {"ordered": {"lease": LEASE, "ordered": True}, "plain": {"lease": LEASE, "concurrency": 1}}
    async with EventBus(durable_url, namespace=namespace) as bus:
        both = [Process(consume, durable_url, namespace, history.path, groups, busy=0.04) for _ in range(2)]
        await eventually(lambda: len(history.facts("ready")) == 2, within=30)
        await bus.publish_many("t", source="s", data=range(40), keys=["k"] * 40)
        await eventually(lambda: history.facts("ended-ordered"), within=30)
        frozen = history.facts("ended-ordered")[0].process

        await _stop_outside_of_moves(frozen, bus)
        stopped = time.monotonic()
        await eventually(lambda: {f.process for f in history.facts("ended-ordered")} > {frozen}, within=30)
        os.kill(frozen, signal.SIGCONT)
        await eventually(lambda: _handled(bus, 2), within=60)

    assert [0, 0] == [process.terminate() for process in both]
    # The call that ran when the process was stopped cannot be taken back.
    ordered, plain = ([s for s in spans(history, g) if s.process != frozen or s.begun > stopped] for g in groups)
    assert [] == _overlaps(ordered)
    assert [] == [pair for pair in _overlaps(plain) if pair[0].event == pair[1].event]


async def _stop_outside_of_moves(process: int, bus: EventBus) -> None:
    """Stop a process while it holds no lock of the store: no other could take over from it on SQLite (row A5)."""
    while True:
        os.kill(process, signal.SIGSTOP)
        try:
            async with asyncio.timeout(1.0):
                await bus.store.set_note("t", "probe", b"")
            return
        except TimeoutError:
            os.kill(process, signal.SIGCONT)


def _overlaps(some: list[Span]) -> list[tuple[Span, Span]]:
    return [(a, b) for a, b in itertools.combinations(some, 2) if b.begun < (a.ended or math.inf)]


async def test_hung_threads_hold_up_nothing_that_another_consumer_could_handle(bus: EventBus) -> None:
    free = threading.Event()
    handled: set[int] = set()

    def hang(event: Event) -> None:
        free.wait(60)

    async def handle(event: Event) -> None:
        handled.add(event.data)

    hanging = bus.subscribe_to_stream("t", "g", concurrency=2, timeout=0.1, prefetch=20, retry=Retry(attempts=1))
    first = asyncio.create_task(hanging.consume_events(hang, grace=60))
    await eventually(lambda: bus.last_read is not None)
    try:
        await bus.publish_many("t", source="s", data=range(20))
        await eventually(lambda: _dead(bus, 2), within=30)
        second = asyncio.create_task(bus.subscribe_to_stream("t", "g").consume_events(handle))
        await eventually(lambda: len(handled) == 18, within=20)
        bus.stop()
        await asyncio.wait_for(asyncio.gather(first, second), 20)
    finally:
        free.set()


async def _dead(bus: EventBus, count: int) -> bool:
    return len(await bus.dead_letters("t")) == count


def test_a_hung_thread_keeps_no_process_from_ending() -> None:
    program = """if True:
        import asyncio, threading
        from forebay import EventBus

        bus = EventBus("memory://")

        @bus.on("t", timeout=0.05)
        def hang(event):
            threading.Event().wait()

        async def main():
            async with bus:
                await bus.publish("t", source="s")
                asyncio.get_running_loop().call_later(0.3, bus.stop)
                await bus.run()

        asyncio.run(main())
    """
    ended = subprocess.run([sys.executable, "-c", program], timeout=60, check=False)

    assert 0 == ended.returncode


POINTS: list[Point] = [
    ("after", "join"),
    ("after", "read"),
    ("after", "claim"),
    ("before", "extend"),
    ("after", "extend"),
    ("before", "ack"),
    ("after", "ack"),
    ("before", "retry"),
    ("after", "retry"),
    ("after", "take_due"),
    ("before", "dead_letter"),
    ("after", "dead_letter"),
]


async def test_a3_a_consumer_that_dies_at_any_point_loses_and_strands_nothing(
    durable_url: str, namespace: str, tmp_path: Path
) -> None:
    history = History(tmp_path / "history")
    published: dict[str, list[str]] = {}

    async def die_and_recover(point: Point) -> None:
        name = f"{namespace}-{'-'.join(point)}"
        async with EventBus(durable_url, namespace=name) as bus:
            published[name] = await bus.publish_many("t", source="s", data=range(5))
            before: list[Point] = [("after", "read")] if point[1] == "claim" else []
            for deadly in [*before, point]:
                process = Process(killing.consume, durable_url, name, history.path, deadly, LEASE)
                assert -9 == await process.ended(60), point
            process = Process(killing.consume, durable_url, name, history.path, None, LEASE)
            assert 0 == await process.ended(60), point

            [letter] = await bus.dead_letters("t")
            [stream] = await bus.stats("t")
            assert (b"2", 0, 0) == (letter.record.data, stream.groups[0].lag, stream.groups[0].pending), point  # type: ignore[union-attr]  # events

    await asyncio.gather(*map(die_and_recover, POINTS))

    for name, ids in published.items():
        assert {*ids[:2], *ids[3:]} == set(history.ids(f"ended-{name}")), name


async def test_a3_a_publisher_that_dies_before_or_after_it_stored_an_event_can_say_it_again(
    durable_url: str, namespace: str
) -> None:
    for when in ("before", "after"):
        process = Process(killing.publish, durable_url, namespace, (when, "append"), f"id-{when}")
        assert -9 == await process.ended(60)
    async with EventBus(durable_url, namespace=namespace) as bus:
        assert ["id-after"] == [event.id async for event in bus.events("t") if isinstance(event, Event)]
        for when in ("before", "after"):
            await bus.publish("t", source="s", data=0, id=f"id-{when}")
        assert ["id-after", "id-before"] == [event.id async for event in bus.events("t") if isinstance(event, Event)]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_g8_a_redrive_that_is_killed_leaves_each_event_in_one_place(
    durable_url: str, namespace: str, when: str
) -> None:
    async with EventBus(durable_url, namespace=namespace) as bus:
        ids = await bus.publish_many("t", source="s", data=range(12))
        dead = asyncio.Event()

        @bus.on("t", group="g")
        async def reject(event: Event) -> None:
            if not dead.is_set():
                raise Reject("not now")
            handled[event.id] += 1

        handled: Counter[str] = Counter()
        await bus.run(until_idle=True)
        process = Process(killing.redrive, durable_url, namespace, (when, "redrive"))
        assert -9 == await process.ended(60)
        process = Process(killing.redrive, durable_url, namespace, None)
        assert 0 == await process.ended(60)
        dead.set()
        await bus.run(until_idle=True)

        assert Counter(ids) == handled
        assert [] == await bus.dead_letters("t")


async def test_a6_a_stopping_consumer_finishes_running_handlers_and_releases_the_other_events(
    durable_url: str, namespace: str, tmp_path: Path
) -> None:
    history = History(tmp_path / "history")
    groups = {"g": {"concurrency": 2, "prefetch": 20}}
    async with EventBus(durable_url, namespace=namespace) as bus:
        ids = await bus.publish_many("t", source="s", data=range(20))
        first = Process(consume, durable_url, namespace, history.path, groups, busy=0.2)
        await eventually(lambda: len(history.facts("begun-g")) >= 2, within=30)
        second = Process(consume, durable_url, namespace, history.path, groups, busy=0.0)
        await eventually(lambda: len(history.facts("ready")) == 2, within=30)

        stopped = time.monotonic()
        assert 0 == await asyncio.to_thread(first.terminate)
        assert time.monotonic() - stopped < 10.0 + 1.0
        await eventually(lambda: _handled(bus), within=20)  # and not after the lease of 30 s
        assert 0 == await asyncio.to_thread(second.terminate)

    assert Counter(ids) == Counter(history.ids("ended-g"))


async def test_a7_a_handler_past_its_grace_is_not_acked_and_its_event_not_charged(
    durable_url: str, namespace: str, tmp_path: Path
) -> None:
    history = History(tmp_path / "history")
    async with EventBus(durable_url, namespace=namespace) as bus:
        await bus.publish_many("t", source="s", data=range(3))
        process = Process(consume, durable_url, namespace, history.path, {"g": {"concurrency": 2}}, busy=60, grace=0.2)
        await eventually(lambda: len(history.facts("begun-g")) == 2, within=30)

        assert 0 == await asyncio.to_thread(process.terminate)

        attempts: dict[int, int] = {}

        @bus.on("t", group="g")
        async def handle(event: Event) -> None:
            attempts[event.data] = event.attempt

        await bus.run(until_idle=True)
        assert {0: 1, 1: 1, 2: 1} == attempts


async def test_a10_a_lease_keeper_that_meets_a_bug_says_so_and_goes_on() -> None:
    store = FaultyStore(MemoryStore())
    failures: list[LoopFailed] = []
    async with EventBus(store) as bus:
        bus.signals.listen(failures.append, LoopFailed)
        store.fail_before("extend", ZeroDivisionError("a bug"))  # type: ignore[arg-type]  # as a bug would
        calls: list[int] = []

        @bus.on("t", group="g", lease=0.2)
        async def handle(event: Event) -> None:
            calls.append(event.attempt)
            await eventually(lambda: store.calls["extend"] > 6)

        await bus.publish("t", source="s")
        await bus.run(until_idle=True)

    assert [ZeroDivisionError] == [type(failure.error) for failure in failures]
    assert [1] == calls


@pytest.mark.parametrize("move", ["read", "outlook", "take_due", "claim", "ack"])
async def test_a10_a_loop_that_meets_a_bug_ends_the_run_and_is_not_passed_over(move: Move) -> None:
    store = FaultyStore(MemoryStore())
    async with EventBus(store) as bus:
        bus.on("t", group="g", lease=0.2)(lambda event: None)
        await bus.publish_many("t", source="s", data=range(3))
        await store.join("t", "g")
        # So that one entry is due and one is held by a consumer that is dead.
        [due, _] = await store.read(Reader("t", "g", "dead"), limit=2)
        await store.retry(due, delay=0)
        store.fail_before(move, ZeroDivisionError("a bug"))  # type: ignore[arg-type]  # as a bug would
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(bus.run(), 10)

"""Rows G of docs/faults.md: events that cannot be handled, and the decisions about them."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from forebay import Event, EventBus, Retry
from forebay.signals import Retried
from forebay.testing import eventually
from tests.support.consumers import consume, spans
from tests.support.processes import History, Process


async def test_g1_events_that_always_fail_become_one_dead_letter_each_and_delay_no_other(bus: EventBus) -> None:
    done: Counter[int] = Counter()
    tries: Counter[int] = Counter()
    waits: defaultdict[int, list[float]] = defaultdict(list)
    bus.signals.listen(lambda signal: waits[signal.delivery.attempt].append(signal.delay), Retried)

    @bus.on("t", group="g", retry=Retry(attempts=5, base=0.01))
    async def handle(event: Event) -> None:
        if event.data % 100 == 0:
            tries[event.data] += 1
            raise ValueError(event.data)
        done[event.data] += 1

    await bus.publish_many("t", source="s", data=range(1000))
    await bus.run(until_idle=True)

    poison = range(0, 1000, 100)
    letters = await bus.dead_letters("t")
    assert Counter(n for n in range(1000) if n % 100) == done
    assert Counter(dict.fromkeys(poison, 5)) == tries
    assert sorted(f"{n}".encode() for n in poison) == sorted(letter.record.data for letter in letters)  # type: ignore[union-attr]  # events, as the test knows
    for attempt, found in waits.items():
        assert max(found) <= 0.01 * 2 ** (attempt - 1)
        assert len(set(found)) == len(found) == 10


async def test_g6_order_per_key_holds_while_consumers_come_go_and_die(
    durable_url: str, namespace: str, tmp_path: Path
) -> None:
    history = History(tmp_path / "history")
    groups: dict[str, dict[str, Any]] = {"g": {"lease": 0.6, "ordered": True}}

    def start() -> Process:
        return Process(consume, durable_url, namespace, history.path, groups, busy=0.01)

    async with EventBus(durable_url, namespace=namespace) as bus:
        keys = [f"key-{number % 3}" for number in range(120)]
        ids = await bus.publish_many("t", source="s", data=range(120), keys=keys)
        first, second = start(), start()
        await eventually(lambda: len(history.facts("ended-g")) > 10, within=30)
        holder = history.facts("ended-g")[-1].process
        victim, other = (first, second) if holder == first.pid else (second, first)
        victim.kill()
        third = start()
        await eventually(lambda: {f.process for f in history.facts("ended-g")} > {holder}, within=30)
        assert 0 == await asyncio.to_thread(other.terminate)
        await eventually(lambda: set(ids) == set(history.ids("ended-g")), within=60)
        assert 0 == await asyncio.to_thread(third.terminate)

    firsts: dict[str, float] = {}
    ends: dict[str, float] = {}
    for span in spans(history, "g"):
        firsts.setdefault(span.event, span.begun)
        if span.ended is not None:
            ends.setdefault(span.event, span.ended)
    for key in range(3):
        own = ids[key::3]
        for earlier, later in itertools.pairwise(own):
            assert ends[earlier] <= firsts[later]


async def _publish(url: str, namespace: str, count: int) -> None:
    async with EventBus(url, namespace=namespace) as bus:
        await asyncio.gather(*(bus.publish("t", source="s", data=n, id=f"id-{n}") for n in range(count)))


async def test_g11_an_id_that_several_processes_publish_at_once_is_stored_once(
    durable_url: str, namespace: str
) -> None:
    processes = [Process(_publish, durable_url, namespace, 200) for _ in range(4)]
    assert [0] * 4 == [await asyncio.to_thread(process.join, 60) for process in processes]

    async with EventBus(durable_url, namespace=namespace) as bus:
        found = [event.id async for event in bus.events("t") if isinstance(event, Event)]
    assert sorted(f"id-{n}" for n in range(200)) == sorted(found)


async def test_g12_while_everything_fails_retries_are_spread_memory_is_bounded_and_nothing_is_lost(
    bus: EventBus,
) -> None:
    failing = True
    done: Counter[int] = Counter()
    calls: list[float] = []
    held: list[int] = []

    @bus.on("t", group="g", retry=Retry(attempts=1000, base=0.05, cap=0.3), prefetch=100)
    async def handle(event: Event) -> None:
        calls.append(time.monotonic())
        if failing:
            [stream] = await bus.stats("t")
            held.append(stream.groups[0].pending - stream.groups[0].waiting)
            raise ConnectionError("downstream is gone")
        done[event.data] += 1

    await bus.publish_many("t", source="s", data=range(300))
    run = asyncio.create_task(bus.run(until_idle=True))
    await eventually(lambda: len(calls) > 900, within=30)
    failing = False
    await asyncio.wait_for(run, 60)

    assert Counter(range(300)) == done
    assert [] == await bus.dead_letters("t")
    assert max(held) <= 2 * 100

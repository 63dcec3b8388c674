"""kill -9 at any moment: nothing acknowledged is lost, nothing is stuck, and only the guilty are dead."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from forebay import EventBus, Retry
from forebay.testing import eventually
from tests.support.processes import LEASE, History, Process, consume, publish


async def test_four_processes_publish_and_four_consume_on_one_file(sqlite_url: str, tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    publishers = [Process(publish, sqlite_url, "events", history.path, count=300) for _ in range(4)]
    consumers = [
        Process(consume, sqlite_url, "events", history.path, group, lease=10.0)
        for group in ("a", "b")
        for _ in range(2)
    ]

    assert [0, 0, 0, 0] == [publisher.join(60) for publisher in publishers]
    published = Counter(history.ids("acked"))
    for group in ("a", "b"):
        await eventually(lambda group=group: published.keys() <= set(history.ids(f"ended-{group}")), within=30)
    assert [0, 0, 0, 0] == [consumer.terminate() for consumer in consumers]

    assert [] == history.ids("error")
    assert 1200 == len(published)
    for group in ("a", "b"):
        assert published == Counter(history.ids(f"ended-{group}"))


@pytest.mark.parametrize("count", [8, pytest.param(20, marks=pytest.mark.slow)])
async def test_no_kill_of_a_consumer_or_publisher_loses_or_strands_an_acknowledged_event(
    durable_url: str, namespace: str, tmp_path: Path, count: int
) -> None:
    """Rows A1, A2 of docs/faults.md."""
    history = History(tmp_path / "history")
    chance = random.Random(20)

    def start_consumer() -> Process:
        return Process(consume, durable_url, namespace, history.path, "g", busy=0.03, concurrency=8)

    def start_publisher() -> Process:
        return Process(publish, durable_url, namespace, history.path, pause=0.005)

    consumers = [start_consumer() for _ in range(2)]
    publisher = start_publisher()
    kills: list[tuple[float, int]] = []
    try:
        for _ in range(count):
            victim = chance.randrange(2)
            pid = consumers[victim].pid
            await eventually(lambda pid=pid: pid in {fact.process for fact in history.facts("begun-g")}, within=20)
            kills.append((consumers[victim].kill(), pid))
            consumers[victim] = start_consumer()

            known = len(history.ids("acked"))
            await eventually(lambda known=known: len(history.ids("acked")) > known + 2, within=20)
            publisher.kill()
            publisher = start_publisher()
        for consumer in consumers:
            # A process that is just starting cannot end in an orderly way.
            pid = consumer.pid
            await eventually(lambda pid=pid: pid in {fact.process for fact in history.facts("begun-g")}, within=20)
        publisher.kill()

        acked = set(history.ids("acked"))
        await eventually(lambda: acked <= set(history.ids("ended-g")), within=60)
        async with EventBus(durable_url, namespace=namespace) as bus:
            await eventually(lambda: _settled(bus), within=LEASE + 10)
            assert [] == await bus.dead_letters("t")
    finally:
        publisher.kill()
        codes = [consumer.terminate() for consumer in consumers]

    assert [0, 0] == codes
    assert [] == history.ids("error")
    assert count == len(kills)
    delays = _delays(history, kills)
    assert len(delays) >= count, "most kills are to hit a consumer in the middle of something"
    assert max(delays) <= LEASE + 2.0


async def _settled(bus: EventBus) -> bool:
    return all(group.lag == 0 and group.pending == 0 for stream in await bus.stats("t") for group in stream.groups)


def _delays(history: History, kills: list[tuple[float, int]]) -> list[float]:
    """For each event that a killed consumer had begun: how long until another one began it."""
    begun, ended = history.facts("begun-g"), history.facts("ended-g")
    delays = []
    for moment, process in kills:
        done = {fact.id for fact in ended if fact.time <= moment + 0.05}
        for id in {fact.id for fact in begun if fact.process == process} - done:
            again = [
                fact.time - moment for fact in begun if fact.id == id and fact.process != process and fact.time > moment
            ]
            delays.append(min(again, default=float("inf")))
    return delays


async def test_an_event_that_kills_its_process_ends_among_the_dead_letters_alone(
    durable_url: str, namespace: str, tmp_path: Path
) -> None:
    """Row A9 of docs/faults.md."""
    history = History(tmp_path / "history")
    async with EventBus(durable_url, namespace=namespace) as bus:
        ids = await bus.publish_many("t", source="s", data=[*range(30), "poison", *range(30)])
        consumers: list[Process] = []
        try:
            while not await bus.dead_letters("t"):
                options = {"busy": 0.02, "poison": "poison", "retry": Retry(attempts=3), "lease": 0.4}
                consumers.append(Process(consume, durable_url, namespace, history.path, "g", **options))
                await eventually(lambda: consumers[-1].exit_code is not None or _any_dead(bus), within=30)
            innocent = {id for index, id in enumerate(ids) if index != 30}
            await eventually(lambda: innocent <= set(history.ids("ended-g")), within=30)
        finally:
            codes = [consumer.terminate() for consumer in consumers]

        letters = await bus.dead_letters("t")

    assert [ids[30]] == [letter.record.id for letter in letters]  # type: ignore[union-attr]  # events
    assert "died or fell silent" in letters[0].error
    assert [66, 66, 66, 0] == codes


async def _any_dead(bus: EventBus) -> bool:
    return bool(await bus.dead_letters("t", limit=1))

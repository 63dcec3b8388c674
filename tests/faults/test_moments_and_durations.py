"""A moment is a moment and a delay a duration, whatever the wall clock of any process says."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from forebay import Event, EventBus
from forebay.event import Record, to_record
from forebay.store import Reader
from forebay.stores.memory import MemoryStore
from forebay.stores.sqlite import SQLiteStore
from forebay.testing import eventually
from tests.support.clocks import HOUR, Jumping, WallClock

READER = Reader("t", "g", "first")

PUBLISHER = """if True:
    import asyncio, sys
    from datetime import datetime
    from forebay import connect

    async def main():
        async with connect(sys.argv[1], namespace=sys.argv[2]) as bus:
            await bus.publish("t", "s", "soon", at=datetime.fromisoformat(sys.argv[3]))
            await bus.publish("t", "s", "later", at=datetime.fromisoformat(sys.argv[4]))
            await bus.publish("t", "s", "delayed", delay=0.5)

    asyncio.run(main())
"""


@pytest.mark.parametrize("shift", [HOUR, -HOUR], ids=["ahead", "behind"])
async def test_an_event_for_a_moment_comes_then_whatever_the_clock_of_its_publisher_says(
    durable_url: str, namespace: str, tmp_path: Path, shift: float
) -> None:
    if durable_url.startswith("sqlite") and shift > 0:
        pytest.skip("the wall clock of a SQLite store is that of the machine, which its processes share")
    now = datetime.now(UTC)
    times = [(now + timedelta(seconds=seconds)).isoformat() for seconds in (1, HOUR / 2)]
    subprocess.run(  # noqa: ASYNC221  # nothing else waits meanwhile
        [sys.executable, "-c", PUBLISHER, durable_url, namespace, *times],
        env=WallClock(tmp_path, shift).environment,
        check=True,
    )
    async with EventBus(durable_url, namespace=namespace) as bus:
        await both_come_and_one_waits(bus, now)


async def both_come_and_one_waits(bus: EventBus, now: datetime) -> None:
    await bus.store.join("t", "g")

    async def both_came() -> bool:
        await bus.store.append_due("t")
        return 2 == len(await bus.store.scan("t"))

    await eventually(both_came)

    assert datetime.now(UTC) >= now + timedelta(seconds=1)
    assert {"soon", "delayed"} == {event.data async for event in bus.events("t") if isinstance(event, Event)}
    assert [1] == [stats.scheduled for stats in await bus.stats("t")]


class Wall:
    """Unix time that a test sets."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["forward", "back"])
async def test_setting_the_clock_moves_moments_and_no_delays_in_sqlite(tmp_path: Path, jump: float) -> None:
    clock = Jumping()
    async with SQLiteStore(tmp_path / "events.db", clock=clock) as store:
        moment = datetime.fromtimestamp(clock.wall() + HOUR + 1, UTC)
        await store.join("t", "g")
        await store.schedule("t", [to_record("t", source="s", data="moment")], at=moment)
        await store.schedule("t", [to_record("t", source="s", data="delay")], delay=HOUR + 1)

        clock.jump(jump)
        clock.advance(1)

        assert [b'"moment"'] * (jump > 0) == await came(store)
        clock.advance(HOUR)
        assert b'"delay"' in await came(store)
        clock.advance(max(0.0, -jump))
        assert {b'"delay"', b'"moment"'} == set(await came(store))


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["forward", "back"])
async def test_setting_the_clock_moves_moments_and_no_delays_in_memory(jump: float) -> None:
    wall, clock = Wall(), Wall()
    async with MemoryStore(clock=clock, wall=wall) as store:
        await store.join("t", "g")
        moment = datetime.fromtimestamp(wall.now + HOUR, UTC)
        await store.schedule("t", [to_record("t", source="s", data="moment")], at=moment)
        await store.schedule("t", [to_record("t", source="s", data="delay")], delay=HOUR)

        wall.now += jump

        assert [b'"moment"'] * (jump > 0) == await came(store)
        clock.now += HOUR
        assert b'"delay"' in await came(store)


async def test_a_moment_outlives_a_restart_of_the_machine_in_sqlite(tmp_path: Path) -> None:
    clock = Jumping()
    moment = datetime.fromtimestamp(clock.wall() + HOUR, UTC)
    async with SQLiteStore(tmp_path / "events.db", clock=clock) as store:
        await store.join("t", "g")
        await store.schedule("t", [to_record("t", source="s", data=1)], at=moment)

    later = clock.restarted(after=HOUR - 10)
    async with SQLiteStore(tmp_path / "events.db", clock=later) as store:
        assert [] == await came(store)
        assert [moment] == [each.at for each in await store.scheduled("t")]
        later.advance(10)
        assert [b"1"] == await came(store)


async def came(store: MemoryStore | SQLiteStore) -> list[bytes]:
    """The data in the stream after due events were appended."""
    await store.append_due("t")
    return [entry.record.data for entry in await store.scan("t") if isinstance(entry.record, Record)]

"""A SQLite file has its own time: no process's wall clock decides what another one remembers, keeps or loses."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from forebay import Event, EventBus
from forebay.event import Record, to_record
from forebay.store import Reader, Trimmed
from forebay.stores.sqlite import SQLiteStore
from tests.support.clocks import HOUR, Jumping, WallClock

READER = Reader("t", "g", "c")
shifts = pytest.mark.parametrize("shift", [HOUR, -HOUR], ids=["ahead", "behind"])


def record(number: int = 1, *, id: str | None = None) -> Record:
    return to_record("t", source="s", data=number, id=id)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


OTHER = """if True:
    import asyncio, sys
    from forebay import connect

    async def main():
        async with connect(sys.argv[1], idempotency_window=600) as bus:
            await bus.publish("t", "ahead", 0, id="another")
            await bus.retain("t", max_age=600)

    asyncio.run(main())
"""


@shifts
async def test_another_process_with_a_wrong_clock_forgets_no_id_and_trims_no_event(
    sqlite_url: str, tmp_path: Path, shift: float
) -> None:
    async with EventBus(sqlite_url, idempotency_window=600) as bus:
        await bus.publish("t", "s", 1, id="order-1")
        environment = WallClock(tmp_path, shift).environment
        subprocess.run([sys.executable, "-c", OTHER, sqlite_url], env=environment, check=True)  # noqa: ASYNC221  # nothing else waits meanwhile
        await bus.publish("t", "s", 1, id="order-1")
        await bus.publish("t", "s", 1, id="another")

        assert ["order-1", "another"] == [event.id async for event in bus.events("t") if isinstance(event, Event)]


@shifts
async def test_ids_are_remembered_for_their_window_whatever_the_clock_is_set_to(path: Path, shift: float) -> None:
    clock = Jumping()
    async with SQLiteStore(path, clock=clock) as store:
        await store.join("t", "g")
        await store.append("t", [record(1, id="a")], dedup_window=600)
        await store.ack(await store.read(READER, limit=1), remember=600)

        clock.jump(shift)
        clock.advance(590)
        await store.append("t", [record(2, id="a")], dedup_window=600)
        assert {"a"} == await store.handled("t", "g", ["a"])
        assert [10] == [round(each.expires_in) for each in await store.remembered("t", group="g")]
        assert 1 == len(await store.scan("t"))

        clock.advance(601)
        await store.append("t", [record(3, id="a")], dedup_window=600)
        assert set() == await store.handled("t", "g", ["a"])
        assert 2 == len(await store.scan("t"))


@shifts
async def test_events_are_as_old_as_the_time_that_has_passed(path: Path, shift: float) -> None:
    clock = Jumping()
    async with SQLiteStore(path, clock=clock) as store:
        await store.append("t", [record(1)])
        clock.advance(100)
        clock.jump(shift)
        await store.append("t", [record(2)])
        clock.advance(50)

        assert Trimmed(0, 0) == await store.trim("t", max_age=200)
        first, second = await store.scan("t")
        assert [150, 50] == [round(clock.wall() - entry.appended) for entry in (first, second)]
        between = datetime.fromtimestamp(clock.wall() - 100, UTC)
        assert first.position == await store.locate("t", between)
        assert second.position == await store.locate("t", between + timedelta(hours=2))
        assert Trimmed(1, 0) == await store.trim("t", max_age=100)


async def test_after_a_restart_of_the_machine_its_clock_says_which_time_it_is(path: Path) -> None:
    clock = Jumping()
    async with SQLiteStore(path, clock=clock) as store:
        await store.append("t", [record(1, id="a"), record(2, id="b")], dedup_window=600)
        await store.schedule("t", [record(3)], delay=500)

    later = clock.restarted(after=550)
    async with SQLiteStore(path, clock=later) as store:
        await store.append("t", [record(4, id="a")], dedup_window=600)
        assert [550] == [round(later.wall() - entry.appended) for entry in (await store.scan("t"))[:1]]
        assert [-50] == [round(each.delay) for each in await store.scheduled("t")]
        later.advance(51)
        await store.append("t", [record(5, id="b")], dedup_window=600)
    assert ["1", "2", "5"] == [data for (data,) in sqlite3.connect(path).execute("SELECT data FROM entries")]


async def test_a_file_from_before_gets_its_time_from_the_first_who_opens_it(path: Path) -> None:
    clock = Jumping()
    async with SQLiteStore(path, clock=clock) as store:
        await store.append("t", [record(1, id="a")], dedup_window=600)
    connection = sqlite3.connect(path)
    connection.execute("DELETE FROM meta WHERE name = 'epoch'")
    connection.commit()
    connection.close()

    async with SQLiteStore(path, clock=clock) as store:
        clock.jump(HOUR)
        async with store.clone() as other:
            await other.append("t", [record(2, id="a")], dedup_window=600)
            assert 1 == len(await other.scan("t"))

"""Rows F of docs/faults.md: clocks that jump, and machines that start anew."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from forebay import EventBus
from forebay.event import to_record
from forebay.store import Reader
from forebay.stores.sqlite import SQLiteStore
from tests.support.clocks import HOUR, Jumping


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["forward", "back"])
async def test_f1_a_wall_clock_that_is_set_neither_ends_a_lease_nor_moves_a_retry(tmp_path: Path, jump: float) -> None:
    clock = Jumping()
    first, second = Reader("t", "g", "first"), Reader("t", "g", "second")
    async with SQLiteStore(tmp_path / "events.db", clock=clock) as store:
        await store.join("t", "g")
        await store.append("t", [to_record("t", source="s", data=n) for n in range(2)])
        held, failed = await store.read(first, limit=2)
        await store.retry(failed, delay=10)
        await store.schedule("t", [to_record("t", source="s", data=3)], delay=10)

        clock.jump(jump)

        assert [] == await store.claim(second, idle=5)
        assert (0, []) == (await store.append_due("t"), await store.take_due(second, limit=10))
        assert [held] == await store.extend([held])
        clock.advance(10)
        assert 1 == await store.append_due("t")
        assert [failed.position] == [delivery.position for delivery in await store.take_due(second, limit=10)]
        assert 1 == len(await store.read(second, limit=10))
        assert [held.position] == [delivery.position for delivery in await store.claim(second, idle=5)]


async def test_f4_times_are_in_utc_with_their_zone_wherever_the_publisher_is(sqlite_url: str) -> None:
    program = """if True:
        import asyncio, sys
        from forebay import connect

        async def main():
            async with connect(sys.argv[1]) as bus:
                await bus.publish("t", source="s")

        asyncio.run(main())
    """
    for zone in ("Europe/Paris", "Asia/Kathmandu", "UTC"):
        environment = {**os.environ, "TZ": zone}
        subprocess.run([sys.executable, "-c", program, sqlite_url], env=environment, check=True)  # noqa: ASYNC221  # nothing else waits meanwhile
    async with EventBus(sqlite_url) as bus:
        times = [entry.record.timestamp for entry in await bus.store.scan("t")]  # type: ignore[union-attr]  # events, as the test knows

    for text in times:
        moment = datetime.fromisoformat(text)
        assert timedelta(0) == moment.utcoffset()
        assert abs(datetime.now(UTC) - moment) < timedelta(minutes=2)
    assert 3 == len(times)

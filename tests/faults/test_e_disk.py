"""Rows E2, E3 and E9 of docs/faults.md: the power fails, and the disk does."""

# The files are what these tests are about, and they wait for nothing else meanwhile.

from __future__ import annotations

import random
from pathlib import Path

import apsw
import pytest

from forebay.errors import OutcomeUnknown, StoreError
from forebay.event import Record, to_record
from forebay.store import Reader
from forebay.stores.sqlite import SQLiteStore
from tests.support.disk import Acknowledged, Disk, Operation, Write, after_power_loss, put, watched_disk

READER = Reader("t", "g", "consumer")
WAYS = ("nothing", "some", "some", "all")


async def written(path: Path, synchronous: str, count: int) -> list[Operation]:
    """What goes to the disk while events are published, read and acked one by one, with a checkpoint among it."""
    with watched_disk() as disk:
        async with SQLiteStore(path, synchronous=synchronous) as store:  # type: ignore[arg-type]  # a mode
            await store.join("t", "g")
            for number in range(count):
                await store.append("t", [to_record("t", source="s", data="x" * 8000, id=f"id-{number}")])
                disk.log.append(Acknowledged(f"id-{number}"))
                if number % 4 == 0:
                    await store.ack(await store.read(READER, limit=2))
            return list(disk.log)


async def lost(log: list[Operation], moment: int, folder: Path, chance: random.Random) -> set[str]:
    """The acknowledged events that are gone after a power failure; the others must be whole."""
    path = put(after_power_loss(log, moment, chance.choice(WAYS), chance), folder)  # type: ignore[arg-type]  # a mode
    acknowledged = {operation.id for operation in log[:moment] if isinstance(operation, Acknowledged)}
    async with SQLiteStore(path) as store:
        entries = await store.scan("t", limit=10_000)
        again = await store.append("t", [to_record("t", source="s", data=0)])
    connection = apsw.Connection(str(path))
    assert [("ok",)] == connection.execute("PRAGMA integrity_check").fetchall()
    connection.close()
    found = [entry.record.id for entry in entries if isinstance(entry.record, Record)]
    assert [f"id-{number}" for number in range(len(entries))] == found
    assert [str(len(entries) + 1)] == again
    return acknowledged - set(found)


@pytest.mark.slow
@pytest.mark.parametrize(("synchronous", "points"), [("full", 300), ("normal", 100)])
async def test_e2_e3_a_power_failure_loses_no_more_than_durability_states_and_leaves_the_file_whole(
    tmp_path: Path, synchronous: str, points: int
) -> None:
    log = await written(tmp_path / "events.db", synchronous, 220)
    async with SQLiteStore(tmp_path / "events.db", synchronous=synchronous) as store:  # type: ignore[arg-type]  # a mode
        promised = (await store.durability()).power_lost
    chance = random.Random(3)
    assert sum(isinstance(operation, Write) and operation.file.endswith(".db") for operation in log[100:]) > 100
    worst = 0
    for point in range(points):
        folder = tmp_path / str(point)
        folder.mkdir()
        worst = max(worst, len(await lost(log, chance.randrange(len(log)), folder, chance)))

    assert {"full": "kept", "normal": "at risk"}[synchronous] == promised
    assert (worst == 0) == (synchronous == "full"), worst


async def test_e2_twenty_power_failures_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    log = await written(tmp_path / "events.db", "full", 40)
    chance = random.Random(2)
    for point in range(20):
        folder = tmp_path / str(point)
        folder.mkdir()
        assert set() == await lost(log, chance.randrange(len(log)), folder, chance)


@pytest.mark.parametrize("late", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["before", "after"])
@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("error", [apsw.IOError, apsw.FullError], ids=["EIO", "ENOSPC"])
async def test_e9_a_disk_that_fails_at_any_call_leaves_an_honest_outcome(
    tmp_path: Path, error: type[apsw.Error], late: bool, step: int
) -> None:
    failures = 0
    for call in range(1, 31, step):
        path = tmp_path / f"{call}.db"
        stored, denied = set[str](), set[str]()
        async with SQLiteStore(path) as store:
            await store.append("t", [to_record("t", source="s", data=0, id="first")])
        with watched_disk() as disk:
            disk.error, disk.late = error, late
            failures += await publish(path, disk, call, stored, denied)

        async with SQLiteStore(path) as store:
            found = {e.record.id for e in await store.scan("t", limit=1000) if isinstance(e.record, Record)}
        assert {"first"} | stored <= found, call
        assert set() == denied & found, call
    assert failures >= 20 / step


async def publish(path: Path, disk: Disk, call: int, stored: set[str], denied: set[str]) -> int:
    """Publish while one call of the disk fails, and after it; return how many publishes failed."""
    failed = 0
    async with SQLiteStore(path) as store:
        disk.fail_at = call
        for number in range(8):
            record = to_record("t", source="s", data="x" * 6000, id=f"id-{number}")
            try:
                await store.append("t", [record])
                stored.add(record.id)
            except StoreError as error:
                failed += 1
                if not isinstance(error, OutcomeUnknown):
                    denied.add(record.id)
        disk.fail_at = None
        await store.append("t", [to_record("t", source="s", data=0, id="last")])
        stored.add("last")
    return failed

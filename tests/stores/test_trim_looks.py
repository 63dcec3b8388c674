"""A query for entries to trim costs as much as changes, not as much as the stream."""

from __future__ import annotations

from pathlib import Path

from forebay.event import to_record
from forebay.store import Reader, Trimmed
from forebay.stores.sqlite import SQLiteStore
from forebay.stores.sqlite.log import begins_unfinished, trim_limit
from forebay.stores.sqlite.transaction import Transaction

READER = Reader("t", "g", "c")


async def steps(store: SQLiteStore, *, ignore_groups: tuple[str, ...] = ()) -> int:
    """Steps of SQLite's machine that one more look takes."""
    known = store._counted.get(("t", 100))  # the count of the query before

    def count(turn: Transaction) -> int:
        ticks = 0

        def tick() -> bool:
            nonlocal ticks
            ticks += 1
            return False

        turn.connection.set_progress_handler(tick, 10)
        try:
            trim_limit(turn, "t", max_length=100, max_age=3600.0, known=known)
            begins_unfinished(turn, "t", ignore_groups=ignore_groups)
        finally:
            turn.connection.set_progress_handler(None)
        return ticks

    return await store._query(count)  # there is no public way to the connection


async def fill(store: SQLiteStore, count: int) -> None:
    for _ in range(count // 500):
        await store.append("t", [to_record("t", source="s", data=number) for number in range(500)])


async def test_a_look_that_changes_nothing_costs_the_same_however_much_waits(tmp_path: Path) -> None:
    costs = []
    for count in (500, 10_000):
        async with SQLiteStore(tmp_path / f"{count}.db") as store:
            await store.join("t", "g")
            await fill(store, count)
            for delivery in await store.read(READER, limit=count):
                if int(delivery.position) % 5 == 0:
                    await store.retry(delivery, delay=3600)
            assert Trimmed(0, 0) == await store.trim("t", max_length=100)
            costs.append(await steps(store))

    assert costs[1] < 2 * costs[0] + 50


async def test_a_count_stays_right_over_appends_and_trims_of_others(tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "events.db") as store, store.clone() as other:
        length = 0
        for turn in range(1, 13):
            await store.append("u", [to_record("u", source="s", data=0)] * 7)
            added = 500 * (turn % 3)
            await fill(other, added)
            length += added
            if turn % 4 == 0:
                await other.trim("t", max_length=37)
                length = min(length, 37)

            assert Trimmed(max(length - 100, 0), 0) == await store.trim("t", max_length=100)

            length = min(length, 100)
            assert length == len(await store.scan("t", limit=1000))

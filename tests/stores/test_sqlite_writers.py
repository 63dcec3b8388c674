"""The table `writers` numbers the transactions of the last WRITERS_KEPT writers of a SQLite file."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from forebay.event import to_record
from forebay.stores.sqlite import SQLiteStore
from forebay.stores.sqlite.guard import WRITERS_KEPT

RECORD = to_record("t", source="s", data=1)


def numbers(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as connection:
        return sorted(number for (number,) in connection.execute("SELECT number FROM writers"))


async def test_each_transaction_of_any_store_gets_the_next_number(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    async with SQLiteStore(path) as one, SQLiteStore(path) as other:
        for store in (one, one, other, one):
            await store.append("t", [RECORD])

    # 1 is the number of the file's first state.
    assert [1, 4, 5] == numbers(path)


async def test_a_store_whose_number_was_removed_gets_a_new_one_and_the_table_stays_small(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    async with SQLiteStore(path) as store:
        await store.append("t", [RECORD])
        for _ in range(WRITERS_KEPT + 1):
            async with SQLiteStore(path) as other:
                await other.append("t", [RECORD])

        assert [str(WRITERS_KEPT + 3)] == await store.append("t", [RECORD])
        assert [str(WRITERS_KEPT + 4)] == await store.append("t", [RECORD])

    assert WRITERS_KEPT == len(numbers(path))
    assert WRITERS_KEPT + 5 == max(numbers(path))

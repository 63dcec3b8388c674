"""The roles of processes that share a file in tests of the SQLite store."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from forebay.event import Record, to_record
from forebay.store import Reader
from forebay.stores.sqlite import SQLiteStore

TURNS = 25
AT_ONCE = 4


def ids(number: int, turn: int) -> list[str]:
    """The events of one publish."""
    return [f"{number}-{turn}-{n}" for n in range(AT_ONCE)]


async def publish(path: str, number: int) -> None:
    """Publish all, a few at a time."""
    async with SQLiteStore(path) as store:
        for turn in range(TURNS):
            records = [to_record("order_placed", source="shop", data=1, id=id) for id in ids(number, turn)]
            await asyncio.gather(*(store.append("order_placed", [record]) for record in records))


async def consume(path: str, number: int) -> None:
    """Handle and record events until a file that ends in .end is beside the database."""
    handled: list[str] = []
    reader = Reader("order_placed", "billing", f"worker-{number}")
    async with SQLiteStore(path) as store:
        while (deliveries := await store.read(reader, limit=16, wait=0.1)) or not Path(f"{path}.end").exists():
            handled += [one.record.id for one in deliveries if isinstance(one.record, Record)]
            assert len(deliveries) == await store.ack(deliveries)
    Path(f"{path}.{number}.json").write_text(json.dumps(handled))

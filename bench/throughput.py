"""How fast events go in and out, beside a yardstick on the same store, in one run.

    python bench/throughput.py [--events N] [--rounds N] [URL ...]

Each round measures the yardstick and forebay in turn; medians are printed. The yardsticks: for Redis
`redis-benchmark`-like XADDs, packed by hiredis and pipelined by 100 over a bare socket; for SQLite one
INSERT transaction of 100 rows after the other through bare apsw, with synchronous=FULL. The event is
small: a type, a source, 30 bytes of JSON, a timestamp.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import apsw
import hiredis

from forebay import Event, EventBus

DATA = {"order_id": 12345, "total": 99.5}
FIELDS = (
    "type",
    "order_placed",
    "source",
    "shop",
    "data",
    json.dumps(DATA),
    "timestamp",
    "2026-11-23T10:00:00.123456+00:00",
)


async def publish(bus: EventBus, events: int, tasks: int) -> float:
    """Events a second, published one by one from so many tasks."""

    async def publisher() -> None:
        for _ in range(events // tasks):
            await bus.publish("order_placed", "shop", DATA)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(tasks):
            group.create_task(publisher())
    return events / (time.perf_counter() - started)


async def publish_many(bus: EventBus, events: int, size: int) -> float:
    """Events a second, published in calls of so many."""
    started = time.perf_counter()
    for _ in range(events // size):
        await bus.publish_many("order_placed", "shop", [DATA] * size)
    return events / (time.perf_counter() - started)


async def handle(bus: EventBus, events: int) -> float:
    """Events a second through a handler that does nothing: read, decoded, handed over, acked."""
    left = events
    done = asyncio.Event()

    async def handler(event: Event) -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set()

    consumer = bus.subscribe_to_stream("order_placed", "bench")
    started = time.perf_counter()
    task = asyncio.create_task(consumer.consume_events(handler))
    await done.wait()
    bus.stop()
    await task
    return events / (time.perf_counter() - started)


def bare_redis(url: str, events: int) -> float:
    """XADDs a second over a bare socket, pipelined by 100."""
    import socket

    place = urlsplit(url)
    with socket.create_connection((place.hostname or "localhost", place.port or 6379)) as connection:
        reader = hiredis.Reader()
        started = time.perf_counter()
        for _ in range(events // 100):
            connection.sendall(b"".join(_pack("XADD", "bare", "*", *FIELDS) for _ in range(100)))
            answers = 0
            while answers < 100:
                reader.feed(connection.recv(65536))
                while reader.gets() is not False:
                    answers += 1
        elapsed = time.perf_counter() - started
        connection.sendall(_pack("DEL", "bare"))
        connection.recv(100)
    return events / elapsed


def _pack(*parts: str) -> bytes:
    packed: bytes = hiredis.pack_command(parts)  # type: ignore[arg-type]  # its stub takes only one part
    return packed


def bare_sqlite(folder: str, events: int) -> float:
    """Rows a second through bare apsw, in transactions of 100, with synchronous=FULL."""
    path = Path(folder, "bare.db")
    with contextlib.closing(apsw.Connection(str(path))) as database:
        database.execute("pragma journal_mode=wal")
        database.execute("pragma synchronous=full")
        database.execute("create table if not exists entries (seq integer primary key, type, source, data, timestamp)")
        started = time.perf_counter()
        for _ in range(events // 100):
            database.execute("begin immediate")
            database.executemany(
                "insert into entries (type, source, data, timestamp) values (?, ?, ?, ?)", [FIELDS[1::2]] * 100
            )
            database.execute("commit")
        return events / (time.perf_counter() - started)


async def round_of(url: str, events: int, number: int, yardstick: Callable[[], float]) -> dict[str, float]:
    """One round of all measurements on a namespace of its own."""
    found = {"yardstick": await asyncio.to_thread(yardstick)}
    async with EventBus(url, namespace=f"bench-{number}-{time.time_ns()}") as bus:
        steps: list[tuple[str, Awaitable[float]]] = [
            ("publish, 100 tasks", publish(bus, events, 100)),
            ("publish, 1,000 tasks", publish(bus, events, 1000)),
            ("publish_many 1,000", publish_many(bus, events, 1000)),
            ("publish, 1 task", publish(bus, max(events // 20, 1), 1)),
        ]
        for name, step in steps:
            found[name] = await step
        length = (await bus.stats("order_placed"))[0].length
        found["handle"] = await handle(bus, length)
        await bus.store.leave("order_placed", "bench")
        await bus.store.trim("order_placed", max_length=0, force=True)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("urls", nargs="*", metavar="URL")
    parser.add_argument("--events", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for url in options.urls or [f"sqlite:///{folder}/bench.db"]:
            if url.startswith("sqlite"):
                yardstick = functools.partial(bare_sqlite, folder, options.events)
            else:
                yardstick = functools.partial(bare_redis, url, options.events)
            rounds = [asyncio.run(round_of(url, options.events, number, yardstick)) for number in range(options.rounds)]
            medians = {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}
            print(f"{url.split('://')[0]}: {options.events:,} events, median of {options.rounds}")
            for name, speed in medians.items():
                print(f"  {name:<22}{speed:>10,.0f}/s   {speed / medians['yardstick']:.2f} of the yardstick")
            sys.stdout.flush()


if __name__ == "__main__":
    main()

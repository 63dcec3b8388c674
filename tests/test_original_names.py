"""The names of the original design work, on real servers."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from forebay import Event, EventBus, EventType, InMemoryEventBus, PersistentEventBus, RedisEventBus
from forebay.testing import eventually
from tests.support.processes import History, Process, consume
from tests.support.redis_servers import Server, binaries, version

KEY = "events:health_check"


@pytest.fixture(params=binaries(), ids=version)
def server(request: pytest.FixtureRequest, servers: dict[str, Server]) -> Server:
    servers[request.param].redis.flushall()
    return servers[request.param]


async def test_any_client_can_read_a_published_event(server: Server) -> None:
    async with RedisEventBus(server.url) as bus:
        id = await bus.publish(EventType.HEALTH_CHECK, "monitor", {"service": "billing", "ok": True})

    ((_, fields),) = server.redis.xrange(KEY, "-", "+")

    assert [b"type", b"source", b"data", b"timestamp", b"id"] == list(fields)
    assert (b"health_check", b"monitor", id.encode()) == (fields[b"type"], fields[b"source"], fields[b"id"])
    assert {"service": "billing", "ok": True} == json.loads(fields[b"data"])
    moment = datetime.fromisoformat(fields[b"timestamp"].decode())
    assert timedelta(0) == moment.utcoffset()
    assert abs(datetime.now(UTC) - moment) < timedelta(minutes=1)


async def test_an_entry_added_by_hand_with_the_four_fields_reaches_a_handler(server: Server) -> None:
    position = server.redis.xadd(
        KEY,
        {"type": "health_check", "source": "redis-cli", "data": '{"ok": 1}', "timestamp": "2026-11-23T10:00:00.5"},
    )
    seen: list[Event] = []

    async with RedisEventBus(server.url) as bus:

        @bus.on(EventType.HEALTH_CHECK)
        async def handle(event: Event) -> None:
            seen.append(event)

        await bus.run(until_idle=True)

    (event,) = seen
    assert position.decode() == event.id == event.position
    assert ("redis-cli", {"ok": 1}) == (event.source, event.data)
    assert datetime(2026, 11, 23, 10, 0, 0, 500_000, tzinfo=UTC) == event.timestamp


async def test_a_foreign_entry_becomes_a_dead_letter_byte_for_byte_and_stops_no_event(server: Server) -> None:
    """Row G2 of docs/faults.md."""
    foreign = {b"\xff\x00": b"\xfe", b"data": b'{"cut'}
    server.redis.xadd(KEY, foreign)
    server.redis.xadd(KEY, {"type": "health_check", "source": "s", "data": '{"cut', "timestamp": "2026-11-23T10:00:00"})
    seen: list[object] = []

    async with RedisEventBus(server.url) as bus:

        @bus.on(EventType.HEALTH_CHECK, group="agents")
        async def handle(event: Event) -> None:
            seen.append(event.data)

        await bus.publish(EventType.HEALTH_CHECK, "s", "next")
        await bus.run(until_idle=True)
        letters = await bus.dead_letters(EventType.HEALTH_CHECK)

    assert ["next"] == seen
    assert [1, 1] == [letter.attempts for letter in letters]
    (_, kept), (_, cut) = server.redis.xrange(f"{{{KEY}}}:dead_letter", "-", "+")
    assert foreign.items() <= kept.items()
    assert b'{"cut' == cut[b"data"]
    assert {b"error", b"failed_at", b"group", b"attempts", b"position"} <= kept.keys()


async def test_consume_events_takes_over_the_pending_events_of_a_killed_consumer(
    server: Server, tmp_path: Path
) -> None:
    history = History(tmp_path / "history")
    async with RedisEventBus(server.url) as bus:
        ids = await bus.publish_many(EventType.HEALTH_CHECK, "s", range(10))
        victim = Process(
            consume, server.url, "events", history.path, "agents_group", stream="health_check", busy=60.0, concurrency=4
        )
        await eventually(lambda: len(history.ids("begun-agents_group")) == 4)
        victim.kill()
        assert await bus.pending(EventType.HEALTH_CHECK, "agents_group")

        seen: list[str] = []

        async def handler(event: Event) -> None:
            seen.append(event.id)

        consumer = bus.subscribe_to_stream(EventType.HEALTH_CHECK, "agents_group", "agent_1", lease=0.5)
        task = asyncio.create_task(consumer.consume_events(handler))
        await eventually(lambda: len(seen) >= 10)
        bus.stop()
        await task

        assert sorted(ids) == sorted(seen)
        assert [] == await bus.pending(EventType.HEALTH_CHECK, "agents_group")
        assert [] == await bus.dead_letters(EventType.HEALTH_CHECK)


def test_the_three_names_are_the_bus_on_a_given_store(tmp_path: Path) -> None:
    buses = [RedisEventBus("redis://:secret@localhost"), PersistentEventBus(tmp_path / "a b.db"), InMemoryEventBus()]

    assert all(isinstance(bus, EventBus) for bus in buses)
    assert ["redis://:***@localhost", f"sqlite:///{tmp_path}/a%20b.db", "memory://"] == [bus.url for bus in buses]

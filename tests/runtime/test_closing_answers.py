"""A closed bus answers the calls on their way, on every store, and does not wait for a server that hangs."""

from __future__ import annotations

import asyncio
import signal

import pytest

from forebay import Event, EventBus, PublishUnknown, connect
from tests.support.redis_servers import Server, binaries


async def test_a_publish_that_is_on_its_way_is_answered_when_the_bus_closes(bus: EventBus) -> None:
    stored: list[str] = []
    for _ in range(20):
        await bus.ready()
        publishes = [asyncio.create_task(bus.publish("t", "s", "x" * 10_000)) for _ in range(10)]
        await asyncio.sleep(0)
        await bus.close()
        stored += await asyncio.gather(*publishes)

    events = [event async for event in bus.events("t")]
    assert sorted(stored) == sorted(event.id for event in events if isinstance(event, Event))


@pytest.mark.parametrize("binary", binaries()[:1])
async def test_a_server_that_hangs_does_not_hold_up_the_close(servers: dict[str, Server], binary: str) -> None:
    server = servers[binary]
    async with connect(server.url) as bus:
        await bus.publish("t", "s", 1)
        server.process.send_signal(signal.SIGSTOP)
        try:
            publish = asyncio.create_task(bus.publish("t", "s", 2))
            await asyncio.sleep(0)
            async with asyncio.timeout(3):
                await bus.close()
        finally:
            server.process.send_signal(signal.SIGCONT)
        with pytest.raises(PublishUnknown):
            await publish

"""Rows B of docs/faults.md: what befalls the connection between a store and its server."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from forebay import Event, EventBus, PublishUnknown, Retry, StoreUnavailable
from forebay.errors import OutcomeUnknown
from forebay.event import to_event, to_record
from forebay.stores.redis import RedisStore
from forebay.testing import eventually
from tests.support.handled import Handled, running
from tests.support.redis_servers import Proxy, Server, binaries

LEASE = 0.6


@pytest.fixture
def server(servers: dict[str, Server]) -> Server:
    return servers[binaries()[0]]


@pytest.fixture
def proxy(server: Server) -> Proxy:
    return Proxy(server.port)


@pytest.fixture
async def bus(proxy: Proxy, namespace: str) -> AsyncIterator[EventBus]:
    """A bus that connects through the proxy."""
    async with proxy.listen() as url, EventBus(RedisStore(url, namespace=namespace, timeout=1.0)) as bus:
        yield bus
        proxy.swallow = proxy.silent = proxy.tear = False


@pytest.mark.parametrize("fault", ["swallow", "tear"])
async def test_b1_b9_events_whose_read_was_lost_or_torn_on_its_way_are_handled_and_none_is_dead(
    bus: EventBus, proxy: Proxy, server: Server, namespace: str, fault: str
) -> None:
    handled = Handled()
    bus.on("t", group="g", lease=LEASE, retry=Retry(attempts=2))(handled.handle)
    async with EventBus(server.url, namespace=namespace) as direct:
        async with running(bus):
            for number in range(2):
                cuts = proxy.cuts
                setattr(proxy, fault, True)
                await direct.publish_many("t", source="s", data=range(number * 10, number * 10 + 10))
                await eventually(lambda cuts=cuts: proxy.cuts > cuts)
                setattr(proxy, fault, False)
                await eventually(lambda number=number: handled.has(number * 10 + 10), within=20)

        assert Counter(range(20)).keys() == handled.times.keys()
        assert [] == await direct.dead_letters("t")


async def test_b2_b3_a_storm_of_cancelled_calls_mixes_no_replies_up_and_leaks_no_connection(
    bus: EventBus, proxy: Proxy, server: Server
) -> None:
    proxy.delay = 0.001
    chance = random.Random(2)
    stored: dict[str, int] = {}

    async def append(number: int) -> None:
        [position] = await bus.store.append("t", [to_record("t", source="s", data=number)])
        stored[position] = number

    await append(-1)
    before = len(server.redis.client_list())
    tasks = [asyncio.create_task(append(number)) for number in range(3000)]
    for task in tasks:
        if chance.random() < 0.5:
            asyncio.get_running_loop().call_later(chance.uniform(0, 0.05), task.cancel)
    await asyncio.gather(*tasks, return_exceptions=True)

    proxy.delay = 0.0
    for position, number in stored.items():
        [entry] = await bus.store.scan("t", after=_before(position), limit=1)
        assert (position, number) == (entry.position, to_event(entry.record).data)
    assert before == len(server.redis.client_list())
    assert len(stored) > 500


def _before(position: str) -> str:
    time, count = position.split("-")
    return f"{time}-{int(count) - 1}" if int(count) else f"{int(time) - 1}-{2**64 - 1}"


async def test_b4_many_waiting_consumers_hold_up_neither_publishes_nor_acks(bus: EventBus) -> None:
    handled = Handled()
    for number in range(50):
        bus.on(f"t{number}", group="g")(handled.handle)
    async with running(bus):
        await eventually(lambda: bus.last_read is not None)
        begun = time.monotonic()
        for number in range(50):
            await bus.publish(f"t{number}", source="s", data=number)
        await eventually(lambda: handled.has(50))

        assert time.monotonic() - begun < 5
    assert [0] * 50 == [group.pending for stream in await bus.stats() for group in stream.groups]


async def test_b6_publishes_whose_reply_was_lost_are_stored_once_when_they_are_repeated(
    bus: EventBus, proxy: Proxy
) -> None:
    for number in range(20):
        proxy.swallow = True
        with pytest.raises(PublishUnknown) as unknown:
            await bus.publish("t", source="s", data=number)
        proxy.swallow = False
        await bus.publish("t", source="s", data=number, id=unknown.value.id)

    assert list(range(20)) == [event.data async for event in bus.events("t") if isinstance(event, Event)]


async def test_b7_a_connection_that_died_without_a_word_is_given_up_in_time(
    bus: EventBus, proxy: Proxy, server: Server, namespace: str
) -> None:
    handled = Handled()
    bus.on("t", group="g", lease=LEASE)(handled.handle)
    async with EventBus(server.url, namespace=namespace) as direct, running(bus):
        await bus.publish("t", source="s", data=0)
        await eventually(lambda: handled.has(1))
        proxy.silent = True
        begun = time.monotonic()
        with pytest.raises((PublishUnknown, StoreUnavailable)):
            await bus.publish("t", source="s", data=1)
        assert time.monotonic() - begun < 1.0 + 4.0
        await direct.publish("t", source="s", data=2)

        proxy.silent = False
        await eventually(lambda: 2 in handled.times, within=10)


async def test_b8_over_a_slow_link_no_event_is_handled_twice(bus: EventBus, proxy: Proxy) -> None:
    handled = Handled(busy=0.01)
    bus.on("t", group="g", lease=2.0)(handled.handle)
    await bus.publish_many("t", source="s", data=range(100))
    proxy.delay = 0.05

    async with running(bus):
        await eventually(lambda: handled.has(100), within=60)

    assert Counter(range(100)) == handled.times


async def test_b9_replies_that_come_byte_by_byte_are_replies(bus: EventBus, proxy: Proxy) -> None:
    proxy.dribble = True
    ids = await bus.publish_many("t", source="s", data=["x" * 1000] * 5)

    assert ids == [event.id async for event in bus.events("t") if isinstance(event, Event)]


async def test_b9_a_reply_that_is_torn_leaves_the_outcome_unknown(bus: EventBus, proxy: Proxy) -> None:
    await bus.publish("t", source="s")
    proxy.tear = True

    with pytest.raises(OutcomeUnknown):
        await bus.store.scan("t")


async def test_b10_a_consumer_whose_connections_are_shot_again_and_again_goes_on(
    bus: EventBus, server: Server, namespace: str
) -> None:
    handled = Handled()
    bus.on("t", group="g", lease=LEASE)(handled.handle)
    async with EventBus(server.url, namespace=namespace) as direct, running(bus):
        for number in range(8):
            await eventually(lambda: server.redis.info("clients")["blocked_clients"])
            server.redis.client_kill_filter(_type="normal", skipme=True)
            await eventually(lambda number=number: _publish(direct, number))
            await eventually(lambda number=number: number in handled.times, within=15)


async def _publish(bus: EventBus, number: int) -> bool:
    try:
        await bus.publish("t", source="s", data=number, id=f"id-{number}")
    except (PublishUnknown, StoreUnavailable):
        return False
    return True

"""A process with many subscriptions needs a few connections, whatever its user may do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from forebay import Event, EventBus
from forebay.signals import LoopFailed
from forebay.testing import eventually
from tests.support.redis_rights import ROLES, let
from tests.support.redis_servers import Server, binaries, version

TYPES, GROUPS = 30, 2
CONNECTIONS = 8


@pytest.fixture(params=binaries(), ids=version)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(request.param, tmp_path_factory.mktemp("many"))
    yield server
    server.stop()


@asynccontextmanager
async def subscribed(bus: EventBus) -> AsyncIterator[list[str]]:
    """Run handlers of all types in all groups; the list has the types of the handled events."""
    handled = list[str]()

    async def handle(event: Event) -> None:
        handled.append(event.type)

    for number in range(TYPES):
        for group in range(GROUPS):
            bus.on(f"type_{number}", group=f"group_{group}")(partial(handle))
    run = asyncio.create_task(bus.run(handle_signals=False))
    await eventually(lambda: bus.last_read is not None)
    yield handled
    bus.stop()
    await run


async def publish_to_all(bus: EventBus) -> None:
    for number in range(TYPES):
        await bus.publish(f"type_{number}", source="s", data=number)


def connections(server: Server) -> int:
    clients: list[dict[str, Any]] = server.redis.client_list()
    return len(clients) - 1


async def test_many_subscriptions_have_few_connections_and_get_the_events_of_all_processes(server: Server) -> None:
    async with EventBus(server.url) as bus, EventBus(server.url) as other, subscribed(bus) as handled:
        for publisher in (bus, other):
            handled.clear()
            await publish_to_all(publisher)
            await eventually(lambda: len(handled) == TYPES * GROUPS)

        assert len(set(handled)) == TYPES
        await eventually(lambda: connections(server) <= CONNECTIONS)


async def test_many_subscriptions_of_a_user_who_may_not_watch_wait_on_connections_of_their_own(server: Server) -> None:
    rights = {right for role in ROLES.values() for right in role} - {"+client|tracking"}
    failed = list[LoopFailed]()

    async with EventBus(let(server, *rights)) as bus:
        bus.signals.listen(failed.append, LoopFailed)
        async with subscribed(bus) as handled:
            await publish_to_all(bus)
            await eventually(lambda: len(handled) == TYPES * GROUPS)

    [refusal] = [signal for signal in failed if signal.loop == "doorbell"]
    assert "client|tracking" in str(refusal.error)

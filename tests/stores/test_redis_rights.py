"""Users with few rights (ACL): a missing right is named, and found before anything of a move is written."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from forebay import Event, EventBus, Retry
from forebay.errors import StoreDenied
from forebay.signals import LoopFailed
from forebay.stores.redis import RedisStore
from forebay.testing import eventually
from tests.support.redis_rights import (
    ALL,
    MOVES,
    PATTERNS,
    ROLES,
    Move,
    State,
    let,
)
from tests.support.redis_servers import Server, binaries, version

EVERYTHING = sorted({right for rights in ROLES.values() for right in rights})


@pytest.fixture(params=binaries(), ids=version, scope="module")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(request.param, tmp_path_factory.mktemp("rights"))
    yield server
    server.stop()


@pytest.fixture
async def state(server: Server) -> State:
    state = State(server)
    await state.make()
    return state


def can_be_asked(server: Server) -> bool:
    """True if a script can ask the server for the rights of its user: from Redis 7 on."""
    return not str(server.redis.info("server")["redis_version"]).startswith("6.")


@pytest.mark.parametrize("role", MOVES)
async def test_each_role_works_with_the_rights_that_the_documentation_gives_it(role: str, state: State) -> None:
    async with RedisStore(let(state.server, *ROLES[role])) as store:
        for move in MOVES[role].values():
            state.reset()
            await move(store, state)


OPTIONAL = {"+multi", "+exec", "+xgroup|setid", "+xgroup|delconsumer", "+zscan"}
"""Rights that forebay can do without, or needs only for thousands of waiting entries."""


@pytest.mark.parametrize("right", EVERYTHING)
async def test_a_right_that_is_missing_is_named_and_leaves_no_move_half_done(right: str, state: State) -> None:
    state.server.redis.script_flush()
    name = right.removeprefix("+").replace("|", " ")
    denied = 0

    async with RedisStore(let(state.server, *(other for other in EVERYTHING if other != right))) as store:
        for what, move in ALL:
            error = await refused(move, store, state)
            if error is not None and can_be_asked(state.server):
                assert name in error.replace("|", " "), what
                assert state.dumps == state.contents(), what
            denied += error is not None

    assert denied or right in OPTIONAL or not can_be_asked(state.server)


@pytest.mark.parametrize("keys", PATTERNS)
async def test_a_pattern_of_keys_that_is_missing_is_named_and_leaves_no_move_half_done(keys: str, state: State) -> None:
    denied = 0

    async with RedisStore(let(state.server, "+@all", keys=(keys,))) as store:
        for what, move in ALL:
            error = await refused(move, store, state)
            if error is not None:
                assert "~events:* and ~{events:*}:*" in error, what
                assert state.dumps == state.contents(), what
            denied += error is not None

    assert denied


async def refused(move: Move, store: RedisStore, state: State) -> str | None:
    """Make the move on the former state; return the text of the error if it is denied."""
    state.reset()
    try:
        await move(store, state)
    except StoreDenied as error:
        return str(error)
    return None


async def test_a_consumer_with_the_least_rights_handles_retries_and_gives_up(state: State) -> None:
    state.server.redis.flushall()
    handled = list[int]()
    url = let(state.server, *ROLES["consumer"])

    async with EventBus(state.server.url) as publisher, EventBus(url) as bus:

        @bus.on("t", group="g", retry=Retry(attempts=2, base=0.001), dedup=True)
        async def handle(event: Event) -> None:
            handled.append(event.data)
            if event.data == 1:
                raise ValueError

        await publisher.publish_many("t", source="s", data=range(3))
        await bus.run(until_idle=True)

        assert [0, 1, 1, 2] == sorted(handled)
        assert 1 == len(await publisher.dead_letters("t"))


async def test_a_consumer_with_the_least_rights_is_announced_until_it_ends(state: State) -> None:
    state.server.redis.flushall()
    failures: list[LoopFailed] = []

    async with EventBus(state.server.url) as operator, EventBus(let(state.server, *ROLES["consumer"])) as bus:
        bus.signals.listen(failures.append, LoopFailed)
        consuming = asyncio.create_task(bus.subscribe_to_stream("t", "g").consume_events(lambda event: None))

        async def count(expected: int) -> bool:
            return [expected] == [group.consumers for found in await operator.stats("t") for group in found.groups]

        await eventually(lambda: count(1))
        bus.stop()
        await consuming
        await eventually(lambda: count(0))

    assert [] == failures

"""A key of a stream that is something else is met before anything of a move is written."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from forebay.errors import StoreError
from forebay.stores.redis import RedisStore
from forebay.stores.redis.keys import Keys
from tests.support.redis_rights import ALL, STREAM, State
from tests.support.redis_servers import Server, binaries, version

KEYS = Keys("events", STREAM)
BILLING = KEYS.group("billing")
COMPANIONS = [
    *KEYS.all,
    BILLING.waiting,
    BILLING.attempts,
    BILLING.finished,
    BILLING.progress,
    BILLING.handled,
]


@pytest.fixture(params=binaries(), ids=version, scope="module")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(request.param, tmp_path_factory.mktemp("types"))
    yield server
    server.stop()


@pytest.mark.parametrize("key", COMPANIONS)
async def test_a_key_of_another_type_leaves_no_move_half_done(key: str, server: Server) -> None:
    state = State(server)
    await state.make()
    server.redis.delete(key)
    if key == BILLING.finished:
        server.redis.sadd(key, "something else")
    else:
        server.redis.set(key, "something else")
    state.dumps = state.contents()
    half_done = []

    async with RedisStore(server.url) as store:
        for name, move in ALL:
            state.reset()
            try:
                await move(store, state)
            except StoreError:
                if state.dumps != state.contents():
                    half_done.append(name)

    assert [] == half_done

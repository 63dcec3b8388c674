"""If a server does not report its durability, it is "unknown", and nothing is raised."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forebay.errors import StoreError
from forebay.store import Durability
from forebay.stores.redis import RedisStore
from tests.support.redis_servers import Server, binaries, version
from tests.support.topologies import make_cluster

each_server = pytest.mark.parametrize("binary", binaries(), ids=version)

HIDDEN: dict[str, list[str]] = {
    "CONFIG is renamed": ["--rename-command", "CONFIG", ""],
    "CONFIG and INFO are renamed": ["--rename-command", "CONFIG", "", "--rename-command", "INFO", "hidden"],
}


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Server]]:
    servers: list[Server] = []
    yield servers
    for server in servers:
        server.stop()


async def _durability(url: str) -> Durability:
    async with RedisStore(url) as store:
        return await store.durability()


def _is_unknown(found: Durability) -> bool:
    return {"unknown"} == {found.client_killed, found.store_killed, found.power_lost} and "CONFIG GET" in found.notes[0]


@each_server
@pytest.mark.parametrize("hidden", HIDDEN.values(), ids=HIDDEN)
async def test_a_server_without_config_is_unknown(
    started: list[Server], binary: str, tmp_path: Path, hidden: list[str]
) -> None:
    started.append(Server(binary, tmp_path, *hidden))

    assert _is_unknown(await _durability(started[0].url))


@each_server
async def test_with_sentinels_too(started: list[Server], binary: str, tmp_path: Path) -> None:
    started.append(Server(binary, tmp_path, "--rename-command", "CONFIG", ""))
    watch = f"sentinel monitor main 127.0.0.1 {started[0].port} 1\n"
    started.append(Server(binary, tmp_path, config=watch))

    assert _is_unknown(await _durability(f"redis+sentinel://127.0.0.1:{started[1].port}/main"))


@each_server
async def test_on_a_cluster_too(started: list[Server], binary: str, tmp_path: Path) -> None:
    make_cluster(started, binary, tmp_path)
    for node in started:
        node.redis.execute_command("ACL", "SETUSER", "default", "-config")

    assert _is_unknown(await _durability(f"redis+cluster://127.0.0.1:{started[0].port}"))


@each_server
@pytest.mark.parametrize(
    "rights", ["-config", "-info", "-config -info", "-@dangerous", "-@admin", "-config +config|set"]
)
async def test_a_user_without_the_rights_gets_the_rest_of_the_report(
    started: list[Server], binary: str, tmp_path: Path, rights: str
) -> None:
    started.append(Server(binary, tmp_path))
    server = started[0]
    server.redis.execute_command("ACL", "SETUSER", "modest", "on", ">secret", "~*", "+@all", *rights.split())

    found = await _durability(f"redis://modest:secret@127.0.0.1:{server.port}")

    if rights == "-info":
        assert "lost" == found.store_killed
        assert any("INFO" in note for note in found.notes)
    else:
        assert _is_unknown(found)


@pytest.mark.parametrize("reply", [[], [b"maxmemory"], {b"a": b"b"}, b"OK", None])
async def test_a_server_that_answers_something_else_is_unknown(
    servers: dict[str, Server], reply: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with RedisStore(servers[binaries()[0]].url) as store:
        ask = store._client.ask

        async def answer(node: Any, *command: Any) -> Any:
            return reply if command[0] == "CONFIG" else await ask(node, *command)

        monkeypatch.setattr(store._client, "ask", answer)
        assert _is_unknown(await store.durability())


async def test_one_master_that_is_away_makes_it_unknown_and_is_named(started: list[Server], tmp_path: Path) -> None:
    make_cluster(started, binaries()[0], tmp_path, "--cluster-require-full-coverage", "no")
    async with RedisStore(f"redis+cluster://127.0.0.1:{started[0].port}?timeout=1") as store:
        started[2].process.kill()
        started[2].process.wait()
        try:
            found = await store.durability()
        except StoreError as error:
            pytest.fail(f"durability raised {error!r}")

    assert "lost" == found.store_killed
    assert any(str(started[2].port) in note for note in found.notes)

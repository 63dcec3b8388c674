from __future__ import annotations

import json

from forebay import EventBus
from tests.support.command import Forebay


def test_bench_measures_the_store(forebay: Forebay) -> None:
    ended = forebay.piped("bench", "--events", "200", "--seconds", "2", "--json")

    assert 0 == ended.code, ended.err
    lines = {line["what"]: line for line in json.loads(ended.out)}
    assert {"events/s", "ms"} == {line["unit"] for line in lines.values()}
    assert all(line["figure"] > 0 for line in lines.values())
    assert {"publish, one at a time", "publish, 100 at a time", "handle"} <= lines.keys()


def test_bench_leaves_an_empty_store(forebay: Forebay) -> None:
    forebay.publish(1)

    assert 0 == forebay.piped("bench", "--events", "100").code

    async def names(bus: EventBus) -> list[str]:
        return [stream.stream for stream in await bus.stats()]

    assert ["order_placed"] == forebay.do(names)
    assert 1 == int(forebay.do(lambda bus: _streams_in_file(forebay)))


async def _streams_in_file(forebay: Forebay) -> int:
    import apsw

    file = apsw.Connection(forebay.url.removeprefix("sqlite:///"))
    [(count,)] = file.execute("SELECT count(*) FROM streams").fetchall()
    file.close()
    return int(str(count))


def test_bench_refuses_a_store_that_ends_with_it(forebay: Forebay) -> None:
    ended = forebay("bench", "--url", "memory://")

    assert 1 == ended.code
    assert "name a store that lasts" in ended.err


def test_bench_takes_a_namespace_of_its_own(forebay: Forebay) -> None:
    ended = forebay("bench", "--namespace", "mine")

    assert 2 == ended.code
    assert "a namespace of its own" in ended.err

"""Values that other programs put into the keys of a stream are put aside and reported; nothing waits for them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from forebay import EventBus
from forebay.event import Record, to_record
from forebay.store import Reader
from forebay.stores.redis import RedisStore
from tests.support.redis_servers import Server, binaries, version

STREAM = "order_placed"
GROUP = "billing"
READER = Reader(STREAM, GROUP, "worker-1")
ORDERED = Reader(STREAM, GROUP, "worker-1", ordered=True)
BYTES = b"\xff\xfe"


@pytest.fixture(params=binaries(), ids=version)
def server(request: pytest.FixtureRequest, servers: dict[str, Server]) -> Server:
    return servers[request.param]


@pytest.fixture
def key(namespace: str) -> str:
    return f"{namespace}:{STREAM}"


@pytest.fixture
async def store(server: Server, namespace: str) -> AsyncIterator[RedisStore]:
    async with RedisStore(server.url, namespace=namespace) as store:
        await store.join(STREAM, GROUP)
        await store.append(STREAM, [order(number) for number in range(4)])
        yield store


def order(number: int = 1) -> Record:
    return to_record(STREAM, source="shop", data=number)


Plant = Callable[[Any, str], object]

PLANTED: dict[str, Plant] = {
    "a stream with a space": lambda redis, key: redis.xadd(f"{key} 2", {"a": "b"}),
    "a stream with an umlaut": lambda redis, key: redis.xadd(f"{key}ü", {"a": "b"}),
    "a stream that is no text": lambda redis, key: redis.xadd(key.encode() + BYTES, {"a": "b"}),
    "a companion of a stream with a space": lambda redis, key: redis.hset(f"{{{key} 2}}:notes", "a", "b"),
    "another kind of key": lambda redis, key: redis.set(f"{key}2", "text"),
    "a group that is no text": lambda redis, key: redis.xgroup_create(key, BYTES, "0"),
    "a group with a colon and an escape": lambda redis, key: redis.xgroup_create(key, "a:b \x1b[31m", "0"),
    "a note that is no text": lambda redis, key: redis.hset(f"{{{key}}}:notes", BYTES, "x"),
}


@pytest.mark.parametrize("what", PLANTED)
async def test_names_of_other_programs_are_left_out_and_reported(
    what: str, store: RedisStore, server: Server, key: str
) -> None:
    assert [] == await store.strays()
    PLANTED[what](server.redis, key)

    [stray] = await store.strays()

    assert stray.isprintable()
    assert [STREAM] == [stats.stream for stats in await store.stats()]
    assert [GROUP] == [group.group for group in (await store.stats([STREAM]))[0].groups]
    assert {} == await store.notes(STREAM)
    assert await store.streams_with_notes() in ([], [STREAM])


async def test_a_rule_is_enforced_beside_a_note_that_is_not_text_and_a_time_that_is_not_a_number(
    server: Server, namespace: str, key: str
) -> None:
    async with EventBus(server.url, namespace=namespace) as bus:
        await bus.publish_many(STREAM, source="s", data=range(5))
        await bus.store.join(STREAM, GROUP, start="$")
        server.redis.hset(f"{{{key}}}:notes", BYTES, "x")
        server.redis.hset(f"{{{key}}}:notes", f"seen:{GROUP}", "never")

        await bus.retain(STREAM, max_length=2, group_lifetime=60)

        assert 2 == (await bus.stats(STREAM))[0].length


async def test_a_consumer_whose_name_is_not_text_is_shown_and_taken_over_from(
    store: RedisStore, server: Server, key: str
) -> None:
    server.redis.xreadgroup(GROUP, BYTES, {key: ">"}, count=1)

    [pending] = await store.pending(STREAM, GROUP)
    [claimed] = await store.claim(READER, idle=0)

    assert "\ufffd\ufffd" == pending.consumer
    assert pending.position == claimed.position


@pytest.mark.parametrize("reader", [READER, ORDERED], ids=["any", "ordered"])
async def test_a_waiting_member_that_is_not_a_position_stops_no_later_one(
    reader: Reader, store: RedisStore, server: Server, key: str
) -> None:
    waiting = f"{{{key}}}:waiting:{GROUP}"
    server.redis.zadd(waiting, {BYTES: 1, b"1-x": 2, b"": 3})
    server.redis.zadd(waiting, {f"odd {number}": 4 for number in range(30)})
    first, second, *_ = await store.read(READER, limit=4)
    await store.retry(first, delay=0)
    await store.retry(second, delay=0)
    server.redis.hset(f"{{{key}}}:attempts:{GROUP}", second.position, "no numbers")
    assert [first.position, second.position] == [
        each.position for each in await store.pending(STREAM, GROUP) if each.due is not None
    ]
    assert 35 == (await store.stats())[0].groups[0].waiting
    await store.claim(Reader(STREAM, GROUP, "other"), idle=1000)
    await store.trimmed_unread(STREAM, GROUP)

    found = [each for _ in range(4) for each in await store.take_due(reader, limit=12)]

    assert [first.position, second.position] == sorted(each.position for each in found)
    assert server.redis.zcard(waiting) == 0
    assert 33 == len(letters := await store.dead_letters(STREAM))
    assert {"written by a stranger"} == {letter.error for letter in letters}
    assert 4 == await store.ack([*await store.claim(READER, idle=0, limit=9)])
    assert 4 == (await store.trim(STREAM, max_length=0)).removed


async def test_a_scheduled_member_that_is_not_an_event_stops_no_later_one(
    store: RedisStore, server: Server, key: str
) -> None:
    odd = {BYTES: 1, b"": 2, b"text": 3, b"\x93\x01\x02\x03": 4, b"\x92\xa1a\xa1b": 5, b"\xdc\x00": 6}
    server.redis.zadd(f"{{{key}}}:scheduled", odd)
    server.redis.zadd(f"{{{key}}}:moments", {BYTES: 1})
    await store.schedule(STREAM, [order(8)], delay=0)
    await store.schedule(STREAM, [order(9)], delay=60)

    assert 2 == len(await store.scheduled(STREAM))
    assert 1 == len(await store.scheduled(STREAM, limit=1))
    await store.append_due(STREAM)

    assert 5 == len(await store.scan(STREAM))
    assert 1 == len(await store.scheduled(STREAM))
    assert 7 == len(await store.dead_letters(STREAM))
    assert 1 == (await store.stats())[0].scheduled


async def test_foreign_dead_letters_stop_no_later_ones(store: RedisStore, server: Server, key: str) -> None:
    first, second, *_ = await store.read(READER, limit=4)
    await store.dead_letter(first, reason="no")
    for attempts, failed_at in (("9" * 5000, "yesterday"), ("-1", BYTES), ("", "")):
        fields: dict[Any, Any] = {
            "error": BYTES,
            "failed_at": failed_at,
            "group": BYTES,
            "attempts": attempts,
            "position": BYTES,
        }
        server.redis.xadd(f"{{{key}}}:dead_letter", {"x": "y", **fields})
    server.redis.xadd(f"{{{key}}}:dead_letter", {BYTES: BYTES})
    server.redis.hset(f"{{{key}}}:dead_counts", GROUP, "many")
    await store.dead_letter(second, reason="no")

    letters = await store.dead_letters(STREAM)
    [stats] = await store.stats()

    assert [0, 0, 0, 0] == [letter.attempts for letter in letters[1:5]]
    assert [second.position] == [letter.position for letter in await store.dead_letters(STREAM, group=GROUP, limit=9)][
        1:
    ]
    assert (6, 2) == (stats.dead, stats.groups[0].dead)
    assert 5 == await store.redrive(STREAM, [letter.id for letter in letters])
    assert 1 == await store.discard(STREAM, [letter.id for letter in letters])


async def test_ids_that_are_not_text_stop_no_copy(store: RedisStore, server: Server, key: str) -> None:
    far = 10.0**13
    server.redis.zadd(f"{{{key}}}:ids_expiry", {BYTES + bytes([n]): far for n in range(20)})
    server.redis.zadd(f"{{{key}}}:ids_expiry", {b"z": far + 1})
    server.redis.hset(f"{{{key}}}:ids", "z", BYTES)
    server.redis.zadd(f"{{{key}}}:handled:{GROUP}", {BYTES: far, b"known": far + 1})

    assert [] == await store.remembered(STREAM, limit=5)
    assert ["known"] == [each.id for each in await store.remembered(STREAM, group=GROUP, limit=1)]
    assert {"known"} == await store.handled(STREAM, GROUP, ["known", "z"])
    [position] = await store.append(STREAM, [to_record(STREAM, source="s", data=1, id="z")], dedup_window=60)
    assert position == (await store.scan(STREAM))[-1].position


async def test_counts_that_are_not_numbers_stop_no_move(store: RedisStore, server: Server, key: str) -> None:
    progress = f"{{{key}}}:progress:{GROUP}"
    await store.read(READER, limit=4)
    server.redis.hset(progress, mapping={"finished": "x", "base": "y", "gone": BYTES, "place": BYTES})
    server.redis.hset(f"{{{key}}}:dead_counts", GROUP, "many")
    server.redis.hset(f"{{{key}}}:clock", mapping={"offset": "x", "since": BYTES, "seen": "9" * 30})
    server.redis.set(f"{{{key}}}:finished:{GROUP}", "somewhere")

    acked, dead = await store.claim(READER, idle=0, limit=2)
    assert [] == await store.take_due(READER, limit=1)
    assert 1 == await store.ack([acked])
    assert await store.dead_letter(dead, reason="no")
    assert await store.trimmed_unread(STREAM, GROUP) in (0, None)
    server.redis.xgroup_destroy(key, GROUP)
    server.redis.set(f"{{{key}}}:finished:{GROUP}", "somewhere")
    assert await store.join(STREAM, GROUP)
    assert 4 == len(await store.read(READER, limit=10))


async def test_a_thousand_members_that_are_not_events_stop_no_scheduled_event(
    store: RedisStore, server: Server, key: str
) -> None:
    server.redis.zadd(f"{{{key}}}:scheduled", {f"odd {number}": 1 for number in range(1_200)})
    await store.schedule(STREAM, [order(number) for number in range(700)], delay=0)

    assert 600 == await store.append_due(STREAM, limit=600)
    assert 100 == await store.append_due(STREAM)
    assert 0 == await store.append_due(STREAM)

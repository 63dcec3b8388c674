"""The tokens of leases on Redis: the delivery counts of the server and of the reader."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from forebay.event import Record, to_record
from forebay.store import Delivery, Failure, Reader
from forebay.stores.redis import RedisStore
from forebay.stores.redis.keys import Keys
from forebay.stores.redis.tokens import GONE, Tokens
from tests.support.redis_servers import Server, binaries, version

STREAM = "order_placed"
GROUP = "billing"
READER = Reader(STREAM, GROUP, "worker-1")
OTHER = Reader(STREAM, GROUP, "worker-2")
OWN = Keys("events", STREAM).group(GROUP)


def order(number: int = 1) -> Record:
    return to_record(STREAM, source="shop", data=number)


def delivery(position: str, token: str, reader: Reader = READER) -> Delivery:
    return Delivery(reader, position, order(), lease=token)


# The count of the reader.


def test_a_lease_from_a_read_is_the_first() -> None:
    tokens = Tokens()

    token = tokens.of_read(OWN, "worker-1", "1-0", "3-0")

    assert ("worker-1:1", "1") == (token, tokens.number(OWN, delivery("2-0", token)))


def test_tokens_from_before_a_second_reading_are_gone_from_its_beginning_on() -> None:
    tokens = Tokens()
    first = tokens.of_read(OWN, "worker-1", "1-0", "9-0")
    claimed = tokens.of_lease(OWN, "worker-1", 2)
    second = tokens.of_read(OWN, "worker-1", "5-0", "6-0")

    assert len({first, second}) == 2
    assert ["1", GONE, GONE, "1"] == [
        tokens.number(OWN, delivery(position, token))
        for position, token in (("4-0", first), ("5-0", first), ("9-0", first), ("5-0", second))
    ]
    assert ["2", GONE] == [tokens.number(OWN, delivery(position, claimed)) for position in ("4-0", "5-0")]
    assert "2" == tokens.number(OWN, delivery("5-0", tokens.of_lease(OWN, "worker-1", 2)))


def test_each_further_reading_has_tokens_of_its_own() -> None:
    tokens = Tokens()
    made = [tokens.of_read(OWN, "worker-1", "1-0", "9-0") for _ in range(4)]

    assert 4 == len(set(made))
    assert [GONE, GONE, GONE, "1"] == [tokens.number(OWN, delivery("9-0", token)) for token in made]


def test_replies_of_reads_that_arrive_in_another_order_are_one_reading() -> None:
    tokens = Tokens()
    reads = [("1-0", "3-0"), ("10-0", "12-0"), ("4-0", "9-5"), ("20-0", "20-0"), ("13-0", "19-0")]

    made = [tokens.of_read(OWN, "worker-1", *read) for read in reads]

    assert ["worker-1:1"] * 5 == made


def test_a_reading_from_far_back_is_another_one() -> None:
    tokens = Tokens()
    made = [tokens.of_read(OWN, "worker-1", f"{ms}-0", f"{ms}-5") for ms in (*range(10, 40), 9)]

    assert 2 == len(set(made))
    assert GONE == tokens.number(OWN, delivery("39-0", made[0]))


def test_readings_of_other_consumers_and_groups_change_nothing() -> None:
    tokens = Tokens()
    first = tokens.of_read(OWN, "worker-1", "1-0", "9-0")
    tokens.of_read(OWN, "worker-2", "1-0", "9-0")
    tokens.of_read(OWN, "worker-2", "1-0", "9-0")
    tokens.of_read(Keys("events", STREAM).group("mail"), "worker-1", "1-0", "9-0")

    assert "1" == tokens.number(OWN, delivery("1-0", first))


@pytest.mark.parametrize("token", ["", "17", "worker-1", "worker-1:", "worker-1:x", "worker-2:1", ":1"])
def test_a_token_that_this_store_did_not_make_is_gone(token: str) -> None:
    assert GONE == Tokens().number(OWN, delivery("1-0", token))


# The count of the server.


@pytest.fixture(params=binaries(), ids=version)
def server(request: pytest.FixtureRequest, servers: dict[str, Server]) -> Server:
    return servers[request.param]


@pytest.fixture
async def store(server: Server, namespace: str) -> AsyncIterator[RedisStore]:
    async with RedisStore(server.url, namespace=namespace) as store:
        await store.join(STREAM, GROUP)
        await store.append(STREAM, [order(number) for number in range(3)])
        yield store


async def test_a_release_is_not_an_attempt_and_its_lease_is_another_one(store: RedisStore) -> None:
    [held] = await store.read(READER, limit=1)
    found = [held]
    for _ in range(3):
        assert 1 == await store.release([held])
        [held] = await store.take_due(READER, limit=1)
        found.append(held)

    assert [1, 1, 1, 1] == [each.attempt for each in found]
    assert 4 == len({each.lease for each in found})
    assert await store.retry(held, delay=0)
    [again] = await store.take_due(OTHER, limit=1)
    assert (2, 1) == (again.attempt, again.failures)


async def test_attempts_are_counted_over_kept_retries_releases_and_claims(store: RedisStore) -> None:
    [held] = await store.read(READER, limit=1)
    for number in range(1, 4):
        assert await store.retry(held, delay=0, keep=True, failure=Failure(f"error {number}"))
        held = msgspec.structs.replace(held, attempt=held.attempt + 1, failures=number)
    assert [(4, 3)] == [(each.attempt, each.failures) for each in await store.pending(STREAM, GROUP)]
    [claimed] = await store.claim(OTHER, idle=0)
    assert (5, 3, Failure("error 3")) == (claimed.attempt, claimed.failures, claimed.last_failure)

    assert [] == await store.extend([held])
    assert 1 == await store.release([claimed])

    [again] = await store.take_due(READER, limit=1)
    assert (5, 3, Failure("error 3")) == (again.attempt, again.failures, again.last_failure)
    assert await store.dead_letter(again, reason="no")
    assert [5] == [letter.attempts for letter in await store.dead_letters(STREAM)]


@pytest.mark.parametrize(
    ("note", "expected"),
    [
        ("3 2", (4, 2, None)),
        ('3 2 ["KeyError: 7", "line"]', (4, 2, Failure("KeyError: 7", "line"))),
        ('3 2 4 ["KeyError: 7", "line"]', (4, 2, Failure("KeyError: 7", "line"))),
        ("3 2 4", (4, 2, None)),
        ('3 2 -2 ["KeyError", ""]', (4, 2, Failure("KeyError"))),
        ("3 2 -9", (4, 2, None)),
        ("3 2 7x", (4, 2, None)),
        ("no numbers", (1, 0, None)),
    ],
)
async def test_the_history_of_an_entry_is_read_in_its_older_format_too(
    store: RedisStore, server: Server, namespace: str, note: str, expected: tuple[int, int, Failure | None]
) -> None:
    [held] = await store.read(READER, limit=1)
    await store.release([held])
    server.redis.hset(f"{{{namespace}:{STREAM}}}:attempts:{GROUP}", held.position, note)

    [again] = await store.take_due(READER, limit=1)

    assert expected == (again.attempt, again.failures, again.last_failure)
    assert [again] == await store.extend([again])


async def test_a_lease_of_the_older_format_is_claimed_and_counted(
    store: RedisStore, server: Server, namespace: str
) -> None:
    [held] = await store.read(READER, limit=1)
    key = f"{namespace}:{STREAM}"
    server.redis.hset(f"{{{key}}}:attempts:{GROUP}", held.position, "2 2")
    server.redis.xclaim(key, GROUP, "worker-1", 0, [held.position], retrycount=3, justid=True)

    [claimed] = await store.claim(OTHER, idle=0)

    assert (4, 2) == (claimed.attempt, claimed.failures)


async def test_pending_entries_before_the_position_of_a_seek_stay_leased(store: RedisStore) -> None:
    first, second, third = await store.read(READER, limit=3)

    await store.seek(STREAM, GROUP, first.position)
    again = await store.read(READER, limit=3)

    assert [second.position, third.position] == [each.position for each in again]
    assert [first, *again] == await store.extend([first, second, third, *again])

"""A Redis or Valkey server whose wall clock is set: leases, retries and delays last as long as they should."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from forebay import Event, EventBus, OutcomeUnknown, RetryAfter
from forebay.event import Record, to_record
from forebay.store import Delivery, Reader
from forebay.stores.redis import RedisStore
from forebay.stores.redis.pace import TOLERANCE, Pace, Step
from forebay.testing import eventually
from tests.support.clocks import WallClock
from tests.support.redis_servers import Proxy, Server, binaries, version

HOUR = 3600.0
A, B = Reader("t", "g", "a"), Reader("t", "g", "b")
steps = pytest.mark.parametrize(
    ("server", "step"),
    list(zip(itertools.cycle(binaries()), [HOUR, -10.0, -HOUR, 10.0], strict=False)),
    indirect=["server"],
    ids=lambda each: version(each) if isinstance(each, str) else f"{each:+.0f} s",
)
"""Each step, by turns on each server."""


@pytest.fixture
def clock(tmp_path: Path) -> WallClock:
    return WallClock(tmp_path)


@pytest.fixture(params=binaries(), ids=version)
def server(request: pytest.FixtureRequest, clock: WallClock, tmp_path: Path) -> Iterator[Server]:
    server = Server(request.param, tmp_path, environment=clock.environment)
    yield server
    server.stop()


@pytest.fixture
async def store(server: Server) -> AsyncIterator[RedisStore]:
    async with RedisStore(server.url) as store:
        await store.join("t", "g")
        # From now on it has seen the server's clock.
        await store.take_due(A, limit=1)
        yield store


async def leased(store: RedisStore, count: int = 1) -> list[Delivery]:
    await store.append("t", [to_record("t", source="s", data=number) for number in range(count)])
    return await store.read(A, limit=count)


@steps
async def test_a_lease_ends_no_earlier_and_can_be_taken_over_later(
    store: RedisStore, clock: WallClock, step: float
) -> None:
    [held] = await leased(store)
    clock.shift(step)

    began = time.monotonic()
    taken: list[Delivery] = []
    while not taken and time.monotonic() < began + 10:
        taken = await store.claim(B, idle=1.0)

    assert [held.position] == [delivery.position for delivery in taken]
    assert 1.0 <= time.monotonic() - began + 0.2 < 3.0


@steps
async def test_a_lease_that_is_renewed_is_kept_over_many_steps(
    store: RedisStore, clock: WallClock, step: float
) -> None:
    held = await leased(store, 3)
    for number in range(1, 4):
        clock.shift(number * step)
        for _ in range(5):
            assert held == await store.extend(held)
            assert [] == await store.claim(B, idle=1.0)
            await asyncio.sleep(0.1)
    assert 3 == await store.ack(held)


@steps
async def test_a_retry_waits_as_long_as_it_should(store: RedisStore, clock: WallClock, step: float) -> None:
    before, after = await leased(store, 2)
    began = time.monotonic()
    await store.retry(before, delay=1.0)
    clock.shift(step)
    # Before any store has noticed.
    await store.retry(after, delay=1.0)
    await store.schedule("t", [to_record("t", source="s", data="delayed")], delay=1.0)
    await store.release(await leased(store))

    async def came(count: int) -> bool:
        found = await store.take_due(B, limit=10)
        assert await store.ack(found) == len(found)
        places.extend(delivery.position for delivery in found)
        return len(places) == count

    places: list[str] = []
    await eventually(lambda: came(1))
    assert {before.position, after.position}.isdisjoint(places)
    await eventually(lambda: came(3))

    async def delayed() -> bool:
        await store.append_due("t")
        records = [entry.record for entry in await store.scan("t", newest=True, limit=1)]
        return [b'"delayed"'] == [record.data for record in records if isinstance(record, Record)]

    await eventually(delayed)
    assert 0.9 <= time.monotonic() - began < 2.5


async def test_of_several_stores_one_sets_it_right_and_the_others_go_by_it(
    store: RedisStore, server: Server, clock: WallClock
) -> None:
    async with RedisStore(server.url) as other, RedisStore(server.url) as third:
        [held] = await leased(store)
        for each in (other, third):
            await each.take_due(B, limit=1)

        clock.shift(HOUR)
        for each in (other, third, store, other):
            assert [] == await each.take_due(B, limit=1)
            assert [] == await each.claim(B, idle=5.0)
        await store.retry(held, delay=0.2)

        async def came() -> bool:
            return bool(await third.take_due(B, limit=1))

        await eventually(came, within=2.0)
    assert abs(int(server.redis.hget("{events:t}:clock", "offset")) + 1000 * HOUR) < 1000


async def test_a_store_that_was_just_opened_leaves_the_leases_of_live_consumers(
    store: RedisStore, server: Server, clock: WallClock
) -> None:
    held = await leased(store)
    clock.shift(HOUR)
    # The mark of a store that has watched for some seconds.
    server.redis.hset("{events:t}:clock", "seen", round(time.time() * 1000))

    async with RedisStore(server.url) as other:
        assert [] == await other.claim(B, idle=5.0)
        await store.take_due(A, limit=1)
        assert [] == await other.claim(B, idle=5.0)
        assert held == await store.extend(held)


async def test_handlers_go_on_over_steps_and_none_runs_twice_at_once(server: Server, clock: WallClock) -> None:
    running, most, seen = Counter[int](), Counter[int](), Counter[int]()

    async def handle(event: Event) -> None:
        number: int = event.data
        seen[number] += 1
        running[number] += 1
        most[number] = max(most[number], running[number])
        await asyncio.sleep(1.5)
        running[number] -= 1
        if seen[number] == 1:
            raise RetryAfter(0.5)

    buses = [EventBus(server.url) for _ in range(2)]
    for bus in buses:
        bus.on("t", group="g", lease=1, concurrency=4)(handle)
    async with buses[0], buses[1]:
        runs = [asyncio.create_task(bus.run()) for bus in buses]
        await buses[0].publish_many("t", source="s", data=range(8))
        for shift in (20.0, HOUR, -HOUR, 0.0):
            await asyncio.sleep(0.8)
            clock.shift(shift)
        await eventually(lambda: all(seen[number] >= 2 for number in range(8)), within=15.0)
        assert [] == await buses[0].dead_letters("t")
        for bus in buses:
            bus.stop()
        await asyncio.gather(*runs)

    assert {1} == set(most.values())
    assert {2} == set(seen.values())


class Ticking(Pace):
    """The steps that a store would see of a clock that is asked each half second."""

    def __init__(self) -> None:
        super().__init__("clock")
        self.now = 100.0
        self.told = 1_000_000.0

    def ask(self, *, passed: float, told: float, late: float = 0.01, offset: int = 0) -> Step | None:
        self.now += passed
        self.told += told
        return self.look(round(self.told * 1000), offset, self.now, self.now + late)


def test_a_clock_that_runs_a_little_fast_was_not_set() -> None:
    pace = Ticking()
    for _ in range(1000):
        assert pace.ask(passed=0.5, told=0.54) is None


def test_a_late_answer_is_not_a_step_and_does_not_hide_one() -> None:
    pace = Ticking()
    assert pace.ask(passed=0.5, told=0.5) is None
    assert pace.ask(passed=0.5, told=3.5, late=5.0) is None
    step = pace.ask(passed=5.5, told=2.5 + 10)
    assert step is not None
    assert abs(step.seconds - 10) < TOLERANCE


def test_a_step_is_reported_until_its_offset_is_in_force_and_another_store_uses_that_offset() -> None:
    pace = Ticking()
    pace.ask(passed=0.5, told=0.5)
    assert pace.ask(passed=0.5, told=60.5) is not None
    assert pace.ask(passed=0.5, told=0.5) is not None
    assert pace.ask(passed=0.5, told=-59.5, offset=-60_000) is None
    assert pace.ask(passed=0.5, told=30.5, offset=-30_000) is None
    assert pace.ask(passed=0.5, told=0.5, offset=-30_000) is None


async def test_a_store_that_was_frozen_without_its_clock_sets_nothing(store: RedisStore, server: Server) -> None:
    now = round(time.time() * 1000)
    server.redis.hset("{events:t}:clock", "seen", now)
    pace = store._client.pace("events:t")  # its clock is to stand still for an hour
    pace._low -= HOUR  # as above
    pace._high -= HOUR  # as above

    for _ in range(3):
        await store.take_due(A, limit=1)

    assert server.redis.hget("{events:t}:clock", "offset") is None
    [held] = await leased(store)
    await store.retry(held, delay=0.1)

    async def came() -> bool:
        return bool(await store.take_due(B, limit=1))

    await eventually(came, within=2.0)


@pytest.mark.parametrize("when", ["before", "between"])
@steps
async def test_a_repeated_publish_is_found_whatever_the_clock_was_set_to(
    server: Server, clock: WallClock, step: float, when: str
) -> None:
    proxy = Proxy(server.port)
    async with proxy.listen() as url, RedisStore(url) as store:
        await store.append("other", [to_record("other", source="s", data=0)])
        record = to_record("t", source="s", data=1)
        if when == "before":
            clock.shift(step)
        proxy.swallow = True
        with pytest.raises(OutcomeUnknown) as unknown:
            await store.append("t", [record])
        proxy.swallow = False
        if when == "between":
            clock.shift(step)

        [position] = await store.append("t", [record], search_after=unknown.value.search_after)

        assert [(position, record)] == [(entry.position, entry.record) for entry in await store.scan("t")]

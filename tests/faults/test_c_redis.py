"""Rows C of docs/faults.md: what befalls one Redis or Valkey server."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from forebay import (
    ConfigurationError,
    Event,
    EventBus,
    PublishUnknown,
    Reject,
    Retry,
    StoreDamaged,
    StoreDenied,
    StoreFull,
    StoreUnavailable,
)
from forebay.signals import DeadLettered, EntryMissing, Finished, GroupCreated, LoopFailed, TrimmedUnread
from forebay.testing import eventually
from tests.support.handled import Handled, running
from tests.support.redis_servers import Server, version
from tests.support.stores import SERVERS

every_server = pytest.mark.parametrize("binary", SERVERS, ids=version)


@pytest.fixture
def server(binary: str, tmp_path: Path) -> Iterator[Server]:
    """A server of the test's own, to do with as it likes."""
    server = Server(binary, tmp_path)
    yield server
    server.stop()


@pytest.fixture
async def bus(server: Server) -> AsyncIterator[EventBus]:
    async with EventBus(server.url) as bus:
        yield bus


async def publish_at_last(bus: EventBus, number: int) -> None:
    """Publish, as soon as the server takes it."""

    async def published() -> bool:
        try:
            await bus.publish("t", source="s", data=number, id=f"id-{number}")
        except (PublishUnknown, StoreUnavailable):
            return False
        return True

    await eventually(published, within=20)


@every_server
async def test_c3_after_a_server_came_back_empty_the_group_is_made_again_from_the_start(
    bus: EventBus, server: Server
) -> None:
    handled, recreated = Handled(), list[GroupCreated]()
    bus.on("t", group="g")(handled.handle)
    bus.signals.listen(recreated.append, GroupCreated)
    async with running(bus):
        await bus.publish("t", source="s", data=0)
        await eventually(lambda: handled.has(1))

        server.restart()
        await publish_at_last(bus, 1)
        await eventually(lambda: 1 in handled.times, within=20)

    assert recreated[-1].recreated
    assert "lost" == (await bus.durability()).store_killed


@every_server
@pytest.mark.parametrize("wipe", [("FLUSHALL",), ("DEL", "events:t"), ("XGROUP", "DESTROY", "events:t", "g")], ids=str)
async def test_c4_events_after_a_wipe_are_handled_and_the_wipe_is_reported(
    bus: EventBus, server: Server, wipe: tuple[str, ...]
) -> None:
    handled, recreated = Handled(), list[GroupCreated]()
    bus.on("t", group="g")(handled.handle)
    bus.signals.listen(recreated.append, GroupCreated)
    await bus.publish("t", source="s", data=0)
    async with running(bus):
        await eventually(lambda: handled.has(1))
        for number in range(1, 4):
            await eventually(lambda: server.redis.info("clients")["blocked_clients"])
            server.redis.execute_command(*wipe)
            await publish_at_last(bus, number)
            await eventually(lambda number=number: number in handled.times)

    assert sum(signal.recreated for signal in recreated) >= 3


@every_server
async def test_c6_a_server_that_is_loading_is_waited_for(server: Server, tmp_path: Path) -> None:
    handled, failures = Handled(), list[LoopFailed]()
    server.redis.config_set("save", "3600 1000000")
    async with EventBus(server.url) as bus:
        bus.on("t", group="g")(handled.handle)
        bus.signals.listen(failures.append, LoopFailed)
        await bus.publish("t", source="s", data=0)
        async with running(bus):
            await eventually(lambda: handled.has(1))
            server.redis.mset({f"other-{number}": "x" for number in range(300)})
            server.redis.save()
            # Each key takes a while, so that loading lasts a second.
            server.restart("--key-load-delay", "3000", "--loading-process-events-interval-bytes", "1024")
            await publish_at_last(bus, 1)
            await eventually(lambda: 1 in handled.times, within=20)

    assert any("reading its data from disk" in str(failure.error) for failure in failures)


@every_server
async def test_c7_g7_while_memory_is_full_consumers_work_on_and_dead_letters_are_written(
    bus: EventBus, server: Server
) -> None:
    done: Counter[int] = Counter()

    @bus.on("t", group="g", retry=Retry(attempts=2, base=0.001))
    async def handle(event: Event) -> None:
        if event.data == 0:
            raise Reject("never")
        done[event.data] += 1

    ids = await bus.publish_many("t", source="s", data=range(20))
    await bus.store.join("t", "g")
    server.redis.config_set("maxmemory", 1)
    with pytest.raises(StoreFull):
        await bus.publish("t", source="s", data=20)
    async with running(bus):
        await eventually(lambda: len(done) == 19)
        await eventually(lambda: _is_dead(bus, ids[0]))

    assert Counter(range(1, 20)) == done
    assert 20 == (await bus.stats("t"))[0].length


async def _is_dead(bus: EventBus, id: str) -> bool:
    return [id] == [letter.record.id for letter in await bus.dead_letters("t")]  # type: ignore[union-attr]  # events


@every_server
async def test_c8_a_server_that_evicts_streams_is_refused_unless_the_url_allows_it(server: Server) -> None:
    server.redis.config_set("maxmemory-policy", "allkeys-lru")
    server.redis.config_set("maxmemory", 100_000_000)

    with pytest.raises(ConfigurationError, match=r"allkeys-lru.*set it to noeviction.*allow_eviction"):
        async with EventBus(server.url):
            pass
    async with EventBus(f"{server.url}?allow_eviction=true") as bus:
        assert "at risk" == (await bus.durability()).client_killed

    server.redis.config_set("maxmemory-policy", "noeviction")
    async with EventBus(server.url) as bus:
        server.redis.config_set("maxmemory-policy", "allkeys-lru")
        handled = Handled(busy=0.5)
        bus.on("t", group="g", lease=0.5)(handled.handle)
        await bus.publish("t", source="s", data=0)
        await bus.run(until_idle=True)  # open connections go on, that of the lease keeper too
        assert {0: 1} == handled.times


@every_server
async def test_c12_entries_that_another_program_trimmed_unread_are_reported_and_counted_exactly(
    bus: EventBus, server: Server
) -> None:
    handled, missed = Handled(), list[TrimmedUnread]()
    bus.on("t", group="g")(handled.handle)
    bus.signals.listen(missed.append, TrimmedUnread)
    async with running(bus):
        await bus.publish("t", source="s", data=0)
        await eventually(lambda: handled.has(1))
    await bus.publish_many("t", source="s", data=range(1, 11))

    server.redis.xtrim("events:t", maxlen=3, approximate=False)
    async with running(bus):
        await eventually(lambda: handled.has(4))

    assert {0, 8, 9, 10} == set(handled.times)
    assert [7] == [gap.count for gap in missed]


@every_server
async def test_c13_entries_that_were_deleted_while_pending_are_reported_and_not_counted_as_handled(
    bus: EventBus, server: Server
) -> None:
    vanished, finished = list[EntryMissing](), list[Finished]()
    bus.signals.listen(vanished.append, EntryMissing)
    bus.signals.listen(finished.append, Finished)
    await bus.publish_many("t", source="s", data=range(10))
    await bus.store.join("t", "g")
    server.redis.xreadgroup("g", "dead-consumer", {"events:t": ">"}, count=10)
    server.redis.xdel("events:t", *[position for position, _ in server.redis.xrange("events:t")])

    bus.on("t", group="g", lease=0.05)(Handled().handle)
    async with running(bus):
        await eventually(lambda: len(vanished) == 10, within=20)
        await eventually(lambda: not server.redis.xpending("events:t", "g")["pending"])

    assert [] == finished


@every_server
async def test_c15_g7_a_dead_letter_that_cannot_be_written_loses_no_event_and_ends_the_run_aloud(
    bus: EventBus, server: Server
) -> None:
    dead = list[DeadLettered]()
    bus.signals.listen(dead.append, DeadLettered)

    @bus.on("t", group="g", lease=0.2)
    async def handle(event: Event) -> None:
        raise Reject("never")

    await bus.publish("t", source="s", data=0)
    server.redis.set("{events:t}:dead_letter", "somebody else's")

    with pytest.raises(StoreDamaged, match="belongs to something else"):
        await bus.run()
    assert [] == dead

    server.redis.delete("{events:t}:dead_letter")
    await bus.run(until_idle=True)
    assert 1 == len(await bus.dead_letters("t"))


@every_server
async def test_c16_scripts_that_are_flushed_all_the_time_cause_no_error(bus: EventBus, server: Server) -> None:
    handled, failures = Handled(), list[LoopFailed]()
    bus.on("t", group="g", retry=Retry(base=0))(handled.handle)
    bus.signals.listen(failures.append, LoopFailed)
    async with running(bus):
        for number in range(100):
            server.redis.script_flush()
            await bus.publish("t", source="s", data=number, id=f"id-{number}")
        await eventually(lambda: handled.has(100))

    assert Counter(range(100)) == handled.times
    assert [] == failures


@every_server
async def test_c18_if_no_connection_is_free_callers_get_an_error_and_consumers_return_without_a_storm(
    bus: EventBus, server: Server
) -> None:
    handled, failures = Handled(), list[LoopFailed]()
    bus.on("t", group="g")(handled.handle)
    bus.signals.listen(failures.append, LoopFailed)
    async with running(bus):
        await bus.publish("t", source="s", data=0)
        await eventually(lambda: handled.has(1))
        server.redis.config_set("maxclients", 1)
        server.redis.client_kill_filter(_type="normal", skipme=True)
        with pytest.raises(StoreUnavailable, match="maxclients"):
            async with EventBus(server.url):
                pass
        await eventually(lambda: len(failures) >= 4, within=20)
        refused = server.redis.info("stats")["rejected_connections"]
        assert refused <= 20
        server.redis.config_set("maxclients", 1000)
        await publish_at_last(bus, 1)
        await eventually(lambda: 1 in handled.times, within=20)


@every_server
async def test_c19_a_stream_that_takes_no_more_ids_says_so(bus: EventBus, server: Server) -> None:
    server.redis.xadd("events:t", {"type": "t"}, id=f"{2**64 - 1}-{2**64 - 1}")

    for data in ([1], [1, 2]):
        with pytest.raises(StoreDamaged, match="the highest possible id"):
            await bus.publish_many("t", source="s", data=data)


@every_server
async def test_c20_a_right_that_is_taken_away_ends_the_run_aloud(server: Server) -> None:
    server.redis.execute_command("ACL", "SETUSER", "worker", "on", ">secret", "~*", "+@all")
    url = f"redis://worker:secret@127.0.0.1:{server.port}"
    handled, failures = Handled(), list[LoopFailed]()
    async with EventBus(url) as bus:
        bus.on("t", group="g")(handled.handle)
        bus.signals.listen(failures.append, LoopFailed)
        run = asyncio.create_task(bus.run())
        await bus.publish("t", source="s", data=0)
        await eventually(lambda: handled.has(1))

        server.redis.execute_command("ACL", "SETUSER", "worker", "-xreadgroup")

        with pytest.raises(StoreDenied, match="rights"):
            await asyncio.wait_for(run, 20)
    assert [] == failures


@every_server
async def test_c21_a_handler_that_never_ends_holds_no_more_than_its_prefetch(bus: EventBus) -> None:
    begun: list[int] = []

    async def handle(event: Event) -> None:
        begun.append(event.data)
        await asyncio.sleep(600)

    await bus.publish_many("t", source="s", data=range(2000))
    hanging = bus.subscribe_to_stream("t", "g", concurrency=5, prefetch=10)
    run = asyncio.create_task(hanging.consume_events(handle, grace=0.1))
    await eventually(lambda: len(begun) == 5)

    assert (await bus.stats("t"))[0].groups[0].pending <= 10
    bus.stop()
    await asyncio.wait_for(run, 20)


@every_server
@pytest.mark.parametrize("removal", ["XTRIM", "XDEL"])
async def test_entries_removed_under_a_running_group_are_reported_exactly_by_the_end_of_its_run(
    bus: EventBus, server: Server, removal: str
) -> None:
    handled, lost = Handled(busy=0.005), list[int]()
    bus.signals.listen(lambda signal: lost.append(signal.count), TrimmedUnread)
    bus.signals.listen(lambda signal: lost.append(1), EntryMissing)
    bus.on("t", group="g", concurrency=1, prefetch=1)(handled.handle)
    async with running(bus):
        for start in range(0, 90, 30):
            await bus.publish_many("t", source="s", data=range(start, start + 30))
            await eventually(lambda start=start: any(number >= start for number in handled.times))
            if removal == "XTRIM":
                server.redis.xtrim("events:t", maxlen=10, approximate=False)
            else:
                last = [position for position, _ in server.redis.xrevrange("events:t", count=15)]
                server.redis.xdel("events:t", *last[5:])
            await eventually(lambda start=start: start + 29 in handled.times)

    assert 90 == len(handled.times) + sum(lost)
    assert sum(lost) >= 15

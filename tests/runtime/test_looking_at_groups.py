"""A program can ask how far each group is with an event, choose dead letters, and move a group."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from forebay import (
    ConfigurationError,
    DeadLetterFilter,
    Event,
    EventBus,
    EventDelivery,
    NotFound,
    Reject,
    Retry,
    connect,
)


@pytest.fixture
def memory() -> EventBus:
    return connect("memory://")


async def _letters(bus: EventBus, event_type: str | None = None, **conditions: Any) -> list[str]:
    wanted = DeadLetterFilter(**conditions)
    return [letter.error async for letter in bus.find_dead_letters(event_type, wanted)]


# One event in each group.


async def test_the_deliveries_of_an_event_show_its_state_in_each_group(bus: EventBus) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    @bus.on("t", group="done")
    async def done(event: Event) -> None: ...

    @bus.on("t", group="dead")
    async def dead(event: Event) -> None:
        raise Reject("no")

    @bus.on("t", group="waiting", retry=Retry(attempts=3, base=3600, cap=3600))
    async def waiting(event: Event) -> None:
        raise ValueError("not yet")

    @bus.on("t", group="pending")
    async def pending(event: Event) -> None:
        started.set()
        await go_on.wait()

    await bus.store.join("t", "unread")
    id = await bus.publish("t", "s", 1)
    run = asyncio.create_task(bus.run())
    await started.wait()
    found: dict[str, EventDelivery] = {}
    async with asyncio.timeout(20):
        while [found[name].state for name in sorted(found)] != ["dead", "done", "pending", "unread", "waiting"]:
            found = {each.group: each for each in await bus.deliveries("t", id)}
            await asyncio.sleep(0.01)
    go_on.set()
    bus.stop()
    await run

    position = (await bus.get("t", id)).position
    assert {position} == {each.position for each in found.values()}
    assert EventDelivery("done", position, "done") == found["done"]
    assert EventDelivery("unread", position, "unread") == found["unread"]
    assert EventDelivery("dead", position, "dead", attempt=1, error="Reject: no") == found["dead"]
    assert (1, "ValueError: not yet", None) == (
        found["waiting"].attempt,
        found["waiting"].error,
        found["waiting"].consumer,
    )
    assert 1000 < (found["waiting"].due or 0) <= 3600
    assert found["pending"].consumer
    assert 0 <= (found["pending"].idle or 0) < 20


async def test_a_replayed_event_has_a_delivery_for_each_time(bus: EventBus) -> None:
    id = await bus.publish("t", "s", 1)
    await bus.store.join("t", "g")
    await bus.replay("t", group="g")

    found = await bus.deliveries("t", id)

    assert [("g", "unread"), ("g", "unread")] == [(each.group, each.state) for each in found]
    assert 2 == len({each.position for each in found})


async def test_the_deliveries_of_an_unknown_event_are_not_found(bus: EventBus) -> None:
    with pytest.raises(NotFound):
        await bus.deliveries("t", "unknown")


# Dead letters that match.


async def test_a_filter_matches_dead_letters_that_meet_all_its_conditions(bus: EventBus) -> None:
    @bus.on("a", group="g")
    async def handle(event: Event) -> None:
        raise Reject(f"Broken {event.data}")

    @bus.on("b", group="h")
    async def handle_too(event: Event) -> None:
        raise Reject("other")

    ids = await bus.publish_many("a", "s", [1, 2])
    await bus.publish("b", "s", 1)
    await bus.run(until_idle=True)
    letters = await bus.dead_letters("a")
    now = datetime.now(UTC)

    assert 3 == len(await _letters(bus))
    assert 2 == len(await _letters(bus, "a"))
    assert ["Reject: other"] == await _letters(bus, group="h")
    assert ["Reject: Broken 1"] == await _letters(bus, "a", ids=[ids[0]])
    assert ["Reject: Broken 2"] == await _letters(bus, ids=[letters[1].id], group="g")
    assert 2 == len(await _letters(bus, error="broken"))
    assert [] == await _letters(bus, error="broken", group="h")
    assert 3 == len(await _letters(bus, since=now - timedelta(minutes=5)))
    assert [] == await _letters(bus, since=now + timedelta(minutes=5))
    assert ["Reject: Broken 2"] == await _letters(bus, event=lambda event: event.data == 2)


async def test_dead_letters_are_found_over_many_pages(memory: EventBus) -> None:
    @memory.on("t", group="g")
    async def handle(event: Event) -> None:
        raise Reject("no")

    async with memory:
        await memory.publish_many("t", "s", range(1234))
        await memory.run(until_idle=True)

        found = [letter async for letter in memory.find_dead_letters("t")]

        assert 1234 == len(found) == len(await memory.dead_letters("t"))
        assert found == await memory.dead_letters("t")
        assert found[:501] == await memory.dead_letters("t", limit=501)


async def _later(event: Event) -> bool:
    return True


def _yields(event: Event) -> Iterator[bool]:
    yield True


@pytest.mark.parametrize(
    "conditions",
    [
        {"ids": "abc"},
        {"ids": b"abc"},
        {"ids": 5},
        {"ids": [5]},
        {"group": 5},
        {"error": 5},
        {"since": "2026-01-01"},
        {"since": datetime(2026, 1, 1)},  # noqa: DTZ001  # the mistake
        {"event": 5},
        {"event": _later},
        {"event": _yields},
    ],
)
def test_a_filter_refuses_conditions_of_wrong_types_which_would_match_too_much(conditions: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        DeadLetterFilter(**conditions)


async def test_only_a_filter_chooses_dead_letters(memory: EventBus) -> None:
    wrong: Any
    for wrong in ("abc", {}, DeadLetterFilter):
        with pytest.raises(ConfigurationError, match="DeadLetterFilter"):
            await anext(memory.find_dead_letters("t", wrong))


async def test_a_filter_takes_any_collection_of_ids_and_an_empty_one_matches_none(memory: EventBus) -> None:
    @memory.on("t", group="g")
    async def handle(event: Event) -> None:
        raise Reject("no")

    async with memory:
        ids = await memory.publish_many("t", "s", range(3))
        await memory.run(until_idle=True)

        assert 3 == len(await _letters(memory, ids=iter(ids)))
        assert 2 == len(await _letters(memory, ids=set(ids[1:])))
        assert [] == await _letters(memory, ids=[])


# Moving a group, and names.


async def test_a_group_that_is_moved_beyond_the_end_is_at_the_end(bus: EventBus) -> None:
    await bus.publish_many("t", "s", range(3))
    await bus.store.join("t", "g")
    last = await bus.position("t")
    far = f"9{last}"

    assert last == await bus.position("t", far) == await bus.seek("t", "g", far)
    group = await bus.group("t", "g")
    assert (last, 0) == (group.position, group.lag)


async def test_a_group_that_is_moved_back_handles_its_events_again_and_one_moved_to_the_end_skips_them(
    bus: EventBus,
) -> None:
    seen: list[object] = []

    @bus.on("t", group="g")
    async def handle(event: Event) -> None:
        seen.append(event.data)

    await bus.publish_many("t", "s", [1, 2, 3])
    await bus.run(until_idle=True)
    first = (await anext(bus.events("t"))).position

    assert first == await bus.seek("t", "g", first)
    await bus.run(until_idle=True)
    await bus.seek("t", "g", "earliest")
    last = await bus.seek("t", "g", "latest")
    await bus.run(until_idle=True)

    assert [1, 2, 3, 2, 3] == seen
    assert last == (await bus.group("t", "g")).position == await bus.position("t")


async def test_a_group_is_moved_to_a_time(bus: EventBus) -> None:
    await bus.publish("t", "s", 1)
    await bus.store.join("t", "g")

    to = await bus.seek("t", "g", datetime.now(UTC) + timedelta(hours=1))

    assert to == (await bus.group("t", "g")).position
    assert 0 == (await bus.group("t", "g")).lag


async def test_an_unknown_stream_or_group_is_named_with_the_nearest_one(bus: EventBus) -> None:
    await bus.publish("order_placed", "s")
    await bus.store.join("order_placed", "billing")

    for ask in (bus.seek("order_palced", "billing", "latest"), bus.stream("order_palced")):
        with pytest.raises(NotFound, match="did you mean 'order_placed'"):
            await ask
    for ask_group in (bus.seek("order_placed", "biling", "latest"), bus.group("order_placed", "biling")):
        with pytest.raises(NotFound, match="did you mean 'billing'"):
            await ask_group


async def test_the_names_of_streams_are_listed(bus: EventBus) -> None:
    await bus.publish("b", "s")
    await bus.publish("a", "s")

    assert ["a", "b"] == await bus.streams()
    assert [] == await bus.strays()

"""History: find, follow and replay published events."""

from __future__ import annotations

import asyncio
import functools

import pytest

from forebay import Event, EventBus, MalformedEntry, NotFound
from forebay.testing import eventually


async def test_events_are_found_by_id_and_by_position(bus: EventBus) -> None:
    ids = await bus.publish_many("t", source="s", data=range(5))
    await bus.publish("t", source="s", data="mine", id="mine")

    found = await bus.get("t", ids[3])
    assert 3 == found.data
    assert found == await bus.get("t", found.position)
    assert "mine" == (await bus.get("t", "mine")).data
    with pytest.raises(NotFound, match="no event 'nobody'"):
        await bus.get("t", "nobody")


async def test_the_history_is_followed_from_its_newest_events(bus: EventBus) -> None:
    await bus.publish_many("t", source="s", data=range(5))
    seen: list[int] = []

    async def follow() -> None:
        async for event in bus.events("t", newest=2, follow=True):
            assert not isinstance(event, MalformedEntry)
            seen.append(event.data)

    task = asyncio.create_task(follow())
    await eventually(lambda: seen == [3, 4])
    await bus.publish("t", source="s", data=5)
    await eventually(lambda: seen == [3, 4, 5])
    task.cancel()


async def test_a_new_group_starts_at_the_position_that_it_names(bus: EventBus) -> None:
    seen: dict[str, list[int]] = {"all": [], "new": [], "rest": []}
    await bus.publish_many("t", source="s", data=[1, 2, 3])
    second = [event async for event in bus.events("t")][1].position
    for group, start in (("all", "earliest"), ("new", "latest"), ("rest", second)):
        bus.on("t", group=group, start=start)(functools.partial(_note, seen[group]))

    run = asyncio.create_task(bus.run())
    await eventually(lambda: seen["all"] == [1, 2, 3] and seen["rest"] == [3])
    await eventually(lambda: _groups(bus, "t", 3))
    await bus.publish("t", source="s", data=4)
    await eventually(lambda: all(4 in events for events in seen.values()))
    bus.stop()
    await run

    assert {"all": [1, 2, 3, 4], "new": [4], "rest": [3, 4]} == seen


async def test_a_range_is_replayed_to_one_group(bus: EventBus) -> None:
    """Row G9 of docs/faults.md."""
    seen: dict[str, list[int]] = {"a": [], "b": []}

    @bus.on("t", group="a")
    async def a(event: Event) -> None:
        seen["a"].append(event.data)

    @bus.on("t", group="b", concurrency=1)
    async def b(event: Event) -> None:
        seen["b"].append(event.data)

    await bus.publish_many("t", source="s", data=range(10))
    await bus.run(until_idle=True)
    events = [event async for event in bus.events("t")]
    middle = events[3].position
    assert 6 == await bus.replay("t", group="b", start=middle, dry_run=True)
    assert 6 == await bus.replay("t", group="b", start=middle)
    await bus.run(until_idle=True)

    assert 10 == len(seen["a"])
    assert [*range(10), *range(4, 10)] == seen["b"]
    assert 10 == len([event async for event in bus.events("t")])


async def test_a_replay_to_an_unknown_stream_or_group_is_refused(bus: EventBus) -> None:
    with pytest.raises(NotFound, match="no stream 't'"):
        await bus.replay("t", group="g")
    await bus.publish("t", source="s")
    with pytest.raises(NotFound, match="no group 'g'"):
        await bus.replay("t", group="g")


async def _note(seen: list[int], event: Event) -> None:
    seen.append(event.data)


async def _groups(bus: EventBus, stream: str, count: int) -> bool:
    return len((await bus.stats(stream))[0].groups) == count

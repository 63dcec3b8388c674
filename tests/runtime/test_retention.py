"""How long streams keep their events."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from forebay import ConfigurationError, Event, EventBus, Retention, StoreUnavailable, Trimmed
from forebay.announcer import Announcer
from forebay.retention import RULE, Pruner
from forebay.signals import LoopFailed, StreamTrimmed
from forebay.stores.memory import MemoryStore
from forebay.testing import FaultyStore, eventually


def heard(bus: EventBus, *kinds: type) -> list[Any]:
    signals: list[Any] = []
    bus.signals.listen(signals.append, *kinds)
    return signals


async def test_a_stream_without_groups_keeps_its_newest_events(bus: EventBus) -> None:
    trimmed = heard(bus, StreamTrimmed)
    await bus.publish_many("t", source="s", data=range(10))

    assert Trimmed(7, 0) == await bus.retain("t", max_length=3)

    assert [7, 8, 9] == [event.data async for event in bus.events("t") if isinstance(event, Event)]
    assert Retention(max_length=3) == await bus.retention("t")
    assert [StreamTrimmed("t", 7, 0)] == trimmed


async def test_entries_stay_until_each_group_has_finished_them(bus: EventBus) -> None:
    """Row G10 of docs/faults.md."""
    await bus.store.join("t", "g")
    await bus.publish_many("t", source="s", data=range(10))
    assert Trimmed(0, 0) == await bus.retain("t", max_length=2)

    bus.on("t", group="g")(lambda event: None)
    await bus.run(until_idle=True)

    assert Trimmed(8, 0) == await bus.retain("t", max_length=2)


async def test_beyond_the_hard_length_events_are_dropped_counted_and_reported(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    trimmed = heard(bus, StreamTrimmed)
    await bus.store.join("t", "g")
    await bus.publish_many("t", source="s", data=range(10))

    assert Trimmed(4, 4) == await bus.retain("t", max_length=2, hard_length=6)

    assert [StreamTrimmed("t", 4, 4)] == trimmed
    assert "t dropped 4 events, 4 of them unfinished" in caplog.text


async def test_events_leave_when_they_are_too_old(bus: EventBus) -> None:
    await bus.publish_many("t", source="s", data=range(3))
    assert Trimmed(0, 0) == await bus.retain("t", max_age=1)

    async def gone() -> bool:
        return 3 == (await bus.retain("t", max_age=1)).removed

    await eventually(gone)


async def test_a_rule_holds_for_every_process_and_until_it_is_taken_away() -> None:
    store = MemoryStore()
    async with EventBus(store) as one, EventBus(store.clone()) as other:
        await one.retain("t", max_length=1)
        await other.publish_many("t", source="s", data=range(5))
        pruner = Pruner(other.store, other.signals, Announcer(other.store, other.signals))
        pruner.published.add("t")
        pruning = asyncio.create_task(pruner.run(interval=0.01))
        await eventually(lambda: _length(one, 1))

        await one.retain("t")
        assert await one.retention("t") is None
        await other.publish_many("t", source="s", data=range(5))
        pruning.cancel()
        assert 6 == (await one.stats("t"))[0].length


async def _length(bus: EventBus, length: int) -> bool:
    return length == (await bus.stats("t"))[0].length


async def test_a_failed_check_is_reported_and_the_next_one_trims() -> None:
    store = FaultyStore(MemoryStore())
    async with EventBus(store) as bus:
        failed = heard(bus, LoopFailed)
        await bus.retain("t", max_length=1)
        await bus.publish_many("t", source="s", data=range(5))
        store.fail_before("trim")
        pruner = Pruner(store, bus.signals, Announcer(store, bus.signals))
        pruner.published.add("t")
        pruning = asyncio.create_task(pruner.run(interval=0.01))

        await eventually(lambda: _length(bus, 1))
        pruning.cancel()

        assert [("retention", StoreUnavailable)] == [(signal.loop, type(signal.error)) for signal in failed]


@pytest.mark.parametrize(
    "rule",
    [
        {"max_age": 0},
        {"max_age": "1h"},
        {"max_length": -1},
        {"max_length": True},
        {"max_length": 10, "hard_length": 9},
        {"group_lifetime": float("inf")},
        {"group_lifetime": 1},
    ],
    ids=str,
)
async def test_a_rule_that_cannot_be_is_refused(bus: EventBus, rule: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="give"):
        await bus.retain("t", **rule)
    assert await bus.retention("t") is None


async def test_a_rule_that_cannot_be_read_says_so(bus: EventBus) -> None:
    await bus.store.set_note("t", RULE, b'{"max_length": "many"}')

    with pytest.raises(ConfigurationError, match="the rule for keeping t cannot be read"):
        await bus.retention("t")

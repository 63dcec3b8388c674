"""An argument of a wrong form is refused before anything is done, and its value is not shown."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from forebay import (
    ConfigurationError,
    Event,
    EventBus,
    ForebayError,
    InvalidEvent,
    PersistentEventBus,
    RedisEventBus,
    RetryAfter,
    connect,
)
from forebay.cause import caused_by
from forebay.signals import DeadLettered


def _kind(given: object) -> str:
    return type(given).__name__


Use = Callable[[EventBus, Any], Awaitable[object]]
ODD: list[Any] = [5, 1.5, True, b"x", object(), int, timedelta(1), ["x"], "2026-01-01T00:00:00Z"]


@pytest.fixture
async def memory() -> AsyncIterator[EventBus]:
    async with connect("memory://") as bus:
        yield bus


@pytest.mark.parametrize("given", ["abc", b"abc", {"order_id": 1}, 5, None, object()], ids=_kind)
@pytest.mark.parametrize("name", ["data", "keys", "ids"])
async def test_one_value_in_place_of_a_list_is_refused(memory: EventBus, name: str, given: Any) -> None:
    if given is None and name != "data":
        return
    arguments = {"data": [1, 2, 3], name: given}

    with pytest.raises(ConfigurationError, match=f"`{name}`: give a list"):
        await memory.publish_many("t", "s", **arguments)

    assert [] == [event async for event in memory.events("t")]


async def test_lists_may_be_of_any_kind(memory: EventBus) -> None:
    await memory.publish_many("t", "s", (n for n in range(2)), keys=("a", "b"), ids={"one": 1, "two": 2}.keys())  # type: ignore[arg-type]  # any iterable will do

    events = [await memory.get("t", id) for id in ("one", "two")]
    assert ["a", "b"] == [event.key for event in events]


@pytest.mark.parametrize("is_handling", [False, True])
@pytest.mark.parametrize("given", ODD, ids=_kind)
async def test_headers_that_are_not_a_mapping_are_refused(memory: EventBus, given: Any, is_handling: bool) -> None:
    await memory.publish("t", "s")
    [event] = [event async for event in memory.events("t") if isinstance(event, Event)]

    with caused_by(event if is_handling else None), pytest.raises(InvalidEvent, match="headers are a dict"):
        await memory.publish("t", "s", headers=given)


@pytest.mark.parametrize("given", [*ODD, datetime.fromtimestamp(0, UTC).replace(tzinfo=None)], ids=_kind)
async def test_a_moment_is_an_aware_datetime(memory: EventBus, given: Any) -> None:
    with pytest.raises(ConfigurationError, match="aware datetime"):
        await memory.publish("t", "s", at=given)


async def _events(bus: EventBus, given: Any) -> None:
    async for _ in bus.events("t", newest=given):
        pass


async def _listen(bus: EventBus, given: Any) -> None:
    bus.signals.listen(given, DeadLettered)


USES: dict[str, Use] = {
    "events": _events,
    "dead_letters": lambda bus, given: bus.dead_letters("t", limit=given),
    "pending": lambda bus, given: bus.pending("t", "g", limit=given),
    "chain": lambda bus, given: bus.chain(given),
    "redrive": lambda bus, given: bus.redrive("t", given),
    "discard": lambda bus, given: bus.discard("t", given),
}


@pytest.mark.parametrize("name", USES)
@pytest.mark.parametrize("given", [-1.5, True, b"x", object(), int, "x"], ids=_kind)
async def test_wrong_counts_lists_and_follows_are_refused(memory: EventBus, name: str, given: Any) -> None:
    await memory.publish("t", "s", 1)

    with pytest.raises(ConfigurationError):
        await USES[name](memory, given)


@pytest.mark.parametrize("given", [5, None, "print", object()], ids=_kind)
async def test_a_listener_is_a_function(memory: EventBus, given: Any) -> None:
    with pytest.raises(ConfigurationError, match="takes a function"):
        memory.signals.listen(given, DeadLettered)
    with pytest.raises(ConfigurationError, match="classes of signals"):
        memory.signals.listen(print, given)


@pytest.mark.parametrize("given", [timedelta(minutes=1), "60", None, True, -1, float("inf")], ids=_kind)
def test_retry_after_takes_seconds(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="give a number of seconds"):
        RetryAfter(given)


@pytest.mark.parametrize("make", [EventBus, RedisEventBus, PersistentEventBus])
@pytest.mark.parametrize("given", [5, b"redis://u:hunter2@h", None, object(), ["x"], Path("x.db")], ids=_kind)
def test_a_bus_without_a_store_is_refused_by_its_constructor(make: Callable[[Any], EventBus], given: Any) -> None:
    if make is PersistentEventBus and isinstance(given, Path):
        return
    with pytest.raises(ForebayError) as refused:
        make(given)

    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("given", [None, 5, {"max_bytes": 5}], ids=_kind)
def test_limits_are_limits(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="limits="):
        connect("memory://", limits=given)

"""Mistakes: wrong use is an error that says what to do."""

from __future__ import annotations

import functools
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from forebay import ConfigurationError, Event, EventBus, InvalidEvent


class OrderPlaced(msgspec.Struct):
    order_id: int


@pytest.mark.parametrize(
    "handler", [lambda: None, lambda a, b: None, "not callable"], ids=["no argument", "two arguments", "a string"]
)
async def test_a_function_that_cannot_take_an_event_is_refused_at_once(bus: EventBus, handler: Any) -> None:
    with pytest.raises(ConfigurationError):
        bus.on("t", group="g")(handler)


async def test_wrong_use_is_refused_with_a_remedy(bus: EventBus) -> None:
    bus.on("t", group="g")(functools.partial(_note, []))
    with pytest.raises(ConfigurationError, match="already handles"):
        bus.on("t", group="g")(functools.partial(_note, []))
    with pytest.raises(ConfigurationError, match="unknown option 'concurency'"):
        bus.subscribe_to_stream("t", "g", concurency=3)  # type: ignore[call-overload]  # the mistake that is tested
    with pytest.raises(ConfigurationError, match="not a position in a stream"):
        await bus.subscribe_to_stream("t", "h", start="yesterday").consume_events(print)
    with pytest.raises(ConfigurationError, match="`delay` or `at`"):
        await bus.publish("t", source="s", delay=1, at=datetime.now(UTC))
    with pytest.raises(InvalidEvent, match="published as itself"):
        await bus.publish(OrderPlaced(1), source="s", data={})
    with pytest.raises(InvalidEvent, match="one for each"):
        await bus.publish_many("t", source="s", data=[1, 2], keys=["a"])
    with pytest.raises(ConfigurationError, match="open already"):
        async with bus:
            pass


async def _note(seen: list[int], event: Event) -> None:
    seen.append(event.data)

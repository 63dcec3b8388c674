"""The names of the original design."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from forebay import Event, EventBus, EventType
from forebay.testing import eventually


async def test_the_names_of_the_original_design_run_the_same_code(bus: EventBus) -> None:
    seen: list[tuple[str, Any]] = []

    async def handler(event: Event) -> None:
        seen.append((event.type, event.data))

    await bus.publish(EventType.HEALTH_CHECK, "monitor", {"ok": True})
    consumer = bus.subscribe_to_stream(EventType.HEALTH_CHECK, "agents_group", "agent_1")
    task = asyncio.create_task(consumer.consume_events(handler))
    await eventually(lambda: bool(seen))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert [("health_check", {"ok": True})] == seen
    assert [] == await bus.pending("health_check", "agents_group")

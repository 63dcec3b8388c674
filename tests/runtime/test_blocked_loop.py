"""A handler that blocks its event loop is reported, and does not keep its events from others for ever."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import pytest

from forebay import Event, EventBus
from forebay.runtime import lease_keeper
from forebay.runtime.lease_keeper import Turns
from forebay.signals import LoopBlocked
from forebay.testing import eventually


async def test_the_handler_that_blocks_the_loop_is_named_once_and_then_yields_its_events(
    durable_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lease_keeper, "YIELD_SECONDS", 2.5)
    free, reports, taken = threading.Event(), list[LoopBlocked](), list[str]()

    def work() -> None:
        async def main() -> None:
            bus = EventBus(durable_url, namespace=namespace)
            bus.signals.listen(reports.append, LoopBlocked)

            @bus.on("t", group="g", lease=0.4, concurrency=2)
            async def crunch(event: Event) -> None:
                free.wait(30)

            async with bus:
                run = asyncio.create_task(bus.run())
                await eventually(free.is_set, within=40)
                bus.stop()
                await run

        asyncio.run(main())

    async with EventBus(durable_url, namespace=namespace) as bus:
        await bus.store.join("t", "g")
        id = await bus.publish("t", source="s", data=1)
        blocked = threading.Thread(target=work, daemon=True)
        with caplog.at_level(logging.WARNING, "forebay"):
            blocked.start()
            await eventually(lambda: bool(reports), within=20)

            @bus.on("t", group="g", lease=0.4)
            async def take_over(event: Event) -> None:
                taken.append(event.id)

            run = asyncio.create_task(bus.run())
            await asyncio.sleep(0.8)
            kept = not taken
            await eventually(lambda: [id] == taken, within=20)
            free.set()
            await asyncio.to_thread(blocked.join, 20)
            bus.stop()
            await run

    assert kept
    assert [False, True] == [report.yielding for report in reports]
    for report in reports:
        assert ("t", "g", id) == (report.stream, report.group, report.event_id)
        assert report.handler.endswith("crunch")
        assert "free.wait(30)" in report.traceback
    assert 1.0 <= reports[0].seconds < reports[1].seconds
    assert "crunch, with event" in caplog.text
    assert "free.wait(30)" in caplog.text


async def test_a_handler_that_blocks_the_loop_for_a_few_leases_keeps_its_event(bus: EventBus) -> None:
    """Row A8 of docs/faults.md."""
    attempts: list[int] = []

    @bus.on("t", group="g", lease=0.2)
    async def crunch(event: Event) -> None:
        attempts.append(event.attempt)
        time.sleep(0.8)  # noqa: ASYNC251  # the subject of the test

    await bus.publish("t", source="s", data=1)
    await bus.run(until_idle=True)

    assert [1] == attempts


async def test_code_outside_of_handlers_that_blocks_the_loop_is_reported_too(bus: EventBus) -> None:
    reports: list[LoopBlocked] = []
    bus.signals.listen(reports.append, LoopBlocked)
    hold = asyncio.Event()

    @bus.on("t", group="g", lease=0.4)
    async def wait(event: Event) -> None:
        await hold.wait()

    await bus.publish("t", source="s", data=1)
    run = asyncio.create_task(bus.run(until_idle=True))
    await eventually(lambda: bus.last_read is not None)
    time.sleep(2.5)  # noqa: ASYNC251  # the subject of the test
    hold.set()
    await run

    assert [("", False)] == [(report.handler, report.yielding) for report in reports]
    assert "time.sleep(2.5)" in reports[0].traceback


async def test_a_loop_that_turns_is_not_reported_and_neither_is_a_process_that_stood_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(lease_keeper, "boottime", lambda: now)
    turns = Turns(asyncio.get_running_loop())

    def look() -> float:
        nonlocal now
        turns.wait()
        now += 2.0
        return turns.check(2.0)

    assert 0.0 == look()
    assert 2.0 == look()
    assert [True, False, True, False] == [turns.must_report(yielding=each) for each in (False, False, True, True)]
    turns.wait()
    now += 5.0
    assert 0.0 == turns.check(2.0)
    assert 2.0 == look()
    await asyncio.sleep(0.01)
    assert 0.0 == look()
    assert turns.must_report(yielding=False)

"""An outage is one line when it begins and one when it is over; a storm is counted."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from forebay import Event, EventBus, Retry, StoreUnavailable
from forebay.agents import AgentFailed, BaseAgent, handles
from forebay.signals import LoopFailed, LoopRecovered, Retried, Signals
from forebay.store import Delivery, Reader
from forebay.storms import FIRST_LINES, INTERVAL, SILENT, Outage, Storm
from forebay.testing import eventually
from tests.support.redis_servers import Server, binaries

DELIVERY = Delivery(Reader("t", "g", "c"), "1", None)


def loud(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "forebay" and r.levelno >= logging.WARNING]


@pytest.mark.skipif(not binaries(), reason="no Redis or Valkey server on this machine")
async def test_an_outage_is_two_lines_however_many_loops_meet_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(binaries()[0], tmp_path)
    try:
        async with EventBus(server.url) as bus:

            class Shop(BaseAgent):
                name = "shop"
                heartbeat = 0.2

                @handles("s0")
                async def sell(self, event: Event) -> None: ...

            for number in range(20):

                @bus.on(f"s{number}", group="g", lease=1)
                async def handle(event: Event) -> None: ...

            failed: set[tuple[str, str]] = set()
            works: set[tuple[str, str]] = set()
            bus.signals.listen(lambda signal: failed.add((signal.loop, signal.stream)), LoopFailed)
            bus.signals.listen(lambda signal: works.add((signal.loop, signal.stream)), LoopRecovered)
            run = asyncio.create_task(bus.run(Shop()))
            await eventually(lambda: bus.last_read is not None)
            with caplog.at_level(logging.DEBUG, "forebay"):
                caplog.clear()
                server.process.kill()
                server.process.wait()
                await eventually(lambda: ("lookout", "*") in failed and len(failed) > 20, within=30)
                during = loud(caplog)
                server.restart()
                await eventually(lambda: ("lookout", "*") in works, within=30)
                await eventually(lambda: any("works again" in line for line in loud(caplog)), within=30)
            bus.stop()
            await run
    finally:
        server.stop()

    assert 1 == len(during)
    assert 1 == sum("works again" in line for line in loud(caplog))
    assert 1 == sum("loop failed" in line for line in loud(caplog))
    assert len([record for record in caplog.records if record.levelno == logging.DEBUG]) > 20


async def test_failed_tries_at_full_speed_are_counted(bus: EventBus, caplog: pytest.LogCaptureFixture) -> None:
    @bus.on("t", group="g", retry=Retry(attempts=3, base=0, cap=0))
    async def handle(event: Event) -> None:
        raise KeyError("vat_rate")

    with caplog.at_level(logging.WARNING, "forebay"):
        await bus.publish_many("t", source="s", data=range(300))
        await bus.run(until_idle=True)

    assert 300 == len(await bus.dead_letters("t"))
    assert 2 * FIRST_LINES <= len([line for line in loud(caplog) if "KeyError" in line]) < 10 * FIRST_LINES


def test_the_lines_that_a_storm_left_out_are_counted_after_its_interval() -> None:
    told: list[tuple[int, str]] = []
    now = 0.0
    storm = Storm(lambda count, last: told.append((count, last)), clock=lambda: now)

    passed = [storm.passes(f"error {number}") for number in range(FIRST_LINES + 5)]
    assert [True] * FIRST_LINES + [False] * 5 == passed
    assert [] == told
    now = INTERVAL
    assert storm.passes("another")
    assert [(5, f"error {FIRST_LINES + 4}")] == told
    storm.report()
    assert 1 == len(told)


async def test_the_lines_of_the_last_interval_are_counted_without_another_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forebay.storms.INTERVAL", 0.05)
    told: list[int] = []
    storm = Storm(lambda count, _: told.append(count))

    for _ in range(FIRST_LINES + 7):
        storm.passes("error")

    await eventually(lambda: [7] == told)


def test_an_outage_ends_with_the_last_loop_and_forgets_those_that_fell_silent() -> None:
    now = 0.0
    outage = Outage(clock=lambda: now)
    assert outage.worked("read") is None

    assert outage.failed("read", 1.0)
    assert not outage.failed("claim", 1.0)
    assert not outage.failed("heartbeat", 1.0, reports=False)
    now = 5.0
    assert outage.worked("read") is None
    assert outage.is_on
    now = SILENT + 2
    assert not outage.is_on

    assert outage.failed("read", 1.0)
    assert not outage.failed("heartbeat", 1.0, reports=False)
    now += 3.0
    assert (3.0, 2) == outage.worked("read")
    assert not outage.is_on


def test_the_agents_of_a_bus_that_meet_an_outage_add_nothing(caplog: pytest.LogCaptureFixture) -> None:
    from forebay.logs import log

    signals, error = Signals(), StoreUnavailable("gone")
    log(signals)
    with caplog.at_level(logging.WARNING, "forebay"):
        for number in range(100):
            signals.emit(LoopFailed("heartbeat", "agent_heartbeat", f"agent-{number}", error, 5.0))
            signals.emit(AgentFailed(f"agent-{number}", error, 1.0))
        assert 1 == len(loud(caplog))
        signals.emit(AgentFailed("agent-1", error, None))
        signals.emit(AgentFailed("agent-2", KeyError("x"), 1.0))
    assert 3 == len(loud(caplog))


@pytest.mark.parametrize(("delay", "text"), [(0.0, "again at once"), (0.04, "again in 40 ms"), (2.5, "again in 2.5 s")])
def test_a_short_wait_is_not_shown_as_zero(delay: float, text: str, caplog: pytest.LogCaptureFixture) -> None:
    from forebay.logs import log

    signals = Signals()
    log(signals)
    signals.emit(Retried(DELIVERY, KeyError("x"), delay))
    assert text in caplog.text


async def test_the_lines_that_a_storm_left_out_are_counted_when_the_bus_is_closed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with EventBus("memory://") as bus:

        @bus.on("t", group="g", retry=Retry(attempts=1))
        async def fail(event: Event) -> None:
            raise KeyError(event.data)

        await bus.publish_many("t", source="s", data=range(100))
        await bus.run(until_idle=True)
        before = loud(caplog)

    [summary] = loud(caplog)[len(before) :]
    assert FIRST_LINES == len(before)
    assert f"{100 - FIRST_LINES} more dead letters" in summary

"""Agents that fall ill and get well: each change is published once, also by a monitor that was down meanwhile."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import EllipsisType
from typing import Any

import msgspec
import pytest

from forebay import Event, EventBus, EventType, InMemoryEventBus
from forebay.agents import (
    AgentRecovered,
    AgentStatus,
    AgentUnhealthy,
    HealthReport,
    agent_statuses,
    health_monitor,
)
from forebay.agents.health_monitor import Incident, update_incidents
from forebay.testing import FaultyStore, eventually
from tests.support.health import WITHIN, Patient, is_told, monitor, told
from tests.support.processes import Process
from tests.support.watching import running


async def checks(bus: EventBus) -> int:
    """How many health checks there were."""
    return sum(stats.length for stats in await bus.stats(EventType.HEALTH_CHECK))


async def test_an_unhealthy_agent_is_published_once_and_once_when_it_recovers(bus: EventBus) -> None:
    patient = Patient()
    patient.ailment = "no paper"
    async with running(bus, patient, monitor()):
        await eventually(lambda: is_told(bus, "agent_unhealthy"), within=WITHIN)
        asked = await checks(bus)
        await eventually(lambda: _more_checks(bus, asked + 3), within=WITHIN)
    async with running(bus, patient, monitor()):
        asked = await checks(bus)
        await eventually(lambda: _more_checks(bus, asked + 3), within=WITHIN)
        patient.ailment = None
        await eventually(lambda: is_told(bus, "agent_unhealthy", "agent_recovered"), within=WITHIN)
        asked = await checks(bus)
        await eventually(lambda: _more_checks(bus, asked + 3), within=WITHIN)

    [first, second] = await told(bus)
    unhealthy, recovered = msgspec.convert(first.data, AgentUnhealthy), msgspec.convert(second.data, AgentRecovered)
    assert ("patient", "says so", "RuntimeError: no paper") == (unhealthy.agent, unhealthy.reason, unhealthy.detail)
    assert ("patient", unhealthy.since) == (recovered.agent, recovered.unhealthy_since)
    assert ("health_monitor", "patient") == (first.source, first.key)


async def _more_checks(bus: EventBus, count: int) -> bool:
    return await checks(bus) >= count


async def live(url: str, namespace: str) -> None:
    """Run the agent until SIGTERM, in a process that is killed."""
    async with EventBus(url, namespace=namespace) as bus:
        await bus.run(Patient())


async def test_an_agent_that_was_killed_is_silent_until_it_is_back(durable_url: str, namespace: str) -> None:
    async with EventBus(durable_url, namespace=namespace) as bus, running(bus, monitor()):
        patient = Process(live, durable_url, namespace)
        await eventually(lambda: _is(bus, "started"), within=WITHIN)
        patient.kill()
        await eventually(lambda: is_told(bus, "agent_unhealthy"), within=WITHIN)
        patient = Process(live, durable_url, namespace)
        try:
            await eventually(lambda: is_told(bus, "agent_unhealthy", "agent_recovered"), within=WITHIN)
        finally:
            patient.kill()
        [first, *_] = await told(bus)

    unhealthy = msgspec.convert(first.data, AgentUnhealthy)
    assert "silent" == unhealthy.reason
    assert unhealthy.last_seen is not None
    assert unhealthy.last_seen < unhealthy.since


async def _is(bus: EventBus, status: str) -> bool:
    return any(each.agent == "patient" and each.status == status for each in await agent_statuses(bus))


async def test_an_agent_that_was_stopped_in_an_orderly_way_is_not_ill(bus: EventBus) -> None:
    async with running(bus, Patient()):
        await eventually(lambda: _is(bus, "started"), within=WITHIN)

    async with running(bus, monitor()):
        await eventually(lambda: _more_checks(bus, 5), within=WITHIN)

    assert await is_told(bus)


class Broken(FaultyStore):
    """Fails once, when it is armed, at what changes this stream or its notes."""

    def __init__(self, stream: str, *, after: bool) -> None:
        super().__init__(InMemoryEventBus().store)
        self._stream = stream
        self._after = after
        self.armed = False

    def _strike(self, move: Any, stream: str) -> None:
        if self.armed and stream == self._stream:
            self.armed = False
            (self.fail_after if self._after else self.fail_before)(move)

    async def append(self, stream: str, records: Any, **options: Any) -> list[str]:
        self._strike("append", stream)
        return await super().append(stream, records, **options)

    async def set_note(
        self, stream: str, name: str, value: bytes | None, *, expected: bytes | EllipsisType | None = ...
    ) -> bool:
        if name != "leader":
            self._strike("set_note", stream)
        return await super().set_note(stream, name, value, expected=expected)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("stream", ["agent_unhealthy", "agent.health_monitor"])
async def test_a_publish_that_fails_half_way_is_repeated_and_stored_once(stream: str, after: bool) -> None:
    store = Broken(stream, after=after)
    patient = Patient()
    async with EventBus(store) as bus, running(bus, patient, monitor()):
        await eventually(lambda: _more_checks(bus, 2), within=WITHIN)
        store.armed = True
        patient.ailment = "no paper"
        await eventually(lambda: not store.armed, within=WITHIN)
        if stream != "agent_unhealthy":
            await eventually(lambda: is_told(bus, "agent_unhealthy"), within=WITHIN)
        patient.ailment = None
        await eventually(lambda: is_told(bus, "agent_unhealthy", "agent_recovered"), within=WITHIN)
        asked = await checks(bus)
        await eventually(lambda: _more_checks(bus, asked + 3), within=WITHIN)

        assert await is_told(bus, "agent_unhealthy", "agent_recovered")


async def test_old_checks_and_answers_are_trimmed(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
    await bus.store.join("health_check", "never-reads")
    ids = [await bus.publish(kind, "test") for kind in (EventType.HEALTH_CHECK, EventType.HEALTH_REPORT)]
    monkeypatch.setattr(health_monitor, "RETENTION_SECONDS", 0.0)

    async with running(bus, monitor()):
        await eventually(lambda: _more_checks(bus, 3), within=WITHIN)

    kept = [event async for event in bus.events(EventType.HEALTH_CHECK)]
    kept += [event async for event in bus.events(EventType.HEALTH_REPORT)]
    assert not {event.id for event in kept if isinstance(event, Event)} & set(ids)


NOW = datetime(2026, 1, 1, tzinfo=UTC)
HEALTHY = HealthReport("a", "a-1", healthy=True)
UNHEALTHY = HealthReport("a", "a-1", healthy=False, detail="no paper")


def _status(status: Any) -> AgentStatus:
    return AgentStatus("a", status, 1, NOW, 5.0, 0, 0, 0, 0, 0, 0, "OSError: no disk")


@pytest.mark.parametrize(
    ("status", "report", "reason", "detail"),
    [
        ("silent", None, "silent", "OSError: no disk"),
        ("failed", None, "failed", "OSError: no disk"),
        ("started", UNHEALTHY, "says so", "no paper"),
        ("draining", UNHEALTHY, "says so", "no paper"),
        ("started", HEALTHY, None, None),
        ("started", None, None, None),
        ("initializing", None, None, None),
        ("stopped", None, None, None),
        ("unknown", None, None, None),
    ],
)
def test_the_conditions_of_an_unhealthy_agent(
    status: str, report: HealthReport | None, reason: str | None, detail: object
) -> None:
    ill = update_incidents({}, [_status(status)], {} if report is None else {"a": report}, NOW)

    if reason is None:
        assert {} == ill
    else:
        assert AgentUnhealthy("a", reason, detail, NOW, NOW - timedelta(seconds=5)) == ill["a"].unhealthy  # type: ignore[arg-type]  # a word
        assert ill == update_incidents(ill, [_status(status)], {} if report is None else {"a": report}, NOW)


@pytest.mark.parametrize(
    ("reason", "status", "report", "recovers"),
    [
        ("silent", "started", None, True),
        ("failed", "started", None, True),
        ("says so", "started", None, False),
        ("says so", "started", HEALTHY, True),
        ("silent", "started", UNHEALTHY, False),
        ("silent", "initializing", None, False),
        ("silent", "stopped", None, False),
        ("silent", "unknown", None, False),
        ("says so", "silent", None, False),
    ],
)
def test_the_conditions_of_a_recovered_agent(
    reason: Any, status: str, report: HealthReport | None, recovers: bool
) -> None:
    before = {"a": Incident(AgentUnhealthy("a", reason, None, NOW, NOW))}

    after = update_incidents(before, [_status(status)], {} if report is None else {"a": report}, NOW)

    assert recovers == (after["a"].recovered is not None)
    assert recovers == (after["a"].pending is not None)
    assert recovers or before == after

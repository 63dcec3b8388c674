"""A health monitor whose note is damaged, or among whose signs of life are strangers', goes on."""

from __future__ import annotations

from datetime import UTC, datetime

from forebay import EventBus, EventType
from forebay.agents import AgentFailed, HealthMonitorAgent, agent_statuses
from forebay.agents.heartbeat import Heartbeat, Members
from forebay.agents.state import notes_of
from forebay.signals import LoopFailed
from forebay.testing import eventually
from tests.support.health import WITHIN, Patient, is_told, monitor
from tests.support.stores import dealt
from tests.support.watching import running


@dealt("note", b"", b"\xff", b'{"patient": 7}', b"[]")
async def test_a_damaged_note_of_incidents_is_reported_and_written_again(bus: EventBus, note: bytes) -> None:
    await bus.store.set_note(notes_of("health_monitor"), "ill", note)
    reported: list[LoopFailed] = []
    failed: list[AgentFailed] = []
    bus.signals.listen(reported.append, LoopFailed)
    bus.signals.listen(failed.append, AgentFailed)
    patient = Patient()
    patient.ailment = "no paper"

    async with running(bus, patient, monitor()):
        await eventually(lambda: is_told(bus, "agent_unhealthy"), within=WITHIN)

    assert (["monitor"], []) == ([each.loop for each in reported], failed)


@dealt("name", "", "n" * 600, "two words", "\x1b[2J", "é", ids=["empty", "long", "two words", "control", "accent"])
async def test_a_stranger_with_an_impossible_name_is_passed_over(bus: EventBus, name: str) -> None:
    beat = Heartbeat(name, "member", "code:Class", "failed", datetime.now(UTC), 1.0, last_error="x")
    await Members(bus).put(beat)
    await bus.publish(EventType.AGENT_HEARTBEAT, "stranger", ["not", "a", "heartbeat"])
    failed: list[AgentFailed] = []
    bus.signals.listen(failed.append, AgentFailed)
    patient = Patient()
    patient.ailment = "no paper"

    async with running(bus, patient, monitor()):
        await eventually(lambda: is_told(bus, "agent_unhealthy"), within=WITHIN)

    assert {"patient", HealthMonitorAgent().name} == {status.agent for status in await agent_statuses(bus)}
    assert [] == failed

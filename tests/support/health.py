"""A health monitor, and an agent to be examined."""

from __future__ import annotations

from forebay import Event, EventBus, EventType
from forebay.agents import (
    BaseAgent,
    HealthMonitorAgent,
)

WITHIN = 30.0


class Patient(BaseAgent):
    """An agent whose health the test sets."""

    name = "patient"
    event_types = ("work",)
    heartbeat = 1.0
    ailment: str | None = None

    async def health(self) -> object:
        if self.ailment is not None:
            raise RuntimeError(self.ailment)
        return None


def monitor() -> HealthMonitorAgent:
    """One that asks all the time."""
    return HealthMonitorAgent(interval=0.1, timeout=5.0, lease=1.0)


async def told(bus: EventBus) -> list[Event]:
    """The published changes of agents, in order."""
    found: list[Event] = []
    for kind in (EventType.AGENT_UNHEALTHY, EventType.AGENT_RECOVERED):
        found.extend([event async for event in bus.events(kind) if isinstance(event, Event)])
    return sorted(found, key=lambda event: event.timestamp)


async def is_told(bus: EventBus, *types: str) -> bool:
    """True if just these changes were published."""
    return [event.type for event in await told(bus)] == list(types)

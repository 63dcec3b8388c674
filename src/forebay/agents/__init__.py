"""Agents: programs with a name and a life of their own, on one bus."""

from typing import TYPE_CHECKING, Any

from forebay.agents.agent import BaseAgent, handles
from forebay.agents.heartbeat import Heartbeat
from forebay.agents.roster import AgentStatus, HealthReport, agent_statuses
from forebay.agents.signals import AgentFailed, AgentStatusChanged
from forebay.agents.state import AgentState

if TYPE_CHECKING:
    from forebay.agents.file_watch.change_detection import ChangeDetectionAgent, FileChange
    from forebay.agents.health_monitor import AgentRecovered, AgentUnhealthy, HealthMonitorAgent

__all__ = [
    "AgentFailed",
    "AgentRecovered",
    "AgentState",
    "AgentStatus",
    "AgentStatusChanged",
    "AgentUnhealthy",
    "BaseAgent",
    "ChangeDetectionAgent",
    "FileChange",
    "HealthMonitorAgent",
    "HealthReport",
    "Heartbeat",
    "agent_statuses",
    "handles",
]

_REFERENCE = {
    "AgentRecovered": "health_monitor",
    "AgentUnhealthy": "health_monitor",
    "ChangeDetectionAgent": "file_watch.change_detection",
    "FileChange": "file_watch.change_detection",
    "HealthMonitorAgent": "health_monitor",
}


def __getattr__(name: str) -> Any:
    """The reference agents, which are loaded at their first use."""
    if name not in _REFERENCE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_REFERENCE[name]}"), name)

"""Agents: programs with a name and a life of their own, on one bus."""

from forebay.agents.agent import BaseAgent, handles
from forebay.agents.roster import AgentStatus, HealthReport, Heartbeat, roster
from forebay.agents.state import AgentState

__all__ = ["AgentState", "AgentStatus", "BaseAgent", "HealthReport", "Heartbeat", "handles", "roster"]

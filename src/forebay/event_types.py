"""The event types that forebay itself gives a meaning."""

from __future__ import annotations

from enum import Enum


class EventType(Enum):
    """Event types that forebay itself gives a meaning: those that its agents publish and handle."""

    HEALTH_CHECK = "health_check"
    HEALTH_REPORT = "health_report"
    AGENT_HEARTBEAT = "agent_heartbeat"
    AGENT_UNHEALTHY = "agent_unhealthy"
    AGENT_RECOVERED = "agent_recovered"
    FILE_CREATED = "file_created"
    FILE_MODIFIED = "file_modified"
    FILE_DELETED = "file_deleted"

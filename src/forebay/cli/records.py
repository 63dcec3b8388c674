"""Events, dead letters and entries that are not events, as JSON."""

from __future__ import annotations

import base64
from typing import Any

from forebay import DeadLetter, Event, MalformedEntry
from forebay.dead_letters import event_of
from forebay.event import Foreign, Record


def event_as_json(event: Event) -> dict[str, Any]:
    """All of an event but its attempt, which belongs to a delivery."""
    return {
        "id": event.id,
        "type": event.type,
        "source": event.source,
        "timestamp": event.timestamp,
        "key": event.key,
        "headers": event.headers,
        "data": event.data,
        "position": event.position,
    }


def malformed_as_json(type: str, entry: MalformedEntry) -> dict[str, Any]:
    """An entry that is not an event: the fault, and its fields as they are stored."""
    return {"type": type, "position": entry.position, "malformed": entry.fault, "fields": raw_fields(entry.record)}


def letter_as_json(letter: DeadLetter) -> dict[str, Any]:
    """A dead letter with its event, or with its stored fields if they are not one."""
    event = event_of(letter)
    content = {"fields": raw_fields(letter.record)} if event is None else {"event": event_as_json(event)}
    return {
        "id": letter.id,
        "type": letter.stream,
        "group": letter.group,
        "error": letter.error,
        "traceback": letter.traceback,
        "attempts": letter.attempts,
        "failed_at": letter.failed_at,
        "position": letter.position,
        **content,
    }


def raw_fields(record: Record | Foreign) -> list[tuple[str | dict[str, str], str | dict[str, str]]]:
    """The stored fields, in order; bytes that are not UTF-8 as {"base64": ...}."""
    if isinstance(record, Foreign):
        fields = record.fields
    else:
        values = {name: getattr(record, name) for name in record.__struct_fields__ if getattr(record, name)}
        fields = tuple((name.encode(), v if isinstance(v, bytes) else v.encode()) for name, v in values.items())
    return [(_text(name), _text(value)) for name, value in fields]


def _text(raw: bytes) -> str | dict[str, str]:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}

"""Positions in a stream: how a caller names one, and the position of the store that is meant."""

from __future__ import annotations

import re
from datetime import datetime

from forebay.errors import ConfigurationError
from forebay.store import END, START, Log

_POSITION = re.compile(r"\d{1,20}(-\d{1,20})?")

StreamPosition = str | datetime
"""A position in a stream: "earliest", "latest", one that a store gave, or an aware datetime."""


def is_position(text: str) -> bool:
    """Whether a text has the form of the positions that stores give."""
    return _POSITION.fullmatch(text) is not None


def check_position(position: object) -> StreamPosition:
    """`position`, with a plain string for a subclass; `ConfigurationError`, unless it is one."""
    if isinstance(position, str):
        position = str.__str__(position)
    if isinstance(position, datetime):
        if position.utcoffset() is None:
            raise ConfigurationError(
                f"the time {position.isoformat()} has no zone; give an aware datetime, e.g. in UTC"
            )
    elif not isinstance(position, str) or (position not in ("earliest", "latest") and not is_position(position)):
        raise ConfigurationError(
            f"{position!r} is not a position in a stream; use 'earliest', 'latest', an event's position or a datetime"
        )
    return position


async def resolve(log: Log, stream: str, position: StreamPosition) -> str:
    """The position of the store that is meant: reading goes on after it."""
    position = check_position(position)
    if isinstance(position, datetime):
        return await log.locate(stream, position)
    return {"earliest": START, "latest": END}.get(position, position)


async def last_position(log: Log, stream: str) -> str:
    """The position of the stream's last entry; START where it has none."""
    last = await log.scan(stream, limit=1, newest=True)
    return last[0].position if last else START

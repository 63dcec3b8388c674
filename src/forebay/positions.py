"""Positions in a stream: how a caller names one, and the position of the store that is meant."""

from __future__ import annotations

from datetime import datetime

from forebay.errors import ConfigurationError
from forebay.store import END, START, Log

StreamPosition = str | datetime
"""A position in a stream: "earliest", "latest", one that a store gave, or an aware datetime."""


def check_position(position: object, log: Log) -> StreamPosition:
    """`position`, with a plain string for a subclass; `ConfigurationError` if it is not one of this store."""
    if isinstance(position, datetime):
        if position.utcoffset() is None:
            raise ConfigurationError(
                f"the time {position.isoformat()} has no zone; give an aware datetime, e.g. in UTC"
            )
        return position
    if isinstance(position, str):
        text = str.__str__(position)
        if text in ("earliest", "latest") or log.is_position(text):
            return text
    raise ConfigurationError(
        f"{position!r} is not a position in a stream of this store; give that of an event, 'earliest', 'latest', or an"
        " aware datetime"
    )


async def resolve(log: Log, stream: str, position: StreamPosition) -> str:
    """The position of the store that is meant: reading goes on after it."""
    position = check_position(position, log)
    if isinstance(position, datetime):
        return await log.locate(stream, position)
    return {"earliest": START, "latest": END}.get(position, position)


async def last_position(log: Log, stream: str) -> str:
    """The position of the stream's last entry; START if it has none."""
    last = await log.scan(stream, limit=1, newest=True)
    return last[0].position if last else START

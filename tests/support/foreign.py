"""Entries that forebay did not write, put into a memory store."""

from __future__ import annotations

from collections.abc import Sequence

from forebay.event import Foreign
from forebay.stores.memory import MemoryStore


async def plant(store: MemoryStore, stream: str, fields: Sequence[tuple[bytes, bytes]]) -> str:
    """Append an entry that is not an event, as another program might; return its position."""
    with store._state as state:
        log = state.make_stream(stream)
        position = log.append(Foreign(tuple(fields)), state.clock())
        state.report_growth(stream, log)
        return position

"""Entries that forebay did not write, put into a memory store."""

from __future__ import annotations

from collections.abc import Sequence

from forebay.event import Foreign
from forebay.stores.memory import MemoryStore
from forebay.stores.memory.state import StoredEntry


async def plant(store: MemoryStore, stream: str, fields: Sequence[tuple[bytes, bytes]]) -> str:
    """Append an entry that is not an event, as another program might; return its position."""
    with store._lock:
        log = store._make(stream)
        log.entries.append(StoredEntry(Foreign(tuple(fields)), store._clock()))
        log.notify()
        return str(log.last)

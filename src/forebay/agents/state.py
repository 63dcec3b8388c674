"""The state of an agent in the store: small JSON values, under keys."""

from __future__ import annotations

from collections.abc import Collection
from types import EllipsisType
from typing import Any

from forebay.bus import EventBus
from forebay.payload import decode, encode, plain
from forebay.store import Notes

_STATE = "state:"


def notes_of(agent: str) -> str:
    """The stream that an agent's notes are kept beside; it has no entries."""
    return f"agent.{plain('agent name', agent)}"


class NotesOf:
    """The notes of a bus, which is opened if need be."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus

    async def notes(self, stream: str, *, names: Collection[str] | None = None) -> dict[str, bytes]:
        """See `Notes`."""
        return await (await self._bus.ready()).notes(stream, names=names)

    async def streams_with_notes(self) -> list[str]:
        """See `Notes`."""
        return await (await self._bus.ready()).streams_with_notes()

    async def set_note(
        self, stream: str, name: str, value: bytes | None, *, expected: bytes | EllipsisType | None = ...
    ) -> bool:
        """See `Notes`."""
        return await (await self._bus.ready()).set_note(stream, name, value, expected=expected)


class AgentState:
    """An agent's values in the store: they outlive it, and all processes that run it share them.

    A value is JSON, within the limits of an event's data, and is replaced as a whole: keep values that change together
    under one key. For some hundreds of keys.
    """

    def __init__(self, store: Notes, agent: str) -> None:
        self._store = store
        self._stream = notes_of(agent)

    async def get(self, key: str, default: Any = None, *, kind: Any = Any) -> Any:
        """The value under this key, read as `kind`; `default` if there is none."""
        name = _STATE + key
        text = (await self._store.notes(self._stream, names=[name])).get(name)
        return default if text is None else decode(text, kind)

    async def all(self) -> dict[str, Any]:
        """All values, by key."""
        notes = await self._store.notes(self._stream)
        return {name.removeprefix(_STATE): decode(text) for name, text in notes.items() if name.startswith(_STATE)}

    async def set(self, key: str, value: Any) -> None:
        """Keep a value under this key, and replace the value before."""
        await self._store.set_note(self._stream, _STATE + key, encode(value))

    async def remove(self, key: str) -> None:
        """Remove the value under this key."""
        await self._store.set_note(self._stream, _STATE + key, None)

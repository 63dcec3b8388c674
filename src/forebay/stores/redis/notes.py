"""The moves of notes: small values beside a stream."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from types import EllipsisType

from forebay.stores.redis import inspection, scripts
from forebay.stores.redis.client import Client
from forebay.stores.redis.keys import Keys, Namespace


async def notes(client: Client, keys: Keys, names: Collection[str] | None) -> dict[str, bytes]:
    """The notes of a stream, or those of these names. Notes with names that are not text are left out."""
    if names is not None:
        # One HGET each, which every role may send; HMGET would be one more right.
        values = await asyncio.gather(*(client.call(keys.notes, "HGET", keys.notes, name) for name in names))
        return {name: value for name, value in zip(names, values, strict=True) if value is not None}
    found = await client.call(keys.notes, "HGETALL", keys.notes)
    return inspection.named_notes(found)


async def streams_with_notes(client: Client, namespace: Namespace) -> list[str]:
    """The names of the streams that have notes, sorted."""
    return inspection.names_of(await inspection.find_keys(client, f"{{{namespace.name}:*}}:notes"), namespace)


async def set_note(
    client: Client, keys: Keys, name: str, value: bytes | None, *, expected: bytes | EllipsisType | None
) -> bool:
    """Set or remove a note, if it is as expected; else False."""
    match expected:
        case None:
            return await scripts.set_note(client, keys, name, value, condition="none", expected=b"")
        case bytes():
            return await scripts.set_note(client, keys, name, value, condition="just", expected=expected)
        case _:
            return await scripts.set_note(client, keys, name, value, condition="any", expected=b"")

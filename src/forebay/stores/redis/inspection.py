"""What operators ask: streams at a glance, and what the server keeps when something dies."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from forebay.errors import ConfigurationError, StoreDamaged, StoreDenied, StoreError
from forebay.store import Durability, GroupStats, StreamStats
from forebay.stores.redis.client import Client
from forebay.stores.redis.keys import Keys, stream_of
from forebay.stores.redis.node import Node

COUNTED = 10_000
"""Entries that the server counts for a lag that it does not know; where there are more, it is None."""
LATELY = 60.0
"""Seconds within which a consumer without entries has read lately."""


async def find_streams(client: Client, namespace: str) -> list[str]:
    """The names of all streams of the namespace, from their keys or their companions' keys."""
    return await _find(client, namespace, f"*{namespace}:*")


async def find_noted(client: Client, namespace: str) -> list[str]:
    """The names of the streams that have notes."""
    return await _find(client, namespace, f"{{{namespace}:*}}:notes")


async def _find(client: Client, namespace: str, pattern: str) -> list[str]:
    names = set()
    for node in await client.masters():
        cursor = b"0"
        while True:
            cursor, keys = await client.ask(node, "SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
            names |= {stream_of(key.decode(errors="replace"), namespace) for key in keys}
            if cursor == b"0":
                break
    return sorted(name for name in names if name is not None)


async def stream_stats(client: Client, keys: Keys, stream: str, *, guessed: bool) -> StreamStats | None:
    """The stream at a glance; None where there is none, or where a stranger's key was taken for one."""
    try:
        reply = await client.run(
            "stats",
            (keys.stream, keys.dead_letter, keys.dead_counts, keys.scheduled, keys.moments),
            COUNTED,
            int(LATELY * 1000),
        )
    except StoreDamaged:
        if guessed:
            return None
        raise
    length, scheduled, dead, first, last, now, groups = reply
    if not (now or scheduled or dead):
        return None
    dead_of = {row[0]: row[5] for row in groups}
    if sum(dead_of.values()) != dead:
        dead_of = await _count_dead(client, keys)
    return StreamStats(
        stream=stream,
        length=length,
        scheduled=scheduled,
        dead=dead,
        first=first and first.decode(),
        last=last and last.decode(),
        groups=tuple(_group_stats(row, now, dead_of.get(row[0], 0)) for row in sorted(groups)),
    )


def _group_stats(row: Sequence[Any], now: int, dead: int) -> GroupStats:
    name, position, lag, leased, waiting, _, oldest, consumers = row
    return GroupStats(
        group=name.decode(),
        position=position.decode(),
        lag=lag,
        pending=leased + waiting,
        waiting=waiting,
        dead=dead,
        oldest=max(0.0, (now - int(oldest.split(b"-")[0])) / 1000) if oldest else None,
        consumers=consumers,
    )


async def _count_dead(client: Client, keys: Keys) -> Counter[bytes]:
    """Dead letters of each group, one by one: for when groups were left, or others removed some."""
    counts: Counter[bytes] = Counter()
    after = "-"
    while page := await client.call(keys.dead_letter, "XRANGE", keys.dead_letter, after, "+", "COUNT", 500):
        counts.update(fields[-5] for _, fields in page if fields[-6:-5] == [b"group"])
        after = f"({page[-1][0].decode()}"
    return counts


async def check_eviction(client: Client) -> None:
    """Refuse a master that deletes whole streams when it is full; believe those that do not tell."""
    for node in await client.masters():
        with contextlib.suppress(StoreError):
            limit = await _setting(client, node, "maxmemory")
            policy = await _setting(client, node, "maxmemory-policy")
            if limit != "0" and policy.startswith("allkeys-"):
                raise ConfigurationError(
                    f"{node.name} deletes whole streams when it is full (maxmemory-policy is {policy}): "
                    "set it to noeviction; or say ?allow_eviction=true in the URL, where events may be lost"
                )


async def durability(client: Client) -> Durability:
    """The worst that any master would do."""
    found = [await _durability_of(client, node) for node in await client.masters()]
    order = ("lost", "at risk", "unknown", "kept")
    return Durability(
        client_killed=min((one.client_killed for one in found), key=order.index),
        store_killed=min((one.store_killed for one in found), key=order.index),
        power_lost=min((one.power_lost for one in found), key=order.index),
        notes=tuple(dict.fromkeys(note for one in found for note in one.notes)),
    )


async def _setting(client: Client, node: Node, name: str) -> str:
    pair: list[bytes] = await client.ask(node, "CONFIG", "GET", name)
    return pair[1].decode() if pair else ""


async def _durability_of(client: Client, node: Node) -> Durability:
    try:
        names = ("appendonly", "appendfsync", "save", "maxmemory", "maxmemory-policy")
        settings = {name: await _setting(client, node, name) for name in names}
        replication = (await client.ask(node, "INFO", "replication")).decode()
    except StoreDenied:
        note = "The user may not read the server's settings (CONFIG GET, INFO); allow both to learn what it keeps."
        return Durability("unknown", "unknown", "unknown", (note,))
    notes = []
    client_killed = "kept"
    if settings["maxmemory-policy"].startswith("allkeys-") and settings["maxmemory"] != "0":
        client_killed = "at risk"
        notes.append(
            f"maxmemory-policy is {settings['maxmemory-policy']}: a full server deletes whole streams. "
            "Set it to noeviction."
        )
    match settings["appendonly"], settings["appendfsync"]:
        case "yes", "always":
            store_killed = power_lost = "kept"
        case "yes", "everysec":
            store_killed, power_lost = "kept", "at risk"
            notes.append(
                "appendfsync is everysec: a power cut loses up to the last two seconds, and so does a killed server "
                "whose disk was full or stalled. Set it to always where that matters."
            )
        case "yes", _:
            store_killed, power_lost = "kept", "at risk"
            notes.append("appendfsync is no: a power cut loses what the system had not written, often 30 seconds.")
        case _ if settings["save"]:
            store_killed = power_lost = "at risk"
            notes.append("appendonly is no: what came after the last snapshot is lost. Set it to yes.")
        case _:
            store_killed = power_lost = "lost"
            notes.append("Nothing is written to disk (appendonly is no, and no save points). Set appendonly to yes.")
    if "connected_slaves:0" not in replication:
        notes.append("Replicas follow with a delay: a failover can lose the last moments before it.")
    order = ("lost", "at risk", "kept")
    return Durability(
        client_killed=client_killed,  # type: ignore[arg-type]  # one of the four words
        store_killed=min(client_killed, store_killed, key=order.index),  # type: ignore[arg-type]  # one of the four words
        power_lost=min(client_killed, power_lost, key=order.index),  # type: ignore[arg-type]  # one of the four words
        notes=tuple(notes),
    )

"""What operators ask: streams at a glance, and what the server keeps when something dies."""

from __future__ import annotations

import contextlib
import heapq
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from forebay.errors import ConfigurationError, NotFound, OutcomeUnknown, StoreDamaged, StoreError, StoreUnavailable
from forebay.payload import is_name
from forebay.store import Durability, GroupStats, StreamStats
from forebay.stores.redis.client import Client
from forebay.stores.redis.keys import Group, Keys, stream_of
from forebay.stores.redis.node import Node

COUNTED = 10_000
"""Entries that the server counts for a lag that it does not know; where there are more, it is None."""
RECENT_READ = 60.0
"""Seconds within which a consumer without entries has read lately."""


async def find_streams(client: Client, namespace: str) -> list[str]:
    """The names of all streams of the namespace, from their keys or their companions' keys."""
    found = [stream_of(key, namespace) for key in await _keys(client, f"*{namespace}:*")]
    return sorted({name for name in found if is_name(name)})


async def find_noted(client: Client, namespace: str) -> list[str]:
    """The names of the streams that have notes."""
    found = [stream_of(key, namespace) for key in await _keys(client, f"{{{namespace}:*}}:notes")]
    return sorted({name for name in found if is_name(name)})


async def _keys(client: Client, pattern: str) -> set[bytes]:
    found: set[bytes] = set()
    for node in await client.masters():
        cursor = b"0"
        while True:
            cursor, keys = await client.ask(node, "SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
            found.update(keys)
            if cursor == b"0":
                break
    return found


async def find_strays(client: Client, namespace: str) -> list[str]:
    """What forebay leaves out, because others gave it names that it has not: a sentence for each."""
    found = []
    for key in sorted(await _keys(client, f"*{namespace}:*")):
        name = stream_of(key, namespace)
        if name is not None and not is_name(name):
            found.append(f"the key {_shown(key)} names no event type; rename it, or leave it out of the namespace")
    for stream in await find_streams(client, namespace):
        keys = Keys(namespace, stream)
        try:
            await stream_stats(client, keys, stream, guessed=False)
            groups = [name for name in await _group_names(client, keys) if not is_name(_text(name))]
            notes = [name for name in await _note_names(client, keys) if _text(name) is None]
        except StoreDamaged as error:
            found.append(f"{stream}: {error}")
            continue
        for sort, names in (("group", groups), ("note", notes)):
            found += [f"{stream}: another program made the {sort} {_shown(name)}; it is left out" for name in names]
    return found


async def find_groups(client: Client, keys: Keys) -> list[str]:
    """The names of a stream's groups."""
    names = [_text(name) for name in await _group_names(client, keys)]
    return sorted(name for name in names if name is not None and is_name(name))


async def _group_names(client: Client, keys: Keys) -> list[bytes]:
    try:
        groups = await client.call(keys.stream, "XINFO", "GROUPS", keys.stream)
    except NotFound:
        return []
    return [group[group.index(b"name") + 1] for group in groups]


async def _note_names(client: Client, keys: Keys) -> list[bytes]:
    names: list[bytes] = (await client.call(keys.notes, "HGETALL", keys.notes))[::2]
    return names


def named_notes(found: Sequence[bytes]) -> dict[str, bytes]:
    """The notes in a reply to HGETALL, without those that others gave names that are no text."""
    pairs = zip(found[::2], found[1::2], strict=True)
    return {text: value for name, value in pairs if (text := _text(name)) is not None}


def _text(name: bytes) -> str | None:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return None


def _shown(name: bytes) -> str:
    return repr(_text(name) or name)[:200]


async def stream_stats(client: Client, keys: Keys, stream: str, *, guessed: bool) -> StreamStats | None:
    """The stream at a glance; None where there is none, or where a stranger's key was taken for one."""
    try:
        reply = await client.run(
            "stats",
            (keys.stream, keys.dead_letter, keys.dead_counts, keys.scheduled, keys.moments),
            COUNTED,
            int(RECENT_READ * 1000),
        )
    except StoreDamaged:
        if guessed:
            return None
        raise
    length, scheduled, dead, counted, first, last, now, groups = reply
    if not (now or scheduled or dead):
        return None
    dead_of: Mapping[bytes, int] = {row[0]: row[5] for row in groups}
    if counted != dead or min(dead_of.values(), default=0) < 0:
        dead_of = await _count_dead(client, keys)
    return StreamStats(
        stream=stream,
        length=length,
        scheduled=scheduled,
        dead=dead,
        first=first and first.decode(),
        last=last and last.decode(),
        groups=tuple(
            _group_stats(name, row, now, dead_of.get(row[0], 0))
            for row in sorted(groups)
            if is_name(name := _text(row[0]))
        ),
    )


def _group_stats(name: str, row: Sequence[Any], now: int, dead: int) -> GroupStats:
    _, position, lag, leased, waiting, _, consumers, oldest = row
    is_known = oldest and oldest != b"unknown"
    return GroupStats(
        group=name,
        position=position.decode(),
        lag=lag,
        pending=leased + waiting,
        waiting=waiting,
        dead=dead,
        oldest=max(0.0, (now - int(oldest.split(b"-")[0])) / 1000) if is_known else None,
        consumers=consumers,
    )


async def _count_dead(client: Client, keys: Keys) -> Counter[bytes]:
    """Dead letters of each group, one by one: for when others removed or added some. What was found is kept."""
    counts: Counter[bytes] = Counter()
    total = 0
    after = "-"
    while page := await client.call(keys.dead_letter, "XRANGE", keys.dead_letter, after, "+", "COUNT", 500):
        counts.update(fields[-5] for _, fields in page if fields[-6:-5] == [b"group"])
        total += len(page)
        after = f"({page[-1][0].decode()}"
    with contextlib.suppress(StoreError):
        pairs = [part for group, count in counts.items() for part in (group, count)]
        await client.run("recount", (keys.dead_letter, keys.dead_counts), total, *pairs, "*", total)
    return counts


async def pending_rows(client: Client, keys: Keys, own: Group, group: str, *, after: str, limit: int) -> list[Any]:
    """What a group has begun and not finished, as pending.lua returns it."""
    companions = (keys.stream, own.waiting, own.attempts)
    rows: list[Any] | None = await client.run("pending", companions, group, after, limit)
    if rows is None:
        # The server is not to sort a million for one page, while all others wait.
        first = await _first_waiting(client, own, after=after, limit=limit)
        rows = await client.run("pending", companions, group, after, limit, *(first or [after]))
    return rows or []


async def _first_waiting(client: Client, own: Group, *, after: str, limit: int) -> list[str]:
    first: list[tuple[int, ...]] = []
    place = _numbers(after)
    cursor = b"0"
    while True:
        cursor, found = await client.call(own.waiting, "ZSCAN", own.waiting, cursor, "COUNT", 1000)
        members = (_numbers(text) for member in found[::2] if (text := _text(member)) is not None)
        first = heapq.nsmallest(limit, {*first, *(each for each in members if each > place)})
        if cursor == b"0":
            return ["-".join(map(str, each)) for each in first]


def _numbers(position: str) -> tuple[int, ...]:
    """A position as numbers, which stand in its order; none for what is no position."""
    return tuple(map(int, position.split("-"))) if _POSITION.fullmatch(position) else ()


_POSITION = re.compile(r"\d{1,20}-\d{1,20}", re.ASCII)


async def check_eviction(client: Client) -> None:
    """Refuse a master that deletes whole streams when it is full; believe those that do not tell."""
    for node in await client.masters():
        # One that is away now is not asked; the move that needs it will say so.
        with contextlib.suppress(StoreError):
            limit = await _setting(client, node, "maxmemory")
            policy = await _setting(client, node, "maxmemory-policy")
            if limit != "0" and (policy or "").startswith("allkeys-"):
                raise ConfigurationError(
                    f"{node.name} deletes whole streams when it is full (maxmemory-policy is {policy}): "
                    "set it to noeviction; or say ?allow_eviction=true in the URL, where events may be lost"
                )


async def durability(client: Client) -> Durability:
    """The worst that any master would do; "unknown" where a server does not tell."""
    found = [await _durability_of(client, node) for node in await client.masters()]
    order = ("lost", "at risk", "unknown", "kept")
    return Durability(
        client_killed=min((one.client_killed for one in found), key=order.index),
        store_killed=min((one.store_killed for one in found), key=order.index),
        power_lost=min((one.power_lost for one in found), key=order.index),
        notes=tuple(dict.fromkeys(note for one in found for note in one.notes)),
    )


async def _setting(client: Client, node: Node, name: str) -> str | None:
    """The value of a server's setting; None if it does not tell: managed servers, users without the right to it."""
    reply = await _told(client, node, "CONFIG", "GET", name)
    return reply[1].decode(errors="replace") if isinstance(reply, list) and len(reply) == 2 else None


async def _told(client: Client, node: Node, *command: str) -> Any:
    """The reply of a node; None if it refuses the command."""
    try:
        return await client.ask(node, *command)
    except (StoreUnavailable, OutcomeUnknown):
        raise
    except (StoreError, NotFound):
        return None


async def _durability_of(client: Client, node: Node) -> Durability:
    names = ("appendonly", "appendfsync", "save", "maxmemory", "maxmemory-policy")
    try:
        told = {name: await _setting(client, node, name) for name in names}
        replication = await _told(client, node, "INFO", "replication")
    except (StoreUnavailable, OutcomeUnknown) as error:
        return Durability("unknown", "unknown", "unknown", (f"{node.name} cannot be asked now: {error}",))
    settings = {name: value for name, value in told.items() if value is not None}
    if len(settings) < len(names):
        note = (
            f"{node.name} does not tell its settings (CONFIG GET): a managed server, or a user without the right to "
            "it. Look them up where the server is managed, or allow CONFIG GET."
        )
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
    if not isinstance(replication, bytes):
        notes.append("The server does not tell whether it has replicas (INFO): a failover to one can lose events.")
    elif b"connected_slaves:0" not in replication:
        notes.append("Replicas follow with a delay: a failover can lose the last moments before it.")
    order = ("lost", "at risk", "kept")
    return Durability(
        client_killed=client_killed,  # type: ignore[arg-type]  # one of the four words
        store_killed=min(client_killed, store_killed, key=order.index),  # type: ignore[arg-type]  # one of the four words
        power_lost=min(client_killed, power_lost, key=order.index),  # type: ignore[arg-type]  # one of the four words
        notes=tuple(notes),
    )

"""The questions of operators: streams at a glance, pending entries, durability."""

from __future__ import annotations

import contextlib
import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from forebay.errors import ConfigurationError, NotFound, OutcomeUnknown, StoreDamaged, StoreError, StoreUnavailable
from forebay.payload import is_name
from forebay.store import Durability, GroupStats, Pending, StreamStats
from forebay.stores.redis import positions, scripts
from forebay.stores.redis.client import Client
from forebay.stores.redis.codec import unpack_failure
from forebay.stores.redis.keys import Group, Keys, Namespace, stream_of
from forebay.stores.redis.node import Node

COUNTED_ENTRIES = 10_000
"""Entries that the server counts for a lag that it does not know; if there are more, the lag is None."""
RECENT_READ_SECONDS = 60.0
"""Seconds since its last read within which a consumer without entries counts."""
SCAN_PAGE = 1_000
"""Keys or members that the server examines for one page of a scan."""
DEAD_LETTER_PAGE = 500
"""Dead letters that one command reads to count them."""


async def streams(client: Client, namespace: Namespace) -> list[str]:
    """The names of all streams: those with entries or groups, with scheduled events or with dead letters."""
    found = await find_keys(client, f"*{namespace.name}:*", type="stream")
    sets = await find_keys(client, f"{{{namespace.name}:*}}:*", type="zset")
    found |= {key for key in sets if key.endswith((b"}:scheduled", b"}:moments"))}
    own = {
        key
        for key in found
        if not key.startswith(b"{") or key.endswith((b"}:scheduled", b"}:moments", b"}:dead_letter"))
    }
    return names_of(own, namespace)


async def _guessed_streams(client: Client, namespace: Namespace) -> list[str]:
    """The names that keys of the namespace have, whatever the keys are."""
    return names_of(await find_keys(client, f"*{namespace.name}:*"), namespace)


def names_of(keys: set[bytes], namespace: Namespace) -> list[str]:
    """The valid names of the streams to which these keys belong, sorted."""
    return sorted({name for key in keys if is_name(name := stream_of(key, namespace.name))})


async def find_keys(client: Client, pattern: str, *, type: str | None = None) -> set[bytes]:
    """The keys of all masters that match the pattern."""
    found: set[bytes] = set()
    options = () if type is None else ("TYPE", type)
    for node in await client.masters():
        cursor = b"0"
        while True:
            cursor, keys = await client.ask(node, "SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_PAGE, *options)
            found.update(keys)
            if cursor == b"0":
                break
    return found


async def stats(client: Client, namespace: Namespace, names: Sequence[str] | None) -> list[StreamStats]:
    """All streams at a glance, or those of these names."""
    if names is None:
        guessed = [namespace.stream(name) for name in await _guessed_streams(client, namespace)]
        found = [await _stream_stats(client, keys, guessed=True) for keys in guessed]
    else:
        found = [await _stream_stats(client, keys) for keys in [namespace.stream(name) for name in names]]
    return [each for each in found if each is not None]


async def strays(client: Client, namespace: Namespace) -> list[str]:
    """Keys, groups and notes with names that forebay does not allow: a sentence for each."""
    found = []
    for key in sorted(await find_keys(client, f"*{namespace.name}:*")):
        name = stream_of(key, namespace.name)
        if name is not None and not is_name(name):
            found.append(f"the key {_shown(key)} names no event type; rename it, or leave it out of the namespace")
    for stream in await _guessed_streams(client, namespace):
        keys = namespace.stream(stream)
        try:
            await _stream_stats(client, keys)
            groups = [name for name in await _groupnames_of(client, keys) if not is_name(_text(name))]
            notes = [name for name in await _notenames_of(client, keys) if _text(name) is None]
        except StoreDamaged as error:
            found.append(f"{stream}: {error}")
            continue
        for sort, names in (("group", groups), ("note", notes)):
            found += [f"{stream}: another program made the {sort} {_shown(name)}; it is left out" for name in names]
    return found


async def groups(client: Client, keys: Keys) -> list[str]:
    """The names of a stream's groups."""
    names = [_text(name) for name in await _groupnames_of(client, keys)]
    return sorted(name for name in names if name is not None and is_name(name))


async def _groupnames_of(client: Client, keys: Keys) -> list[bytes]:
    try:
        found = await client.call(keys.stream, "XINFO", "GROUPS", keys.stream)
    except NotFound:
        return []
    return [group[group.index(b"name") + 1] for group in found]


async def _notenames_of(client: Client, keys: Keys) -> list[bytes]:
    names: list[bytes] = (await client.call(keys.notes, "HGETALL", keys.notes))[::2]
    return names


def named_notes(found: Sequence[bytes]) -> dict[str, bytes]:
    """The notes in a reply to HGETALL, without those with names that are not text."""
    pairs = zip(found[::2], found[1::2], strict=True)
    return {text: value for name, value in pairs if (text := _text(name)) is not None}


def _text(name: bytes) -> str | None:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return None


def _shown(name: bytes) -> str:
    return repr(_text(name) or name)[:200]


async def _stream_stats(client: Client, keys: Keys, *, guessed: bool = False) -> StreamStats | None:
    """The stream at a glance; None if it does not exist, or if another program's key was guessed to be one."""
    try:
        reply = await scripts.stats(client, keys, most=COUNTED_ENTRIES, recent=RECENT_READ_SECONDS)
    except StoreDamaged:
        if guessed:
            return None
        raise
    length, scheduled, dead, counted, first, last, now, rows = reply
    if not (now or scheduled or dead):
        return None
    dead_of: Mapping[bytes, int] = {row[0]: row[5] for row in rows}
    if counted != dead or min(dead_of.values(), default=0) < 0:
        dead_of = await _count_dead(client, keys)
    return StreamStats(
        stream=keys.name,
        length=length,
        scheduled=scheduled,
        dead=dead,
        first=first and first.decode(),
        last=last and last.decode(),
        groups=tuple(
            _group_stats(name, row, now, dead_of.get(row[0], 0))
            for row in sorted(rows)
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
    """The number of dead letters of each group, counted and noted again: other programs removed or added some."""
    counts: Counter[bytes] = Counter()
    total = 0
    key, after = keys.dead_letter, "-"
    while page := await client.call(key, "XRANGE", key, after, "+", "COUNT", DEAD_LETTER_PAGE):
        counts.update(fields[-5] for _, fields in page if fields[-6:-5] == [b"group"])
        total += len(page)
        after = f"({page[-1][0].decode()}"
    with contextlib.suppress(StoreError):
        await scripts.recount_dead_letters(client, keys, counts, total=total)
    return counts


async def pending(client: Client, group: Group, *, after: str, limit: int) -> list[Pending]:
    """The group's pending entries, by position."""
    after = positions.check_full(after)
    rows = await scripts.pending(client, group, after=after, limit=limit)
    if rows is None:
        # Sorting a million entries for one page would delay all other clients of the server.
        first = await _first_waiting(client, group, after=after, limit=limit)
        rows = await scripts.pending(client, group, after=after, limit=limit, waiting=first or [after])
    return [
        Pending(
            position=row.position.decode(),
            consumer=None if row.consumer is None else row.consumer.decode(errors="replace"),
            attempt=row.attempt,
            failures=row.failures,
            idle=None if row.consumer is None else row.moment / 1000,
            due=row.moment / 1000 if row.consumer is None else None,
            last_failure=unpack_failure(row.failure),
        )
        for row in rows or ()
    ]


async def _first_waiting(client: Client, group: Group, *, after: str, limit: int) -> list[str]:
    first: list[tuple[int, int]] = []
    place = positions.as_numbers(after)
    cursor = b"0"
    while True:
        cursor, found = await client.call(group.waiting, "ZSCAN", group.waiting, cursor, "COUNT", SCAN_PAGE)
        texts = (text for member in found[::2] if (text := _text(member)) is not None)
        members = (positions.as_numbers(text) for text in texts if positions.is_full(text))
        first = heapq.nsmallest(limit, {*first, *(each for each in members if each > place)})
        if cursor == b"0":
            return ["-".join(map(str, each)) for each in first]


async def check_eviction(client: Client) -> None:
    """Refuse a master that deletes whole streams when it is full. One that hides its settings is accepted."""
    for node in await client.masters():
        # A master that is away now is skipped; the move that needs it will raise.
        with contextlib.suppress(StoreError):
            limit = await _setting(client, node, "maxmemory")
            policy = await _setting(client, node, "maxmemory-policy")
            if limit != "0" and (policy or "").startswith("allkeys-"):
                raise ConfigurationError(
                    f"{node.name} deletes whole streams when it is full (maxmemory-policy is {policy}): "
                    "set it to noeviction; or say ?allow_eviction=true in the URL, where events may be lost"
                )


async def durability(client: Client) -> Durability:
    """The worst answer of all masters; "unknown" if a server hides its settings."""
    found = [await _durability_of(client, node) for node in await client.masters()]
    order = ("lost", "at risk", "unknown", "kept")
    return Durability(
        client_killed=min((one.client_killed for one in found), key=order.index),
        store_killed=min((one.store_killed for one in found), key=order.index),
        power_lost=min((one.power_lost for one in found), key=order.index),
        notes=tuple(dict.fromkeys(note for one in found for note in one.notes)),
    )


async def _setting(client: Client, node: Node, name: str) -> str | None:
    """The value of a server's setting; None if it is hidden: on managed servers, or without the right to it."""
    reply = await _answer(client, node, "CONFIG", "GET", name)
    return reply[1].decode(errors="replace") if isinstance(reply, list) and len(reply) == 2 else None


async def _answer(client: Client, node: Node, *command: str) -> Any:
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
        answers = {name: await _setting(client, node, name) for name in names}
        replication = await _answer(client, node, "INFO", "replication")
    except (StoreUnavailable, OutcomeUnknown) as error:
        return Durability("unknown", "unknown", "unknown", (f"{node.name} cannot be asked now: {error}",))
    settings = {name: value for name, value in answers.items() if value is not None}
    if len(settings) < len(names):
        note = (
            f"{node.name} hides its settings (CONFIG GET): a managed server, or a user without the right to "
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
                "whose disk was full or stalled. Set it to always if that matters."
            )
        case "yes", _:
            store_killed, power_lost = "kept", "at risk"
            notes.append("appendfsync is set to no: a power cut loses the unwritten events, often of 30 seconds.")
        case _ if settings["save"]:
            store_killed = power_lost = "at risk"
            notes.append("appendonly is set to no: events after the last snapshot are lost. Set it to yes.")
        case _:
            store_killed = power_lost = "lost"
            notes.append("Nothing is written to disk (no appendonly file, no save points). Set appendonly to yes.")
    if not isinstance(replication, bytes):
        notes.append("The server hides whether it has replicas (INFO): a failover to one can lose events.")
    elif b"connected_slaves:0" not in replication:
        notes.append("Replicas follow with a delay: a failover can lose the last moments before it.")
    order = ("lost", "at risk", "kept")
    return Durability(
        client_killed=client_killed,  # type: ignore[arg-type]  # one of the four words
        store_killed=min(client_killed, store_killed, key=order.index),  # type: ignore[arg-type]  # one of the four words
        power_lost=min(client_killed, power_lost, key=order.index),  # type: ignore[arg-type]  # one of the four words
        notes=tuple(notes),
    )

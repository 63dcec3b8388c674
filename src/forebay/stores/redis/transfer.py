"""What moves a stream to another store, and back."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from forebay.errors import ConfigurationError
from forebay.event import Record
from forebay.store import DeadLetter, Entry, GroupCursor, GroupPending, RememberedId, Scheduled, StreamItem
from forebay.stores.redis.client import Client
from forebay.stores.redis.codec import decode, encode, encode_dead_letter, pack_failure
from forebay.stores.redis.keys import Keys
from forebay.stores.redis.node import Part

_OWN = re.compile(r"\d{1,20}-\d{1,20}", re.ASCII)
"""A position in full: what another kind of store calls a position is no number of ms."""


async def restore(
    client: Client,
    keys: Keys,
    items: Sequence[StreamItem],
    *,
    notes: Mapping[str, bytes | None],
    expected: Mapping[str, bytes | None],
) -> list[str] | None:
    """Put items back together with notes; the positions of the entries, or None where notes are not as expected."""
    made = {item.group for item in items if isinstance(item, GroupCursor)}
    needed = {
        item.group for item in items if isinstance(item, GroupPending | RememberedId) and item.group is not None
    } - made
    arguments: list[Part] = [*_packed_notes(expected), len(notes)]
    for name, value in notes.items():
        arguments += (name, "remove", "") if value is None else (name, "keep", value)
    arguments += (len(needed), *sorted(needed))
    # Groups first: the rest may be theirs.
    for item in sorted(items, key=lambda item: not isinstance(item, GroupCursor)):
        arguments += _packed(keys, item)
    positions = await client.run("restore", keys.all, *arguments)
    return None if positions is None else [position.decode() for position in positions]


async def drop(client: Client, keys: Keys, *, keep_entries: bool, expected: Mapping[str, bytes | None]) -> bool:
    """Remove all keys of a stream, or all but those of its entries and notes; False as in `restore`."""
    return bool(await client.run("drop", keys.all, int(not keep_entries), *_packed_notes(expected)))


def _packed_notes(expected: Mapping[str, bytes | None]) -> Iterator[Part]:
    yield len(expected)
    for name, value in expected.items():
        yield from (name, "none", "") if value is None else (name, "just", value)


def _packed(keys: Keys, item: StreamItem) -> Iterator[Part]:
    match item:
        case Entry():
            fields = encode(item.record)
            yield from ("entry", _own(item.position), _ms(item.appended), len(fields), *fields)
        case GroupCursor():
            keys.group(item.group)
            yield from ("group", item.group, _known(item.position), "" if item.number is None else item.number)
        case GroupPending(pending=pending):
            history = pending.attempt, pending.failures, pack_failure(pending.last_failure)
            if pending.consumer is not None:
                idle = max(_ms(pending.idle or 0.0), 0)
                yield from ("leased", item.group, _known(pending.position), pending.consumer, idle, *history)
            else:
                yield from ("waiting", item.group, _known(pending.position), _ms(pending.due or 0.0), *history)
        case DeadLetter():
            fields = encode_dead_letter(item)
            moment = _ms(item.failed_at.timestamp())
            yield from ("letter", _own(item.id), moment, item.group, len(fields), *fields)
        case Scheduled():
            fields = encode(item.record)
            at = "" if item.at is None else _ms(item.at.timestamp())
            yield from ("scheduled", _ms(item.delay), at, item.record.id, len(fields), *fields)
        case RememberedId(group=None):
            yield from ("seen", item.id, _ms(item.expires_in), item.position or "")
        case RememberedId(group=str(group)):
            yield from ("handled", item.id, _ms(item.expires_in), group)


def _own(text: str) -> str:
    return text if _OWN.fullmatch(text) else ""


def _known(position: str) -> str:
    """A position of this store, in full, as a sorted set has to find it again."""
    full = position if "-" in position else f"{position}-0"
    if not _OWN.fullmatch(full):
        raise ConfigurationError(f"{position!r} is not a position: it looks like 1700000000000-0")
    return full


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


async def scheduled(client: Client, keys: Keys, *, after: str, limit: int) -> list[Scheduled]:
    """What is scheduled: what has a delay, then what has a moment.

    The id is the key's clock, the time, and the place among those of the same ms.
    """
    clock, time, place = after.split(" ") if after else ("now", "", "")
    found: list[Scheduled] = []
    if clock == "now":
        found = await _scheduled(client, keys.scheduled, clock, time, place, limit)
        time = place = ""
    if len(found) < limit:
        found += await _scheduled(client, keys.moments, "wall", time, place, limit - len(found))
    return found


async def _scheduled(client: Client, key: str, clock: str, after: str, place: str, limit: int) -> list[Scheduled]:
    found: list[Scheduled] = []
    while rows := await client.run("scheduled", (key,), clock, after, place, limit - len(found)):
        for time, number, delay, fields in rows:
            after, place = time.decode(), number.decode(errors="replace")
            if isinstance(record := decode(fields), Record):
                at = datetime.fromtimestamp(min(float(after) / 1000, _FAR), UTC) if clock == "wall" else None
                found.append(Scheduled(f"{clock} {after} {place}", record, delay / 1000, at))
        if len(found) == limit:
            break
    return found


_FAR = datetime(9999, 1, 1, tzinfo=UTC).timestamp()


async def remembered(client: Client, keys: Keys, *, group: str | None, after: str, limit: int) -> list[RememberedId]:
    """The ids that the stream or a group remembers, by the time until which it does."""
    own = (keys.ids_expiry, keys.ids) if group is None else (keys.group(group).handled,)
    found: list[RememberedId] = []
    behind: str | bytes = after
    while len(found) < limit and (rows := await client.run("remembered", own, behind, limit - len(found))):
        behind = rows[-1][0]
        # Others may remember in any bytes; what is no text is the id of no event.
        found += (
            RememberedId(id.decode(), left / 1000, position.decode() if position else None, group)
            for id, left, position in rows
            if _is_text(id) and _is_text(position or b"")
        )
    return found


def _is_text(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True

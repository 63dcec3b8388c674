"""The moves that copy a stream to another store, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from forebay.event import Record
from forebay.store import DeadLetter, Entry, GroupCursor, GroupPending, RememberedId, Scheduled, StreamItem
from forebay.stores.redis import positions, scripts
from forebay.stores.redis.client import Client
from forebay.stores.redis.codec import decode, encode, encode_dead_letter, pack_failure
from forebay.stores.redis.keys import Keys
from forebay.stores.redis.node import Part
from forebay.stores.redis.positions import as_moment, to_ms


async def restore(
    client: Client,
    keys: Keys,
    items: Sequence[StreamItem],
    *,
    notes: Mapping[str, bytes | None],
    expected: Mapping[str, bytes | None],
) -> list[str] | None:
    """Put items back together with notes; the positions of the entries, or None if notes are not as expected."""
    made = {item.group for item in items if isinstance(item, GroupCursor)}
    needed = {
        item.group for item in items if isinstance(item, GroupPending | RememberedId) and item.group is not None
    } - made
    arguments: list[Part] = [*_packed_notes(expected), len(notes)]
    for name, value in notes.items():
        arguments += (name, "remove", "") if value is None else (name, "keep", value)
    arguments += (len(needed), *sorted(needed))
    # Groups first: other items may belong to them.
    for item in sorted(items, key=lambda item: not isinstance(item, GroupCursor)):
        arguments += _packed(keys, item)
    found = await scripts.restore(client, keys, arguments)
    return None if found is None else [position.decode() for position in found]


async def drop(client: Client, keys: Keys, *, keep_entries: bool, expected: Mapping[str, bytes | None]) -> bool:
    """Remove all keys of a stream, or all but its entries and notes; False if notes are not as expected."""
    return await scripts.drop(client, keys, keep_entries=keep_entries, expected=list(_packed_notes(expected)))


def _packed_notes(expected: Mapping[str, bytes | None]) -> Iterator[Part]:
    yield len(expected)
    for name, value in expected.items():
        yield from (name, "none", "") if value is None else (name, "just", value)


def _packed(keys: Keys, item: StreamItem) -> Iterator[Part]:
    match item:
        case Entry():
            fields = encode(item.record)
            yield from ("entry", _own(item.position), to_ms(item.appended), len(fields), *fields)
        case GroupCursor():
            keys.group(item.group)
            yield from (
                "group",
                item.group,
                positions.check_full(item.position),
                "" if item.number is None else item.number,
            )
        case GroupPending(pending=pending):
            history = pending.attempt, pending.failures, pack_failure(pending.last_failure)
            if pending.consumer is not None:
                idle = max(to_ms(pending.idle or 0.0), 0)
                yield from (
                    "leased",
                    item.group,
                    positions.check_full(pending.position),
                    pending.consumer,
                    idle,
                    *history,
                )
            else:
                yield from (
                    "waiting",
                    item.group,
                    positions.check_full(pending.position),
                    to_ms(pending.due or 0.0),
                    *history,
                )
        case DeadLetter():
            fields = encode_dead_letter(item)
            moment = to_ms(item.failed_at.timestamp())
            yield from ("letter", _own(item.id), moment, item.group, len(fields), *fields)
        case Scheduled():
            fields = encode(item.record)
            at = "" if item.at is None else to_ms(item.at.timestamp())
            yield from ("scheduled", to_ms(item.delay), at, item.record.id, len(fields), *fields)
        case RememberedId(group=None):
            yield from ("seen", item.id, to_ms(item.expires_in), item.position or "")
        case RememberedId(group=str(group)):
            yield from ("handled", item.id, to_ms(item.expires_in), group)


def _own(text: str) -> str:
    return text if positions.is_full(text) else ""


async def scheduled(client: Client, keys: Keys, *, after: str, limit: int) -> list[Scheduled]:
    """Scheduled events: those with a delay, then those with a moment.

    The id is the clock of the event's key, its time, and its place among the events of the same ms.
    """
    clock, time, place = after.split(" ") if after else ("now", "", "")
    found: list[Scheduled] = []
    if clock == "now":
        found = await _scheduled(client, keys, "now", time, place, limit)
        time = place = ""
    if len(found) < limit:
        found += await _scheduled(client, keys, "wall", time, place, limit - len(found))
    return found


async def _scheduled(
    client: Client, keys: Keys, clock: Literal["now", "wall"], after: str, place: str, limit: int
) -> list[Scheduled]:
    found: list[Scheduled] = []
    while rows := await scripts.scheduled(client, keys, clock, after=after, place=place, limit=limit - len(found)):
        for time, number, delay, fields in rows:
            after, place = time.decode(), number.decode(errors="replace")
            if isinstance(record := decode(fields), Record):
                at = as_moment(float(after)) if clock == "wall" else None
                found.append(Scheduled(f"{clock} {after} {place}", record, delay / 1000, at))
        if len(found) == limit:
            break
    return found


async def remembered(client: Client, keys: Keys, *, group: str | None, after: str, limit: int) -> list[RememberedId]:
    """The ids that the stream or a group remembers, by the time of their expiry."""
    sets = (keys.ids_expiry, keys.ids) if group is None else (keys.group(group).handled,)
    found: list[RememberedId] = []
    last: str | bytes = after
    while len(found) < limit and (rows := await scripts.remembered(client, sets, after=last, limit=limit - len(found))):
        last = rows[-1][0]
        # Other programs may remember any bytes; bytes that are not text are the id of no event.
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

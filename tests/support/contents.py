"""Stores with something of everything in them, and all that they hold in a form that can be compared."""

from __future__ import annotations

from typing import Any

import msgspec

from forebay.event import Record, to_record
from forebay.store import START, Delivery, Failure, Reader, Store

STREAM = "order_placed"
HOUR = 3600.0
MOST = 1_000_000


def order(number: int, *, id: str | None = None) -> Record:
    """An event with a key and headers."""
    return to_record(
        STREAM, source="shop", data={"order_id": number}, id=id, key=f"k{number % 7}", headers={"n": str(number)}
    )


async def fill(store: Store, *, events: int, pending: int, dead: int) -> None:
    """Three groups: two have begun something and given up on something, the third has seen nothing."""
    for first in range(0, events, 1000):
        await store.append(STREAM, [order(number) for number in range(first, min(first + 1000, events))])
    await store.append(STREAM, [order(1, id="once"), order(2, id="twice")], dedup_window=HOUR)
    await store.schedule(STREAM, [order(3, id="later"), order(4, id="later still")], delay=HOUR, dedup_window=HOUR)
    await store.append("order_paid", [order(number) for number in range(10)])
    await store.set_note(STREAM, "retention", b"\x00\xff")
    for group, share in (("billing", 0.6), ("mail", 0.2)):
        await store.join(STREAM, group)
        held = await _read(store, Reader(STREAM, group, f"{group}-1"), int(events * share))
        step = len(held) // (pending // 2 + dead // 2)
        for number, delivery in enumerate(held[::step][: pending // 2 + dead // 2]):
            if number < dead // 2:
                reason = f"ValueError: no price for {number}"
                await store.dead_letter(delivery, reason=reason, traceback=f'  File "a.py", line {number}, in price')
            elif number % 3 == 0:
                await store.retry(delivery, delay=HOUR, failure=Failure(f"KeyError: {number}", "  File"))
        rest = {id(delivery) for delivery in held[::step][: pending // 2 + dead // 2]}
        done = [delivery for delivery in held if id(delivery) not in rest]
        for first in range(0, len(done), 1000):
            await store.ack(done[first : first + 1000], remember=HOUR if first == 0 else None)
    await store.join(STREAM, "audit")


async def _read(store: Store, reader: Reader, count: int) -> list[Delivery]:
    held: list[Delivery] = []
    while len(held) < count and (more := await store.read(reader, limit=min(1000, count - len(held)))):
        held += more
    return held


async def contents(store: Store) -> dict[str, Any]:
    """All of the streams, with the number of each entry in place of its position."""
    return {stats.stream: await _contents(store, stats.stream) for stats in await store.stats()}


async def _contents(store: Store, stream: str) -> dict[str, Any]:
    entries = await store.scan(stream, limit=MOST)
    numbers = {START: 0, "0-0": 0, **{entry.position: number for number, entry in enumerate(entries, 1)}}
    [stats] = await store.stats([stream])
    groups = {}
    for group in stats.groups:
        begun = await store.pending(stream, group.group, limit=MOST)
        groups[group.group] = {
            "position": numbers[group.position],
            "pending": [
                (numbers[each.position], each.consumer, each.attempt, each.failures, each.last_failure)
                for each in begun
            ],
            "due": [each.due is not None and HOUR - 300 < each.due < HOUR for each in begun],
            "handled": sorted(each.id for each in await store.remembered(stream, group=group.group, limit=MOST)),
        }
    return {
        "records": [entry.record for entry in entries],
        "groups": groups,
        "dead": [
            msgspec.structs.replace(letter, id="", position=str(numbers[letter.position]))
            for letter in await store.dead_letters(stream, limit=MOST)
        ],
        "scheduled": [each.record for each in await store.scheduled(stream, limit=MOST)],
        "remembered": sorted(
            (each.id, numbers[each.position or START]) for each in await store.remembered(stream, limit=MOST)
        ),
        "notes": await store.notes(stream),
    }


async def times(store: Store, stream: str = STREAM) -> list[float]:
    """When the entries were appended."""
    return [entry.appended for entry in await store.scan(stream, limit=MOST)]

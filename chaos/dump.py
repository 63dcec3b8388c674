"""The content of a store at the end of a soak."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from forebay import EventBus
from forebay.event import Foreign, Record
from forebay.store import START, Entry

PAGE = 1000


@dataclass(slots=True)
class Dump:
    """Events by the names that the histories use.

    `stored` counts the entries of each event, `copies` those for one group alone (redriven ones);
    `dead` its dead letters. `open` has what each group has not finished: unread or pending.
    """

    stored: Counter[str] = field(default_factory=Counter)
    copies: Counter[tuple[str, str]] = field(default_factory=Counter)
    dead: Counter[tuple[str, str]] = field(default_factory=Counter)
    open: dict[str, set[str]] = field(default_factory=dict)


async def take(bus: EventBus, stream: str) -> Dump:
    """Look at everything; nothing may run meanwhile."""
    dump = Dump()
    names: dict[str, str] = {}
    async for entry in _entries(bus, stream):
        event = _name(entry.record)
        names[entry.position] = event
        if isinstance(entry.record, Record) and entry.record.only_group is not None:
            dump.copies[entry.record.only_group, event] += 1
        else:
            dump.stored[event] += 1
    for letter in await bus.dead_letters(stream):
        dump.dead[letter.group, _name(letter.record)] += 1
    order = list(names.values())
    for found in await bus.stats(stream):
        for group in found.groups:
            begun = {names[pending.position] for pending in await bus.pending(stream, group.group)}
            unread = order if group.lag is None else order[len(order) - group.lag :]
            dump.open[group.group] = begun | set(unread)
    return dump


async def _entries(bus: EventBus, stream: str) -> AsyncIterator[Entry]:
    after = START
    while page := await bus.store.scan(stream, after=after, limit=PAGE):
        for entry in page:
            yield entry
        after = page[-1].position


def _name(record: Record | Foreign) -> str:
    return record.source if isinstance(record, Record) else ""

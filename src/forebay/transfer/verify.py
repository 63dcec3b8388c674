"""Compare two stores, apart from positions."""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from functools import partial

import msgspec

from forebay.event import Foreign, Record
from forebay.store import START, DeadLetter, Pending, RememberedId, Store
from forebay.transfer.marks import PREFIX
from forebay.transfer.pages import named, noted_of, pages, pending_of, remembered_of, streams_of

FORGOTTEN_SOON = 60.0
"""Ids remembered for fewer seconds may be forgotten by one side before the other is asked."""


class Sum(msgspec.Struct, frozen=True):
    """A part of a stream: how many there are, and a checksum over all of them."""

    count: int
    checksum: str


class Compared(msgspec.Struct, frozen=True):
    """A stream on both sides, by its parts: events, groups, pending, dead, scheduled, notes, remembered."""

    stream: str
    source: dict[str, Sum]
    target: dict[str, Sum]
    different: tuple[str, ...]
    """The parts that are not the same."""


async def verify(source: Store, target: Store) -> list[Compared]:
    """Compare all streams of two idle stores, in their order, byte for byte.

    Positions are compared by the number of entries after them. Times from now (of leases, retries,
    scheduled events) and the times of appending are not compared: they pass, or are rounded to ms.
    """
    names: dict[str, None] = {}
    for store in (source, target):
        names |= dict.fromkeys([*(stats.stream for stats in await streams_of(store)), *await noted_of(store)])
    compared = []
    for stream in names:
        ours, theirs = await _sums(source, stream), await _sums(target, stream)
        different = [part for part in ours if ours[part] != theirs[part]]
        remembered = await _remembered(source, stream), await _remembered(target, stream)
        if _lacks(*remembered) or _lacks(*reversed(remembered)):
            different.append("remembered")
        compared.append(Compared(stream, ours, theirs, tuple(different)))
    return compared


async def _sums(store: Store, stream: str) -> dict[str, Sum]:
    groups = [group for stats in await store.stats([stream]) for group in stats.groups]
    begun = {group.group: await pending_of(store, stream, group.group) for group in groups}
    letters = [
        _Letter.of(letter)
        async for page in pages(partial(store.dead_letters, stream), after="", key=lambda letter: letter.id)
        for letter in page
    ]
    entries = await _Entries.read(store, stream)
    notes = {name: note for name, note in (await store.notes(stream)).items() if not name.startswith(PREFIX)}
    return {
        "events": Sum(entries.count, entries.checksum),
        "groups": _sum((group.group, entries.after(group.position)) for group in groups),
        "pending": _sum(
            (group, entries.after(each.position), *_begun(each))
            for group, pending in begun.items()
            for each in pending
            if entries.has(each.position)
        ),
        "dead": _sum((entries.after(letter.position), letter.digest) for letter in letters),
        "scheduled": _sum(
            sorted(
                [
                    _digest(each.record)
                    async for page in pages(partial(store.scheduled, stream), after="", key=lambda each: each.id)
                    for each in page
                ]
            )
        ),
        "notes": _sum(sorted(notes.items())),
    }


class _Letter(msgspec.Struct, frozen=True):
    position: str
    digest: bytes

    @classmethod
    def of(cls, letter: DeadLetter) -> _Letter:
        record = named(letter.record, letter.position)
        content = (letter.group, letter.error, letter.failed_at, letter.attempts, letter.traceback, _digest(record))
        return cls(letter.position or START, msgspec.json.encode(content))


class _Entries:
    """The entries of a stream: their positions, and a checksum of their content."""

    def __init__(self, store: Store, keys: list[tuple[int, ...]], checksum: str) -> None:
        self._key = store.position_key
        self._keys = keys
        self.count = len(keys)
        self.checksum = checksum

    @classmethod
    async def read(cls, store: Store, stream: str) -> _Entries:
        """Go through all of them."""
        keys = []
        sum = hashlib.sha256()
        async for page in pages(partial(store.scan, stream), after=START, key=lambda entry: entry.position):
            for entry in page:
                keys.append(store.position_key(entry.position))
                sum.update(_digest(named(entry.record, entry.position)))
        return cls(store, keys, sum.hexdigest())

    def after(self, position: str) -> int:
        """The number of entries after a position."""
        return self.count - bisect_right(self._keys, self._key(position))

    def has(self, position: str) -> bool:
        """True if an entry has this position."""
        key = self._key(position)
        index = bisect_left(self._keys, key)
        return key in self._keys[index : index + 1]


def _begun(pending: Pending) -> tuple[object, ...]:
    return (pending.consumer, pending.attempt, pending.failures, pending.last_failure)


def _digest(record: Record | Foreign) -> bytes:
    return hashlib.sha256(msgspec.json.encode((type(record).__name__, record))).digest()


def _sum(parts: Iterable[object]) -> Sum:
    encoded = [msgspec.json.encode(part) for part in parts]
    return Sum(len(encoded), hashlib.sha256(b"\n".join(encoded)).hexdigest())


async def _remembered(store: Store, stream: str) -> list[RememberedId]:
    groups: list[str | None] = [group.group for stats in await store.stats([stream]) for group in stats.groups]
    return [each for group in (None, *groups) for each in await remembered_of(store, stream, group)]


def _lacks(ours: list[RememberedId], theirs: list[RememberedId]) -> bool:
    """True if one side lacks ids that the other remembers for a while yet."""
    known = {(each.group, each.id) for each in theirs}
    return any((each.group, each.id) not in known for each in ours if each.expires_in > FORGOTTEN_SOON)

"""The same random moves on memory and on another store have the same answers."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import EllipsisType
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from forebay.errors import NotFound
from forebay.event import Foreign, Record
from forebay.store import END, START, Delivery, Failure, GroupCursor, GroupPending, Reader, Store, StreamItem
from forebay.stores.memory import MemoryStore
from forebay.stores.redis import RedisStore
from forebay.stores.sqlite import SQLiteStore
from tests.support.redis_servers import Server, binaries

STREAM = "t"
HOUR = 3600.0
ALL = 1000
"""More than any example appends."""

groups = st.sampled_from(["g", "h"])
consumers = st.sampled_from(["a", "b"])
names = st.sampled_from(["m", "n"])
values = st.sampled_from([None, b"1", b"2"])
ids = st.sampled_from(["one", "two", "three"])
some = st.integers(0, 200)
"""Chooses one of what there is."""

Handle = tuple[str, int, str, int]
"""A group, an entry's number, the consumer that got it, and how often it had got it before. Old ones are kept."""
Seen = tuple[Any, ...]
"""What can be seen of something on either store."""


class Side:
    """A store, and the numbers under which its positions and dead letters are compared with the other's."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.positions: list[str] = []
        self.letters: list[str] = []
        self.deliveries: dict[Handle, Delivery] = {}

    async def learn(self) -> None:
        """Number the new entries. They are at the end, in the same order on both stores."""
        after = self.positions[-1] if self.positions else START
        self.positions += [entry.position for entry in await self.store.scan(STREAM, after=after, limit=ALL)]
        after = self.letters[-1] if self.letters else ""
        self.letters += [letter.id for letter in await self.store.dead_letters(STREAM, after=after, limit=ALL)]

    def number(self, position: str) -> int:
        return self.positions.index(position)

    def place(self, number: int) -> str:
        """The position with this number; -1 is the start."""
        return START if number < 0 else self.positions[number]

    def keep(self, delivery: Delivery) -> Handle:
        """Keep a delivery beside the older ones of the same entry and consumer."""
        name = (delivery.reader.group, self.number(delivery.position), delivery.reader.consumer)
        handle = (*name, sum(handle[:3] == name for handle in self.deliveries))
        self.deliveries[handle] = delivery
        return handle

    def take(self, deliveries: Sequence[Delivery]) -> list[Seen]:
        """Keep deliveries as handles."""
        seen = []
        for d in deliveries:
            handle = self.keep(d)
            error = d.last_failure.error if d.last_failure else ""
            seen.append((*handle, _content(d.record), d.attempt, d.failures, d.recovered, error))
        return sorted(seen)


class Stores(RuleBasedStateMachine):
    """Two groups with two consumers each; no time passes, except for entries that are due at once."""

    def __init__(self, open_other: Callable[[], Store]) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.sides = (Side(MemoryStore()), Side(open_other()))
        self.entries = 0
        self.handles: list[Handle] = []
        self.joined: set[str] = set()
        self.begun: dict[str, set[int]] = {"g": set(), "h": set()}
        self.accounted: dict[str, set[int]] = {"g": set(), "h": set()}
        self.redriven = False
        self.counter = itertools.count()
        for side in self.sides:
            self.runner.run(side.store.__aenter__())

    def both(self, move: Callable[[Side], Awaitable[Any]]) -> Any:
        """Make a move on both, which must come out the same. A group that is not there gives nothing."""

        async def one(side: Side) -> Any:
            try:
                return await move(side)
            except NotFound:
                return "not found"

        memory, other = (self.runner.run(one(side)) for side in self.sides)
        assert memory == other
        return 0 if memory == "not found" else memory or 0

    def change(self, move: Callable[[Side], Awaitable[Any]]) -> Any:
        """As `both`, where entries or dead letters may have been added."""
        result = self.both(move)
        for side in self.sides:
            self.runner.run(side.learn())
        memory, other = self.sides
        assert (len(memory.positions), len(memory.letters)) == (len(other.positions), len(other.letters))
        self.entries = len(memory.positions)
        return result

    def record(self, id: str | None = None) -> Record:
        number = next(self.counter)
        return Record(STREAM, "s", str(number).encode(), "2026-01-01T00:00:00+00:00", id or f"id-{number}")

    def took(self, deliveries: list[Seen] | Literal[0]) -> None:
        for group, number, consumer, count, *_ in deliveries or []:
            self.begun[group].add(number)
            self.accounted[group].add(number)
            self.handles.append((group, number, consumer, count))

    # Groups.

    @initialize()
    def join_both(self) -> None:
        for group in ("g", "h"):
            self.join(group, 0, at_end=False)

    @rule(group=groups, at=some, at_end=st.booleans())
    def join(self, group: str, at: int, at_end: bool) -> None:
        number = self.entries - 1 if at_end else at % (self.entries + 1) - 1
        made = self.both(
            lambda side: side.store.join(STREAM, group, start=END if at_end else side.place(number)),
        )
        assert bool(made) is (group not in self.joined)
        if made:
            self.joined.add(group)
            self.accounted[group].update(range(number + 1))

    @rule(group=groups, rarely=st.integers(0, 5))
    def leave(self, group: str, rarely: int) -> None:
        if rarely == 0:
            self.both(lambda side: side.store.leave(STREAM, group))
            self.joined.discard(group)
            self.begun[group].clear()

    @rule(group=groups, at=some)
    def seek(self, group: str, at: int) -> None:
        number = at % (self.entries + 1) - 1
        # A seek may drop the count of trimmed entries, so ask for it first.
        self.trimmed_unread(group)
        self.both(lambda side: side.store.seek(STREAM, group, side.place(number)))
        self.begun[group] = {each for each in self.begun[group] if each <= number}
        self.accounted[group].update(range(number + 1))

    # Appending.

    @rule(count=st.integers(1, 4))
    def append(self, count: int) -> None:
        records = [self.record() for _ in range(count)]
        numbers = self.change(lambda side: _append(side, records))
        assert list(range(self.entries - count, self.entries)) == numbers

    @rule(chosen=st.lists(ids, min_size=1, max_size=3))
    def append_with_dedup_window(self, chosen: list[str]) -> None:
        records = [self.record(id) for id in chosen]
        self.change(lambda side: _append(side, records, dedup_window=HOUR))

    @rule(id=ids)
    def append_without_a_window(self, id: str) -> None:
        record = self.record(id)
        self.change(lambda side: _append(side, [record]))

    @rule(id=ids, at=some)
    def append_unless_behind(self, id: str, at: int) -> None:
        record = self.record(id)
        number = at % (self.entries + 1) - 1
        self.change(lambda side: _append(side, [record], dedup_window=HOUR, search_after=side.place(number)))

    @rule(id=st.none() | ids, later=st.booleans())
    def schedule(self, id: str | None, later: bool) -> None:
        record = self.record(id)
        delay, window = (HOUR if later else 0.0), (None if id is None else HOUR)

        async def move(side: Side) -> int:
            await side.store.schedule(STREAM, [record], delay=delay, dedup_window=window)
            return await side.store.append_due(STREAM, limit=ALL)

        self.change(move)

    # Trimming and looking back.

    @rule(length=st.none() | st.integers(0, 10), age=st.sampled_from([None, HOUR]))
    def trim(self, length: int | None, age: float | None) -> None:
        self.both(lambda side: side.store.trim(STREAM, max_length=length, max_age=age))

    @rule(length=st.integers(0, 10), ignored=st.none() | st.sets(groups, min_size=1))
    def trim_unread(self, length: int, ignored: set[str] | None) -> None:
        """By force, or past some groups; but never a pending entry, which stores forget sooner or later."""
        length = max(length, self.entries - min([self.entries, *self.begun["g"], *self.begun["h"]]))
        self.both(
            lambda side: side.store.trim(
                STREAM, max_length=length, force=ignored is None, ignore_groups=sorted(ignored or ())
            )
        )

    @rule(group=groups)
    def trimmed_unread(self, group: str) -> None:
        self.both(lambda side: side.store.trimmed_unread(STREAM, group))

    @rule(hours=st.sampled_from([-1, 1]))
    def locate(self, hours: int) -> None:
        moment = datetime.now(UTC) + timedelta(hours=hours)

        async def move(side: Side) -> list[Seen]:
            return await _contents(side, after=await side.store.locate(STREAM, moment))

        self.both(move)

    @rule(limit=st.integers(1, 5), newest=st.booleans(), after=some, until=st.none() | some)
    def scan(self, limit: int, newest: bool, after: int, until: int | None) -> None:
        first = after % (self.entries + 1) - 1

        async def move(side: Side) -> list[int]:
            end = END if until is None else side.place(until % (self.entries + 1) - 1)
            found = await side.store.scan(STREAM, after=side.place(first), until=end, limit=limit, newest=newest)
            return [side.number(entry.position) for entry in found]

        self.both(move)

    # Notes.

    @rule(name=names, value=values, expected=values | st.just(...))
    def set_note(self, name: str, value: bytes | None, expected: bytes | EllipsisType | None) -> None:
        self.both(lambda side: side.store.set_note(STREAM, name, value, expected=expected))
        self.both(lambda side: side.store.notes(STREAM))
        self.both(lambda side: side.store.streams_with_notes())

    # Taking.

    @rule(group=groups, consumer=consumers, limit=st.integers(1, 5), ordered=st.booleans())
    def read(self, group: str, consumer: str, limit: int, ordered: bool) -> None:
        found = self.both(lambda side: _read(side, Reader(STREAM, group, consumer, ordered), limit))
        for _, number, *_ in found or ():
            assert number not in self.begun[group], "an entry has two holders"
        self.took(found)

    @rule(group=groups, consumer=consumers, ordered=st.booleans())
    def take_due(self, group: str, consumer: str, ordered: bool) -> None:
        async def move(side: Side) -> list[Seen]:
            return side.take(await side.store.take_due(Reader(STREAM, group, consumer, ordered), limit=ALL))

        self.took(self.both(move))

    @rule(consumer=consumers)
    def outlook(self, consumer: str) -> None:
        self.both(lambda side: _outlook(side, consumer))

    @rule(group=groups, consumer=consumers, idle=st.sampled_from([0.0, HOUR]), ordered=st.booleans())
    def claim(self, group: str, consumer: str, idle: float, ordered: bool) -> None:
        async def move(side: Side) -> list[Seen]:
            reader = Reader(STREAM, group, consumer, ordered)
            return side.take(await side.store.claim(reader, idle=idle, limit=ALL))

        found = self.both(move)
        assert idle == 0.0 or not found
        self.took(found)

    # Settling.

    @precondition(lambda self: self.handles)
    @rule(which=some)
    def extend(self, which: int) -> None:
        handle = self.handles[which % len(self.handles)]

        async def move(side: Side) -> int:
            return len(await side.store.extend([side.deliveries[handle]]))

        self.both(move)

    @precondition(lambda self: self.handles)
    @rule(which=st.lists(some, min_size=1, max_size=4), remember=st.sampled_from([None, HOUR]))
    def ack(self, which: list[int], remember: float | None) -> None:
        chosen = sorted({self.handles[each % len(self.handles)] for each in which})
        count = self.both(
            lambda side: side.store.ack([side.deliveries[handle] for handle in chosen], remember=remember)
        )
        finished = {(group, number) for group, number, *_ in chosen if number in self.begun[group]}
        assert len(finished) == count
        for group, number in finished:
            self.begun[group].discard(number)

    @precondition(lambda self: self.handles)
    @rule(which=some, delay=st.sampled_from([0.0, HOUR]))
    def retry(self, which: int, delay: float) -> None:
        handle = self.handles[which % len(self.handles)]
        failure = Failure(f"error {next(self.counter)}", "frames")
        self.both(lambda side: side.store.retry(side.deliveries[handle], delay=delay, failure=failure))

    @precondition(lambda self: self.handles)
    @rule(which=some)
    def retry_and_keep(self, which: int) -> None:
        handle = self.handles[which % len(self.handles)]

        failure = Failure(f"error {next(self.counter)}", "frames")

        async def move(side: Side) -> Handle | None:
            held = side.deliveries[handle]
            if not await side.store.retry(held, delay=0.0, keep=True, failure=failure):
                return None
            return side.keep(msgspec.structs.replace(held, attempt=held.attempt + 1, failures=held.failures + 1))

        if again := self.both(move):
            self.handles.append(again)

    @precondition(lambda self: self.handles)
    @rule(which=some)
    def release(self, which: int) -> None:
        handle = self.handles[which % len(self.handles)]
        self.both(lambda side: side.store.release([side.deliveries[handle]]))

    # Dead letters.

    @precondition(lambda self: self.handles)
    @rule(which=some)
    def dead_letter(self, which: int) -> None:
        handle = self.handles[which % len(self.handles)]
        reason = f"reason {next(self.counter)}"
        if self.change(lambda side: side.store.dead_letter(side.deliveries[handle], reason=reason)):
            group, number, *_ = handle
            self.begun[group].remove(number)

    @precondition(lambda self: self.sides[0].letters)
    @rule(which=some)
    def redrive(self, which: int) -> None:
        if self.change(lambda side: side.store.redrive(STREAM, [side.letters[which % len(side.letters)]])):
            self.redriven = True

    @precondition(lambda self: self.sides[0].letters)
    @rule(which=some)
    def discard(self, which: int) -> None:
        self.both(lambda side: side.store.discard(STREAM, [side.letters[which % len(side.letters)]]))

    @rule(rarely=st.integers(0, 3))
    def reopen(self, rarely: int) -> None:
        if rarely == 0:
            _, other = self.sides
            self.runner.run(other.store.__aexit__(None, None, None))
            other.store = other.store.clone()
            self.runner.run(other.store.__aenter__())

    @rule(rarely=st.integers(0, 3))
    def drop_and_restore(self, rarely: int) -> None:
        if rarely == 0:
            for side in self.sides:
                self.runner.run(_restore(side))
            # No consumer has the token of a restored lease.
            self.handles.clear()
            # Redis counts from the first question on, which it cannot answer.
            for side, group in itertools.product(self.sides, ("g", "h")):
                self.runner.run(side.store.trimmed_unread(STREAM, group))

    # What must hold.

    @invariant()
    def the_pending_are_those_begun_and_not_finished(self) -> None:
        for group in sorted(self.joined):
            found = self.both(lambda side, group=group: _pending(side, group)) or []  # type: ignore[misc]  # bound in the loop
            assert sorted(self.begun[group]) == [number for number, *_ in found]

    @invariant()
    def the_counts_are_the_same(self) -> None:
        self.both(lambda side: _stats(side, lag=not self.redriven))

    def teardown(self) -> None:
        try:
            self.both(_contents)
            self.both(_letters)
            for group in sorted(self.joined):
                self.both(lambda side, group=group: side.store.handled(STREAM, group, ["one", "two", "three"]))  # type: ignore[misc]  # bound in the loop
                self.read(group, "a", ALL, ordered=False)
                self._nothing_is_lost(group)
        finally:
            for side in self.sides:
                self.runner.run(side.store.__aexit__(None, None, None))
            self.runner.close()

    def _nothing_is_lost(self, group: str) -> None:
        """The group has seen every entry that is for it, except those that a seek or a forced trim skipped."""
        side = self.sides[0]
        for entry in self.runner.run(side.store.scan(STREAM, limit=ALL)):
            if isinstance(entry.record, Record) and entry.record.only_group in (None, group):
                assert side.number(entry.position) in self.accounted[group]


def _content(record: Record | Foreign | None) -> Seen:
    return (record.id, record.data, record.only_group or "") if isinstance(record, Record) else ()


async def _append(
    side: Side, records: Sequence[Record], *, dedup_window: float | None = None, search_after: str | None = None
) -> list[int]:
    known = set(side.positions)
    found = await side.store.append(STREAM, records, dedup_window=dedup_window, search_after=search_after)
    await side.learn()
    # If an id is stored twice, stores may return either position. A scheduled entry has no position yet.
    return [-1 if position in known or position not in side.positions else side.number(position) for position in found]


async def _restore(side: Side) -> None:
    """Take away all but the entries, and put it back."""
    items: list[StreamItem] = [*await side.store.dead_letters(STREAM, limit=ALL)]
    for stats in await side.store.stats():
        for group in stats.groups:
            items.append(GroupCursor(group.group, group.position))
            items += [
                GroupPending(group.group, each) for each in await side.store.pending(STREAM, group.group, limit=ALL)
            ]
            items += await side.store.remembered(STREAM, group=group.group, limit=ALL)
    items += await side.store.scheduled(STREAM, limit=ALL)
    items += await side.store.remembered(STREAM, limit=ALL)
    await side.store.drop(STREAM, keep_entries=True)
    await side.store.restore(STREAM, items)


async def _read(side: Side, reader: Reader, limit: int) -> list[Seen]:
    found: list[Delivery] = []
    while len(found) < limit and (more := await side.store.read(reader, limit=limit - len(found))):
        found += more
    return side.take(found)


async def _pending(side: Side, group: str) -> list[Seen]:
    return [
        (side.number(p.position), p.consumer, p.attempt, p.failures, p.idle is None, p.due is not None and p.due > 60)
        for p in await side.store.pending(STREAM, group, limit=ALL)
    ]


async def _stats(side: Side, *, lag: bool) -> list[Seen]:
    return [
        (
            (stats.length, stats.scheduled, stats.dead),
            [side.number(position) for position in (stats.first, stats.last) if position is not None],
            [(g.group, g.lag if lag else None, g.pending, g.waiting, g.dead) for g in stats.groups],
        )
        for stats in await side.store.stats()
    ]


async def _contents(side: Side, *, after: str = START) -> list[Seen]:
    return [
        (side.number(entry.position), *_content(entry.record))
        for entry in await side.store.scan(STREAM, after=after, limit=ALL)
    ]


async def _outlook(side: Side, consumer: str) -> list[Seen | None]:
    return [
        None if outlook is None else (_is_due(outlook.scheduled), _is_due(outlook.waiting), outlook.leased)
        for outlook in await side.store.outlook([Reader(STREAM, group, consumer) for group in ("g", "h")])
    ]


def _is_due(seconds: float | None) -> bool | None:
    return None if seconds is None else seconds <= 60


async def _letters(side: Side) -> list[Seen]:
    return [
        (letter.group, side.number(letter.position), _content(letter.record), letter.error, letter.attempts)
        for letter in await side.store.dead_letters(STREAM, limit=ALL)
    ]


def _check(open_other: Callable[[], Store], examples: int) -> None:
    run_state_machine_as_test(
        lambda: Stores(open_other),  # type: ignore[arg-type]  # any callable that makes a machine
        settings=settings(
            max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


some_or_many = pytest.mark.parametrize("examples", [25, pytest.param(100, marks=pytest.mark.slow)])


@some_or_many
def test_sqlite_behaves_like_memory(tmp_path: Path, examples: int) -> None:
    _check(lambda: SQLiteStore(tmp_path / f"{secrets.token_hex(8)}.db", synchronous="normal"), examples)


@some_or_many
@pytest.mark.parametrize("binary", binaries()[:1])
def test_redis_behaves_like_memory(servers: dict[str, Server], binary: str, examples: int) -> None:
    _check(lambda: RedisStore(servers[binary].url, namespace=f"model-{secrets.token_hex(8)}"), examples)

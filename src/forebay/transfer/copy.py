"""Copying all streams of a store into an empty one, in a way that a kill between any two lines does not harm.

    claim the target  -->  entries, page by page  -->  groups and their state  -->  mark it as done
                               ^      |
                               +------+  until the switch

Each page of entries is one move together with a mark of how far it reaches. The state of the groups is
small: it is dropped and loaded anew, also after an earlier, unfinished copy.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import msgspec

from forebay.callables import completed, refuse_generator
from forebay.errors import NotFound, StoreError, TransferRefused
from forebay.restarts import Backoff
from forebay.runtime.supervise import TRANSIENT, OnOutage, wait_for
from forebay.store import (
    START,
    DeadLetter,
    GroupCursor,
    GroupPending,
    Pending,
    RememberedId,
    Scheduled,
    Store,
    StreamItem,
    StreamStats,
)
from forebay.transfer.marks import PREFIX, Mark, Marks, Place
from forebay.transfer.pages import HOME, in_chunks, named, noted_of, pages, pending_of, remembered_of, streams_of

Part = TypeVar("Part", Pending, DeadLetter, RememberedId)

TICKET = f"{PREFIX}ticket"
RUN = f"{PREFIX}run"
"""The note beside each stream that says which run may write to it."""
INTERVAL = 0.2
"""Seconds between two looks for new entries, while a copy follows."""
NEW_STREAMS = 2.0
"""Seconds between two looks for new streams, which cost more."""


class Copied(msgspec.Struct, frozen=True):
    """The streams of the source that were copied; `already` is True if an earlier copy had done it."""

    streams: tuple[StreamStats, ...]
    already: bool = False


class _Ticket(msgspec.Struct, frozen=True):
    """The note in the target about the copy into it."""

    origin: str
    since: datetime
    run: str
    """The run that may write: the one that began last."""
    state: str | None = None
    """The state that the source was in when the copy was done."""


async def copy(
    source: Store,
    target: Store,
    *,
    origin: str,
    switch: asyncio.Event | None = None,
    progress: Callable[[int, int], object] | None = None,
    on_outage: OnOutage | None = None,
    dry_run: bool = False,
) -> Copied:
    """Copy all streams of `source` into `target`, which is empty or holds an unfinished copy of this very source.

    `origin` names the source in the target, and in messages. With `switch`, go on copying new entries until
    it is set, also over outages of both stores, which are reported to `on_outage`. `progress` is called with the number
    of entries copied, and the number of all. With `dry_run` nothing is written. Raises `TransferRefused` if the target
    holds something else, or if the source was changed meanwhile; a second run continues.
    """
    if progress is not None:
        refuse_generator("progress", progress)
    found = await streams_of(source)
    if not found and switch is None:
        raise NotFound(f"nothing to copy: {origin} has no streams in this namespace")
    kept = (await target.notes(HOME)).get(TICKET)
    ticket = await _check(target, kept, origin=origin, state=_state(found))
    if dry_run or (ticket is not None and ticket.state is not None):
        if not dry_run:
            await _tidy(target)
        return Copied(tuple(found), already=ticket is not None and ticket.state is not None)
    mine = _Ticket(origin, ticket.since if ticket else datetime.now(UTC), secrets.token_hex(8))
    if not await target.set_note(HOME, TICKET, msgspec.json.encode(mine), expected=kept):
        raise TransferRefused(_OVERTAKEN)
    work = _Copy(source, target, mine, progress)
    if switch is not None:
        await work.follow(switch, on_outage)
    found = await streams_of(source)
    work.check_source(found)
    await work.copy_entries(found)
    await work.copy_state(found)
    await work.copy_notes(await noted_of(source, found))
    now = await streams_of(source)
    if _state(now) != _state(found):
        raise TransferRefused(_changes(found, now))
    await work.drop_others(found)
    done = msgspec.structs.replace(mine, state=_state(found))
    if not await target.set_note(HOME, TICKET, msgspec.json.encode(done), expected=msgspec.json.encode(mine)):
        raise TransferRefused(_OVERTAKEN)
    await _tidy(target)
    return Copied(tuple(found))


async def _check(target: Store, kept: bytes | None, *, origin: str, state: str) -> _Ticket | None:
    """The ticket in the target, if a copy of this source was begun there; refuses a target that is taken."""
    ticket = None if kept is None else msgspec.json.decode(kept, type=_Ticket)
    streams = await streams_of(target)
    occupied = [*(stats.stream for stats in streams), *await noted_of(target, streams)]
    if ticket is None or (ticket.state is not None and not occupied):
        if occupied:
            names = ", ".join(occupied[:4]) + (", ..." if len(occupied) > 4 else "")
            raise TransferRefused(f"the target is not empty, it has {names}: {_ELSEWHERE}")
        return None
    if ticket.origin != origin:
        what = "a copy" if ticket.state is not None else "an unfinished copy"
        begun = f"{ticket.since:%Y-%m-%d %H:%M} UTC"
        raise TransferRefused(f"the target holds {what} of {ticket.origin}, begun {begun}: {_ELSEWHERE}")
    if ticket.state not in (None, state):
        raise TransferRefused(
            f"{origin} was copied already and has changed since, and the target is in use by now: {_ELSEWHERE}"
        )
    return ticket


_OVERTAKEN = "another copy into the target has taken over from this one: let it finish"
_ELSEWHERE = "copy into an empty store (another file, database or namespace)"


async def _tidy(target: Store) -> None:
    """Remove the notes beside the streams, once the ticket says that the copy is done."""
    for stream in await noted_of(target):
        ours = {name: None for name in await target.notes(stream) if name.startswith(PREFIX)}
        if ours:
            await target.restore(stream, [], notes=ours)


class _Copy:
    """One run of a copy."""

    def __init__(
        self, source: Store, target: Store, ticket: _Ticket, progress: Callable[[int, int], object] | None
    ) -> None:
        self._source = source
        self._target = target
        self._ticket = msgspec.json.encode(ticket)
        self._mine = {RUN: ticket.run.encode()}
        self._progress = progress
        self._marks: dict[str, Marks] = {}

    async def copy_entries(self, streams: Sequence[StreamStats]) -> None:
        """Copy the entries after those copied before."""
        for stats in streams:
            if stats.stream not in self._marks:
                await self._begin(stats.stream)
                self.check_source([stats])
        for stats in streams:
            stream, marks = stats.stream, self._marks[stats.stream]
            fetch = partial(self._source.scan, stream)
            async for page in pages(fetch, after=marks.reached.source, key=lambda entry: entry.position):
                entries = [msgspec.structs.replace(entry, record=named(entry.record, entry.position)) for entry in page]
                mark = Mark(entries[-1].position, marks.reached.number + len(entries))
                positions = await self._restore(stream, entries, marks.notes_with(mark))
                marks.add(mark._replace(target=positions[-1]))
                await self._report(streams)

    def check_source(self, streams: Sequence[StreamStats]) -> None:
        """Refuse a source that has lost copied entries, by these new counts: later entries may have lower positions."""
        key = self._source.position_key
        for stats in streams:
            reached = self._marks[stats.stream].reached.source if stats.stream in self._marks else START
            if stats.last is not None and key(stats.last) < key(reached):
                raise TransferRefused(
                    f"{stats.stream} in the source ends at {stats.last}, and was copied up to {reached}: the source has"
                    f" lost events since; {_ELSEWHERE}"
                )

    async def _report(self, streams: Sequence[StreamStats]) -> None:
        if self._progress is not None:
            numbers = [self._marks[stats.stream].reached.number for stats in streams]
            lengths = [stats.length for stats in streams]
            await completed(self._progress(sum(numbers), sum(map(max, numbers, lengths))))

    async def follow(self, switch: asyncio.Event, on_outage: OnOutage | None) -> None:
        """Copy entries as they come, until it is set; outages of either store are waited out."""
        clock = asyncio.get_running_loop().time
        streams: list[StreamStats] = []
        look_at = clock()
        backoff = Backoff()
        is_out = False
        while not switch.is_set():
            error: StoreError | None = None
            try:
                if clock() >= look_at:
                    streams = await streams_of(self._source)
                    self.check_source(streams)
                    look_at = clock() + NEW_STREAMS
                await self.copy_entries(streams)
                backoff.reset()
            except TRANSIENT as transient:
                error = transient
                # The target may have this page or not: read its own marks again.
                self._marks.clear()
            if is_out != (error is not None) and on_outage is not None:
                await completed(on_outage(error))
            is_out = error is not None
            await wait_for(switch, backoff.next() if is_out else INTERVAL)

    async def _begin(self, stream: str) -> None:
        # First this: from now on no other run writes to the stream.
        await self._target.set_note(stream, RUN, self._mine[RUN])
        marks = await Marks.read(self._source, self._target, stream)
        # Then this: while the ticket is ours, no other run has finished, and removed the marks.
        if (await self._target.notes(HOME)).get(TICKET) != self._ticket:
            raise TransferRefused(_OVERTAKEN)
        length = sum(stats.length for stats in await self._target.stats([stream]))
        if length != marks.reached.number:
            raise TransferRefused(
                f"{stream} was changed in the target since the copy was broken off, which had left"
                f" {marks.reached.number:,} events and finds {length:,}: {_ELSEWHERE}"
            )
        self._marks[stream] = marks

    async def copy_state(self, streams: Sequence[StreamStats]) -> None:
        """Load the groups, and all else that belongs to the streams, in place of those of an earlier run."""
        for stats in streams:
            if not await self._target.drop(stats.stream, keep_entries=True, expected=self._mine):
                raise TransferRefused(_OVERTAKEN)
            loaded: Counter[type[StreamItem]] = Counter()
            async for items in self._state_of(stats):
                await self._restore(stats.stream, items)
                loaded.update(map(type, items))
            await self._copy_notes(stats.stream)
            copied = self._marks[stats.stream].reached.number
            wanted = (copied, *(loaded[kind] for kind in (GroupCursor, GroupPending, DeadLetter, Scheduled)))
            for now in await self._target.stats([stats.stream]):
                pending = sum(group.pending for group in now.groups)
                if wanted != (now.length, len(now.groups), pending, now.dead, now.scheduled):
                    raise TransferRefused(
                        f"{stats.stream} was changed in the target while it was copied: stop its publishers and"
                        " consumers, and run the copy again"
                    )

    async def _state_of(self, stats: StreamStats) -> AsyncIterator[Sequence[StreamItem]]:
        """What belongs to a stream besides its entries and notes, with the positions of the target."""
        stream, marks = stats.stream, self._marks[stats.stream]
        for group in stats.groups:
            at = (await marks.translate([group.position]))[group.position]
            yield [GroupCursor(group.group, at.position, at.number)]
            begun = await pending_of(self._source, stream, group.group)
            places = await marks.translate(each.position for each in begun)
            # Where the entry was trimmed away there is nothing left to hand over.
            standing = [_at(places, each) for each in begun if places[each.position].stands]
            for chunk in in_chunks([GroupPending(group.group, each) for each in standing]):
                yield chunk
            for chunk in in_chunks(await remembered_of(self._source, stream, group.group)):
                yield chunk
        fetch = partial(self._source.dead_letters, stream)
        async for letters in pages(fetch, after="", key=lambda letter: letter.id):
            places = await marks.translate(letter.position for letter in letters if letter.position)
            yield [
                msgspec.structs.replace(_at(places, letter), record=named(letter.record, letter.position))
                for letter in letters
            ]
        async for scheduled in pages(partial(self._source.scheduled, stream), after="", key=lambda each: each.id):
            yield scheduled
        known = await remembered_of(self._source, stream, None)
        places = await marks.translate(each.position for each in known if each.position)
        for chunk in in_chunks([_at(places, each) for each in known]):
            yield chunk

    async def copy_notes(self, streams: Sequence[str]) -> None:
        """Copy the notes that stand alone."""
        for stream in streams:
            await self._begin(stream)
            await self._copy_notes(stream)

    async def _copy_notes(self, stream: str) -> None:
        notes: dict[str, bytes | None] = dict.fromkeys(await self._target.notes(stream))
        notes |= await self._source.notes(stream)
        await self._restore(stream, [], {name: value for name, value in notes.items() if not name.startswith(PREFIX)})

    async def drop_others(self, streams: Sequence[StreamStats]) -> None:
        """Drop what earlier runs copied from streams that the source has no more."""
        wanted = {stats.stream for stats in streams}
        for stats in await self._target.stats():
            run = (await self._target.notes(stats.stream)).get(RUN)
            if stats.stream not in wanted and run is not None:
                await self._target.drop(stats.stream, expected={RUN: run})

    async def _restore(
        self, stream: str, items: Sequence[StreamItem], notes: dict[str, bytes | None] | None = None
    ) -> list[str]:
        positions = await self._target.restore(stream, items, notes=notes, expected=self._mine)
        if positions is None:
            raise TransferRefused(_OVERTAKEN)
        return positions


def _at(places: Mapping[str, Place], part: Part) -> Part:
    """The part with its position in the target, if it has one."""
    return msgspec.structs.replace(part, position=places[part.position].position) if part.position else part


def _state(streams: Sequence[StreamStats]) -> str:
    """A checksum that changes whenever the streams change."""
    return hashlib.sha256(msgspec.json.encode([_lasting(stats) for stats in streams])).hexdigest()


def _lasting(stats: StreamStats) -> object:
    """The figures of a stream that do not change with time alone."""
    groups = [(each.group, each.position, each.pending, each.waiting, each.dead) for each in stats.groups]
    return (stats.stream, stats.length, stats.scheduled, stats.dead, stats.first, stats.last, groups)


def _changes(before: Sequence[StreamStats], now: Sequence[StreamStats]) -> str:
    known = {stats.stream: _lasting(stats) for stats in before}
    changed = [stats.stream for stats in now if known.pop(stats.stream, None) != _lasting(stats)]
    names = ", ".join([*changed, *known][:4])
    return (
        f"the source was changed while it was copied ({names}): stop its publishers and consumers and run the copy"
        " again, which then continues; or let it follow until they are stopped"
    )

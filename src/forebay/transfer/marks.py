"""The progress of a copy, and the position in the target of each position in the source."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from itertools import count, groupby
from typing import NamedTuple

import msgspec

from forebay.store import START, Store
from forebay.transfer.pages import PAGE_ITEMS

PREFIX = "forebay.copy."
"""Prefix of the notes that a copy keeps beside the streams of its target, until it is done."""
MARKS_PER_NOTE = 1000
"""Marks in one note."""


class Mark(NamedTuple):
    """The end of a page of entries, on both sides, and the number of entries up to it.

    `target` is known only after the page was restored.
    """

    source: str
    number: int
    target: str = ""


class Place(NamedTuple):
    """A position in the target, and the number of entries up to it.

    `stands` is True if the entry that had the position in the source is still there.
    """

    position: str
    number: int
    stands: bool


class Marks:
    """The ends of all pages of a stream that were copied, in order.

    Each is stored by the move that restores its page, so that a run after a kill continues at the last page: no entry
    is copied twice, and none is left out.
    """

    def __init__(self, source: Store, target: Store, stream: str, marks: list[Mark]) -> None:
        self._source = source
        self._target = target
        self._stream = stream
        self._marks = marks

    @classmethod
    async def read(cls, source: Store, target: Store, stream: str) -> Marks:
        """The marks that earlier copies left."""
        notes = await target.notes(stream)
        marks: list[Mark] = []
        for number in count():
            if (block := notes.get(_name(number))) is None:
                break
            marks += msgspec.json.decode(block, type=list[Mark])
        if marks:
            # The last mark was stored before the position of its page was known. It is the last page.
            newest = await target.scan(stream, limit=1, newest=True)
            marks[-1] = marks[-1]._replace(target=newest[0].position if newest else START)
        return cls(source, target, stream, marks)

    @property
    def reached(self) -> Mark:
        """The end of the last page that was copied."""
        return self._marks[-1] if self._marks else Mark(START, 0, START)

    def notes_with(self, mark: Mark) -> dict[str, bytes | None]:
        """The notes to keep together with the page that ends there."""
        # The position of the page before is known only now.
        changed = {max(len(self._marks) - 1, 0) // MARKS_PER_NOTE, len(self._marks) // MARKS_PER_NOTE}
        return {
            _name(number): msgspec.json.encode(
                [*self._marks[number * MARKS_PER_NOTE : (number + 1) * MARKS_PER_NOTE], mark][:MARKS_PER_NOTE]
            )
            for number in changed
        }

    def add(self, mark: Mark) -> None:
        """Add the complete mark of a page that was restored."""
        self._marks.append(mark)

    async def translate(self, positions: Iterable[str]) -> dict[str, Place]:
        """The positions in the target for these in the source: the same entries come after them on both sides."""
        key = self._source.position_key
        ends = [key(mark.source) for mark in self._marks]
        places: dict[str, Place] = {}
        for page, within in groupby(sorted(set(positions), key=key), lambda each: bisect_left(ends, key(each))):
            before = self._marks[page - 1] if page else Mark(START, 0, START)
            if page == len(ends):
                places |= {each: Place(before.target, before.number, stands=False) for each in within}
                continue
            mark = self._marks[page]
            theirs = await self._source.scan(self._stream, after=before.source, until=mark.source, limit=PAGE_ITEMS)
            ours = await self._target.scan(self._stream, after=before.target, until=mark.target, limit=PAGE_ITEMS)
            standing = [key(entry.position) for entry in theirs]
            for each in within:
                # Counted from the end: a trim of the source may have taken the first of them meanwhile.
                after = sum(other > key(each) for other in standing)
                last = ours[len(ours) - after - 1].position if after < len(ours) else before.target
                places[each] = Place(last, mark.number - after, stands=key(each) in standing)
        return places


def _name(number: int) -> str:
    """The name of the note that holds this block of marks."""
    return f"{PREFIX}marks.{number}"

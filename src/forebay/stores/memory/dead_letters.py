"""The moves of dead letters: list, redrive, discard."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import msgspec

from forebay.event import Record
from forebay.payload import check_name
from forebay.store import DeadLetter
from forebay.stores.memory.state import State, Stream


def dead_letters(state: State, stream: str, *, group: str | None, after: str, limit: int) -> list[DeadLetter]:
    """Dead letters with an id after `after`, oldest first."""
    if group is not None:
        check_name("group", group)
    letters = state.stream(stream).dead.values()
    found = (letter for letter in letters if letter.id > after and group in (None, letter.group))
    return list(islice(found, limit))


def redrive(state: State, stream: str, ids: Sequence[str]) -> int:
    """Append dead letters again, for their groups only; return how many."""
    log = state.stream(stream)
    # A dead letter of no group stays.
    letters = _take(log, [number for number in _numbers(log, ids) if log.dead[number].group])
    for letter in letters:
        log.append(msgspec.structs.replace(letter.record, only_group=letter.group), state.clock())
    if letters:
        state.report_growth(stream, log)
    return len(letters)


def discard(state: State, stream: str, ids: Sequence[str]) -> int:
    """Remove dead letters, and forget the ids of their events; return how many there were."""
    log = state.stream(stream)
    letters = _take(log, _numbers(log, ids))
    for letter in letters:
        if isinstance(letter.record, Record):
            # An event that is only scheduled under this id is another one.
            if log.remembered_ids.get(letter.record.id, float("-inf")):
                log.remembered_ids.forget(letter.record.id)
            if letter.group in log.groups:
                log.groups[letter.group].handled.forget(letter.record.id)
    return len(letters)


def _numbers(log: Stream, ids: Sequence[str]) -> list[int]:
    """The numbers of those dead letters that there are, each once."""
    numbers = dict.fromkeys(int(id) for id in ids if id.isascii() and id.isdecimal())
    return [number for number in numbers if number in log.dead]


def _take(log: Stream, numbers: Sequence[int]) -> list[DeadLetter]:
    return [log.dead.pop(number) for number in numbers]

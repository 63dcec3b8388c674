"""The moves of notes: small values beside a stream."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import EllipsisType

from forebay.payload import check_name
from forebay.stores.memory.state import State


def notes(state: State, stream: str, names: Collection[str] | None) -> dict[str, bytes]:
    """The notes of a stream, by name; those with these names, if any are given."""
    kept = state.notes.get(check_name("stream", stream), {})
    return dict(kept) if names is None else {name: kept[name] for name in names if name in kept}


def streams_with_notes(state: State) -> list[str]:
    """The names of the streams that have notes, sorted."""
    return sorted(stream for stream, kept in state.notes.items() if kept)


def set_note(
    state: State, stream: str, name: str, value: bytes | None, *, expected: bytes | EllipsisType | None
) -> bool:
    """Keep or remove a note; False if it is not as expected."""
    check_name("stream", stream)
    if expected is not ... and not are_as_expected(state, stream, {name: expected}):
        return False
    change(state, stream, {name: value})
    return True


def are_as_expected(state: State, stream: str, expected: Mapping[str, bytes | None]) -> bool:
    """Whether these notes have these values; None stands for no note."""
    kept = state.notes.get(stream, {})
    return all(kept.get(name) == value for name, value in expected.items())


def change(state: State, stream: str, values: Mapping[str, bytes | None]) -> None:
    """Keep these values, and remove the notes whose value is None."""
    kept = state.notes.setdefault(check_name("stream", stream), {})
    for name, value in values.items():
        if value is None:
            kept.pop(name, None)
        else:
            kept[name] = value

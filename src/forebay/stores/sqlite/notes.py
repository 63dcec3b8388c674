"""Small values kept beside a stream."""

from __future__ import annotations

from collections.abc import Mapping
from types import EllipsisType

from forebay.payload import check_name, is_name
from forebay.stores.sqlite.rows import NAME, as_text
from forebay.stores.sqlite.turn import Turn


def notes(turn: Turn, stream: str) -> dict[str, bytes]:
    """All notes of a stream, by name."""
    rows = turn.rows(
        f"SELECT {NAME}, CAST(value AS BLOB) FROM notes WHERE namespace = ? AND stream = ? ORDER BY name",  # noqa: S608  # constants
        (turn.namespace, stream),
    )
    return {name: value for raw, value in rows if (name := as_text(raw)) is not None}


def streams_with_notes(turn: Turn) -> list[str]:
    """The streams that have notes."""
    rows = turn.rows(
        "SELECT DISTINCT CAST(stream AS BLOB) FROM notes"
        " WHERE namespace = ? AND typeof(stream) = 'text' ORDER BY stream",
        (turn.namespace,),
    )
    return [stream for (raw,) in rows if is_name(stream := as_text(raw))]


def _value(turn: Turn, stream: str, name: str) -> bytes | None:
    value: bytes | None = turn.value(
        "SELECT CAST(value AS BLOB) FROM notes WHERE namespace = ? AND stream = ? AND name = ?",
        (turn.namespace, stream, name),
    )
    return value


def are(turn: Turn, stream: str, expected: Mapping[str, bytes | None]) -> bool:
    """Whether these notes have these values; None: whether there are no such notes."""
    return all(_value(turn, stream, name) == value for name, value in expected.items())


def set_note(turn: Turn, stream: str, name: str, value: bytes | None, *, expected: bytes | EllipsisType | None) -> bool:
    """Keep or remove a note; False where it is not as expected."""
    place = (turn.namespace, check_name("stream", stream), name)
    if expected is not ... and _value(turn, stream, name) != expected:
        return False
    if value is None:
        turn.run("DELETE FROM notes WHERE namespace = ? AND stream = ? AND name = ?", place)
    else:
        turn.run("INSERT OR REPLACE INTO notes (namespace, stream, name, value) VALUES (?, ?, ?, ?)", (*place, value))
    return True

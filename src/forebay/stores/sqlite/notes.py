"""Small values kept beside a stream."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import EllipsisType

from forebay.payload import is_name
from forebay.stores.sqlite.rows import NAME, as_text
from forebay.stores.sqlite.transaction import Transaction


def notes(tx: Transaction, stream: str, *, names: Collection[str] | None = None) -> dict[str, bytes]:
    """The notes of a stream, by name: all, or those of these `names`."""
    if names is not None:
        values = ((name, _value(tx, stream, name)) for name in names)
        return {name: value for name, value in values if value is not None}
    rows = tx.rows(
        f"SELECT {NAME}, CAST(value AS BLOB) FROM notes WHERE namespace = ? AND stream = ? ORDER BY name",  # noqa: S608  # constants
        (tx.namespace, stream),
    )
    return {name: value for raw, value in rows if (name := as_text(raw)) is not None}


def streams_with_notes(tx: Transaction) -> list[str]:
    """The streams that have notes."""
    rows = tx.rows(
        "SELECT DISTINCT CAST(stream AS BLOB) FROM notes"
        " WHERE namespace = ? AND typeof(stream) = 'text' ORDER BY stream",
        (tx.namespace,),
    )
    return [stream for (raw,) in rows if is_name(stream := as_text(raw))]


def _value(tx: Transaction, stream: str, name: str) -> bytes | None:
    value: bytes | None = tx.value(
        "SELECT CAST(value AS BLOB) FROM notes WHERE namespace = ? AND stream = ? AND name = ?",
        (tx.namespace, stream, name),
    )
    return value


def are(tx: Transaction, stream: str, expected: Mapping[str, bytes | None]) -> bool:
    """True if these notes have these values; None stands for a note that does not exist."""
    return all(_value(tx, stream, name) == value for name, value in expected.items())


def set_note(
    tx: Transaction, stream: str, name: str, value: bytes | None, *, expected: bytes | EllipsisType | None
) -> bool:
    """Set or remove a note; False if its value is not the expected one."""
    place = (tx.namespace, stream, name)
    if expected is not ... and _value(tx, stream, name) != expected:
        return False
    if value is None:
        tx.run("DELETE FROM notes WHERE namespace = ? AND stream = ? AND name = ?", place)
    else:
        tx.run("INSERT OR REPLACE INTO notes (namespace, stream, name, value) VALUES (?, ?, ?, ?)", (*place, value))
    return True

"""Texts for people and pipes: JSON that steers no terminal, and figures and times that read alike everywhere."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from forebay.printable import is_printable


def as_json(value: Any) -> str:
    """The JSON text of a value, on one line, with whatever could steer a terminal as \\u escapes."""
    text = msgspec.json.encode(value).decode()
    if is_printable(text):
        return text
    # Outside its strings the text is printable, so only characters of strings are replaced.
    return "".join(c if is_printable(c) else json_escape(c) for c in text)


def json_escape(text: str) -> str:
    """Every character of the text as the escape that a string in JSON has for it."""
    units = text.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


def as_indented_json(value: Any) -> str:
    """The JSON text of a value over several lines, as harmless as that of `as_json`."""
    return msgspec.json.format(as_json(value).encode()).decode()


def plain(value: Any) -> str:
    """A value for a pipe: nothing for None, a time as in JSON, a fraction to three places.

    >>> plain(31.206502676010132), plain(600.0), plain(datetime(2026, 1, 31, tzinfo=UTC))
    ('31.207', '600', '2026-01-31T00:00:00Z')
    """
    match value:
        case None:
            return ""
        case float():
            return f"{value:.3f}".rstrip("0").rstrip(".")
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case _:
            return str(value)


def count(number: int | None) -> str:
    """A count; "?" if the store cannot count.

    >>> count(12345), count(None)
    ('12,345', '?')
    """
    return "?" if number is None else f"{number:,}"


def span(seconds: float | None) -> str:
    """A length of time in its largest unit; nothing for None.

    >>> span(0.25), span(42.0), span(200.0), span(7200.0), span(250_000.0)
    ('250 ms', '42 s', '3 min', '2 h', '2 d')
    """
    if seconds is None:
        return ""
    if seconds < 0:
        return f"-{span(-seconds)}"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for unit, size, more in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < more:
            return f"{seconds / size:.2g} {unit}" if seconds < 10 else f"{seconds // size:.0f} {unit}"
    return f"{seconds // 86_400:,.0f} d"


def moment(time: datetime) -> str:
    """A time to the second, in UTC, in a form that `--since` and `--from` take."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def ago(time: datetime) -> str:
    """How long ago a time is."""
    return f"{span(max(0.0, (datetime.now(UTC) - time).total_seconds()))} ago"

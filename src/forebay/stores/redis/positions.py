"""Positions as the server writes them, "ms-count", and times in ms."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from forebay.errors import ConfigurationError
from forebay.store import END

HIGHEST_COUNT = 2**64 - 1
"""The highest count in a position."""

_FULL = re.compile(r"\d{1,20}-\d{1,20}", re.ASCII)
_SHORT = re.compile(r"\d{1,20}", re.ASCII)


def to_ms(seconds: float) -> int:
    """Seconds as whole milliseconds."""
    return round(seconds * 1000)


def is_full(text: str) -> bool:
    """Whether the text is a full position. Positions of other kinds of stores are not."""
    return _FULL.fullmatch(text) is not None


def is_position(text: str) -> bool:
    """Whether the text is a full position, or a number of ms."""
    return is_full(text) or _SHORT.fullmatch(text) is not None


def check(text: str) -> str:
    """The text, if it is a position, a number of ms or END; else a `ConfigurationError`."""
    if text != END and not is_position(text):
        raise ConfigurationError(f"{text!r} is not a position: it looks like 1700000000000-0")
    return text


def check_full(text: str) -> str:
    """The full position that the text means, as a sorted set holds it; else a `ConfigurationError`."""
    full = text if "-" in text else f"{text}-0"
    if not is_full(full):
        raise ConfigurationError(f"{text!r} is not a position: it looks like 1700000000000-0")
    return full


def check_place(text: str) -> str:
    """The full position that the text means, or END; else a `ConfigurationError`."""
    return text if text == END else check_full(text)


def as_numbers(position: str) -> tuple[int, int]:
    """The two numbers of a full position, by which positions are sorted."""
    ms, _, count = position.partition("-")
    return int(ms), int(count)


def as_moment(ms: float) -> datetime:
    """The moment of a Unix time in ms. Other programs write times beyond the calendar: those are its last day."""
    return datetime.fromtimestamp(min(ms / 1000, _LAST_DAY), UTC)


_LAST_DAY = datetime(9999, 12, 31, tzinfo=UTC).timestamp()

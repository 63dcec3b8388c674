"""A column of a command's table: the value of a row, and how it is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from forebay.cli.text import count, plain, span


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    `value` takes the cell from a row; in a pipe it is printed plainly. `show` makes it readable on a
    terminal. `alarm` tints figures other than 0. A `figure` stands on the right; it is never cut, nor is an
    `exact` value, such as an id. A `name` may be shortened. A `text`, of which a table has one at most, stands in
    the last column, or below its row, cut to one line.
    """

    name: str
    value: Callable[[Any], Any]
    show: Callable[[Any], str] = plain
    kind: Literal["figure", "exact", "name", "text"] = "name"
    alarm: bool = False


def counts(name: str, value: Callable[[Any], int | None], *, alarm: bool = False) -> Column:
    """A column of counts."""
    return Column(name, value, count, "figure", alarm)


def spans(name: str, value: Callable[[Any], float | None]) -> Column:
    """A column of lengths of time, in seconds."""
    return Column(name, value, span, "figure")

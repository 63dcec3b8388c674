"""What commands print on stdout: tables for people, tab-separated lines for pipes, JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from forebay.cli.text import as_json, count, on_one_line, plain, span

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    `value` takes the cell from a row; in a pipe it is printed plainly. `show` makes it readable on a
    terminal. `alarm` tints figures other than 0. What is `free` may wrap, everything else stays whole.
    """

    name: str
    value: Callable[[Any], Any]
    show: Callable[[Any], str] = plain
    right: bool = False
    alarm: bool = False
    free: bool = False


def counts(name: str, value: Callable[[Any], int | None], *, alarm: bool = False) -> Column:
    """A column of counts."""
    return Column(name, value, count, right=True, alarm=alarm)


def spans(name: str, value: Callable[[Any], float | None]) -> Column:
    """A column of lengths of time, in seconds."""
    return Column(name, value, span, right=True)


class Output:
    """Prints what a command found, in the form that suits who reads it."""

    def __init__(self, *, json: bool) -> None:
        self.json = json
        self.terminal = not json and sys.stdout.isatty()

    def rows(self, columns: Sequence[Column], rows: Sequence[Any], *, json: Callable[[Any], Any] | None = None) -> None:
        """Print rows: a table, tab-separated lines, or an array of what `json` makes of each."""
        if self.json:
            self.value([json(row) if json is not None else row for row in rows])
        elif self.terminal:
            if rows:
                self.console().print(table(columns, rows))
        else:
            for row in rows:
                self.fields(column.value(row) for column in columns)

    def value(self, value: Any) -> None:
        """Print one JSON value on a line of its own."""
        click.echo(as_json(value))

    def fields(self, values: Iterable[Any]) -> None:
        """Print one line of tab-separated values; None is empty."""
        click.echo("\t".join(on_one_line(plain(value)) for value in values))

    def console(self) -> Console:
        """The terminal."""
        from rich.console import Console

        return Console(highlight=False, markup=False, emoji=False)


def table(columns: Sequence[Column], rows: Sequence[Any]) -> Table:
    """The rows as a table for the terminal."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column in columns:
        drawn.add_column(
            column.name,
            justify="right" if column.right else "left",
            no_wrap=not column.free,
            overflow="fold",
        )
    for row in rows:
        cells: list[RenderableType] = []
        for column in columns:
            value = column.value(row)
            cells.append(Text(on_one_line(column.show(value)), "bold red" if column.alarm and value else ""))
        drawn.add_row(*cells)
    return drawn

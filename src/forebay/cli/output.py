"""What commands print on stdout: tables for people, tab-separated lines for pipes, JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from forebay.cli.column import Column
from forebay.cli.text import as_json, plain
from forebay.printable import printable

if TYPE_CHECKING:
    from rich.console import Console


def echo(text: str = "") -> None:
    """Print a line on stdout, in its encoding: click would choose another one for ASCII."""
    click.echo(text, file=sys.stdout)


class Output:
    """Prints the results of a command: a table on a terminal, lines in a pipe, JSON on request."""

    def __init__(self, *, json: bool) -> None:
        self.json = json
        self.terminal = not json and sys.stdout.isatty()

    def rows(
        self,
        columns: Sequence[Column],
        rows: Sequence[Any],
        *,
        json: Callable[[Any], Any] | None = None,
        header: bool = True,
    ) -> None:
        """Print rows: a table, tab-separated lines below a `header`, or an array of what `json` makes of each."""
        if self.json:
            self.value([json(row) if json is not None else row for row in rows])
        elif self.terminal:
            self.table(columns, rows)
        else:
            if rows and header:
                self.fields(column.name for column in columns)
            for row in rows:
                self.fields(column.value(row) for column in columns)

    def table(self, columns: Sequence[Column], rows: Sequence[Any]) -> None:
        """Print rows on the terminal, or nothing if there are none."""
        from forebay.cli.table import table

        if rows:
            console = self.console()
            console.print(table(columns, rows, console.width), soft_wrap=True)

    def value(self, value: Any) -> None:
        """Print one JSON value on a line of its own."""
        echo(as_json(value))

    def fields(self, values: Iterable[Any]) -> None:
        """Print one line of tab-separated values; None is empty."""
        echo("\t".join(printable(plain(value)) for value in values))

    def console(self) -> Console:
        """The terminal."""
        from rich.console import Console

        return Console(highlight=False, markup=False, emoji=False)

"""`--watch`: a list that is looked at again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from forebay import StoreError
from forebay.cli.column import Column
from forebay.cli.commands import say
from forebay.cli.output import Output
from forebay.cli.parameters import Duration
from forebay.printable import printable
from forebay.runtime.supervise import outlast
from forebay.stores.url import conceal

Row = TypeVar("Row")
Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def watch_options(command: Decorated) -> Decorated:
    """`--watch` and `--every`; the command gets `every`, or None without `--watch`."""

    def only_if_watched(context: click.Context, parameter: click.Parameter, value: float) -> float | None:
        if context.params.pop("watch"):
            return max(value, 0.1)
        if context.get_parameter_source("every") is ParameterSource.COMMANDLINE:
            raise click.UsageError("--every is for --watch, which looks again and again.")
        return None

    command = click.option(
        "--every",
        type=Duration(),
        default="2s",
        show_default=True,
        callback=only_if_watched,
        help="How often --watch looks.",
    )(command)
    return click.option("--watch", is_flag=True, is_eager=True, help="Look again and again, until Ctrl-C.")(command)


class Outage:
    """Says on stderr that the store is away: one line for each outage, however many wait for the store."""

    def __init__(self) -> None:
        self._waiting = 0

    def __call__(self, error: StoreError | None) -> None:
        if error is None:
            self._waiting -= 1
            return
        if not self._waiting:
            say(f"forebay: {conceal(str(error))}; waiting for the store")
        self._waiting += 1


async def watch(
    output: Output,
    columns: Sequence[Column],
    look: Callable[[], Awaitable[list[Row]]],
    *,
    every: float | None,
    json: Callable[[Row], Any],
    empty: str,
) -> None:
    """Print what `look` finds, once, or `every` so many seconds and over outages; on a terminal in place."""
    if every is None:
        rows = await look()
        output.rows(columns, rows, json=json)
        if not rows and not output.json:
            say(empty)
    elif output.terminal:
        from rich.console import Group
        from rich.live import Live
        from rich.text import Text

        from forebay.cli.table import table

        console = output.console()
        with Live(console=console, auto_refresh=False, screen=True) as live:
            shown: Any = ""

            def outage(error: StoreError | None) -> None:
                # A line on stderr would be lost on this screen.
                if error is not None:
                    live.update(Group(shown, Text(printable(f"{error}; waiting for the store"))), refresh=True)

            while True:
                shown = table(columns, await outlast(look, outage), console.width)
                live.update(shown, refresh=True)
                await asyncio.sleep(every)
    else:
        header = True
        outage_told = Outage()
        while True:
            rows = await outlast(look, outage_told)
            output.rows(columns, rows, json=json, header=header)
            header = header and not rows
            await asyncio.sleep(every)

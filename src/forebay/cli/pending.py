"""`forebay pending`: the unfinished events of a group."""

from __future__ import annotations

import click
import msgspec

from forebay import EventBus
from forebay.cli.column import Column, counts, spans
from forebay.cli.commands import say, with_bus_to_read
from forebay.cli.output import Output


@click.command()
@click.argument("type")
@click.argument("group")
@click.option("-n", "--number", type=click.IntRange(1), help="The first so many.  [default: all]")
@with_bus_to_read
async def pending(bus: EventBus, output: Output, *, type: str, group: str, number: int | None) -> None:
    """List the unfinished events of TYPE in GROUP: held by a consumer, or waiting for another attempt.

    \b
    held  how long its consumer has been silent on it; when that is longer than
          the lease, another consumer takes it over
    due   when a waiting one is tried again; below 0 it is overdue
    """
    await bus.group(type, group)
    found = await bus.pending(type, group, limit=number)
    output.rows(COLUMNS, found, json=msgspec.to_builtins)
    if not found and not output.json:
        say(f"{group} has nothing pending of {type}")


COLUMNS = (
    Column("position", lambda entry: entry.position, kind="exact"),
    Column("state", lambda entry: "waiting" if entry.consumer is None else "pending", kind="exact"),
    Column("consumer", lambda entry: entry.consumer),
    counts("attempt", lambda entry: entry.attempt),
    counts("failures", lambda entry: entry.failures),
    spans("held", lambda entry: entry.idle),
    spans("due", lambda entry: entry.due),
)

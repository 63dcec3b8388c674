"""`forebay groups`: how far each group is."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from forebay import EventBus, GroupStats
from forebay.cli.column import Column, counts, spans
from forebay.cli.commands import tell_strays, whereabouts, with_bus_to_read
from forebay.cli.output import Output
from forebay.cli.watch import watch, watch_options


@click.command()
@click.argument("type", required=False)
@watch_options
@with_bus_to_read
async def groups(bus: EventBus, output: Output, *, type: str | None, every: float | None) -> None:
    """List the groups of all streams, or of TYPE.

    \b
    lag        events not yet delivered; "?" if the store cannot count them
    pending    events delivered and not finished, also those that wait for a retry
    oldest     age of the oldest event among them
    dead       events that the group gave up on
    consumers  those running, in all processes; killed ones count for 30 seconds
    """

    async def look() -> list[tuple[str, GroupStats]]:
        found = await (bus.stats() if type is None else bus.stats(type))
        if not found and type is not None:
            await bus.stream(type)
        return [(stream.stream, group) for stream in found for group in stream.groups]

    await watch(output, COLUMNS, look, every=every, json=_as_json, empty=f"no groups in {whereabouts(bus)}")
    await tell_strays(bus)


def _as_json(row: tuple[str, GroupStats]) -> dict[str, Any]:
    stream, group = row
    return {"stream": stream, **msgspec.to_builtins(group)}


COLUMNS = (
    Column("stream", lambda row: row[0]),
    Column("group", lambda row: row[1].group),
    counts("lag", lambda row: row[1].lag),
    counts("pending", lambda row: row[1].pending),
    counts("waiting", lambda row: row[1].waiting),
    spans("oldest", lambda row: row[1].oldest),
    counts("dead", lambda row: row[1].dead, alarm=True),
    counts("consumers", lambda row: row[1].consumers),
)

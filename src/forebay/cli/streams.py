"""`forebay streams`: the streams at a glance."""

from __future__ import annotations

from collections.abc import Iterable

import click
import msgspec

from forebay import EventBus, StreamStats
from forebay.cli.column import Column, counts, spans
from forebay.cli.commands import tell_strays, whereabouts, with_bus_to_read
from forebay.cli.output import Output
from forebay.cli.watch import watch, watch_options


@click.command()
@click.argument("types", metavar="[TYPE]...", nargs=-1)
@watch_options
@with_bus_to_read
async def streams(bus: EventBus, output: Output, *, types: tuple[str, ...], every: float | None) -> None:
    """List all streams, or those of each TYPE: their events, those scheduled for later, and how their groups are doing.

    The lag is the largest of all groups; "?" if the store cannot count it. Pending are
    the deliveries not finished, of all groups; oldest is the age of the oldest event among them.
    """

    async def look() -> list[StreamStats]:
        if not types:
            return await bus.stats()
        return [await bus.stream(type) for type in types]

    await watch(
        output,
        COLUMNS,
        look,
        every=every,
        json=msgspec.to_builtins,
        empty=f"no streams in {whereabouts(bus)}",
    )
    await tell_strays(bus)


def _lag(stream: StreamStats) -> int | None:
    lags = [group.lag for group in stream.groups]
    return None if None in lags else max((lag for lag in lags if lag is not None), default=0)


def _oldest(ages: Iterable[float | None]) -> float | None:
    return max((age for age in ages if age is not None), default=None)


COLUMNS = (
    Column("stream", lambda stream: stream.stream),
    counts("events", lambda stream: stream.length),
    counts("scheduled", lambda stream: stream.scheduled),
    counts("groups", lambda stream: len(stream.groups)),
    counts("lag", _lag),
    counts("pending", lambda stream: sum(group.pending for group in stream.groups)),
    spans("oldest", lambda stream: _oldest(group.oldest for group in stream.groups)),
    counts("dead", lambda stream: stream.dead, alarm=True),
)

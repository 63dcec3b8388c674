"""`forebay tail`: the latest events of streams, and each new one."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import click

from forebay import Event, EventBus, MalformedEntry
from forebay.cli.commands import say, with_bus_to_read
from forebay.cli.output import Output
from forebay.cli.parameters import Moment, PositionType
from forebay.cli.records import event_as_json, malformed_as_json
from forebay.cli.text import as_json, moment
from forebay.cli.watch import Outage
from forebay.cli.where import Condition, all_hold, where_option
from forebay.payload import type_name
from forebay.positions import StreamPosition
from forebay.printable import printable

LATEST = 10
"""How many events of each stream are shown, if nothing says where to begin."""


@click.command()
@click.argument("types", metavar="TYPE...", nargs=-1, required=True)
@click.option("--since", type=Moment(), help="Begin at this time, or so long ago: 1h, 2026-01-31T12:00.")
@click.option("--from", "start", type=PositionType(), help="Begin after this position, or earliest or latest.")
@click.option("-n", "--number", type=click.IntRange(0), help="Begin with the last so many.  [default: 10]")
@where_option
@click.option("--follow/--no-follow", default=True, show_default=True, help="Go on with each new event.")
@click.option("--wait", is_flag=True, help="Follow a stream that does not exist yet, too.")
def tail(
    *,
    types: tuple[str, ...],
    since: datetime | None,
    start: StreamPosition | None,
    number: int | None,
    conditions: tuple[Condition, ...],
    follow: bool,
    wait: bool,
) -> None:
    """Show the latest events of each TYPE, oldest first, then each new one as it comes.

    With --json one event a line. In a pipe the fields are time, type, id, source, key, data.

    \b
    forebay tail order_placed
    forebay tail order_placed order_paid --since 1h --where data.order_id=1
    """
    if since is not None and start is not None:
        raise click.UsageError("Give --since or --from, not both.")
    if wait and not follow:
        raise click.UsageError("--wait is for following: with --no-follow there is nothing to wait for.")
    begin = start if since is None else since
    if number is None and begin is None:
        number = LATEST
    _tail(types=types, start=begin or "earliest", number=number, conditions=conditions, follow=follow, wait=wait)


@with_bus_to_read
async def _tail(
    bus: EventBus,
    output: Output,
    *,
    types: tuple[str, ...],
    start: StreamPosition,
    number: int | None,
    conditions: tuple[Condition, ...],
    follow: bool,
    wait: bool,
) -> None:
    names = list(map(type_name, types))
    if not wait:
        for name in names:
            await bus.stream(name)
    streams = [_Stream(name, start, number, conditions, await bus.position(name)) for name in names]
    show = _Shown(output)
    async for type, entry in _by_time([stream.past(bus) for stream in streams]):
        show(type, entry)
    if follow:
        try:
            outage = Outage()
            async with asyncio.TaskGroup() as group:
                for stream in streams:
                    group.create_task(_follow(bus, stream, show, outage))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None


Found = tuple[str, Event | MalformedEntry]


@dataclass
class _Stream:
    """The request for one stream; `now` is the position between its past and its future."""

    type: str
    start: StreamPosition
    number: int | None
    conditions: Sequence[Condition]
    now: str

    async def past(self, bus: EventBus) -> AsyncIterator[Found]:
        """The events up to `now`, oldest first; the last `number` of those that fulfil the conditions."""
        choose = self.number is not None and bool(self.conditions)
        last: deque[Event | MalformedEntry] = deque(maxlen=self.number if choose else 0)
        newest = None if choose else self.number
        async for entry in bus.events(self.type, start=self.start, end=self.now, newest=newest):
            if self.wants(entry):
                if choose:
                    last.append(entry)
                else:
                    yield self.type, entry
        for entry in last:
            yield self.type, entry

    def wants(self, entry: Event | MalformedEntry) -> bool:
        """True if the entry fulfils the conditions; an entry that is not an event fulfils none."""
        if isinstance(entry, MalformedEntry):
            return not self.conditions
        return all_hold(self.conditions, entry)


async def _by_time(pasts: Sequence[AsyncIterator[Found]]) -> AsyncIterator[Found]:
    """Several pasts as one, by the time of publishing."""
    heads: list[tuple[datetime, int, Found]] = []
    for index, past in enumerate(pasts):
        if (found := await anext(past, None)) is not None:
            heapq.heappush(heads, (_time(found, datetime.min.replace(tzinfo=UTC)), index, found))
    while heads:
        time, index, found = heapq.heappop(heads)
        yield found
        if (following := await anext(pasts[index], None)) is not None:
            heapq.heappush(heads, (_time(following, time), index, following))


def _time(found: Found, otherwise: datetime) -> datetime:
    entry = found[1]
    return entry.timestamp if isinstance(entry, Event) else otherwise


async def _follow(bus: EventBus, stream: _Stream, show: _Shown, outage: Outage) -> None:
    async for entry in bus.events(stream.type, start=stream.now, follow=True, on_outage=outage):
        if stream.wants(entry):
            show(stream.type, entry)


class _Shown:
    """Prints entries as they come."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._console = output.console() if output.terminal else None

    def __call__(self, type: str, entry: Event | MalformedEntry) -> None:
        output = self._output
        if output.json:
            output.value(event_as_json(entry) if isinstance(entry, Event) else malformed_as_json(type, entry))
        elif isinstance(entry, MalformedEntry):
            say(f"{type} at {entry.position}: {entry.fault}")
        elif self._console is not None:
            self._print(entry)
        else:
            output.fields([entry.timestamp, type, entry.id, entry.source, entry.key, as_json(entry.data)])

    def _print(self, event: Event) -> None:
        from rich.text import Text

        about = {"key": event.key, "source": event.source, "id": event.id}
        line = Text.assemble(
            (moment(event.timestamp), "dim"),
            " ",
            (printable(event.type), "cyan"),
            " ",
            as_json(event.data),
            (" " + " ".join(f" {name}={printable(text)}" for name, text in about.items() if text), "dim"),
        )
        assert self._console is not None
        self._console.print(line, soft_wrap=True)

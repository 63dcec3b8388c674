"""`forebay replay`: a range of events once more, for one group."""

from __future__ import annotations

import click

from forebay import EventBus
from forebay.cli.commands import confirm, dry_run_option, say, with_bus_to_change, yes_option
from forebay.cli.output import Output
from forebay.cli.parameters import PositionType, Rate
from forebay.cli.progress import progress
from forebay.cli.text import count
from forebay.positions import StreamPosition


@click.command()
@click.argument("type")
@click.option("--group", required=True, help="The only group that gets them again.")
@click.option(
    "--from", "start", type=PositionType(), default="earliest", show_default=True, help="After this position."
)
@click.option("--to", "end", type=PositionType(), default="latest", show_default=True, help="Up to this position.")
@click.option("--rate", type=Rate(), help="At most so many events a second.")
@dry_run_option
@yes_option
@with_bus_to_change
async def replay(
    bus: EventBus,
    output: Output,
    *,
    type: str,
    group: str,
    start: StreamPosition,
    end: StreamPosition,
    rate: float | None,
    dry_run: bool,
    yes: bool,
) -> None:
    """Deliver the events of a range of TYPE again, to one group only, under their ids.

    A position is that of an event, earliest, latest, or a time: ISO 8601, or how long ago. A range begins after
    a position, and at a time. The count is asked about first.

    \b
    forebay replay order_placed --group billing --from 2h --to 1h --rate 100/s
    """
    if end == "latest":
        # The range that is confirmed is the one that is replayed, also if events are published meanwhile.
        end = await bus.position(type)
    found = await bus.replay(type, group=group, start=start, end=end, dry_run=True)
    replayed = 0
    if found and not dry_run:
        confirm(f"replay {_events(found)} of {type} to {group}", yes=yes)
        with progress(
            "replay", total=found, stopped=lambda done: f"stopped after {_events(done)} of {count(found)}"
        ) as bar:
            replayed = await bus.replay(type, group=group, start=start, end=end, rate=rate, progress=bar)
    if output.json:
        output.value({"found": found, "replayed": replayed})
    elif dry_run:
        say(f"would replay {_events(found)} of {type} to {group}")
    else:
        say(f"replayed {_events(replayed)} of {type} to {group}")


def _events(number: int) -> str:
    return f"{count(number)} {'event' if number == 1 else 'events'}"

"""`forebay group`: change a group."""

from __future__ import annotations

import click

from forebay import EventBus
from forebay.cli.commands import confirm, dry_run_option, say, with_bus_to_change, yes_option
from forebay.cli.output import Output
from forebay.cli.parameters import PositionType
from forebay.positions import StreamPosition


@click.group()
def group() -> None:
    """Change a group. `forebay groups` lists them."""


@group.command()
@click.argument("type")
@click.argument("group")
@click.argument("position", type=PositionType())
@dry_run_option
@yes_option
@with_bus_to_change
async def seek(
    bus: EventBus, output: Output, *, type: str, group: str, position: StreamPosition, dry_run: bool, yes: bool
) -> None:
    """Let GROUP read TYPE on after POSITION: back, to handle events again, or forward, to skip them.

    A position is that of an event, earliest, latest, or a time: ISO 8601, or how long ago. Events after it that the
    group has in flight are unread again, and their consumers lose them. It asks first.

    \b
    forebay group seek order_placed billing 2h
    """
    before = (await bus.group(type, group)).position
    to = await bus.position(type, position)
    if not dry_run:
        confirm(f"let {group} read {type} on after {_named(to, position)}, and not after {before}", yes=yes)
        await bus.seek(type, group, to)
    if output.json:
        output.value({"stream": type, "group": group, "from": before, "to": to, "moved": not dry_run})
    else:
        would = "would read" if dry_run else "reads"
        say(f"{group} {would} {type} on after {_named(to, position)}; before, it read after {before}")


def _named(to: str, asked: StreamPosition) -> str:
    return f"{to} ({asked})" if asked in ("earliest", "latest") else to

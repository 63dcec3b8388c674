"""`forebay dead`: what groups gave up on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import click

from forebay import DeadLetter, DeadLetterFilter, EventBus, NotFound
from forebay.cli.column import Column, counts
from forebay.cli.commands import (
    confirm,
    dry_run_option,
    say,
    whereabouts,
    with_bus_to_change,
    with_bus_to_read,
    yes_option,
)
from forebay.cli.output import Output, echo
from forebay.cli.parameters import Moment
from forebay.cli.progress import progress, stoppable
from forebay.cli.records import letter_as_json, raw_fields
from forebay.cli.text import ago, as_indented_json, as_json, count, moment, plain
from forebay.cli.where import Condition, all_hold, where_option
from forebay.dead_letters import event_id, event_of
from forebay.printable import printable
from forebay.replay import nearest

AT_ONCE = 500
"""Dead letters that are moved, or printed, without a pause in which Ctrl-C is heard."""

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def _filter(
    ids: Sequence[str] = (),
    group: str | None = None,
    error: str | None = None,
    since: datetime | None = None,
    conditions: Sequence[Condition] = (),
) -> DeadLetterFilter:
    condition = partial(all_hold, conditions) if conditions else None
    return DeadLetterFilter(ids=ids or None, group=group, error=error, since=since, event=condition)


def filter_options(command: Decorated) -> Decorated:
    """The options that choose dead letters; the command gets them as arguments of `_filter`."""
    command = where_option(command)
    for option in (
        click.option("--since", type=Moment(), help="Only those dead since this time, or so long ago: 1h."),
        click.option("--error", metavar="TEXT", help="Only those with this text in the error, in any case."),
        click.option("--group", help="Only those of this group."),
    ):
        command = option(command)
    return command


@click.group()
def dead() -> None:
    """List, show, redrive, discard and export dead letters: what groups gave up on.

    An ID is that of a dead letter, or of its event.
    """


@dead.command()
@click.argument("type", required=False)
@filter_options
@click.option("-n", "--number", type=click.IntRange(1), help="Only the newest so many.  [default: all]")
@with_bus_to_read
async def ls(bus: EventBus, output: Output, *, type: str | None, number: int | None, **choice: Any) -> None:
    """List the dead letters of all streams, or of TYPE, oldest first."""
    letters = await _choose(bus, type, _filter(**choice))
    if number is not None:
        letters = sorted(letters, key=lambda letter: letter.failed_at)[-number:]
    output.rows(COLUMNS, letters, json=letter_as_json)
    if not letters and not output.json:
        place = f"{f' of {type}' if type else ''} in {whereabouts(bus)}"
        say(f"no dead letters{place}{' match' if any(choice.values()) else ''}")


@dead.command()
@click.argument("type")
@click.argument("id")
@with_bus_to_read
async def show(bus: EventBus, output: Output, *, type: str, id: str) -> None:
    """Show a dead letter of TYPE whole: the reason, and the event."""
    for number, letter in enumerate(await _choose(bus, type, _filter(ids=[id]))):
        if output.json:
            output.value(letter_as_json(letter))
        else:
            if number:
                echo()
            _show(output, letter)


@dead.command()
@click.argument("type")
@click.argument("ids", metavar="[ID]...", nargs=-1)
@filter_options
@dry_run_option
@yes_option
@with_bus_to_change
async def redrive(
    bus: EventBus, output: Output, *, type: str, ids: tuple[str, ...], dry_run: bool, yes: bool, **choice: Any
) -> None:
    """Send dead letters of TYPE round again, each to its own group, with fresh attempts.

    Those with an ID, or all that match; more than one are asked about first.
    """
    await _act(bus, output, type, _filter(ids=ids, **choice), bus.redrive, _REDRIVE, dry_run=dry_run, yes=yes)


@dead.command()
@click.argument("type")
@click.argument("ids", metavar="[ID]...", nargs=-1)
@filter_options
@dry_run_option
@yes_option
@with_bus_to_change
async def discard(
    bus: EventBus, output: Output, *, type: str, ids: tuple[str, ...], dry_run: bool, yes: bool, **choice: Any
) -> None:
    """Remove dead letters of TYPE for good: those with an ID, or all that match. It asks first."""
    await _act(bus, output, type, _filter(ids=ids, **choice), bus.discard, _DISCARD, dry_run=dry_run, yes=yes)


@dead.command()
@click.argument("type", required=False)
@filter_options
@with_bus_to_read
async def export(bus: EventBus, output: Output, *, type: str | None, **choice: Any) -> None:
    """Print dead letters whole, as one JSON object a line, of all streams or of TYPE."""
    letters = await _choose(bus, type, _filter(**choice))
    with stoppable(lambda done: f"stopped after {count(done)} of {_letters(len(letters))}") as report:
        for number, letter in enumerate(letters, start=1):
            output.value(letter_as_json(letter))
            report(number)
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)  # for Ctrl-C


async def _choose(bus: EventBus, type: str | None, chosen: DeadLetterFilter) -> list[DeadLetter]:
    """The dead letters that match; `NotFound` if an id, the type or the group is unknown."""
    group = DeadLetterFilter(group=chosen.group)
    found = [letter async for letter in bus.find_dead_letters(type, group)]
    if not found:
        await _require(bus, type, chosen.group)
    known = {name for letter in found for name in (letter.id, event_id(letter))}
    if missing := [id for id in sorted(chosen.ids or ()) if id not in known]:
        raise NotFound(f"no dead letter {', '.join(map(repr, missing))} of {type!r}")
    return [letter for letter in found if chosen.matches(letter)]


async def _require(bus: EventBus, type: str | None, group: str | None) -> None:
    """Refuse a stream or a group that does not exist: it must not look like one without dead letters."""
    if type is not None:
        await (bus.stream(type) if group is None else bus.group(type, group))
    elif group is not None:
        names = {each.group for stream in await bus.stats() for each in stream.groups}
        if group not in names:
            known = ", ".join(sorted(names)) or "none yet"
            raise NotFound(f"no group {group!r} on any stream; {nearest(group, names) or f'there are: {known}'}")


@dataclass(frozen=True, slots=True)
class _Action:
    verb: str
    past: str
    asks_from: int
    """From how many on it asks first."""


_REDRIVE = _Action("redrive", "redriven", 2)
_DISCARD = _Action("discard", "discarded", 1)


async def _act(
    bus: EventBus,
    output: Output,
    type: str,
    chosen: DeadLetterFilter,
    move: Callable[..., Any],
    action: _Action,
    *,
    dry_run: bool,
    yes: bool,
) -> None:
    letters = await _choose(bus, type, chosen)
    done = 0
    if dry_run:
        if not output.json:
            output.rows(COLUMNS, letters)
    elif letters:
        if len(letters) >= action.asks_from:
            confirm(f"{action.verb} {_letters(len(letters))} of {type}", yes=yes)
        done = await _move(type, letters, move, action)
    if output.json:
        output.value({"found": len(letters), action.past: done})
    elif dry_run:
        say(f"would {action.verb} {_letters(len(letters))} of {type}")
    else:
        say(f"{_letters(done)} of {type} {action.past}")


async def _move(type: str, letters: Sequence[DeadLetter], move: Callable[..., Any], action: _Action) -> int:
    """Redrive or discard them, some at once; return how many."""
    moved = 0

    def stopped(done: int) -> str:
        return f"stopped after {count(done)} of {_letters(len(letters))} of {type}; those are {action.past}"

    with progress(action.verb, total=len(letters), stopped=stopped) as report:
        for start in range(0, len(letters), AT_ONCE):
            part = letters[start : start + AT_ONCE]
            moved += await move(type, [letter.id for letter in part])
            report(start + len(part))
    return moved


def _letters(number: int) -> str:
    return f"{count(number)} dead {'letter' if number == 1 else 'letters'}"


def _show(output: Output, letter: DeadLetter) -> None:
    event = event_of(letter)
    about = {
        "id": letter.id,
        "type": letter.stream,
        "group": letter.group,
        "error": letter.error,
        "attempts": str(letter.attempts),
        "failed_at": plain(letter.failed_at),
        "position": letter.position,
        "event": event_id(letter),
    }
    if event is not None:
        about |= {"source": event.source, "timestamp": plain(event.timestamp)}
        about |= {"key": event.key} if event.key else {}
        about |= {"headers": as_json(event.headers)} if event.headers else {}
    traceback = {"traceback": letter.traceback} if letter.traceback else {}
    if not output.terminal:
        content = {"data": as_json(event.data)} if event is not None else {"fields": as_json(raw_fields(letter.record))}
        for name, value in {**about, **traceback, **content}.items():
            output.fields([name, value])
        return
    about["failed_at"] = f"{moment(letter.failed_at)} ({ago(letter.failed_at)})"
    for name, value in about.items():
        echo(f"{name:<10} {printable(value)}")
    if letter.traceback:
        echo("\ntraceback (the last frames)")
        for line in letter.traceback.splitlines():
            echo(printable(line))
    echo(f"\n{as_indented_json(event.data if event is not None else raw_fields(letter.record))}")


COLUMNS = (
    Column("id", lambda letter: letter.id, kind="exact"),
    Column("type", lambda letter: letter.stream),
    Column("group", lambda letter: letter.group),
    Column("failed", lambda letter: letter.failed_at, ago, "exact"),
    counts("attempts", lambda letter: letter.attempts),
    Column("error", lambda letter: letter.error, kind="text"),
)

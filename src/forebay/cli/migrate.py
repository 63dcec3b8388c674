"""`forebay migrate`: which bus each agent is on, and whether both buses agree."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import click
import msgspec

from forebay import EventBus
from forebay.cli.column import Column, counts, spans
from forebay.cli.commands import say, with_bus_to_change, with_bus_to_read
from forebay.cli.output import Output, echo
from forebay.cli.text import count
from forebay.cli.watch import Outage, watch_options
from forebay.migration.parity import Parity, parity, wait_until_seen
from forebay.migration.routes import Route, routes, switch
from forebay.runtime.supervise import outlast

SWITCH_SECONDS = 10.0
"""The longest wait until every process has seen a switch."""


@click.group()
def migrate() -> None:
    """Move agents from an old bus to this one, one at a time, and compare both buses.

    The application runs a DualBus of both on this store. See docs/migration.md.
    """


@migrate.command()
@click.option("--check", is_flag=True, help="Exit with 1 where the buses do not agree, or there is nothing to compare.")
@watch_options
@with_bus_to_read
async def status(bus: EventBus, output: Output, *, check: bool, every: float | None) -> None:
    """Show where each agent is, and the parity report: what happened on each bus.

    \b
    missing    on the old bus, and not found on the new one
    extra      on the new bus, and refused by the old one
    differing  with other data on the one than on the other
    bypassed   on the old bus, published without the DualBus
    lost       for the old bus to handle, and not handled there
    different  handled differently by the shadow run
    p50, p99   from publish to handled, exact to a factor of two
    """
    if check and every is not None:
        raise click.UsageError("--check looks once: leave out --watch.")

    async def look() -> tuple[Parity, dict[str, Route]]:
        return await parity(bus.store), await routes(bus.store)

    outage = Outage()
    while True:
        report, table = await (look() if every is None else outlast(look, outage))
        if every is not None and output.terminal:
            click.clear()
        _show(output, report, table)
        if every is None:
            break
        await asyncio.sleep(every)
    if check and not (report.agrees and report.types):
        say("the buses do not agree" if report.types else "there is nothing to compare: is this the new bus's store?")
        click.get_current_context().exit(1)


@migrate.command()
@click.argument("agent")
@with_bus_to_change
async def cutover(bus: EventBus, output: Output, *, agent: str) -> None:
    """Let AGENT handle events on the new bus, from the next event on."""
    await _switch(bus, output, agent, "new")


@migrate.command()
@click.argument("agent")
@with_bus_to_change
async def rollback(bus: EventBus, output: Output, *, agent: str) -> None:
    """Let AGENT handle events on the old bus again, from the next event on.

    Events that are on the new bus for it already are handled there.
    """
    await _switch(bus, output, agent, "old")


@migrate.command()
@click.argument("agent")
@with_bus_to_change
async def shadow(bus: EventBus, output: Output, *, agent: str) -> None:
    """Let AGENT handle events on the old bus, and once more on the new one, and compare.

    Where a second run would do harm, the application gives a shadow handler: subscribe(..., shadow=...).
    """
    await _switch(bus, output, agent, "shadow")


async def _switch(bus: EventBus, output: Output, agent: str, to: Route) -> None:
    before = await switch(bus.store, agent, to)
    alive, seen = await wait_until_seen(bus.store, agent, to, within=SWITCH_SECONDS)
    if output.json:
        output.value({"agent": agent, "from": before, "to": to, "processes": alive, "seen": seen})
    elif before == to:
        say(f"{agent} is on {_NAMES[to]} already")
    else:
        say(f"{agent}: from {_NAMES[before]} to {_NAMES[to]}; seen by {seen} of {_processes(alive)}")
    if not alive:
        say("no process runs a DualBus on this store now; it holds from the next start on")
    elif seen < alive:
        say(f"{alive - seen} did not answer within {SWITCH_SECONDS:g} s; each follows as soon as it can look")


def _processes(number: int) -> str:
    return f"{count(number)} {'process' if number == 1 else 'processes'}"


def _show(output: Output, report: Parity, table: dict[str, Route]) -> None:
    if output.json:
        output.value({**msgspec.to_builtins(report), "routes": table, "agrees": report.agrees})
        return
    rows = [*report.agents]
    silent = sorted(table.keys() - {row.agent for row in rows})
    output.rows(TYPES, report.types)
    for columns in (COUNTS, LATENCIES) if rows else ():
        # In one table they would not fit a terminal.
        echo()
        output.rows((*WHO, *columns), rows)
    for agent in silent:
        say(f"{agent} is on {_NAMES[table[agent]]}, and has handled nothing yet")
    if not table:
        say("no agents yet; a DualBus on this store makes them known when it is opened")
    if report.killed:
        say(f"{_processes(report.killed)} died with unfinished events on the old bus: more may be lost than is counted")
    say(
        f"{_processes(report.processes)} running; {count(report.outstanding)} events unfinished on the old bus; "
        f"{_verdict(report)}"
    )


def _verdict(report: Parity) -> str:
    if not report.types:
        return "nothing to compare yet"
    return "the buses agree" if report.agrees else "the buses do not agree"


_NAMES: dict[Route, str] = {"old": "the old bus", "new": "the new bus", "shadow": "the old bus, with a shadow"}

TYPES: Sequence[Column] = (
    Column("type", lambda row: row.type),
    counts("old", lambda row: row.old),
    counts("new", lambda row: row.new),
    counts("missing", lambda row: row.missing, alarm=True),
    counts("extra", lambda row: row.extra, alarm=True),
    counts("differing", lambda row: row.differing, alarm=True),
    counts("bypassed", lambda row: row.bypassed, alarm=True),
)


def _latency(name: str, side: str, place: int) -> Column:
    def value(row: Any) -> float | None:
        found: float | None = getattr(row, side)[place]
        return found

    return spans(name, value)


WHO: Sequence[Column] = (
    Column("agent", lambda row: row.agent),
    Column("on", lambda row: row.route, kind="exact"),
    Column("type", lambda row: row.type),
)
COUNTS: Sequence[Column] = (
    counts("old", lambda row: row.old_handled),
    counts("old failed", lambda row: row.old_failed),
    counts("new", lambda row: row.new_handled),
    counts("new failed", lambda row: row.new_failed),
    counts("lost", lambda row: row.lost, alarm=True),
    counts("same", lambda row: row.same),
    counts("different", lambda row: row.different, alarm=True),
)
LATENCIES: Sequence[Column] = (
    _latency("old p50", "old", 0),
    _latency("old p99", "old", 1),
    _latency("new p50", "new", 0),
    _latency("new p99", "new", 1),
)

"""`forebay get`: one event, and how far each group is with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from forebay import Chain, Event, EventBus, EventDelivery
from forebay.cause import CAUSATION
from forebay.chain import LOOKED_AT
from forebay.cli.column import Column
from forebay.cli.commands import say, with_bus_to_read
from forebay.cli.output import Output, echo
from forebay.cli.records import event_as_json
from forebay.cli.text import ago, as_indented_json, as_json, moment, plain, span
from forebay.printable import printable

WIDEST = 60
"""Characters that a tree is indented by, at most: a chain may be thousands of events deep."""


@click.command()
@click.argument("type")
@click.argument("id")
@with_bus_to_read
async def get(bus: EventBus, output: Output, *, type: str, id: str) -> None:
    """Show the event of TYPE with this ID, or at this position, and how far each group is with it.

    \b
    unread   not yet delivered to the group
    pending  held by a consumer
    waiting  for another attempt
    dead     the group gave up on it
    done     handled; or published before the group began to read

    An event that was redriven or replayed to a group has a further line for each time. The events that caused it, and
    those that it caused, follow as a tree.
    """
    await bus.stream(type)
    event = await bus.get(type, id)
    deliveries = [_row(delivery) for delivery in await bus.deliveries(type, event.position)]
    found = await bus.chain(event)
    if output.json:
        output.value({**event_as_json(event), "groups": deliveries, "chain": [_link(each) for each in found.events]})
        return
    _show_event(output, event)
    if len(found.events) > 1:
        _show_chain(output, found, event)
    if deliveries:
        echo()
    output.rows(COLUMNS, deliveries)


def _show_event(output: Output, event: Event) -> None:
    about = {
        "id": event.id,
        "type": event.type,
        "source": event.source,
        "timestamp": plain(event.timestamp),
        "key": event.key,
        "headers": as_json(event.headers) if event.headers else None,
        "position": event.position,
    }
    if not output.terminal:
        for name, value in {**about, "data": as_json(event.data)}.items():
            output.fields([name, value])
        return
    about["timestamp"] = f"{moment(event.timestamp)} ({ago(event.timestamp)})"
    for name, value in about.items():
        if value is not None:
            echo(f"{name:<10} {printable(value)}")
    echo(f"\n{as_indented_json(event.data)}")


def _show_chain(output: Output, found: Chain, event: Event) -> None:
    """The chain as a tree on a terminal, else as a table."""
    echo()
    if not output.terminal:
        output.rows(CHAIN, found.events)
        return
    for lead, each in _tree(found):
        mark = "  <- this one" if each.id == event.id else ""
        echo(f"{lead}{printable(f'{each.type}  {each.id}  from {each.source}{mark}')}")
    for stream in found.unsearched:
        say(f"{stream} is long; events of this chain after its first {LOOKED_AT:,} entries are not shown")


def _tree(found: Chain) -> Iterator[tuple[str, Event]]:
    """The events, each below its cause, with the branches to draw in front of it."""
    # Ids that publishers chose may lead round in a circle, so nothing is drawn twice, and nothing left out.
    drawn: set[str] = set()
    caused_by: dict[str | None, list[Event]] = {}
    for event in found.events:
        caused_by.setdefault(event.headers.get(CAUSATION), []).append(event)
    # A chain of agents that answer each other may be as long as one likes: no recursion.
    waiting = [("", "", event) for event in reversed([*found.roots(), *found.events])]
    while waiting:
        lead, below, event = waiting.pop()
        if event.id in drawn:
            continue
        drawn.add(event.id)
        yield lead if len(lead) <= WIDEST else f"…{lead[1 - WIDEST :]}", event
        caused = caused_by.get(event.id, [])
        bends = [("├─ ", "│  ")] * (len(caused) - 1) + [("└─ ", "   ")]
        waiting += [
            (below + bend, (below + further)[-WIDEST:], child)
            for child, (bend, further) in zip(reversed(caused), reversed(bends), strict=False)
        ]


def _link(event: Event) -> dict[str, Any]:
    return {
        "type": event.type,
        "id": event.id,
        "source": event.source,
        "timestamp": event.timestamp,
        "causation_id": event.headers.get(CAUSATION),
    }


def _row(delivery: EventDelivery) -> dict[str, Any]:
    return {
        "group": delivery.group,
        "state": delivery.state,
        "attempt": delivery.attempt,
        "position": delivery.position,
        "detail": _detail(delivery),
    }


def _detail(delivery: EventDelivery) -> str | None:
    match delivery.state:
        case "pending":
            return f"{delivery.consumer}, for {span(delivery.idle)}"
        case "waiting":
            after = "" if delivery.error is None else f", after {delivery.error}"
            return f"due in {span(delivery.due)}{after}"
        case _:
            return delivery.error


COLUMNS = (
    Column("group", lambda row: row["group"]),
    Column("state", lambda row: row["state"], kind="exact"),
    Column("attempt", lambda row: row["attempt"], kind="figure"),
    Column("position", lambda row: row["position"], kind="exact"),
    Column("detail", lambda row: row["detail"], kind="text"),
)

CHAIN = (
    Column("type", lambda event: event.type),
    Column("id", lambda event: event.id, kind="exact"),
    Column("source", lambda event: event.source),
    Column("timestamp", lambda event: event.timestamp, kind="exact"),
    Column("causation_id", lambda event: event.headers.get(CAUSATION), kind="exact"),
)

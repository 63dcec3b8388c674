"""`forebay publish`: one event, or one for each line of stdin."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import click

from forebay import EventBus, ForebayError, InvalidEvent, MalformedEvent
from forebay.cli.commands import dry_run_option, say, with_bus
from forebay.cli.loop import run_to_the_end
from forebay.cli.output import Output
from forebay.cli.parameters import Duration
from forebay.cli.stdin import line_chunks, without_mark
from forebay.cli.text import count
from forebay.event import to_record
from forebay.payload import decode, type_name


@click.command()
@click.argument("type")
@click.argument("data", required=False)
@click.option("--source", default="cli", show_default=True, help="Who speaks.")
@click.option("--key", help="What orders and groups related events.")
@click.option("--id", help="Publishing the same id again within a day stores nothing more.")
@click.option("--delay", type=Duration(), help="Hold it back so long, e.g. 30s or 2h.")
@dry_run_option
def publish(
    *,
    type: str,
    data: str | None,
    source: str,
    key: str | None,
    id: str | None,
    delay: float | None,
    dry_run: bool,
) -> None:
    """Publish one event with DATA, a JSON text, and print its id.

    With - for DATA, publish an event for each line of stdin, each line a JSON text. The lines before a
    bad one are published; the message says which line it was.

    \b
    forebay publish order_placed '{"order_id": 1}' --source shop --key customer-7
    forebay publish order_placed - < orders.ndjson
    """
    if data == "-" and id is not None:
        raise click.UsageError("--id is for one event; the lines of stdin get ids of their own.")
    payload = None if data is None or data == "-" else _payload(data)
    # Refused before a store is opened, which may make a file.
    to_record(type_name(type), source=source, data=payload, key=key, id=id)
    if data == "-" and dry_run:
        run_to_the_end(_check_lines(type))
    elif data == "-":
        _publish_lines(type=type, source=source, key=key, delay=delay)
    elif dry_run:
        say(f"would publish {_events(1)} to {type}")
    else:
        _publish_one(type=type, source=source, payload=payload, key=key, id=id, delay=delay)


@with_bus
async def _publish_one(
    bus: EventBus,
    output: Output,
    *,
    type: str,
    source: str,
    payload: Any,
    key: str | None,
    id: str | None,
    delay: float | None,
) -> None:
    stored = await bus.publish(type, source, payload, key=key, id=id, delay=delay)
    if output.json:
        output.value({"id": stored})
    else:
        output.fields([stored])


def _payload(text: str) -> Any:
    try:
        return decode(text.removeprefix("\ufeff"))
    except MalformedEvent as error:
        raise InvalidEvent(f"""{error}; DATA is a JSON text, e.g. '{{"order_id": 1}}' or '"words"'""") from error


@with_bus
async def _publish_lines(
    bus: EventBus, output: Output, *, type: str, source: str, key: str | None, delay: float | None
) -> None:
    """Publish the lines of stdin, chunk by chunk."""
    published = 0
    try:
        async for lines, payloads, fault in _chunks():
            if payloads:
                try:
                    await bus.publish_many(type, source, payloads, keys=[key] * len(payloads), delay=delay)
                except ForebayError as error:
                    error.add_note(f"lines {lines}; {_before(published)}")
                    raise
                except asyncio.CancelledError:
                    say(f"whether lines {lines} were published is unknown")
                    raise
            published += len(payloads)
            if fault is not None:
                fault.add_note(_before(published))
                raise fault
    except (asyncio.CancelledError, KeyboardInterrupt):
        say(f"stopped after {_events(published)}")
        raise
    if output.json:
        output.value({"published": published})
    say(f"published {_events(published)} to {type}")


async def _check_lines(type: str) -> None:
    """Read the lines of stdin, and publish nothing."""
    found = 0
    async for _, payloads, fault in _chunks():
        found += len(payloads)
        if fault is not None:
            fault.add_note("nothing was published")
            raise fault
    output = Output(json=click.get_current_context().find_root().params["json"])
    if output.json:
        output.value({"published": 0})
    say(f"would publish {_events(found)} to {type}")


async def _chunks() -> AsyncIterator[tuple[str, list[Any], ForebayError | None]]:
    """From which to which line; the payloads of these lines; and the fault of the line after the last of them."""
    async for lines in line_chunks(sys.stdin.fileno()):
        payloads: list[Any] = []
        fault: ForebayError | None = None
        for number, line in lines:
            try:
                text = without_mark(line)
                if text.strip():
                    payloads.append(decode(text))
            except MalformedEvent as error:
                fault = InvalidEvent(f"line {number}: {error}")
                break
        yield f"{lines[0][0]} to {lines[-1][0]}", payloads, fault


def _events(number: int) -> str:
    return f"{count(number)} {'event' if number == 1 else 'events'}"


def _before(published: int) -> str:
    return f"{count(published)} {'event was' if published == 1 else 'events were'} published before"

"""`forebay publish`: one event, or one for each line of stdin."""

from __future__ import annotations

import sys
from typing import Any

import click

from forebay import EventBus, ForebayError, InvalidEvent, MalformedEvent
from forebay.cli.commands import dry_run_option, talk, with_bus
from forebay.cli.output import Output
from forebay.cli.parameters import Duration
from forebay.cli.stdin import line_chunks
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
@with_bus
async def publish(
    bus: EventBus,
    output: Output,
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
    if data == "-":
        if id is not None:
            raise click.UsageError("--id is for one event; the lines of stdin get ids of their own.")
        published = await _publish_lines(bus, type, source=source, key=key, delay=delay, dry_run=dry_run)
        if output.json:
            output.value({"published": 0 if dry_run else published})
        verb = "would publish" if dry_run else "published"
        talk(f"{verb} {count(published)} {'event' if published == 1 else 'events'} to {type}")
        return
    payload = None if data is None else _payload(data)
    if dry_run:
        to_record(type_name(type), source=source, data=payload, key=key, id=id)
        talk(f"would publish 1 event to {type}")
        return
    stored = await bus.publish(type, source, payload, key=key, id=id, delay=delay)
    if output.json:
        output.value({"id": stored})
    else:
        output.fields([stored])


def _payload(text: str) -> Any:
    try:
        return decode(text)
    except MalformedEvent as error:
        raise InvalidEvent(f"""{error}; DATA is a JSON text, e.g. '{{"order_id": 1}}' or '"words"'""") from error


async def _publish_lines(
    bus: EventBus, type: str, *, source: str, key: str | None, delay: float | None, dry_run: bool
) -> int:
    """Publish what stdin holds, chunk by chunk; return how many."""
    to_record(type_name(type), source=source, data=None, key=key)
    published = 0
    async for lines in line_chunks(sys.stdin.fileno()):
        payloads: list[Any] = []
        fault: ForebayError | None = None
        for number, line in lines:
            try:
                if line.strip():
                    payloads.append(decode(line))
            except MalformedEvent as error:
                fault = InvalidEvent(f"line {number}: {error}")
                break
        if payloads and not dry_run:
            try:
                await bus.publish_many(type, source, payloads, keys=[key] * len(payloads), delay=delay)
            except ForebayError as error:
                error.add_note(f"lines {lines[0][0]} to {lines[-1][0]}; {_before(published)}")
                raise
        published += len(payloads)
        if fault is not None:
            fault.add_note("nothing was published" if dry_run else _before(published))
            raise fault
    return published


def _before(published: int) -> str:
    return f"{count(published)} {'event was' if published == 1 else 'events were'} published before"

"""`forebay copy`: all streams of one store into another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple

import click
from click.core import ParameterSource

from forebay import ConfigurationError, NotFound, StreamStats
from forebay.cli.column import Column, counts
from forebay.cli.commands import Failure, dry_run_option, refuses, say
from forebay.cli.loop import run_to_the_end
from forebay.cli.output import Output
from forebay.cli.progress import progress
from forebay.cli.text import count
from forebay.cli.watch import Outage
from forebay.interrupts import interrupted_by_signals
from forebay.store import Store
from forebay.stores.memory import MemoryStore
from forebay.stores.url import has_secret
from forebay.transfer import copy as copy_streams
from forebay.transfer import verify as compare
from forebay.transfer.events_table import EventsTable, is_events_table
from forebay.urls import file_of, identity, mask, open_store


@click.command()
@refuses(url="FROM and TO name the stores.")
@click.argument("source", metavar="FROM", envvar="FOREBAY_COPY_FROM")
@click.argument("target", metavar="TO", envvar="FOREBAY_COPY_TO")
@click.option("--verify", is_flag=True, help="Then compare counts and checksums on both sides.")
@click.option("--follow", is_flag=True, help="Go on copying new events until Ctrl-C or SIGTERM; then switch.")
@click.option(
    "--group",
    "groups",
    multiple=True,
    metavar="NAME",
    help="A group, for a file in the single-table format. Repeatable.",
)
@dry_run_option
@click.pass_context
def copy(
    context: click.Context,
    source: str,
    target: str,
    *,
    verify: bool,
    follow: bool,
    groups: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Copy all streams of a store into another, empty one. FROM and TO are URLs.

    Events keep their order, ids, keys, headers and times; groups their cursors, and pending,
    waiting and dead entries with their attempts; scheduled events come when they are due. Stop publishers and
    consumers of both stores during the copy. With --follow those of FROM may go on: stop them, then press Ctrl-C.
    After a kill or an interruption the same command continues.

    FROM may be a file in the single-table format (one table `events`, with `processed` and `retry_count`). --group
    names the groups that handle its unprocessed rows.

    \b
    forebay copy sqlite:///events.db redis://localhost:6379 --verify
    """
    if dry_run and (verify or follow):
        raise click.UsageError("--dry-run copies nothing: there is nothing to verify, or to follow.")
    given = {name: url for name, url in (("source", source), ("target", target)) if has_secret(url)}
    if any(context.get_parameter_source(name) is ParameterSource.COMMANDLINE for name in given):
        say("a password in a URL can be read by every user here; FOREBAY_COPY_FROM and FOREBAY_COPY_TO keep it")
    asked = context.find_root().params
    ends = _Ends(source, target, asked["namespace"], groups, dry_run)
    run_to_the_end(_copy(ends, Output(json=asked["json"]), verify=verify, follow=follow))


class _Ends(NamedTuple):
    """From where to where, as it was asked for."""

    source: str
    target: str
    namespace: str
    groups: tuple[str, ...]
    dry_run: bool


class _Row(NamedTuple):
    """A stream, as it was copied; `different` is None if it was not compared."""

    stats: StreamStats
    different: Sequence[str] | None


async def _copy(ends: _Ends, output: Output, *, verify: bool, follow: bool) -> None:
    async with AsyncExitStack() as stack:
        bar = stack.enter_context(progress("copy", stopped=_stopped))
        source, target = await stack.enter_async_context(_opened(ends, follow=follow))
        with _switch(asked=follow and not ends.dry_run) as switch:
            copied = await copy_streams(
                source,
                target,
                origin=identity(ends.source),
                switch=switch,
                progress=bar,
                on_outage=Outage(),
                dry_run=ends.dry_run,
            )
        different: Mapping[str, Sequence[str]] | None = None
        if verify and not ends.dry_run:
            different = {each.stream: each.different for each in await compare(source, target)}
    rows = [_Row(stats, None if different is None else different[stats.stream]) for stats in copied.streams]
    output.rows(_columns(verify=different is not None), rows, json=_json)
    events = count(sum(stats.length for stats in copied.streams))
    streams = f"{count(len(copied.streams))} stream{'s' * (len(copied.streams) != 1)}"
    if copied.already:
        say(f"copied already, nothing to do: {events} events in {streams}")
    else:
        say(f"{'would copy' if ends.dry_run else 'copied'} {events} events in {streams} to {mask(ends.target)}")
    if different is not None:
        wrong = sorted(f"{stream} ({', '.join(parts)})" for stream, parts in different.items() if parts)
        if wrong:
            raise Failure(f"the two sides differ: {'; '.join(wrong)}")
        say("verified: both sides are equal")


@asynccontextmanager
async def _opened(ends: _Ends, *, follow: bool) -> AsyncIterator[tuple[Store, Store]]:
    """Both stores, open; refuses what cannot be copied from or to."""
    for url in (ends.source, ends.target):
        if url.startswith("memory:"):
            raise ConfigurationError("memory:// would end with this command: name two stores that last")
    source = open_store(ends.source, namespace=ends.namespace)
    target = open_store(ends.target, namespace=ends.namespace)
    if identity(ends.source) == identity(ends.target):
        raise ConfigurationError(f"{mask(ends.source)} and {mask(ends.target)} are the same store: name two")
    file = file_of(ends.source)
    if file is not None and is_events_table(file):
        source = _events_table(file, ends, follow=follow)
    elif ends.groups:
        raise click.UsageError("--group is only for a file in the single-table format; here the groups are copied.")
    elif file is not None and not file.exists():
        raise NotFound(f"{file} does not exist: nothing to copy from")
    if ends.dry_run and (file := file_of(ends.target)) is not None and not file.exists():
        target = MemoryStore()  # as empty as the file would be, which a look is not to make
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(source), await stack.enter_async_context(target)


def _events_table(file: Path, ends: _Ends, *, follow: bool) -> Store:
    if follow:
        raise click.UsageError("--follow cannot follow a file in the single-table format: stop its program, then copy.")
    if not ends.groups:
        raise click.UsageError(
            f"{file} has the single-table format, which has no groups: name the group that handles its unprocessed"
            " rows, with --group NAME."
        )
    return EventsTable(file, ends.groups, namespace=ends.namespace)


@contextmanager
def _switch(*, asked: bool) -> Iterator[asyncio.Event | None]:
    """Set by the first SIGINT or SIGTERM; a second one acts as usual. None without --follow."""
    if not asked:
        yield None
        return
    switch = asyncio.Event()

    def turn() -> None:
        switch.set()
        say("switching: copying the last events, and the groups")

    with interrupted_by_signals(turn, alone=True):
        say("following; stop publishers and consumers, then press Ctrl-C to switch")
        yield switch


def _stopped(done: int) -> str:
    return f"stopped after {count(done)} events; the same command goes on from there"


def _columns(*, verify: bool) -> Sequence[Column]:
    columns = (
        Column("stream", lambda row: row.stats.stream),
        counts("events", lambda row: row.stats.length),
        counts("groups", lambda row: len(row.stats.groups)),
        counts("pending", lambda row: sum(group.pending for group in row.stats.groups)),
        counts("dead", lambda row: row.stats.dead),
        counts("scheduled", lambda row: row.stats.scheduled),
    )
    return (*columns, Column("verified", _verdict, kind="text")) if verify else columns


def _verdict(row: _Row) -> str:
    return f"differs in {', '.join(row.different)}" if row.different else "equal"


def _json(row: _Row) -> dict[str, object]:
    found: dict[str, object] = {column.name: column.value(row) for column in _columns(verify=False)}
    return found if row.different is None else {**found, "different": list(row.different)}

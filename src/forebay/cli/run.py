"""`forebay run`: the handlers of a bus in a Python module."""

from __future__ import annotations

import os
import sys

import click
from click.core import ParameterSource

from forebay import ConfigurationError, EventBus
from forebay.cli.commands import Failure, refuses, say, warn_of_password
from forebay.cli.loading import load_attribute, load_module, log_to_stderr
from forebay.cli.loop import run_with_uvloop
from forebay.printable import printable
from forebay.urls import identity, mask


@click.command()
@refuses(
    namespace="the bus chooses its namespace itself: connect(..., namespace=...).",
    json="a run prints nothing but its log.",
)
@click.argument("bus", metavar="MODULE:BUS")
@click.option("--until-idle", is_flag=True, help="End when all events are handled or dead.")
@click.option("--concurrency", type=click.IntRange(1), help="Handlers at once, in place of what each asks for.")
@click.pass_context
def run(context: click.Context, bus: str, until_idle: bool, concurrency: int | None) -> None:
    """Run the handlers that are registered with @bus.on in a module, e.g. app:bus in app.py.

    The module is looked for in the current folder too. --url is for a bus that is made by connect()
    without a URL; a bus that names another store is refused. SIGTERM or Ctrl-C ends the run in an
    orderly way: handlers finish, the rest is given back; a second one ends it at once.

    On a terminal it asks before a handler without group= begins with events that were there before it.
    """
    root = context.find_root()
    url = None
    if root.get_parameter_source("url") is ParameterSource.COMMANDLINE:
        warn_of_password()
        os.environ["FOREBAY_URL"] = url = root.params["url"]
    log_to_stderr()
    found = load_bus(bus)
    if url is not None:
        _require_on(url, bus, found)

    async def handle() -> None:
        async with found:
            await _ask_about_new_groups(found)
            say(f"running {bus} on {found.url or found}")
            await found.run(until_idle=until_idle, concurrency=concurrency)

    run_with_uvloop(handle())


def _require_on(url: str, name: str, bus: EventBus) -> None:
    """Refuse a bus that was made for another store than the one that --url asks for."""
    if not bus.url or identity(bus.url) != identity(url):
        raise ConfigurationError(
            f"{name} was made for {bus.url or 'a store of its own'}, so it cannot run on the --url {mask(url)}: make it"
            " with connect() without a URL, or leave out --url"
        )


async def _ask_about_new_groups(bus: EventBus) -> None:
    """Ask on a terminal whether new groups are to handle events from long ago; elsewhere the log warns."""
    if not sys.stdin.isatty():
        return
    for (stream, group), count in (await bus.new_groups()).items():
        question = f"{group} is a new group of {stream}, named after its function. Handle {count:,} old events?"
        if not click.confirm(printable(question), err=True):
            raise Failure('nothing was handled; name the group with group=..., or begin with start="latest"')


def load_bus(name: str) -> EventBus:
    """The bus that MODULE:BUS names; `ConfigurationError` names the missing part."""
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise ConfigurationError(f"{name!r} names no bus; write MODULE:BUS, e.g. app:bus for `bus` in app.py")
    module = load_module(module_name)
    try:
        found = load_attribute(module, attribute)
    except AttributeError as error:
        buses = ", ".join(f"{module_name}:{n}" for n, value in vars(module).items() if isinstance(value, EventBus))
        raise ConfigurationError(
            f"module {module_name!r} has no {attribute!r}; {f'there is {buses}' if buses else 'it has no bus'}"
        ) from error
    if not isinstance(found, EventBus):
        raise ConfigurationError(f"{name} is a {type(found).__name__}, not an EventBus; make one with connect(...)")
    return found

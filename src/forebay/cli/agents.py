"""`forebay agents`: run agents, in one process or several, and see how they are."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import sys
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import click
import msgspec

from forebay import ConfigurationError, EventBus, connect
from forebay.agents import AgentStatus, BaseAgent
from forebay.agents.roster import Roster
from forebay.cli.column import Column, counts
from forebay.cli.commands import chosen_url, refuses, say, whereabouts, with_bus_to_read
from forebay.cli.loading import load_attribute, load_module, log_to_stderr
from forebay.cli.loop import run_with_uvloop
from forebay.cli.output import Output
from forebay.cli.parameters import Duration
from forebay.cli.processes import Processes
from forebay.cli.text import ago, span
from forebay.cli.watch import watch, watch_options


class _RunUnlessSaid(click.Group):
    """Runs the named agents, unless the first word is a command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does, with `run` in front if it was left out."""
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_RunUnlessSaid, options_metavar="", subcommand_metavar="[run] MODULE[:NAME]... | status")
def agents() -> None:
    """Run agents under a supervisor, or show their statuses.

    \b
    forebay agents app.agents:Billing app.watchers --processes 2
    forebay agents status
    """


@agents.command(options_metavar="[OPTIONS]")
@refuses(json="a run prints nothing but its log.")
@click.argument("names", metavar="MODULE[:NAME]...", nargs=-1, required=True)
@click.option(
    "--processes", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that each run all agents."
)
@click.option("--until-idle", is_flag=True, help="End when all events are handled or dead.")
@click.option(
    "--grace",
    type=Duration(),
    default="10s",
    show_default=True,
    help="Time that handlers may take to finish at the end.",
)
@click.option("--attached", is_flag=True, help="Drain when stdin is closed, as by the death of a parent.")
def run(names: Sequence[str], processes: int, until_idle: bool, grace: float, attached: bool) -> None:
    """Run agents until SIGTERM or Ctrl-C, which lets them drain; a second one ends them at once.

    MODULE:NAME is an agent's class, or an agent; MODULE stands for all that it defines. A module is looked
    for in the current folder too. An agent that fails is started again, the others go on; so is a
    process that dies.
    """
    found = load_agents(names)
    url = chosen_url()
    log_to_stderr()
    root = click.get_current_context().find_root()
    who = ", ".join(agent.name for agent in found)
    if processes > 1:
        # All options, as the environment may set a missing one: FOREBAY_AGENTS_RUN_PROCESSES would recurse.
        options = ["--processes", "1", "--grace", f"{grace:f}s", "--attached"]
        several = Processes(
            [sys.executable, "-m", "forebay", "agents", "run", *names, *options, *["--until-idle"] * until_idle],
            environment={"FOREBAY_URL": url, "FOREBAY_NAMESPACE": root.params["namespace"]},
            grace=grace,
        )
        say(f"running {who} in {processes} processes")
        code = asyncio.run(several.run(processes))
        click.get_current_context().exit(code)

    async def handle() -> None:
        async with connect(url, namespace=root.params["namespace"]) as bus:
            if not attached:
                say(f"running {who} on {bus.url}")
            else:
                _stop_with_parent(bus)
            await bus.run(*found, until_idle=until_idle, grace=grace)

    run_with_uvloop(handle())


@agents.command()
@click.option("--check", is_flag=True, help="Exit with 1 if an agent is silent or has failed.")
@watch_options
@with_bus_to_read
async def status(bus: EventBus, output: Output, *, check: bool, every: float | None) -> None:
    """Show which agents are alive, since when, their unhandled events, and their last error.

    \b
    status   initializing, started, draining, stopped or failed;
             silent: its heartbeat is overdue; unknown: no heartbeat is kept
    alive    processes that run it
    behind   events not yet delivered to it, plus those not finished;
             "?" if the store cannot count them
    """
    if check and every is not None:
        raise click.UsageError("--check looks once: leave out --watch.")
    found: list[AgentStatus] = []
    roster = Roster(bus)

    async def look() -> list[AgentStatus]:
        found[:] = await roster.statuses()
        return found

    await watch(output, COLUMNS, look, every=every, json=msgspec.to_builtins, empty=f"no agents in {whereabouts(bus)}")
    ill = [agent for agent in found if agent.status in ("silent", "failed")]
    for agent in ill:
        seen = "" if agent.seen is None else f", its last heartbeat came {span(agent.seen)} ago"
        say(f"{agent.agent} {'is silent' if agent.status == 'silent' else 'has failed'}{seen}")
    if check and ill:
        click.get_current_context().exit(1)


def load_agents(names: Iterable[str]) -> list[BaseAgent]:
    """The agents that these names stand for, ready to run; `ConfigurationError` where one cannot be."""
    found: dict[str, BaseAgent] = {}
    for name in names:
        for agent in _named(name):
            agent.declared()
            other = found.setdefault(agent.name, agent)
            if other is not agent and type(other) is not type(agent):
                raise ConfigurationError(
                    f"two agents are named {agent.name!r}: {_code(other)} and {_code(agent)}; rename one"
                )
    return list(found.values())


def _named(name: str) -> list[BaseAgent]:
    module_name, colon, path = name.partition(":")
    if not module_name or (colon and not path):
        raise ConfigurationError(f"{name!r} names no agent; write MODULE:CLASS, or MODULE for all agents in it")
    module = load_module(module_name)
    defined = _defined(vars(module).values(), module_name)
    if not colon:
        if not defined:
            raise ConfigurationError(
                f"module {module_name!r} defines no agents: subclasses of forebay.agents.BaseAgent"
            )
        return [_made(each, module_name) for each in defined]
    try:
        found = load_attribute(module, path)
    except AttributeError as error:
        there = ", ".join(f"{module_name}:{_called(each)}" for each in defined) or "no agents"
        raise ConfigurationError(f"module {module_name!r} has no {path!r}; there are {there}") from error
    if not isinstance(found, BaseAgent) and not _is_agent_class(found):
        raise ConfigurationError(f"{name} is not an agent: neither a subclass of BaseAgent nor an object of one")
    return [_made(found, module_name)]


def _defined(values: Iterable[Any], module_name: str) -> list[BaseAgent | type[BaseAgent]]:
    """Agents made in a module, and those of its own classes that it neither makes one of nor derives from."""
    there = list(values)
    made = [value for value in there if isinstance(value, BaseAgent)]
    classes = [value for value in there if _is_agent_class(value) and value.__module__ == module_name]
    used = [*(type(agent) for agent in made), *(base for kind in classes for base in kind.__mro__[1:])]
    return [*made, *(kind for kind in classes if kind not in used)]


def _is_agent_class(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseAgent) and not inspect.isabstract(value)


def _made(found: BaseAgent | type[BaseAgent], module_name: str) -> BaseAgent:
    if isinstance(found, BaseAgent):
        return found
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise ConfigurationError(
            f"{module_name}:{found.__qualname__} cannot be made without arguments ({error}); make one in the module "
            "and name that"
        ) from error
    return found()


def _called(found: BaseAgent | type[BaseAgent]) -> str:
    return found.__qualname__ if isinstance(found, type) else found.name


def _code(agent: BaseAgent) -> str:
    return f"{type(agent).__module__}:{type(agent).__qualname__}"


def _stop_with_parent(bus: EventBus) -> None:
    """Drain when the supervising process is gone, and with it the other end of stdin."""
    loop = asyncio.get_running_loop()

    def look() -> None:
        if not os.read(0, 1024):
            loop.remove_reader(0)
            bus.stop()

    try:
        loop.add_reader(0, look)
    except NotImplementedError:

        def wait() -> None:
            while os.read(0, 1024):
                pass
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(bus.stop)

        # The loop of Windows watches no pipe.
        threading.Thread(target=wait, name="forebay-parent", daemon=True).start()
    except PermissionError as error:
        raise ConfigurationError("--attached needs a pipe or a socket for stdin, whose other end may close") from error


COLUMNS = (
    Column("agent", lambda row: row.agent),
    Column("status", lambda row: row.status, kind="exact"),
    counts("alive", lambda row: row.members),
    Column("since", lambda row: row.since, lambda since: "" if since is None else ago(since), kind="exact"),
    counts("behind", lambda row: None if row.lag is None else row.lag + row.pending),
    counts("dead", lambda row: row.dead, alarm=True),
    counts("failed", lambda row: row.failed),
    Column("last error", lambda row: row.last_error, kind="text"),
)
"""The rest is in the JSON: more would not fit on a terminal of 80 columns."""

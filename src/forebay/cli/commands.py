"""What all commands have in common: how they are found, their global options, and how they end."""

from __future__ import annotations

import asyncio
import difflib
import errno
import functools
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple, TypeVar, cast

import click
from click.core import ParameterSource

from forebay import ConfigurationError, EventBus, ForebayError, NotFound, connect
from forebay.cli.loop import INTERRUPTED, run_to_the_end
from forebay.cli.output import Output
from forebay.cli.parameters import check_positions
from forebay.printable import printable
from forebay.stores.url import conceal, has_secret
from forebay.urls import default_url, file_of, mask, open_store

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class Command(NamedTuple):
    """A command: the module that has it under the command's name, and its line of help."""

    module: str
    summary: str


class Failure(click.ClickException):
    """It failed: one line on stderr, exit code 1."""

    def show(self, file: Any = None) -> None:
        """Print the line."""
        click.echo(f"forebay: {conceal(printable(self.message))}", file=file or sys.stderr)


class Commands(click.Group):
    """A group whose commands are imported when they are called, listed in the order of its table."""

    def __init__(self, *arguments: Any, table: Mapping[str, Command], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, imported now."""
        if cmd_name not in self._table:
            return None
        command: click.Command = getattr(import_module(self._table[cmd_name].module), cmd_name)
        _take_global_options(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As in click, with a suggestion, which click can only make for commands that are imported."""
        name = args[0]
        if name not in self._table and not name.startswith("-") and not ctx.resilient_parsing:
            near = difflib.get_close_matches(name, self._table, n=1)
            ctx.fail(f"No such command {name!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, listed.summary) for name, listed in self._table.items()])

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        """As in click, with the user's text escaped in the messages about it."""
        try:
            with _escaped_usage():
                return super().make_context(*arguments, **options)
        except OSError as error:  # the help could not be written
            raise _unwritten(error) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was asked for, and turn the ways it can fail into exit codes."""
        try:
            with _escaped_usage():
                return super().invoke(ctx)
        except ForebayError as error:
            raise Failure("; ".join([str(error), *getattr(error, "__notes__", [])])) from error
        except OSError as error:
            raise _unwritten(error) from error
        except click.UsageError as error:
            # It quotes the misplaced argument, which may be a URL.
            text = error.format_message()
            if conceal(text) == text:
                raise
            raise click.UsageError(conceal(text), error.ctx) from error
        except (KeyboardInterrupt, asyncio.CancelledError, click.Abort):
            ctx.exit(INTERRUPTED)


def _unwritten(error: OSError) -> Exception:
    """What to raise for an error of the system: mostly that the output could not be written."""
    # The reader of the pipe has closed it; click ends quietly.
    return error if error.errno == errno.EPIPE else Failure(str(error))


@contextmanager
def _escaped_usage() -> Iterator[None]:
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        raise click.UsageError(conceal(printable(error.format_message())), error.ctx) from error


def global_options(command: Decorated) -> Decorated:
    """The options of every command, in front of it."""
    for option in reversed(_OPTIONS.values()):
        command = option(show_envvar=True)(command)
    return command


def _option(*names: str, **attributes: Any) -> Callable[..., Callable[[Any], Any]]:
    return functools.partial(click.option, *names, **attributes)


_OPTIONS = {
    "url": _option(
        "--url",
        metavar="URL",
        help="The store; without it FOREBAY_URL, then REDIS_URL, then sqlite:///forebay.db. Every user of the machine "
        "can read a password on a command line: give FOREBAY_URL instead.",
    ),
    "namespace": _option(
        "--namespace", metavar="NAME", default="events", show_default=True, help="A bus of its own in the store."
    ),
    "json": _option("--json", is_flag=True, help="Print JSON: a list as an array, a flow as one object a line."),
}


def _take_global_options(command: click.Command) -> None:
    """Accept the global options after the command as well; there they win."""

    def keep(context: click.Context, parameter: click.Parameter, value: object) -> None:
        name = parameter.name or ""
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            root = context.find_root()
            root.params[name] = value
            root.set_parameter_source(name, ParameterSource.COMMANDLINE)

    if isinstance(command, click.Group):
        for child in command.commands.values():
            _take_global_options(child)
    elif not any(parameter.name == "url" for parameter in command.params):
        refused = getattr(command.callback, _REFUSED, ())
        for name, option in _OPTIONS.items():
            option(allow_from_autoenv=False, expose_value=False, callback=keep, hidden=name in refused)(command)


_REFUSED = "__forebay_refused__"


def refuses(**reasons: str) -> Callable[[Decorated], Decorated]:
    """Refuse the global options that mean nothing for a command, each with the reason; its help does not list them.

    An option of the environment is for all commands, so it gets no message.
    """

    def decorate(function: Decorated) -> Decorated:
        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            root = click.get_current_context().find_root()
            for name, reason in reasons.items():
                if root.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                    raise click.UsageError(f"--{name} means nothing here: {reason}")
            return function(*arguments, **options)

        setattr(call, _REFUSED, tuple(reasons))
        return cast(Decorated, call)

    return decorate


AsyncCommand = Callable[..., Coroutine[Any, Any, None]]


def with_bus(command: AsyncCommand) -> Callable[..., None]:
    """Call an async command with the bus of the global options, open, and with the output. A file may be made."""
    return _with_bus(command, lambda url, namespace: connect(url, namespace=namespace))


def with_bus_to_change(command: AsyncCommand) -> Callable[..., None]:
    """The same for a command that changes a store: a file that does not exist is `NotFound`."""
    return _with_bus(command, _existing)


def with_bus_to_read(command: AsyncCommand) -> Callable[..., None]:
    """The same for a command that only looks: no file is made or changed; one that does not exist is `NotFound`."""
    return _with_bus(command, _read_only)


def _with_bus(command: AsyncCommand, make: Callable[[str, str], EventBus]) -> Callable[..., None]:
    @functools.wraps(command)
    def call(**options: Any) -> None:
        asked = click.get_current_context().find_root().params
        url = chosen_url()

        bus = make(url, asked["namespace"])
        check_positions(click.get_current_context(), bus.store)

        async def run() -> None:
            async with bus:
                await command(bus, Output(json=asked["json"]), **options)

        run_to_the_end(run())

    return call


def _existing(url: str, namespace: str) -> EventBus:
    file = file_of(url)
    if file is not None and not file.exists():
        raise NotFound(
            f"{file} does not exist: nothing was ever published there; name another one with --url or FOREBAY_URL"
        )
    return connect(url, namespace=namespace)


def _read_only(url: str, namespace: str) -> EventBus:
    bus = EventBus(open_store(url, namespace=namespace, read_only=True))
    bus.url = mask(url)
    return bus


def chosen_url() -> str:
    """The URL of the global options; warns if it shows a password, refuses one that would not last."""
    root = click.get_current_context().find_root()
    asked: str | None = root.params["url"]
    url = default_url() if asked is None else asked
    if url.startswith("memory:"):
        raise ConfigurationError("memory:// would end with this command; name a store that lasts, e.g. with --url")
    warn_of_password()
    return url


def warn_of_password() -> None:
    """Warn where the command line shows the password of a URL: a program cannot take it back from there."""
    root = click.get_current_context().find_root()
    url = root.params["url"]
    if root.get_parameter_source("url") is ParameterSource.COMMANDLINE and has_secret(url):
        say("the password in --url can be read by every user of this machine; FOREBAY_URL keeps it from them")


def say(text: str) -> None:
    """Print a message for people, on stderr."""
    click.echo(printable(text), file=sys.stderr)


def whereabouts(bus: EventBus) -> str:
    """Where a command has looked and found nothing: the store, and the namespace if it is a special one."""
    namespace: str = click.get_current_context().find_root().params["namespace"]
    return str(bus.url) if namespace == "events" else f"namespace {namespace!r} of {bus.url}"


async def tell_strays(bus: EventBus) -> None:
    """Report on stderr the data that the tables leave out."""
    for stray in await bus.strays():
        say(f"left out: {stray}")


def confirm(action: str, *, yes: bool) -> None:
    """Go on only if `action`, which is hard to undo, is wanted: by `yes`, or by the answer of a person."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(
            f"This would {action}, and stdin is not a terminal. Pass --yes to confirm, or --dry-run to preview."
        )
    if not click.confirm(printable(f"{action[0].upper()}{action[1:]}?"), err=True):
        raise Failure("nothing was changed")


def dry_run_option(command: Decorated) -> Decorated:
    """`--dry-run`, for every command that changes something."""
    return click.option("--dry-run", is_flag=True, help="Show what would be done, and change nothing.")(command)


def yes_option(command: Decorated) -> Decorated:
    """`--yes`, for every command that asks."""
    return click.option("--yes", is_flag=True, help="Do not ask.")(command)

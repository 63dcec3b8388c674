"""The command line: `forebay COMMAND`.

Data goes to stdout, messages to stderr. On a terminal a list is a table, in a pipe tab-separated lines,
with `--json` JSON. The exit code is 0, 1 (it failed), 2 (wrong usage) or 130 (Ctrl-C).
"""

from __future__ import annotations

import click

from forebay.cli.commands import Command, Commands, global_options
from forebay.cli.standard import arguments, ensure_standard_streams, escape_what_cannot_be_shown

TABLE = {
    "publish": Command("forebay.cli.publish", "Publish one event, or many from stdin."),
    "tail": Command("forebay.cli.tail", "Show the latest events, and follow."),
    "get": Command("forebay.cli.get", "Show one event, and how far each group is with it."),
    "streams": Command("forebay.cli.streams", "List the streams."),
    "groups": Command("forebay.cli.groups", "List the groups, with lag, pending and dead."),
    "group": Command("forebay.cli.group", "Let a group read on from another position."),
    "pending": Command("forebay.cli.pending", "List the in-flight events of a group."),
    "dead": Command("forebay.cli.dead", "List, show, redrive, discard and export dead letters."),
    "replay": Command("forebay.cli.replay", "Deliver a range of events again, to one group."),
    "copy": Command("forebay.cli.copy", "Copy all streams of one store into another."),
    "run": Command("forebay.cli.run", "Run the handlers of a bus in a Python module."),
    "agents": Command("forebay.cli.agents", "Run agents under a supervisor; show their status."),
    "migrate": Command("forebay.cli.migrate", "Move agents from an old bus to this one, and compare both."),
    "bench": Command("forebay.cli.bench", "Measure how fast events go through the store."),
    "demo": Command("forebay.cli.demo", "Show a crash, retries and dead letters in ten seconds."),
}
"""The module of each command. It is imported when the command is called, and not for the help of the others."""


@click.group(
    cls=Commands,
    table=TABLE,
    context_settings={"auto_envvar_prefix": "FOREBAY", "help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Every option can be set in the environment as well, by its command and name: FOREBAY_TAIL_SINCE=1h. "
    "--url, --namespace and --json may stand before or after the command.",
)
@global_options
@click.version_option(package_name="forebay", message="%(prog)s %(version)s")
def cli(**_: object) -> None:
    """Durable events over SQLite, Redis / Valkey Streams, and memory."""


def main() -> None:
    """The entry point of the command `forebay`."""
    ensure_standard_streams()
    escape_what_cannot_be_shown()
    cli(arguments(), prog_name="forebay")

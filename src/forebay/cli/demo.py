"""`forebay demo`: the whole story, on real files, in about ten seconds."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from pathlib import Path
from typing import NamedTuple, Self

import click
from click.core import ParameterSource
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from forebay import ConfigurationError
from forebay.cli.commands import refuses, say
from forebay.cli.demo_story import GROUPS, Story, Tally, Teller
from forebay.cli.output import echo
from forebay.cli.text import count
from forebay.printable import printable
from forebay.urls import DEFAULT_URL, default_url, file_of, mask


@click.command()
@refuses(namespace="the demo takes a namespace of its own.")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), default=".")
@click.option("--files", default=400, show_default=True, type=click.IntRange(1, 10_000), help="The most files to take.")
@click.option("--keep", is_flag=True, help="Keep the store, to look at it: forebay.db here, unless --url names one.")
@click.pass_context
def demo(context: click.Context, folder: Path, files: int, keep: bool) -> None:
    """Publish, handle, fail, crash, recover, redrive and replay.

    One event is published for each file in FOLDER (here, by default). Three groups handle them in
    four processes; one process is killed, one event becomes a dead letter, and in the end every event
    is accounted for, by its id. The events go to a store of the demo's own, unless --url names one.
    """
    root = context.find_root()
    with tempfile.TemporaryDirectory(prefix="forebay-demo-") as room:
        stage = _stage(root, Path(room), keep=keep)

        def tell(teller: Teller) -> Tally:
            story = Story(
                stage.url, folder.resolve(), Path(room), teller, namespace=stage.namespace, keep=keep, most=files
            )
            return asyncio.run(story.tell())

        if root.params.get("json"):
            tally = tell(Silent())
            echo(_as_json(tally))
        else:
            with _Shown(Console(stderr=True, highlight=False)) as shown:
                tally = tell(shown)
            Console(highlight=False).print(_table(tally))
    if keep:
        say(f"now try: {stage.next}")
    if any(tally.lost.values()):
        context.exit(1)


class _Stage(NamedTuple):
    """The store of the story, and the command that shows its content afterwards."""

    url: str
    namespace: str
    next: str


def _stage(root: click.Context, room: Path, *, keep: bool) -> _Stage:
    own = f"demo-{secrets.token_hex(4)}"
    if root.get_parameter_source("url") is ParameterSource.COMMANDLINE:
        url = root.params["url"]
        return _Stage(url, own, f"forebay --url {mask(url)} --namespace {own} groups")
    if not keep:
        return _Stage(f"sqlite:///{room}/demo.db", own, "")
    file = file_of(DEFAULT_URL)
    if file is not None and file.exists():
        raise ConfigurationError(f"{file} is there already: keep the demo in another folder, or in a store of --url")
    is_default = default_url() == DEFAULT_URL
    return _Stage(DEFAULT_URL, "events", "forebay groups" if is_default else f"forebay --url {DEFAULT_URL} groups")


class Silent:
    """Prints nothing."""

    def step(self, text: str) -> None:
        """Something happened."""

    def progress(self, handled: dict[str, int], published: int) -> None:
        """How far each group is."""


class _Shown:
    """Shows the story on a terminal: a line per step, a bar per group."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("  {task.description:<12}"),
            BarColumn(bar_width=36),
            TextColumn("{task.completed}/{task.total}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        if self._progress.console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *details: object) -> None:
        if self._progress.console.is_terminal:
            self._progress.stop()

    def step(self, text: str) -> None:
        self._progress.console.print(Text.assemble(("•", "green"), " ", printable(text)))

    def progress(self, handled: dict[str, int], published: int) -> None:
        for group, done in handled.items():
            if group not in self._tasks:
                self._tasks[group] = self._progress.add_task(group, total=published)
            self._progress.update(self._tasks[group], completed=done, total=published)


def _table(tally: Tally) -> Table:
    table = Table(caption=f"{tally.seconds:.1f} s", caption_justify="right", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("published", count(len(tally.published)))
    for group in GROUPS:
        table.add_row(f"handled by {group}", count(len(tally.handled[group])))
    for name in ("retried", "taken over", "dead", "redriven", "replayed"):
        table.add_row(name, count(getattr(tally, name.replace(" ", "_"))))
    lost = sum(map(len, tally.lost.values()))
    table.add_section()
    table.add_row("lost", f"[bold {'red' if lost else 'green'}]{lost}[/]")
    return table


def _as_json(tally: Tally) -> str:
    import msgspec

    figures = {
        "published": len(tally.published),
        "handled": {group: len(tally.handled[group]) for group in GROUPS},
        "retried": tally.retried,
        "taken_over": tally.taken_over,
        "dead": tally.dead,
        "redriven": tally.redriven,
        "replayed": tally.replayed,
        "lost": {group: len(ids) for group, ids in tally.lost.items()},
        "seconds": round(tally.seconds, 3),
    }
    return msgspec.json.encode(figures).decode()

"""`forebay demo`: the whole story, on real files, in about ten seconds."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Self

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from forebay.cli.commands import refuses, warn_of_password
from forebay.cli.demo_story import GROUPS, Story, Tally
from forebay.cli.output import echo
from forebay.cli.text import count
from forebay.printable import printable


@click.command()
@refuses(namespace="the demo takes a namespace of its own.")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), default=".")
@click.option("--files", default=400, show_default=True, type=click.IntRange(1, 10_000), help="The most files to take.")
@click.pass_context
def demo(context: click.Context, folder: Path, files: int) -> None:
    """Publish, handle, fail, crash, recover, redrive and replay.

    One event is published for each file in FOLDER (here, by default). Three groups handle them in
    four processes; one process is killed, one event becomes a dead letter, and in the end every event
    is accounted for, by its id. The events go to a store of the demo's own, unless --url names one.
    """
    with tempfile.TemporaryDirectory(prefix="forebay-demo-") as room:
        source = context.find_root().get_parameter_source("url")
        given = source is not None and source.name == "COMMANDLINE"
        url = context.find_root().params["url"] if given else f"sqlite:///{room}/demo.db"
        warn_of_password()
        if context.find_root().params.get("json"):
            tally = asyncio.run(Story(url, folder.resolve(), Path(room), Silent(), most=files).tell())
            echo(_as_json(tally))
        else:
            talk = Console(stderr=True, highlight=False)
            with _Shown(talk) as shown:
                tally = asyncio.run(Story(url, folder.resolve(), Path(room), shown, most=files).tell())
            Console(highlight=False).print(_table(tally))
    if any(tally.lost.values()):
        context.exit(1)


class Silent:
    """Tells nothing."""

    def step(self, text: str) -> None:
        """Something happened."""

    def progress(self, handled: dict[str, int], published: int) -> None:
        """How far each group is."""


class _Shown:
    """Tells the story on a terminal: a line per step, a bar per group."""

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
        self._progress.start()
        return self

    def __exit__(self, *details: object) -> None:
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

"""A bar on stderr, for work that takes a while."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from forebay.cli.commands import say


class Report(Protocol):
    """Takes the number that is done, and the total if that has changed."""

    def __call__(self, done: int, total: int | None = None, /) -> None:
        """So much is done now."""
        ...


@contextmanager
def progress(task: str, *, total: int | None = None, stopped: Callable[[int], str]) -> Iterator[Report]:
    """A bar after the verb `task`, if stderr is a terminal; if interrupted, it prints the text of `stopped`."""
    with stoppable(stopped) as note:
        if sys.stderr.isatty():
            with _bar(task, total, note) as report:
                yield report
        else:
            yield note


@contextmanager
def _bar(task: str, total: int | None, note: Report) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Count(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.completed:,.0f}/{'?' if task.total is None else f'{task.total:,.0f}'}")

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), Count(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        drawn = bar.add_task(task, total=total)

        def report(done: int, total: int | None = None, /) -> None:
            note(done)
            bar.update(drawn, completed=done, total=total)

        yield report


@contextmanager
def stoppable(stopped: Callable[[int], str]) -> Iterator[Report]:
    """Work that prints how far it came, `stopped`, when it is broken off."""
    reached = 0

    def report(done: int, total: int | None = None, /) -> None:
        nonlocal reached
        reached = done

    try:
        yield report
    except BaseException as error:
        if reached or not isinstance(error, Exception):
            say(stopped(reached))
        raise

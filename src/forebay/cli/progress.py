"""A bar on stderr, for what takes a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from forebay.cli.commands import talk


class Report(Protocol):
    """Hears how much is done, and of how much where that has changed."""

    def __call__(self, done: int, total: int | None = None, /) -> None:
        """So much is done now."""
        ...


@contextmanager
def progress(task: str, *, total: int | None = None, stopped: Callable[[int], str]) -> Iterator[Report]:
    """A bar while it lasts, if stderr is a terminal; what `stopped` says of how far it came, if it is broken off."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    reached = 0
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        drawn = bar.add_task(task, total=total)

        def report(done: int, total: int | None = None, /) -> None:
            nonlocal reached
            reached = done
            bar.update(drawn, completed=done, total=total)

        try:
            yield report
        except BaseException:
            bar.stop()
            if reached:
                talk(stopped(reached))
            raise

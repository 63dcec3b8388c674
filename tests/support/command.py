"""The command as users call it: in this process if that is enough, else as a process of its own."""

from __future__ import annotations

import asyncio
import os
import pty
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from click.testing import CliRunner

from forebay import EventBus, connect
from forebay.cli import cli

T = TypeVar("T")
PATIENCE = 20.0
"""Seconds that a process of a test may take."""

APP = """
from forebay import connect, Event, Retry

bus = connect()

@bus.on("order_placed", group="billing", retry=Retry(attempts=2, base=0.001, cap=0.002))
async def bill(event: Event) -> None:
    if event.data["order_id"] % 2:
        raise ValueError(f"no price for order {event.data['order_id']}")

@bus.on("order_placed", group="mail")
async def mail(event: Event) -> None: ...
"""


@dataclass(frozen=True)
class Ended:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str = ""

    @property
    def lines(self) -> list[list[str]]:
        """The tab-separated lines of stdout."""
        return [line.split("\t") for line in self.out.splitlines()]

    @property
    def rows(self) -> list[list[str]]:
        """The lines of a table below its header."""
        return self.lines[1:]


class Forebay:
    """Calls the command on one store."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder

    def __call__(self, *arguments: str) -> Ended:
        """In this process, with nothing on stdin."""
        ended = CliRunner().invoke(cli, arguments, prog_name="forebay")
        if ended.exception is not None and not isinstance(ended.exception, SystemExit):
            raise ended.exception
        return Ended(ended.exit_code, ended.stdout, ended.stderr)

    @contextmanager
    def process(self, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
        """As a process with pipes, which is gone afterwards."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        command = [sys.executable, "-m", "forebay", *arguments]
        with subprocess.Popen(command, cwd=self.folder, env=self._environment(), text=True, **pipes) as process:
            try:
                yield process
            finally:
                process.kill()

    def piped(self, *arguments: str, stdin: str = "") -> Ended:
        """As a process with this text on stdin."""
        with self.process(*arguments) as process:
            out, err = process.communicate(stdin, timeout=PATIENCE)
            return Ended(process.returncode, out, err)

    def on_terminal(self, *arguments: str, typed: str = "", **environment: str) -> Ended:
        """As a process on a terminal of 100 columns, with typed input; `out` is all that appears."""
        ours, theirs = pty.openpty()
        options = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        with self.process(*arguments, **options, start_new_session=True) as process:
            os.close(theirs)
            os.write(ours, typed.encode())
            shown = b""
            try:
                while block := os.read(ours, 65536):
                    shown += block
            except OSError:
                pass  # how a terminal whose last user has gone says so
            os.close(ours)
            return Ended(process.wait(PATIENCE), shown.decode().replace("\r\n", "\n"))

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "FOREBAY_URL": self.url, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}

    def do(self, work: Callable[[EventBus], Awaitable[T]]) -> T:
        """Do something with the bus itself."""

        async def opened() -> T:
            async with connect(self.url) as bus:
                return await work(bus)

        return asyncio.run(opened())

    def make(self) -> None:
        """Make the store, with nothing in it."""
        self.do(lambda bus: bus.stats())

    def publish(self, *numbers: int, type: str = "order_placed") -> list[str]:
        """Publish orders with these numbers; their ids."""
        return self.do(lambda bus: bus.publish_many(type, "shop", [{"order_id": number} for number in numbers]))

    def handle(self, *numbers: int) -> list[str]:
        """Publish orders and run both groups on them; billing gives up on odd numbers."""
        ids = self.publish(*numbers)
        assert 0 == self.piped("run", "app:bus", "--until-idle").code
        return ids

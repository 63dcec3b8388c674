"""forebay works without the functions that Windows or macOS lack: simulated by taking them away."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

WINDOWS = """
import asyncio, os, signal, sys, time

for module in ("fcntl", "resource", "termios", "pwd", "grp", "tty", "pty", "uvloop"):
    sys.modules[module] = None
for owner, names in (
    (os, "O_NOFOLLOW O_NONBLOCK O_CLOEXEC fork register_at_fork getuid geteuid fchmod setsid killpg getpgid statvfs"),
    (signal, "SIGKILL SIGHUP SIGALRM SIGUSR1 SIGUSR2 SIGCHLD SIGPIPE SIGQUIT setitimer pthread_sigmask"),
    (time, "clock_gettime clock_settime CLOCK_BOOTTIME CLOCK_MONOTONIC CLOCK_REALTIME"),
):
    for name in names.split():
        if hasattr(owner, name):
            delattr(owner, name)

import asyncio.unix_events

def refuse(*_, **__):
    raise NotImplementedError

for name in ("add_reader", "remove_reader", "add_signal_handler", "remove_signal_handler", "create_unix_connection"):
    setattr(asyncio.SelectorEventLoop, name, refuse)
"""
MACOS = """
import ctypes, os, time

for name in ("CLOCK_BOOTTIME",):
    delattr(time, name)
for name in ("inotify_init1",):
    if hasattr(os, name):
        delattr(os, name)

class Library:
    def __init__(self, *_, **__): ...

ctypes.CDLL = Library
"""
USE = """
import asyncio, importlib, pkgutil
import forebay

for found in pkgutil.walk_packages(forebay.__path__, "forebay."):
    if "__main__" not in found.name and not found.name.startswith("forebay.testing"):
        importlib.import_module(found.name)

async def main(url):
    async with forebay.connect(url) as bus:
        seen = []
        @bus.on("order_placed", group="billing")
        async def bill(event):
            seen.append(event.data)
        @bus.on("order_placed", group="mail")
        def mail(event):
            seen.append(event.data)
        await bus.publish("order_placed", "shop", 1)
        await bus.run(until_idle=True)
        assert [1, 1] == seen, seen

for url in ("memory://", "sqlite:///events.db"):
    asyncio.run(main(url))

from pathlib import Path
from forebay.agents.file_watch.files import _digest
import threading
Path("text").write_bytes(b"a\\r\\nb")
assert _digest("text", threading.Event()) is not None
"""
COMMANDS = """
import sys
from forebay.cli import main
sys.argv = ["forebay", "--url", "sqlite:///events.db", *sys.argv[1:]]
main()
"""


def run(code: str, folder: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("system", [WINDOWS, MACOS], ids=["windows", "macos"])
def test_the_library_works_where_linux_has_more(system: str, tmp_path: Path) -> None:
    ended = run(system + USE, tmp_path)

    assert (0, "") == (ended.returncode, ended.stderr)


@pytest.mark.parametrize("system", [WINDOWS, MACOS], ids=["windows", "macos"])
def test_the_commands_work_where_linux_has_more(system: str, tmp_path: Path) -> None:
    published = run(system + COMMANDS, tmp_path, "publish", "order_placed", "-", stdin='{"n": 1}\r\n{"n": 2}\r\n')
    shown = run(system + COMMANDS, tmp_path, "tail", "order_placed", "--no-follow")
    here = COMMANDS.replace('"--url", "sqlite:///events.db", ', "")
    copied = run(system + here, tmp_path, "copy", "sqlite:///events.db", "sqlite:///new.db")

    assert (0, "published 2 events to order_placed\n") == (published.returncode, published.stderr)
    assert (0, 2) == (shown.returncode, len(shown.stdout.splitlines()))
    assert 0 == copied.returncode, copied.stderr

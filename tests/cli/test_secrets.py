"""A password that was given by the environment stands on the command line of no process that forebay starts."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import PATIENCE, Forebay
from tests.support.redis_servers import Server, binaries

SECRET = "hunter2xyz"

AGENT = """
from forebay import Event
from forebay.agents import BaseAgent, handles

class Billing(BaseAgent):
    name = "billing"

    @handles("order_placed")
    async def bill(self, event: Event) -> None: ...
"""


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Server]:
    server = Server(binaries()[0], tmp_path)
    server.redis.config_set("requirepass", SECRET)
    server.redis.execute_command("AUTH", SECRET)
    yield server
    server.stop()


@pytest.mark.parametrize(
    ("command", "children"),
    [(["agents", "billing:Billing", "--processes", "2"], 2), (["demo", "orders", "--json"], 1)],
    ids=["agents", "demo"],
)
def test_processes_get_the_url_by_their_environment(
    forebay: Forebay, guarded: Server, tmp_path: Path, command: list[str], children: int
) -> None:
    (tmp_path / "billing.py").write_text(AGENT)
    (tmp_path / "orders").mkdir()
    for number in range(20):
        (tmp_path / "orders" / f"{number}.txt").write_text("x")
    redis = Forebay(f"redis://:{SECRET}@127.0.0.1:{guarded.port}", tmp_path)

    with redis.process(*command) as process:
        deadline = time.monotonic() + PATIENCE
        while len(started := _children(process)) < children:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        lines = [Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in (process.pid, *started)]
        if command[0] != "demo":  # it ends by itself, and its workers with it
            process.terminate()
        out, err = process.communicate(timeout=60)

    assert [] == [line for line in lines if SECRET in line]
    assert SECRET not in out + err


def _children(process: subprocess.Popen[str]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]

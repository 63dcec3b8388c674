"""Yardsticks on Redis: the speed of the server, a socket and hiredis alone."""

from __future__ import annotations

import asyncio
import json
import socket
import time
import uuid
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import hiredis
from bench.samples import sampled
from bench.subject import DATA, FIELDS, SOURCE, TYPE, Options, main

STREAM = "bare"


def pack(*parts: str | bytes | int) -> bytes:
    """A command as it goes on the wire."""
    packed: bytes = hiredis.pack_command(parts)  # type: ignore[arg-type]  # its stub takes only one part
    return packed


def add() -> bytes:
    """The small event as a command."""
    return pack("XADD", STREAM, "*", *FIELDS)


class Bare(asyncio.Protocol):
    """A connection with a future per command; all commands of one turn of the loop go out in one write."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._unsent: list[bytes] = []
        self._waiting: deque[asyncio.Future[Any]] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def send(self, command: bytes) -> asyncio.Future[Any]:
        """The reply to come."""
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(command)
        future = self._loop.create_future()
        self._waiting.append(future)
        return future

    def _flush(self) -> None:
        self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            self._waiting.popleft().set_result(reply)

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()


async def connect(url: str) -> Bare:
    """An asynchronous connection."""
    place = urlsplit(url)
    _, bare = await asyncio.get_running_loop().create_connection(Bare, place.hostname or "", place.port or 6379)
    return bare


class Blocking:
    """A blocking socket: the fastest way to say one thing after another."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self._socket = socket.create_connection((place.hostname or "", place.port or 6379))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()

    def ask(self, command: bytes) -> Any:
        """The reply to a command."""
        return self.ask_all([command])[0]

    def ask_all(self, commands: list[bytes]) -> list[Any]:
        """The replies to commands that are sent together."""
        self._socket.sendall(b"".join(commands))
        replies: list[Any] = []
        while len(replies) < len(commands):
            if (reply := self._reader.gets()) is False:
                self._reader.feed(self._socket.recv(1 << 20))
            else:
                replies.append(reply)
        return replies


def make() -> bytes:
    """The same, with the JSON, the time and the random id of each event made anew."""
    data = json.dumps(DATA, separators=(",", ":"))
    timestamp = datetime.now(UTC).isoformat()
    parts = "type", TYPE, "source", SOURCE, "data", data, "timestamp", timestamp, "id", str(uuid.uuid4())
    return pack("XADD", STREAM, "*", *parts)


async def coalesced(options: Options) -> float:
    """Events a second, from so many tasks that each await their own event."""
    return await _publish(options, add)


async def made(options: Options) -> float:
    """The same, with events that are made anew."""
    return await _publish(options, make)


async def _publish(options: Options, event: Callable[[], bytes]) -> float:
    bare = await connect(options.url)

    async def publisher() -> None:
        for _ in range(options.events // options.tasks):
            await bare.send(event())

    await bare.send(add())
    started = time.perf_counter()
    with sampled():
        async with asyncio.TaskGroup() as group:
            for _ in range(options.tasks):
                group.create_task(publisher())
    elapsed = time.perf_counter() - started
    bare.close()
    return options.events / elapsed


def blocking(options: Options) -> float:
    """Events a second, one at a time over a blocking socket: no event loop at all."""
    bare = Blocking(options.url)
    started = time.perf_counter()
    for _ in range(options.events):
        bare.ask(add())
    return options.events / (time.perf_counter() - started)


def handle(options: Options) -> float:
    """Events a second, read 500 at a time and acked with one command; not even decoded."""
    bare = Blocking(options.url)
    for start in range(0, options.events, 1000):
        bare.ask_all([add()] * min(1000, options.events - start))
    bare.ask(pack("XGROUP", "CREATE", STREAM, "group", "0"))
    read = pack("XREADGROUP", "GROUP", "group", "consumer", "COUNT", 500, "STREAMS", STREAM, ">")
    handled = 0
    started = time.perf_counter()
    with sampled():
        while reply := bare.ask(read):
            entries = reply[0][1]
            handled += bare.ask(pack("XACK", STREAM, "group", *[entry[0] for entry in entries]))
    elapsed = time.perf_counter() - started
    assert handled == options.events
    return handled / elapsed


async def handed(options: Options) -> float:
    """The same, decoded, and handed to an async function by 8 long-lived workers."""
    bare = await connect(options.url)
    while options.events > (done := (await bare.send(pack("XLEN", STREAM)))):
        await asyncio.gather(*(bare.send(add()) for _ in range(min(1000, options.events - done))))
    await bare.send(pack("XGROUP", "CREATE", STREAM, "group", "0"))
    read = pack("XREADGROUP", "GROUP", "group", "consumer", "COUNT", 500, "STREAMS", STREAM, ">")
    queue: asyncio.Queue[tuple[bytes, list[bytes]]] = asyncio.Queue()

    async def handler(data: object) -> None:
        """Do nothing."""

    async def work() -> None:
        while True:
            _, fields = await queue.get()
            await handler(json.loads(fields[5]))
            queue.task_done()

    async with asyncio.TaskGroup() as group:
        workers = [group.create_task(work()) for _ in range(8)]
        started = time.perf_counter()
        while reply := await bare.send(read):
            entries = reply[0][1]
            for entry in entries:
                queue.put_nowait(entry)
            await queue.join()
            await bare.send(pack("XACK", STREAM, "group", *[entry[0] for entry in entries]))
        elapsed = time.perf_counter() - started
        for worker in workers:
            worker.cancel()
    bare.close()
    return options.events / elapsed


async def latency(options: Options) -> list[float]:
    """Seconds from before an XADD to the end of the XREADGROUP that was blocked for it."""
    writer, reader = await connect(options.url), await connect(options.url)
    await writer.send(pack("XGROUP", "CREATE", STREAM, "group", "$", "MKSTREAM"))
    read = pack("XREADGROUP", "GROUP", "group", "consumer", "BLOCK", 5000, "STREAMS", STREAM, ">")
    found = []
    for _ in range(options.events):
        blocked = reader.send(read)
        await asyncio.sleep(0.005)
        started = time.perf_counter()
        writer.send(add())
        await blocked
        found.append(time.perf_counter() - started)
    writer.close()
    reader.close()
    return found


def fit(options: Options) -> int:
    """How many events with a 36-character id fit before the server says that its memory is full."""
    bare = Blocking(options.url)
    event = pack("XADD", STREAM, "*", *FIELDS, "id", "019ac0f2-7b3e-7c4d-9a51-3f0e8d2c6b7a")
    while not any(isinstance(reply, hiredis.ReplyError) for reply in bare.ask_all([event] * 500)):
        pass
    count: int = bare.ask(pack("XLEN", STREAM))
    return count


if __name__ == "__main__":
    main(
        {
            "coalesced": coalesced,
            "made": made,
            "blocking": blocking,
            "handle": handle,
            "handed": handed,
            "latency": latency,
            "fit": fit,
        }
    )

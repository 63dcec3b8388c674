"""The faults of a soak: drawn from a seed, struck at their time, and taken back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import apsw
from tests.support.processes import Process

from chaos.history import Pen, Struck, now
from chaos.proxy import Proxy, Weather
from chaos.server import DurableServer
from chaos.staff import Staff
from chaos.workers import GROUPS, STREAM
from forebay.testing import eventually

MOST_AT_ONCE = 3


@dataclass(slots=True)
class Scene:
    """The targets of faults: the staff, and either a server with a proxy before it or a file."""

    staff: Staff
    pen: Pen
    lease: float
    server: DurableServer | None = None
    proxy: Proxy | None = None
    file: Path | None = None
    ground: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the store or the network is struck: one such fault at a time, among those of processes."""


@dataclass(frozen=True, slots=True)
class Strike:
    """One fault: when it begins, in seconds from the start; `pick`, from 0 to 1, chooses its victim and length."""

    number: int
    kind: str
    at: float
    pick: float


@contextlib.contextmanager
def struck(scene: Scene, strike: Strike, *victims: str) -> Iterator[None]:
    """Write down that the fault lasts meanwhile."""
    scene.pen.write(Struck(now(), strike.kind, strike.number, "begin", list(victims)))
    try:
        yield
    finally:
        scene.pen.write(Struck(now(), strike.kind, strike.number, "end", list(victims)))


def span(strike: Strike, least: float, most: float) -> float:
    """How long the fault lasts."""
    return least + strike.pick * (most - least)


# Processes.


async def kill_writer(scene: Scene, strike: Strike) -> None:
    with scene.staff.away(scene.staff.writers, strike.pick) as (name, process), struck(scene, strike, name):
        process.kill()
    scene.staff.hire(writers=1)


async def kill_all_writers(scene: Scene, strike: Strike) -> None:
    names = list(scene.staff.writers)
    with struck(scene, strike, *names):
        for name in names:
            scene.staff.writers.pop(name).kill()
    scene.staff.hire(writers=len(names))


async def kill_consumer(scene: Scene, strike: Strike) -> None:
    with scene.staff.away(scene.staff.consumers, strike.pick) as (name, process), struck(scene, strike, name):
        process.kill()
    scene.staff.hire(consumers=1)


async def stop_consumer(scene: Scene, strike: Strike) -> None:
    with scene.staff.away(scene.staff.consumers, strike.pick) as (name, process):
        with struck(scene, strike, name):
            os.kill(process.pid, signal.SIGSTOP)
            await asyncio.sleep(span(strike, 1.2, 3.0) * scene.lease)
            os.kill(process.pid, signal.SIGCONT)
        scene.staff.consumers[name] = process


async def restart_consumer(scene: Scene, strike: Strike) -> None:
    with scene.staff.away(scene.staff.consumers, strike.pick) as (name, process), struck(scene, strike, name):
        await scene.staff.dismiss({name: process})
    scene.staff.hire(consumers=1)


async def change_shifts(scene: Scene, strike: Strike) -> None:
    leaving = dict(scene.staff.consumers)
    scene.staff.consumers.clear()
    scene.staff.hire(consumers=len(leaving))
    with struck(scene, strike, *leaving):
        await scene.staff.dismiss(leaving)


# A server, and the way to it.


def weather(which: Weather, least: float, most: float) -> Fault:
    """A fault of the network, which lasts so many seconds."""

    async def strike_network(scene: Scene, strike: Strike) -> None:
        assert scene.proxy is not None
        async with scene.ground:
            with struck(scene, strike), scene.proxy.having(which):
                await asyncio.sleep(span(strike, least, most))

    return strike_network


async def kill_connections(scene: Scene, strike: Strike) -> None:
    assert scene.server is not None
    async with scene.ground:
        with struck(scene, strike):
            for _ in range(3):
                await scene.server.tell("CLIENT", "KILL", "TYPE", "normal")
                await asyncio.sleep(0.3)


async def kill_server(scene: Scene, strike: Strike) -> None:
    assert scene.server is not None
    async with scene.ground:
        with struck(scene, strike):
            scene.server.kill()
            await asyncio.sleep(span(strike, 0.1, 1.0))
            await scene.server.start()


async def stop_server(scene: Scene, strike: Strike) -> None:
    assert scene.server is not None
    async with scene.ground:
        with struck(scene, strike):
            scene.server.stop()
            await asyncio.sleep(span(strike, 1.2, 2.0) * scene.lease)
            scene.server.go_on()


async def flush_scripts(scene: Scene, strike: Strike) -> None:
    assert scene.server is not None
    async with scene.ground:
        with struck(scene, strike):
            await scene.server.tell("SCRIPT", "FLUSH")


async def pause_writes(scene: Scene, strike: Strike) -> None:
    assert scene.server is not None
    async with scene.ground:
        with struck(scene, strike):
            length = span(strike, 1.0, 3.0)
            await scene.server.tell("CLIENT", "PAUSE", int(length * 1000), "WRITE")
            await asyncio.sleep(length)


async def fill_memory(scene: Scene, strike: Strike) -> None:
    assert scene.server is not None
    async with scene.ground:
        with struck(scene, strike):
            await scene.server.tell("CONFIG", "SET", "maxmemory", 1024 * 1024)
            await asyncio.sleep(span(strike, 1.0, 3.0))
            await scene.server.tell("CONFIG", "SET", "maxmemory", 0)


async def destroy_group(scene: Scene, strike: Strike) -> None:
    assert scene.server is not None
    group = sorted(GROUPS)[int(strike.pick * len(GROUPS)) % len(GROUPS)]
    async with scene.ground:
        with struck(scene, strike):
            await scene.server.tell("XGROUP", "DESTROY", f"events:{STREAM}", group)


# A file.


async def hold_transaction(path: Path, folder: Path, name: str, *, writing: bool) -> None:
    """Hold a transaction open until killed; a history under this name says when it has begun."""
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(10_000)
    connection.execute("BEGIN IMMEDIATE" if writing else "BEGIN")
    connection.execute("SELECT count(*) FROM entries").fetchall()
    Pen(folder, name)
    await asyncio.Event().wait()


def transaction(*, writing: bool) -> Fault:
    """Another process holds a transaction; the one that writes is stopped in it."""

    async def strike_file(scene: Scene, strike: Strike) -> None:
        assert scene.file is not None
        async with scene.ground:
            folder, name = scene.file.parent, f"transaction-{strike.number}"
            process = Process(hold_transaction, scene.file, folder, name, writing=writing)
            try:
                await eventually((folder / name).exists, within=30)
                with struck(scene, strike):
                    if writing:
                        os.kill(process.pid, signal.SIGSTOP)
                    await asyncio.sleep(span(strike, 1.0, 3.5))
                    process.kill()
            finally:
                process.kill()

    return strike_file


Fault = Callable[[Scene, Strike], Awaitable[None]]
Kinds = dict[str, tuple[int, Fault]]
"""Kinds of faults: the weight of each in the draw, and its action."""

PROCESSES: Kinds = {
    "writer killed": (3, kill_writer),
    "consumer killed": (4, kill_consumer),
    "consumer stopped": (3, stop_consumer),
    "consumer restarted": (2, restart_consumer),
    "all consumers replaced": (1, change_shifts),
}
SERVER: Kinds = {
    "replies cut off": (2, weather(Weather.DEAF, 0.1, 0.5)),
    "network black": (1, weather(Weather.BLACK, 1.0, 4.0)),
    "network slow": (1, weather(Weather.SLOW, 1.0, 3.0)),
    "replies in pieces": (1, weather(Weather.SPLIT, 1.0, 3.0)),
    "connections killed": (1, kill_connections),
    "server killed": (2, kill_server),
    "server stopped": (1, stop_server),
    "scripts flushed": (1, flush_scripts),
    "writes paused": (1, pause_writes),
    "memory full": (1, fill_memory),
    "group destroyed": (1, destroy_group),
}

FILE: Kinds = {
    "all writers killed": (3, kill_all_writers),
    "write lock held": (3, transaction(writing=True)),
    "long reader": (2, transaction(writing=False)),
}


def draw(seed: int, kinds: Kinds, *, faults: int, seconds: float) -> list[Strike]:
    """A schedule: each kind once if there is room, then by weight, spread over the time. Same seed, same schedule."""
    chance = random.Random(seed)
    names = sorted(kinds)
    chosen = [*names, *chance.choices(names, [kinds[name][0] for name in names], k=max(0, faults - len(names)))]
    chance.shuffle(chosen)
    times = sorted(chance.uniform(0, seconds) for _ in chosen[:faults])
    return [
        Strike(number, kind, at, chance.random()) for number, (kind, at) in enumerate(zip(chosen, times, strict=False))
    ]


async def haunt(scene: Scene, kinds: Kinds, strikes: Sequence[Strike], told: Callable[[Strike], None]) -> None:
    """Strike each at its time, at most three at once; return when all is healed."""
    at_once = asyncio.Semaphore(MOST_AT_ONCE)
    started = asyncio.get_running_loop().time()

    async def one(strike: Strike) -> None:
        try:
            await kinds[strike.kind][1](scene, strike)
            told(strike)
        finally:
            at_once.release()

    async with asyncio.TaskGroup() as group:
        for strike in strikes:
            await asyncio.sleep(max(0.0, started + strike.at - asyncio.get_running_loop().time()))
            await at_once.acquire()
            group.create_task(one(strike))

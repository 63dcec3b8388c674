"""Runs a soak: writers and consumers under load, faults drawn from a seed, peace, and then the checker."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import apsw
import msgspec
import redis
from tests.support.processes import Process

from chaos import checker, dump, ledger, nemesis, original
from chaos.checker import Report
from chaos.dump import Dump
from chaos.history import Pen, Redriven, now
from chaos.nemesis import FILE, PROCESSES, SERVER, Kinds, Scene, Strike
from chaos.proxy import Proxy
from chaos.server import DurableServer
from chaos.staff import Staff
from chaos.workers import STREAM, Plan, open_store_of
from forebay import EventBus
from forebay.event import Record
from forebay.testing import eventually

Say = Callable[[str], None]
Ended = tuple[float, Dump]


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much there is to do: so many events, and so many faults within so many seconds."""

    events: int
    faults: int
    seconds: float
    writers: int = 3
    consumers: int = 4
    lanes: int = 8
    lease: float = 2.0
    patience: float = 60.0
    """Seconds in which everything is to be handled, once nothing happens any more."""

    @property
    def pause(self) -> float:
        """Seconds between two events of a lane, so that the load lasts as long as the faults."""
        return self.seconds * self.writers * self.lanes / self.events


REACHED = {
    "expired lease claimed, then handled",
    "former holder refused, or late",
    "retry that succeeded",
    "dead letter",
    "redriven",
    "publish refused",
    "loop failed and went on",
}
"""Rare states that a run is there for. On a file a publish is refused, and a loop fails, where the lock is held."""
REACHED_ON_SERVERS = REACHED | {"lost group made again", "unknown publish", "unknown publish found stored"}


class Run(msgspec.Struct):
    """One soak: its settings and its results."""

    store: str
    seed: int
    seconds: float
    events_a_second: float
    drained: float
    """Seconds until all was handled, from when the writers had left."""
    report: Report
    failed: dict[str, int | None]
    """Processes that did not leave in peace, with their exit codes."""

    @property
    def holds(self) -> bool:
        """Whether every promise was kept."""
        return self.report.holds and not self.failed

    @property
    def void(self) -> list[str]:
        """The rare states that this run should have reached, and did not."""
        wanted = REACHED if self.store.startswith("sqlite") else REACHED_ON_SERVERS
        return sorted(state for state in wanted if not self.report.reached[state])


async def soak_sqlite(folder: Path, size: Size, *, seed: int, say: Say = print) -> Run:
    """A soak on a file in this folder."""
    file = folder / "events.db"
    plan = _plan(f"sqlite:///{file}?busy_timeout=2", folder, size, seed)
    scene = Scene(Staff(plan), Pen(plan.folder, "nemesis"), size.lease, file=file)
    end = partial(_end, plan, scene, size)
    return await _soak(f"sqlite {apsw.sqlite_lib_version()}", plan, scene, PROCESSES | FILE, size, say, end)


async def soak_server(binary: str, folder: Path, size: Size, *, seed: int, say: Say = print) -> Run:
    """A soak on a server of its own, which fsyncs before it answers."""
    async with _server(binary, folder, seed) as (server, proxy):
        plan = _plan(f"redis://127.0.0.1:{proxy.port}", folder, size, seed)
        beside = msgspec.structs.replace(plan, url=f"redis://127.0.0.1:{server.port}")
        scene = Scene(Staff(plan), Pen(plan.folder, "nemesis"), size.lease, server=server, proxy=proxy)
        end = partial(_end, beside, scene, size)
        return await _soak(await server.version(), plan, scene, PROCESSES | SERVER, size, say, end)


async def soak_original(binary: str, folder: Path, size: Size, *, seed: int, say: Say = print) -> Run:
    """The same for the consumer loop of the original design, in place of forebay."""
    async with _server(binary, folder, seed) as (server, proxy):
        plan = _plan(f"redis://127.0.0.1:{proxy.port}", folder, size, seed)
        staff = Staff(plan, write=original.write, consume=original.consume)
        scene = Scene(staff, Pen(plan.folder, "nemesis"), size.lease, server=server, proxy=proxy)

        async def end() -> tuple[float, Dump]:
            client = redis.Redis(port=server.port)
            started = time.monotonic()
            with contextlib.suppress(AssertionError):
                await eventually(lambda: not any(original.take(client).open.values()), within=size.patience / 4)
            await staff.dismiss(_all(staff.consumers))
            staff.failed.clear()  # it has no way to leave in peace
            return time.monotonic() - started, original.take(client)

        return await _soak("the original loop", plan, scene, PROCESSES | SERVER, size, say, end)


@contextlib.asynccontextmanager
async def _server(binary: str, folder: Path, seed: int) -> AsyncIterator[tuple[DurableServer, Proxy]]:
    server = DurableServer(binary, folder / "server")
    proxy = Proxy(server.port, seed=seed)
    async with server.running(), proxy.listen():
        yield server, proxy


def _plan(url: str, folder: Path, size: Size, seed: int) -> Plan:
    histories = folder / "histories"
    histories.mkdir()
    return Plan(url, histories, seed, lease=size.lease, lanes=size.lanes, pause=size.pause)


async def _soak(
    store: str, plan: Plan, scene: Scene, kinds: Kinds, size: Size, say: Say, end: Callable[[], Awaitable[Ended]]
) -> Run:
    staff, counted = scene.staff, Counted(plan.folder)
    started = time.monotonic()

    def told(strike: Strike) -> None:
        seconds = time.monotonic() - started
        say(f"{store:>14}  {seconds:5.0f} s  {counted.events():>9,} events  fault {strike.number + 1}: {strike.kind}")

    strikes = nemesis.draw(plan.seed, kinds, faults=size.faults, seconds=size.seconds)
    try:
        staff.hire(writers=size.writers, consumers=size.consumers)
        await eventually(lambda: counted.events() > 0, within=60)
        await nemesis.haunt(scene, kinds, strikes, told)
        await eventually(lambda: counted.events() >= size.events, within=20 * size.seconds)
        published = time.monotonic() - started
        await staff.dismiss(_all(staff.writers))
        drained, dumped = await end()
    finally:
        staff.kill()
    report = await asyncio.to_thread(lambda: checker.check(ledger.read(plan.folder), dumped))
    rate = report.acknowledged / published
    return Run(store, plan.seed, round(published, 1), round(rate, 1), round(drained, 2), report, staff.failed)


async def _end(beside: Plan, scene: Scene, size: Size) -> Ended:
    """Wait until all events are handled, then stop all; return the seconds of the wait and the content of the store."""
    async with EventBus(open_store_of(beside)) as bus:
        drained = await drain(bus, scene.pen, size.patience)
        await scene.staff.dismiss(_all(scene.staff.consumers))
        return drained, await dump.take(bus, STREAM)


def _all(crew: dict[str, Process]) -> dict[str, Process]:
    leaving = dict(crew)
    crew.clear()
    return leaving


async def drain(bus: EventBus, pen: Pen, patience: float) -> float:
    """Wait until all is handled, send the dead letters round again, and wait once more; how long the first took."""
    started = time.monotonic()
    # The checker counts events that are not handled by then as stuck.
    with contextlib.suppress(AssertionError):
        await eventually(lambda: settled(bus), within=patience)
    drained = time.monotonic() - started
    letters = await bus.dead_letters(STREAM)
    for letter in letters:
        if isinstance(letter.record, Record):
            pen.write(Redriven(now(), letter.group, letter.record.source))
    await bus.redrive(STREAM, [letter.id for letter in letters])
    with contextlib.suppress(AssertionError):
        await eventually(lambda: settled(bus), within=patience)
    return drained


async def settled(bus: EventBus) -> bool:
    """Whether every group has handled everything."""
    [stats] = await bus.stats(STREAM)
    return not stats.scheduled and all(group.lag == 0 and group.pending == 0 for group in stats.groups)


class Counted:
    """Counts acknowledged events while their writers run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self._count = 0

    def events(self) -> int:
        """How many there are by now."""
        for path in self._folder.glob("w*"):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                text = file.read()
            end = text.rfind(b"\n") + 1
            self._count += text.count(b'"ok"', 0, end)
            self._read[path] = self._read.get(path, 0) + end
        return self._count

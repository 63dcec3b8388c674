"""forebay with many subscriptions in one process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from bench.subject import SOURCE, Options, main
from bench.subjects.processes import server_seconds

from forebay import Event, EventBus

TYPES, GROUPS = 100, 3
THOUSAND = 1_000
GAP_SECONDS = 0.02
"""Seconds, more or less, between two sparse events."""
WARM_UP_SECONDS = 3.0
IDLE_SECONDS = 10.0


class Subscriptions:
    """Handlers on a bus, for so many types with so many groups each."""

    def __init__(self, bus: EventBus, types: int, groups: int) -> None:
        self.latencies: list[float] = []
        self._bus = bus
        for number in range(types):
            for group in range(groups):
                bus.on(f"type_{number}", group=f"group_{group}")(partial(self._handle))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the handlers inside the block. Enters it when each subscription has read its stream."""
        run = asyncio.create_task(self._bus.run(handle_signals=False))
        while self._bus.last_read is None and not run.done():
            await asyncio.sleep(0.005)
        yield
        self._bus.stop()
        await run

    async def arrived(self, count: int) -> None:
        """Wait until so many events were handled."""
        while len(self.latencies) < count:
            await asyncio.sleep(0.01)

    async def _handle(self, event: Event) -> None:
        # The monotonic clock is the same for all processes of a machine.
        self.latencies.append(time.monotonic() - event.data["sent"])


async def idle(options: Options) -> dict[str, float]:
    """The connections of 300 idle subscriptions, and the percentages of a core of this process and the server."""
    async with EventBus(options.url) as bus, Subscriptions(bus, TYPES, GROUPS).running():
        await asyncio.sleep(WARM_UP_SECONDS)
        server, process, started = await server_seconds(bus), time.process_time(), time.perf_counter()
        await asyncio.sleep(IDLE_SECONDS)
        process, elapsed = time.process_time() - process, time.perf_counter() - started
        server = await server_seconds(bus) - server
        connections = await _connections(bus)
    return {"process": 100 * process / elapsed, "server": 100 * server / elapsed, "connections": connections}


async def near(options: Options) -> list[float]:
    """Seconds from before `publish` to the beginning of each of three handlers in the same process."""
    async with EventBus(options.url) as bus:
        subscriptions = Subscriptions(bus, TYPES, GROUPS)
        async with subscriptions.running():
            await asyncio.sleep(WARM_UP_SECONDS)
            await _publish(bus, options.events)
            await subscriptions.arrived(GROUPS * options.events)
    return subscriptions.latencies


async def far(options: Options) -> list[float]:
    """Seconds from before `publish` in another process to the beginning of each of three handlers."""
    async with EventBus(options.url) as bus:
        subscriptions = Subscriptions(bus, TYPES, GROUPS)
        async with subscriptions.running():
            await asyncio.sleep(WARM_UP_SECONDS)
            command = [sys.executable, "-m", __spec__.name, "send", "--url", options.url]
            sender = await asyncio.create_subprocess_exec(
                *command, "--events", str(options.events), stdout=subprocess.DEVNULL
            )
            assert await sender.wait() == 0
            await subscriptions.arrived(GROUPS * options.events)
    return subscriptions.latencies


async def send(options: Options) -> int:
    """Publish sparse events."""
    async with EventBus(options.url) as bus:
        await _publish(bus, options.events)
    return options.events


async def _publish(bus: EventBus, events: int) -> None:
    for number in range(events):
        # Uneven gaps, so that they do not keep step with a poll. A stride over the types that meets all of them.
        await asyncio.sleep(GAP_SECONDS * (0.5 + number % 7 / 6))
        await bus.publish(f"type_{number * 37 % TYPES}", SOURCE, {"sent": time.monotonic()})


async def thousand(options: Options) -> dict[str, float]:
    """Seconds in which 1,000 subscriptions start, until each has read its stream, and stop; MiB that they take."""
    async with EventBus(options.url) as bus:
        subscriptions = Subscriptions(bus, THOUSAND, 1)
        started = time.perf_counter()
        async with subscriptions.running():
            start = time.perf_counter() - started
            await asyncio.sleep(WARM_UP_SECONDS)
            memory = _memory()
            stopped = time.perf_counter()
        stop = time.perf_counter() - stopped
    return {"start": start, "stop": stop, "memory": memory}


def _memory() -> float:
    """The resident memory of this process, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


async def _connections(bus: EventBus) -> int:
    """How many connections the server has besides the one that asks; 0 if there is no server."""
    if bus.url.startswith("sqlite:"):
        return 0
    import redis.asyncio

    async with redis.asyncio.Redis.from_url(bus.url) as client:
        clients: list[Any] = await client.client_list()
    return len(clients) - 1


if __name__ == "__main__":
    main({"idle": idle, "near": near, "far": far, "send": send, "thousand": thousand})

"""forebay in several processes, or in one that is watched over time."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable
from pathlib import Path

from bench.subject import SOURCE, TYPE, Options, main
from bench.subjects.forebay_bus import AT_ONCE, GROUP, consuming, fill, rate_of_handling, rate_of_publishing

from forebay import Event, EventBus
from forebay.store import Reader

PROBE = 40_000
"""Events that one probe of the cost publishes, and handles."""
PROBES = 3
"""Probes at each size; the cheapest one counts, because a disturbance can only make them dearer."""
HELD = 100_000
"""Events that another consumer holds."""


async def latency(options: Options) -> list[float]:
    """Seconds from before `publish` in another process to the beginning of the handler in this one."""
    found: list[float] = []

    async def handler(event: Event) -> None:
        # The clock is the same for all processes of a machine.
        found.append(time.monotonic() - event.data["sent"])

    async with EventBus(options.url) as bus, consuming(bus, handler):
        await asyncio.sleep(0.5)
        command = [sys.executable, "-m", __spec__.name, "send", "--url", options.url, "--events", str(options.events)]
        sender = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL)
        assert await sender.wait() == 0
        while len(found) < options.events:
            await asyncio.sleep(0.01)
    return found


async def send(options: Options) -> int:
    """Publish events with the time of sending in them, with pauses between."""
    async with EventBus(options.url) as bus:
        for number in range(options.events):
            # Uneven, so that it does not keep step with a poll.
            await asyncio.sleep(0.005 + number % 7 * 0.001)
            await bus.publish(TYPE, SOURCE, {"sent": time.monotonic()})
    return options.events


async def fill_up(options: Options) -> int:
    """Publish so many events."""
    async with EventBus(options.url) as bus:
        await fill(bus, options.events)
    return options.events


async def memory(options: Options) -> dict[str, float]:
    """MiB of this process while it handles a backlog: after a tenth of it, and at most."""
    early = 0.0
    seen = 0
    done = asyncio.Event()

    async def handler(event: Event) -> None:
        nonlocal seen, early
        seen += 1
        if seen == options.events // 10:
            early = _peak()
        if seen == options.events:
            done.set()

    async with EventBus(options.url) as bus, consuming(bus, handler):
        await done.wait()
    return {"early": early, "peak": _peak()}


def _peak() -> float:
    """The most memory that this process has had, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


async def cost(options: Options) -> dict[str, float]:
    """The cost of an event with many others in the stream, and with many pending, as a multiple.

    Cost is processor time, of this process and the server. Compared with a backlog of 10,000: publishing
    and handling with `events` in the stream, and then with 100,000 pending.
    """
    async with EventBus(options.url) as bus:
        await fill(bus, 10_000 + PROBES * PROBE)
        small_publish, small_handle = await _probe(bus)
        await fill(bus, options.events)
        large_publish, large_handle = await _probe(bus)
        reader = Reader(TYPE, GROUP, "another")
        for _ in range(HELD // AT_ONCE):
            await bus.store.read(reader, limit=AT_ONCE)
        held_publish, held_handle = await _probe(bus)
    return {
        "publish, backlog": large_publish / small_publish,
        "handle, backlog": large_handle / small_handle,
        "publish, pending": held_publish / small_publish,
        "handle, pending": held_handle / small_handle,
    }


async def _probe(bus: EventBus) -> tuple[float, float]:
    published = [await _spent(bus, rate_of_publishing(bus, PROBE, 100)) for _ in range(PROBES)]
    handled = [await _spent(bus, rate_of_handling(bus, PROBE)) for _ in range(PROBES)]
    return min(published), min(handled)


async def _spent(bus: EventBus, work: Awaitable[float]) -> float:
    """Seconds of processor time that the work took, here and in the server."""
    before = time.process_time() + await server_seconds(bus)
    await work
    return time.process_time() + await server_seconds(bus) - before


async def consume(options: Options) -> dict[str, float]:
    """Handle events of the group until none has come for a second; how many, and when the first and last."""
    first = last = 0.0
    handled = 0

    async def handler(event: Event) -> None:
        nonlocal first, last, handled
        last = time.monotonic()
        first = first or last
        handled += 1

    async with EventBus(options.url) as bus, consuming(bus, handler):
        deadline = time.monotonic() + 10
        while time.monotonic() < max(deadline if not handled else 0.0, last + 1):
            await asyncio.sleep(0.1)
    return {"handled": handled, "first": first, "last": last}


async def together(options: Options) -> dict[str, float]:
    """Events a second that `tasks` processes of one group handle together, and the server's share of a core."""
    async with EventBus(options.url) as bus:
        await fill(bus, options.events)
        before = await server_seconds(bus)
        command = [sys.executable, "-m", __spec__.name, "consume", "--url", options.url]
        consumers = [
            await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE) for _ in range(options.tasks)
        ]
        outputs = await asyncio.gather(*(consumer.communicate() for consumer in consumers))
        after = await server_seconds(bus)
    found = [json.loads(output) for output, _ in outputs]
    handled = sum(one["handled"] for one in found)
    assert handled >= options.events, f"{handled} of {options.events} were handled"
    elapsed = max(one["last"] for one in found) - min(one["first"] for one in found if one["handled"])
    return {"rate": options.events / elapsed, "server": 100 * (after - before) / elapsed}


async def server_seconds(bus: EventBus) -> float:
    """Seconds of processor time of the Redis server; 0 if there is none."""
    if bus.url.startswith("sqlite:"):
        return 0.0
    import redis.asyncio

    async with redis.asyncio.Redis.from_url(bus.url) as client:
        cpu = await client.info("cpu")
    return float(cpu["used_cpu_sys"]) + float(cpu["used_cpu_user"])


if __name__ == "__main__":
    main(
        {
            "latency": latency,
            "send": send,
            "fill": fill_up,
            "memory": memory,
            "cost": cost,
            "consume": consume,
            "together": together,
        }
    )

"""Rows A of the fault catalogue: processes that stand still, stop, or die."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from forebay import Event, EventBus, Retry
from forebay.testing import eventually
from tests.crash.processes import History, Process
from tests.faults.consumers import Span, consume, spans

LEASE = 0.6


async def _handled(bus: EventBus, groups: int = 1) -> bool:
    [stats] = await bus.stats("t")
    return len(stats.groups) == groups and all(not group.lag and not group.pending for group in stats.groups)


async def test_f5_a_consumer_that_stood_still_begins_nothing_that_another_one_has_now(
    durable_url: str, namespace: str, tmp_path: Path
) -> None:
    history = History(tmp_path / "history")
    groups = {"ordered": {"lease": LEASE, "ordered": True}, "plain": {"lease": LEASE, "concurrency": 1}}
    async with EventBus(durable_url, namespace=namespace) as bus:
        both = [Process(consume, durable_url, namespace, history.path, groups, busy=0.04) for _ in range(2)]
        await eventually(lambda: len(history.facts("ready")) == 2, within=30)
        await bus.publish_many("t", source="s", data=range(40), keys=["k"] * 40)
        await eventually(lambda: history.facts("ended-ordered"), within=30)
        frozen = history.facts("ended-ordered")[0].process

        os.kill(frozen, signal.SIGSTOP)
        stopped = time.monotonic()
        await eventually(lambda: {f.process for f in history.facts("ended-ordered")} > {frozen}, within=30)
        os.kill(frozen, signal.SIGCONT)
        await eventually(lambda: _handled(bus, 2), within=60)

    assert [0, 0] == [process.terminate() for process in both]
    # The call that ran when the process was stopped cannot be taken back.
    ordered, plain = ([s for s in spans(history, g) if s.process != frozen or s.begun > stopped] for g in groups)
    assert [] == _overlaps(ordered)
    assert [] == [pair for pair in _overlaps(plain) if pair[0].event == pair[1].event]


def _overlaps(some: list[Span]) -> list[tuple[Span, Span]]:
    return [(a, b) for a, b in itertools.combinations(some, 2) if b.begun < (a.ended or math.inf)]


async def test_hung_threads_hold_up_nothing_that_another_consumer_could_handle(bus: EventBus) -> None:
    free = threading.Event()
    handled: set[int] = set()

    def hang(event: Event) -> None:
        free.wait(60)

    async def handle(event: Event) -> None:
        handled.add(event.data)

    hanging = bus.subscribe_to_stream("t", "g", concurrency=2, timeout=0.1, prefetch=20, retry=Retry(attempts=1))
    first = asyncio.create_task(hanging.consume_events(hang, grace=60))
    await eventually(lambda: bus.last_read is not None)
    try:
        await bus.publish_many("t", source="s", data=range(20))
        await eventually(lambda: _dead(bus, 2), within=30)
        second = asyncio.create_task(bus.subscribe_to_stream("t", "g").consume_events(handle))
        await eventually(lambda: len(handled) == 18, within=20)
        bus.stop()
        await asyncio.wait_for(asyncio.gather(first, second), 20)
    finally:
        free.set()


async def _dead(bus: EventBus, count: int) -> bool:
    return len(await bus.dead_letters("t")) == count


def test_a_hung_thread_keeps_no_process_from_ending() -> None:
    program = """if True:
        import asyncio, threading
        from forebay import EventBus

        bus = EventBus("memory://")

        @bus.on("t", timeout=0.05)
        def hang(event):
            threading.Event().wait()

        async def main():
            async with bus:
                await bus.publish("t", source="s")
                asyncio.get_running_loop().call_later(0.3, bus.stop)
                await bus.run()

        asyncio.run(main())
    """
    ended = subprocess.run([sys.executable, "-c", program], timeout=60, check=False)

    assert 0 == ended.returncode

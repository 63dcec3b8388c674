"""`forebay bench`: how fast events go through a store, measured on the store itself."""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from collections.abc import AsyncIterator
from typing import NamedTuple

import click

from forebay import Event, EventBus, connect
from forebay.cleanup import until_first_ends
from forebay.cli.column import Column
from forebay.cli.commands import chosen_url, refuses, say
from forebay.cli.loop import run_to_the_end_with_uvloop
from forebay.cli.output import Output, echo
from forebay.cli.progress import stoppable
from forebay.cli.text import plain
from forebay.store import END

TYPE = "bench"
GROUP = "bench"
DATA = {"order_id": 12345, "total": 99.5}
AT_ONCE = 1000
PROBES = 100
"""Events whose way is timed one by one."""


class Measured(NamedTuple):
    """A figure with its name and unit."""

    what: str
    figure: float
    unit: str


@click.command()
@refuses(namespace="the benchmark takes a namespace of its own.")
@click.option(
    "--events", type=click.IntRange(100, 1_000_000), default=20_000, show_default=True, help="At most so many."
)
@click.option("--tasks", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Publishers at once.")
@click.option(
    "--seconds", type=click.FloatRange(0.1, 60), default=2.0, show_default=True, help="For each measure, at most."
)
@click.pass_context
def bench(context: click.Context, events: int, tasks: int, seconds: float) -> None:
    """Measure how fast events go in and out of the store, and how long one takes.

    Small events, from one process. They go into a namespace of their own, which is removed again; but the
    server or disk is busy meanwhile: mind who else works on it.
    """
    root = context.find_root()
    url = chosen_url()

    async def measure() -> None:
        shown = _Shown(Output(json=root.params["json"]))
        async with connect(url, namespace=f"bench-{secrets.token_hex(4)}") as bus:
            say(f"measuring {bus.url}, at most {seconds:g} s for each line")
            with stoppable(lambda done: f"stopped after {done} of {LINES} lines") as report:
                try:
                    async for measured in _measure(bus, events, tasks, seconds):
                        shown.line(measured)
                        report(len(shown.lines))
                finally:
                    await (await bus.ready()).drop(TYPE)
        shown.end()

    run_to_the_end_with_uvloop(measure())


COLUMNS = (
    Column("measurement", lambda row: row.what),
    Column(
        "figure",
        lambda row: round(row.figure, 2),
        lambda figure: f"{figure:,.0f}" if figure >= 100 else plain(figure),
        kind="figure",
    ),
    Column("unit", lambda row: row.unit, kind="exact"),
)
LINES = 6
NAME_CELLS = 36
FIGURE_CELLS = 10


class _Shown:
    """Prints each line when it is measured; an array in JSON when all are."""

    def __init__(self, output: Output) -> None:
        self.lines: list[Measured] = []
        self._output = output

    def line(self, measured: Measured) -> None:
        """Print one line, the first one below a header."""
        output = self._output
        if output.terminal:
            if not self.lines:
                self._print(*(column.name for column in COLUMNS))
            self._print(*(column.show(column.value(measured)) for column in COLUMNS))
        elif not output.json:
            output.rows(COLUMNS, [measured], header=not self.lines)
        self.lines.append(measured)

    def _print(self, what: str, figure: str, unit: str) -> None:
        echo(f"{what:<{NAME_CELLS}}{figure:>{FIGURE_CELLS}}  {unit}")

    def end(self) -> None:
        """Print the figures that are printed only as a whole."""
        if self._output.json:
            self._output.rows(COLUMNS, self.lines, json=Measured._asdict)


async def _measure(bus: EventBus, events: int, tasks: int, seconds: float) -> AsyncIterator[Measured]:
    await bus.publish(TYPE, "bench", DATA)
    alone = await _publish(bus, events, 1, seconds)
    yield Measured("publish, one at a time", alone[0] / alone[1], "events/s")
    several = await _publish(bus, events, tasks, seconds)
    yield Measured(f"publish, {tasks} at a time", several[0] / several[1], "events/s")
    many = await _publish_many(bus, events, seconds)
    yield Measured(f"publish_many, {AT_ONCE} in a call", many[0] / many[1], "events/s")
    handled = await _handle(bus, 1 + alone[0] + several[0] + many[0], seconds)
    yield Measured("handle", handled[0] / handled[1], "events/s")
    times = await _time(bus, seconds)
    yield Measured("publish to handler, median", 1000 * statistics.median(times), "ms")
    yield Measured(f"publish to handler, slowest of {len(times)}", 1000 * max(times), "ms")


async def _publish(bus: EventBus, events: int, tasks: int, seconds: float) -> tuple[int, float]:
    """How many events were published, in how many seconds."""
    left = events
    started = time.perf_counter()

    async def publisher() -> None:
        nonlocal left
        while left > 0 and time.perf_counter() - started < seconds:
            left -= 1
            await bus.publish(TYPE, "bench", DATA)

    async with asyncio.TaskGroup() as group:
        for _ in range(tasks):
            group.create_task(publisher())
    return events - left, time.perf_counter() - started


async def _publish_many(bus: EventBus, events: int, seconds: float) -> tuple[int, float]:
    published = 0
    started = time.perf_counter()
    while published < events and time.perf_counter() - started < seconds:
        published += len(await bus.publish_many(TYPE, "bench", [DATA] * min(AT_ONCE, events - published)))
    return published, time.perf_counter() - started


async def _handle(bus: EventBus, events: int, seconds: float) -> tuple[int, float]:
    handled = 0
    done = asyncio.Event()

    async def handler(event: Event) -> None:
        nonlocal handled
        handled += 1
        if handled == events:
            done.set()

    consumer = bus.subscribe_to_stream(TYPE, GROUP)
    started = time.perf_counter()
    task = asyncio.create_task(consumer.consume_events(handler))
    await until_first_ends(task, done.wait(), timeout=seconds)
    found = handled, time.perf_counter() - started
    bus.stop()
    await task
    return found


async def _time(bus: EventBus, seconds: float) -> list[float]:
    """Seconds from before `publish` to the handler, of one event after the other."""
    times: list[float] = []
    arrived = asyncio.Event()
    sent = 0.0

    async def handler(event: Event) -> None:
        times.append(time.perf_counter() - sent)
        arrived.set()

    consumer = bus.subscribe_to_stream(TYPE, f"{GROUP}-time", start="latest")
    await (await bus.ready()).join(TYPE, f"{GROUP}-time", start=END)
    task = asyncio.create_task(consumer.consume_events(handler))
    deadline = time.perf_counter() + seconds
    while len(times) < PROBES and not (times and time.perf_counter() > deadline) and not task.done():
        await asyncio.sleep(0.005)
        arrived.clear()
        sent = time.perf_counter()
        await bus.publish(TYPE, "bench", DATA)
        await arrived.wait()
    bus.stop()
    await task
    return times

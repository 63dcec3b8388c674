"""The processes of a soak: writers that publish, and consumers that handle, until SIGTERM or worse."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import random
import signal
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from chaos.history import Answered, Ended, GroupPending, Invoked, Pen, now
from chaos.witness import Witness, name
from forebay import Event, EventBus, ForebayError, PublishUnknown, Reject, Retry, StoreError
from forebay.signals import DeadLettered, GroupCreated, LateAck, LeaseLost, LoopFailed, Recovered, Retried
from forebay.store import Delivery, Store
from forebay.stores.redis import RedisStore
from forebay.urls import open_store

STREAM = "soak"
ATTEMPTS = 5
PATIENCE = 1.5
"""Seconds that a Redis may take to answer."""
GROUPS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "ordered": {"ordered": True, "retry": Retry(attempts=ATTEMPTS, base=0.02)},
    "retrying": {"retry": Retry(attempts=ATTEMPTS, base=0.1)},
}
"""Three groups; in all but the plain one some events fail."""

NOISE = random.Random(1).randbytes(256 * 1024).hex()


class Plan(msgspec.Struct, frozen=True):
    """The common settings of the processes of one run."""

    url: str
    folder: Path
    seed: int
    lease: float = 2.0
    lanes: int = 8
    pause: float = 0.0
    """Seconds between two events of a lane."""
    slow: float = 0.0
    """Seconds that one event in forty takes, but in the ordered group; beside the usual, which is next to nothing."""


def chance(event: str) -> int:
    """A number that only depends on the event."""
    return zlib.crc32(event.encode())


def is_poison(event: str) -> bool:
    """Whether no handler can ever handle it, in groups that fail: one in a thousand."""
    return chance(event) % 1000 == 0


def failing_attempts(event: str) -> int:
    """How many attempts fail before one succeeds: 1 to 3, for one event in a hundred."""
    return chance(event) // 1000 % 3 + 1 if chance(event) % 100 == 1 else 0


def body(event: str) -> str:
    """50 bytes to 4 KiB of noise; 100 KiB in one event of a thousand."""
    draw = random.Random(chance(event))
    size = 100 * 1024 if chance(event) % 1000 == 2 else draw.randrange(50, 4096 if draw.random() < 0.1 else 300)
    start = draw.randrange(len(NOISE) - size)
    return NOISE[start : start + size]


def open_store_of(plan: Plan) -> Store:
    """The plan's store, which gives up on a silent server soon."""
    return RedisStore(plan.url, timeout=PATIENCE) if plan.url.startswith("redis") else open_store(plan.url)


@contextlib.asynccontextmanager
async def opened(bus: EventBus) -> AsyncIterator[EventBus]:
    """The bus, open; who starts while the store is away tries again, as a supervisor would let it."""
    while True:
        try:
            await bus.__aenter__()
            break
        except StoreError:
            await asyncio.sleep(0.1)
    try:
        yield bus
    finally:
        await bus.__aexit__(None, None, None)


def keep_log(plan: Plan) -> None:
    """Let what forebay logs go to a file beside the histories."""
    logger = logging.getLogger("forebay")
    handler = logging.FileHandler(plan.folder.parent / "log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(message)s"))
    logger.addHandler(handler)
    logger.propagate = False


async def write(plan: Plan, process: str, lanes: int | None = None, count: int | None = None) -> None:
    """Publish on several lanes at once, each one event after the other, under a key of its own."""
    pen = Pen(plan.folder, process)
    keep_log(plan)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with opened(EventBus(open_store_of(plan))) as bus, asyncio.TaskGroup() as group:
        for lane in range(lanes or plan.lanes):
            group.create_task(write_lane(bus, pen, f"{process}/{lane}", plan, stop=stop, count=count))


async def write_lane(
    bus: EventBus, pen: Pen, key: str, plan: Plan, *, stop: asyncio.Event, count: int | None = None
) -> None:
    """Publish event after event of one key; each has its outcome before the next begins."""
    draw = random.Random(f"{plan.seed} {key}")
    for number in itertools.count() if count is None else range(count):
        if stop.is_set():
            return
        event = f"{key}/{number}"
        text = body(event)
        data = {"crc": zlib.crc32(text.encode()), "body": text}
        pen.write(Invoked(now(), event, key, number))
        id: str | None = None
        while True:
            try:
                await bus.publish(STREAM, event, data, key=key, id=id)
                pen.write(Answered(now(), event, "ok"))
            except PublishUnknown as error:
                # Some are left unknown for good: they may be stored or not, and both is right.
                if id is None and draw.random() < 0.5:
                    pen.write(Answered(now(), event, "unknown", str(error.__cause__)))
                elif not stop.is_set():
                    id = error.id
                    pen.told("PublishUnknown", about=event)
                    await asyncio.sleep(0.05)
                    continue
            except ForebayError as error:
                # Refused when it is repeated after an unknown outcome: still unknown.
                pen.write(
                    Answered(now(), event, "fail" if id is None else "unknown", f"{type(error).__name__}: {error}")
                )
                await asyncio.sleep(0.05)
            break
        await asyncio.sleep(plan.pause * draw.uniform(0.5, 1.5))


async def consume(plan: Plan, process: str) -> None:
    """Handle the stream in every group until SIGTERM."""
    # Until `run` listens to it: who waits for the store to open has nothing to finish.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    pen = Pen(plan.folder, process)
    keep_log(plan)
    bus = consuming_bus(open_store_of(plan), plan, pen)
    async with opened(bus):
        await bus.run(grace=2.0)


def consuming_bus(store: Store, plan: Plan, pen: Pen) -> EventBus:
    """A bus with handlers in every group, which writes down what happens to its deliveries."""
    bus = EventBus(Witness(store, pen, lease=plan.lease))
    listen(bus, pen)
    calls = itertools.count()
    for group, options in GROUPS.items():
        bus.on(STREAM, group=group, lease=plan.lease, **options)(handler(plan, pen, group, calls))
    return bus


def handler(plan: Plan, pen: Pen, group: str, calls: itertools.count[int]) -> Callable[[Event], Any]:
    """A group's handler."""

    async def handle(event: Event) -> None:
        text = event.data["body"]
        intact = zlib.crc32(text.encode()) == event.data["crc"]
        call = next(calls)
        pen.write(GroupPending(now(), group, event.source, call, event.attempt, intact))
        how = "cancelled"
        try:
            await work(event, group, slow=plan.slow)
            how = "ok"
        except (ValueError, Reject):
            how = "error"
            raise
        finally:
            pen.write(Ended(now(), call, how))  # type: ignore[arg-type]  # one of the words

    return handle


async def work(event: Event, group: str, *, slow: float) -> None:
    """Take some time, now and then, and fail where the event says so."""
    if chance(event.source) % 50 == 0:
        await asyncio.sleep(0.01 + chance(event.source) % 7 * 0.02)
    if slow and group != "ordered" and chance(event.source) % 40 == 0:
        await asyncio.sleep(slow)
    if group != "plain":
        if is_poison(event.source):
            raise ValueError("poison")
        if event.attempt <= failing_attempts(event.source):
            raise ValueError("flaky")


def listen(bus: EventBus, pen: Pen) -> None:
    """Record the signals of the bus."""

    def about_delivery(signal: Any) -> None:
        delivery: Delivery = signal.delivery
        pen.told(type(signal).__name__, delivery.reader.group, name(delivery))

    bus.signals.listen(about_delivery, DeadLettered, LeaseLost, Recovered, Retried)
    bus.signals.listen(lambda s: pen.told("GroupCreated", s.group), GroupCreated)
    bus.signals.listen(lambda s: pen.told("LateAck", s.group, str(s.count)), LateAck)
    bus.signals.listen(lambda s: pen.told("LoopFailed", s.group, f"{s.loop} {type(s.error).__name__}"), LoopFailed)

"""A soak inside one process, in a second or two, on a store in memory: so small that it can show planted bugs.

Its consumers can fall silent (nothing they say reaches the store, for longer than a lease) and die (nothing
they say reaches the store, nor their history, ever again).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from chaos import checker, dump, ledger
from chaos.checker import Report
from chaos.dump import Dump
from chaos.history import Facts, Pen, Struck, now
from chaos.soak import Counted, drain
from chaos.workers import STREAM, Plan, consuming_bus, write_lane
from forebay import EventBus
from forebay.store import Outlook, Store
from forebay.stores.memory import MemoryStore
from forebay.testing import StoreProxy, eventually
from forebay.testing.proxy import Move

LEASE = 0.2
COUNT = 40
LANES = 8
WRITER = "w193"
"""Among its events are three that no handler can handle."""

NOTHING: dict[str, Any] = {"join": False, "retry": False, "dead_letter": False, "ack": 0, "release": 0}
NOTHING |= {"append_due": 0, "read": [], "take_due": [], "claim": [], "extend": []}
"""The results of the moves of dead consumers."""
IDLE = Outlook(scheduled=None, waiting=None, leased=False, unread=False)

T = TypeVar("T")
Bug = Callable[[Store], Store]


class Mortal(StoreProxy):
    """A store's end of the line to one process, which may be silent for a while, or dead."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.state = {"alive": True, "silent": False}

    async def around(self, move: Move, call: partial[Coroutine[Any, Any, T]]) -> T:
        while self.state["silent"]:
            await asyncio.sleep(0.01)
        if self.state["alive"]:
            return await call()
        if move == "arrivals":
            await asyncio.Event().wait()
        # Its bus goes on, but nothing that it does reaches the store.
        nothing: Any = [IDLE] * len(call.args[0]) if move == "outlook" else NOTHING[move]
        result: T = nothing
        return result


class MortalPen(Pen):
    """Writes nothing once its process is dead."""

    def __init__(self, folder: Path, process: str, mortal: Mortal) -> None:
        super().__init__(folder, process)
        self._mortal = mortal

    def write(self, fact: Facts) -> None:
        if self._mortal.state["alive"]:
            super().write(fact)


class Cast:
    """The consumers of a rehearsal."""

    def __init__(self, plan: Plan, store: Callable[[], Store]) -> None:
        self._plan = plan
        self._store = store
        self._tasks: list[asyncio.Task[None]] = []
        self._mortals: dict[str, Mortal] = {}
        self._buses: dict[str, EventBus] = {}
        self._pen = Pen(plan.folder, "nemesis")
        self._faults = 0

    def enter(self, name: str) -> None:
        """One more begins."""
        mortal = self._mortals[name] = Mortal(self._store())
        bus = self._buses[name] = consuming_bus(mortal, self._plan, MortalPen(self._plan.folder, name, mortal))

        # Called now, so that a stop counts even before the bus is open.
        running = bus.run(grace=1.0)

        async def play() -> None:
            async with bus:
                await running

        self._tasks.append(asyncio.create_task(play()))

    def die(self, name: str) -> None:
        """As with kill -9."""
        self._strike("consumer killed", "begin", name)
        self._mortals[name].state["alive"] = False
        self._buses[name].stop()
        self._strike("consumer killed", "end", name)
        self._faults += 1

    async def fall_silent(self, name: str, seconds: float) -> None:
        """As with a network that is gone."""
        self._strike("consumer stopped", "begin", name)
        self._mortals[name].state["silent"] = True
        await asyncio.sleep(seconds)
        self._mortals[name].state["silent"] = False
        self._strike("consumer stopped", "end", name)
        self._faults += 1

    def _strike(self, kind: str, phase: Any, name: str) -> None:
        self._pen.write(Struck(now(), kind, self._faults, phase, [name]))

    async def leave(self) -> None:
        """All end in peace."""
        for bus in self._buses.values():
            bus.stop()
        await asyncio.gather(*self._tasks)


async def rehearse(
    folder: Path, bug: Bug = lambda store: store, *, cut: Callable[[Dump], None] = lambda dump: None
) -> Report:
    """Soak a store that has the bug; `cut` does to the final dump what befell the store when all had left."""
    plan = Plan("memory://", folder, 1, lease=LEASE, slow=6 * LEASE)
    root = MemoryStore()
    buggy = bug(root)
    cast = Cast(plan, buggy.clone)
    cast.enter("c1")
    cast.enter("c2")
    stop = asyncio.Event()
    counted = Counted(folder)
    pen = Pen(folder, WRITER)
    async with EventBus(buggy) as bus:
        await eventually(lambda: _joined(bus))
        plan = msgspec.structs.replace(plan, pause=0.01)
        lanes = [
            asyncio.create_task(write_lane(bus, pen, f"{WRITER}/{lane}", plan, stop=stop, count=COUNT))
            for lane in range(LANES)
        ]
        await eventually(lambda: counted.events() > LANES * COUNT // 4)
        await cast.fall_silent("c1", 4 * LEASE)
        cast.die("c2")
        cast.enter("c3")
        await asyncio.gather(*lanes)
        await drain(bus, Pen(folder, "conductor"), 4.0)
        await cast.leave()
    async with EventBus(root) as bus:
        dumped = await dump.take(bus, STREAM)
    cut(dumped)
    return checker.check(ledger.read(folder), dumped)


async def _joined(bus: EventBus) -> bool:
    return any(len(found.groups) == 3 for found in await bus.stats(STREAM))

"""The parity report: what happened on each bus, over all processes that run both.

Each DualBus writes its counts as a note beside STREAM about once a second. What belongs to processes
that have ended is folded into one note, so that there are never many.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Literal

import msgspec

from forebay.migration.counts import Counts, TypeCounts
from forebay.migration.routes import STREAM, Route, routes_in
from forebay.store import Notes, Store

FRESH = 10.0
"""Seconds after which a process that writes no counts has died."""
_PROCESS = "process:"
_ENDED = "ended"
FOLDED = 100
"""Ended processes that are remembered as folded."""
GONE = 3600.0
"""Seconds after which a process that writes no counts will not write again."""
SILENT = 10
"""Processes that fell silent later than that and are not folded yet: some may only have been held up."""


Fate = Literal["alive", "ended", "died"]
"""What has become of a DualBus; one that has ended left nothing unfinished on the old bus."""


class Standing(msgspec.Struct, frozen=True):
    """What has become of a DualBus, and the time of its last word by the store's clock, 0 where that is not kept."""

    fate: Fate
    at: float = 0.0


class Member(msgspec.Struct):
    """What one DualBus tells: who it is, what it has seen of the switch, and its counts.

    `at` is Unix time by the store's clock, and `age` the seconds since then when it was read. `outstanding` are
    events that the old bus was handed for an agent and has not finished.
    """

    id: str
    at: float
    seen: dict[str, Route]
    counts: Counts
    outstanding: int = 0
    ended: bool = False
    host: str = msgspec.field(default_factory=socket.gethostname)
    pid: int = msgspec.field(default_factory=os.getpid)
    age: float = 0.0

    @property
    def fate(self) -> Fate:
        """What has become of it."""
        if self.ended:
            return "died" if self.outstanding else "ended"
        return "alive" if self.age < FRESH else "died"

    @property
    def alive(self) -> bool:
        """Whether it still writes."""
        return self.fate == "alive"


class _Ended(msgspec.Struct):
    counts: Counts = msgspec.field(default_factory=Counts)
    folded: dict[str, Fate] = {}


class TypeParity(msgspec.Struct, frozen=True):
    """One type, over all processes: see `TypeCounts`."""

    type: str
    old: int
    new: int
    missing: int
    extra: int
    differing: int
    past: int


class AgentParity(msgspec.Struct, frozen=True):
    """One agent and one type, over all processes: see `AgentCounts`.

    `old` and `new` are the p50 and p99 of the latency on each bus, in seconds, None where there are none.
    """

    agent: str
    route: Route
    type: str
    old_handled: int
    old_failed: int
    new_handled: int
    new_failed: int
    lost: int
    same: int
    unlike: int
    old: tuple[float | None, float | None]
    new: tuple[float | None, float | None]


class Parity(msgspec.Struct, frozen=True):
    """The whole report. `processes` counts the DualBuses that are alive, `outstanding` what they are at.

    `killed` counts those, of the last hundred or so, that ended with events in hand on the old bus, or without a
    word: of what they had in hand only that is counted as lost which no other process had seen on the new bus.
    """

    types: tuple[TypeParity, ...]
    agents: tuple[AgentParity, ...]
    processes: int
    outstanding: int
    killed: int = 0

    @property
    def agrees(self) -> bool:
        """Whether both buses had the same events, with the same data, and none was lost or handled differently."""
        return not any(each.missing or each.extra or each.differing or each.past for each in self.types) and not any(
            each.lost or each.unlike for each in self.agents
        )


async def members(store: Store) -> list[Member]:
    """What all DualBuses told, those that have ended and are not folded yet among them."""
    notes, now = await _read(store)
    return [member for member in _members(notes, now) if member.id not in _ended(notes).folded]


async def standings(store: Store) -> dict[str, Standing]:
    """Where each DualBus stands, of those that are remembered."""
    return _standings(*await _read(store))


async def _read(store: Store) -> tuple[Mapping[str, bytes], float]:
    """The notes, and the time by the store's clock: those of the processes may differ."""
    return await store.notes(STREAM), await store.time(STREAM)


async def parity(store: Store) -> Parity:
    """The report, as of about a second ago."""
    notes, now = await _read(store)
    ended, table = _ended(notes), routes_in(notes)
    total, alive = ended.counts, 0
    outstanding = 0
    for member in _members(notes, now):
        if member.id not in ended.folded:
            total.merge(member.counts)
            alive += member.alive
            outstanding += member.outstanding if member.alive else 0
    types = total.types | {name: TypeCounts() for name in total.agents.keys() - total.types.keys()}
    agents = sorted((agent, type) for type, by_agent in total.agents.items() for agent in by_agent)
    return Parity(
        types=tuple(TypeParity(name, *msgspec.structs.astuple(types[name])) for name in sorted(types)),
        agents=tuple(_agent_parity(total, agent, type, table.get(agent, "old")) for agent, type in agents),
        processes=alive,
        outstanding=outstanding,
        killed=sum(standing.fate == "died" for standing in _standings(notes, now).values()),
    )


def _agent_parity(total: Counts, agent: str, type: str, route: Route) -> AgentParity:
    counts = total.agent(type, agent)
    return AgentParity(
        agent=agent,
        route=route,
        type=type,
        old_handled=counts.old_handled,
        old_failed=counts.old_failed,
        new_handled=counts.new_handled,
        new_failed=counts.new_failed,
        lost=counts.lost,
        same=counts.same,
        unlike=counts.unlike,
        old=(counts.old_latency.quantile(0.5), counts.old_latency.quantile(0.99)),
        new=(counts.new_latency.quantile(0.5), counts.new_latency.quantile(0.99)),
    )


async def tell(store: Notes, member: Member) -> None:
    """Write what one DualBus has to tell."""
    await store.set_note(STREAM, _PROCESS + member.id, msgspec.json.encode(member))


async def fold(store: Store) -> None:
    """Put the counts of processes that have ended into one note.

    One that fell silent may go on, and its counts with it: it keeps its note while it is among the last few.
    Added first, under a mark that keeps a member from being counted twice; removed last.
    """
    notes, now = await _read(store)
    ended = _ended(notes)
    over = _over(_members(notes, now))
    fresh = [member for member in over if member.id not in ended.folded]
    for member in fresh:
        ended.counts.merge(member.counts)
        ended.folded[member.id] = member.fate
    ended.folded = dict(list(ended.folded.items())[-FOLDED:])
    if fresh and not await store.set_note(STREAM, _ENDED, msgspec.json.encode(ended), expected=notes.get(_ENDED)):
        return  # somebody else is at it
    for member in over:
        await store.set_note(STREAM, _PROCESS + member.id, None)


def _standings(notes: Mapping[str, bytes], now: float) -> dict[str, Standing]:
    folded = {id: Standing(fate) for id, fate in _ended(notes).folded.items()}
    return folded | {member.id: Standing(member.fate, member.at) for member in _members(notes, now)}


def _over(members: list[Member]) -> list[Member]:
    ended = [member for member in members if member.ended]
    silent = sorted((each for each in members if not each.ended and not each.alive), key=lambda member: member.at)
    late = [member for member in silent[-SILENT:] if member.age < GONE]
    return ended + silent[: len(silent) - len(late)]


def _members(notes: Mapping[str, bytes], now: float) -> list[Member]:
    found = [msgspec.json.decode(value, type=Member) for name, value in notes.items() if name.startswith(_PROCESS)]
    for member in found:
        member.age = now - member.at
    return found


def _ended(notes: Mapping[str, bytes]) -> _Ended:
    return msgspec.json.decode(notes[_ENDED], type=_Ended) if _ENDED in notes else _Ended()

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


ProcessState = Literal["alive", "ended", "died"]
"""What has become of a DualBus; one that has ended left nothing unfinished on the old bus."""


class LastReport(msgspec.Struct, frozen=True):
    """What has become of a DualBus, and the time of its last word by the store's clock, 0 where that is not kept."""

    state: ProcessState
    at: float = 0.0


class ProcessReport(msgspec.Struct):
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
    def state(self) -> ProcessState:
        """What has become of it."""
        if self.ended:
            return "died" if self.outstanding else "ended"
        return "alive" if self.age < FRESH else "died"

    @property
    def alive(self) -> bool:
        """Whether it still writes."""
        return self.state == "alive"


class _Ended(msgspec.Struct):
    counts: Counts = msgspec.field(default_factory=Counts)
    folded: dict[str, ProcessState] = {}


class TypeParity(msgspec.Struct, frozen=True):
    """One type, over all processes: see `TypeCounts`."""

    type: str
    old: int
    new: int
    missing: int
    extra: int
    differing: int
    bypassed: int


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
    different: int
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
        return not any(
            each.missing or each.extra or each.differing or each.bypassed for each in self.types
        ) and not any(each.lost or each.different for each in self.agents)


async def process_reports(store: Store) -> list[ProcessReport]:
    """What all DualBuses told, those that have ended and are not folded yet among them."""
    notes, now = await _read(store)
    return [report for report in _process_reports(notes, now) if report.id not in _ended(notes).folded]


async def last_reports(store: Store) -> dict[str, LastReport]:
    """Where each DualBus stands, of those that are remembered."""
    return _last_reports(*await _read(store))


async def _read(store: Store) -> tuple[Mapping[str, bytes], float]:
    """The notes, and the time by the store's clock: those of the processes may differ."""
    return await store.notes(STREAM), await store.time(STREAM)


async def parity(store: Store) -> Parity:
    """The report, as of about a second ago."""
    notes, now = await _read(store)
    ended, table = _ended(notes), routes_in(notes)
    total, alive = ended.counts, 0
    outstanding = 0
    for report in _process_reports(notes, now):
        if report.id not in ended.folded:
            total.merge(report.counts)
            alive += report.alive
            outstanding += report.outstanding if report.alive else 0
    types = total.types | {name: TypeCounts() for name in total.agents.keys() - total.types.keys()}
    agents = sorted((agent, type) for type, by_agent in total.agents.items() for agent in by_agent)
    return Parity(
        types=tuple(TypeParity(name, *msgspec.structs.astuple(types[name])) for name in sorted(types)),
        agents=tuple(_agent_parity(total, agent, type, table.get(agent, "old")) for agent, type in agents),
        processes=alive,
        outstanding=outstanding,
        killed=sum(last.state == "died" for last in _last_reports(notes, now).values()),
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
        different=counts.different,
        old=(counts.old_latency.quantile(0.5), counts.old_latency.quantile(0.99)),
        new=(counts.new_latency.quantile(0.5), counts.new_latency.quantile(0.99)),
    )


async def write_report(store: Notes, report: ProcessReport) -> None:
    """Write what one DualBus has to tell."""
    await store.set_note(STREAM, _PROCESS + report.id, msgspec.json.encode(report))


async def compact(store: Store) -> None:
    """Put the counts of processes that have ended into one note.

    One that fell silent may go on, and its counts with it: it keeps its note while it is among the last few.
    Added first, under a mark that keeps a report from being counted twice; removed last.
    """
    notes, now = await _read(store)
    ended = _ended(notes)
    over = _over(_process_reports(notes, now))
    fresh = [report for report in over if report.id not in ended.folded]
    for report in fresh:
        ended.counts.merge(report.counts)
        ended.folded[report.id] = report.state
    ended.folded = dict(list(ended.folded.items())[-FOLDED:])
    if fresh and not await store.set_note(STREAM, _ENDED, msgspec.json.encode(ended), expected=notes.get(_ENDED)):
        return  # somebody else is at it
    for report in over:
        await store.set_note(STREAM, _PROCESS + report.id, None)


def _last_reports(notes: Mapping[str, bytes], now: float) -> dict[str, LastReport]:
    folded = {id: LastReport(state) for id, state in _ended(notes).folded.items()}
    return folded | {report.id: LastReport(report.state, report.at) for report in _process_reports(notes, now)}


def _over(reports: list[ProcessReport]) -> list[ProcessReport]:
    ended = [report for report in reports if report.ended]
    silent = sorted((each for each in reports if not each.ended and not each.alive), key=lambda report: report.at)
    late = [report for report in silent[-SILENT:] if report.age < GONE]
    return ended + silent[: len(silent) - len(late)]


def _process_reports(notes: Mapping[str, bytes], now: float) -> list[ProcessReport]:
    found = [
        msgspec.json.decode(value, type=ProcessReport) for name, value in notes.items() if name.startswith(_PROCESS)
    ]
    for report in found:
        report.age = now - report.at
    return found


def _ended(notes: Mapping[str, bytes]) -> _Ended:
    return msgspec.json.decode(notes[_ENDED], type=_Ended) if _ENDED in notes else _Ended()

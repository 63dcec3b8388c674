"""The parity report: what happened on each bus, over all processes that run both.

Each DualBus writes its counts as a note beside STREAM about once a second. The counts of processes that have ended
are merged into one note, so that there are never many.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from typing import Literal

import msgspec

from forebay.migration.counts import Counts, TypeCounts
from forebay.migration.routes import STREAM, Route, routes_in
from forebay.presence import fence
from forebay.store import Notes, Store

SEEN_CHECK_SECONDS = 0.1
"""Time between two checks whether all processes have seen a switch."""
FRESH = 10.0
"""Seconds without a report after which a process counts as dead."""
PROCESS = "process:"
"""Prefix of the notes with a report; the id of the DualBus follows."""
_ENDED = "ended"
FOLDED = 100
"""Ended processes whose last state is kept."""
GONE = 3600.0
"""Seconds without a report after which a process will not write again."""
SILENT = 10
"""The most processes that are silent for less than that and keep a note of their own: they may only be held up."""


ProcessState = Literal["alive", "ended", "died"]
"""The state of a DualBus; one that has ended left no event unfinished on the old bus."""


class ProcessReport(msgspec.Struct):
    """The report of one DualBus: its id, the routes that it has seen, and its counts.

    `at` is Unix time by the store's clock, and `age` the seconds since then when it was read. `outstanding` counts
    the events that the old bus has for an agent and has not finished.
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
        """Its state, by its age."""
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

    `old` and `new` are the p50 and p99 of the latency on each bus, in seconds; None without events.
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
    """The whole report. `processes` counts the DualBuses that are alive, `outstanding` their unfinished events.

    `killed` counts the processes, of the last hundred or so, that died with unfinished events on the old bus. These
    count as lost only if no other process had read them on the new bus, so the true loss may be higher.
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
    """The reports of all DualBuses, also of those that have ended, until they are merged."""
    notes, now = await _read(store)
    return [report for report in _process_reports(notes, now) if report.id not in _ended(notes).folded]


async def wait_until_seen(store: Store, agent: str, route: Route, *, within: float = 10.0) -> tuple[int, int]:
    """Wait until every running process has seen that the agent is on this route, at most `within` seconds.

    Returns the number of running processes, and how many of them have seen it.
    """
    deadline = asyncio.get_running_loop().time() + within
    while True:
        alive = [report for report in await process_reports(store) if report.alive]
        seen = sum(report.seen.get(agent) == route for report in alive)
        if seen == len(alive) or asyncio.get_running_loop().time() > deadline:
            return len(alive), seen
        await asyncio.sleep(SEEN_CHECK_SECONDS)


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
        killed=sum(state == "died" for state in _states(notes, now).values()),
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
    """Write the report of one DualBus."""
    await store.set_note(STREAM, PROCESS + report.id, msgspec.json.encode(report))


async def compact(store: Store) -> None:
    """Merge the counts of processes that have ended into one note.

    A silent process may go on, and its counts with it: it keeps its note while it is among the last few. The counts are
    added first, with a mark that keeps a report from being counted twice; the reports are removed last.
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
        return  # another process does it now
    for report in over:
        name = PROCESS + report.id
        await fence(store, STREAM, name, notes[name])


def _states(notes: Mapping[str, bytes], now: float) -> dict[str, ProcessState]:
    return ended_states(notes) | {report.id: report.state for report in _process_reports(notes, now)}


def _over(reports: list[ProcessReport]) -> list[ProcessReport]:
    ended = [report for report in reports if report.ended]
    silent = sorted((each for each in reports if not each.ended and not each.alive), key=lambda report: report.at)
    late = [report for report in silent[-SILENT:] if report.age < GONE]
    return ended + silent[: len(silent) - len(late)]


def ended_states(notes: Mapping[str, bytes]) -> dict[str, ProcessState]:
    """The last state of each DualBus that has ended and has no note of its own any more."""
    return _ended(notes).folded


def _process_reports(notes: Mapping[str, bytes], now: float) -> list[ProcessReport]:
    found = [msgspec.json.decode(note, type=ProcessReport) for name, note in notes.items() if name.startswith(PROCESS)]
    for report in found:
        report.age = now - report.at
    return found


def _ended(notes: Mapping[str, bytes]) -> _Ended:
    return msgspec.json.decode(notes[_ENDED], type=_Ended) if _ENDED in notes else _Ended()

"""The histories of all processes, put in order by event."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from chaos import history
from chaos.history import (
    Answered,
    Ended,
    GroupPending,
    Invoked,
    Leased,
    Redriven,
    Settled,
    Struck,
    Told,
)

Place = tuple[str, str]
"""A group and an event."""


@dataclass(slots=True)
class Call:
    """One call of a handler. `until`: when its lease may have run out; `ended` is None if it never returned."""

    process: str
    begun: int
    until: int
    intact: bool
    ended: int | None = None
    how: Literal["ok", "error", "cancelled", "open"] = "open"


@dataclass(slots=True)
class Ledger:
    """All facts of a run, by their subject."""

    groups: set[str] = field(default_factory=set)
    outcomes: dict[str, str] = field(default_factory=dict)
    """ok, fail or unknown, for each event whose publish began."""
    refusals: Counter[str] = field(default_factory=Counter)
    calls: dict[Place, list[Call]] = field(default_factory=lambda: defaultdict(list))
    buried: dict[Place, int] = field(default_factory=dict)
    """When events were first about to be dead letters."""
    claims: Counter[Place] = field(default_factory=Counter)
    redriven: Counter[Place] = field(default_factory=Counter)
    told: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Signals, by name, and by the failure that they reported."""
    joins: int = 0
    """How often a group was made, or made again."""
    late_acks: int = 0
    refused: int = 0
    """Retries, dead letters and releases of a former holder, which the store did not take."""
    faults: list[tuple[Struck, int]] = field(default_factory=list)
    """Each fault, and when it ended."""
    published: array[int] = field(default_factory=lambda: array("q"))
    handled: dict[str, array[int]] = field(default_factory=lambda: defaultdict(lambda: array("q")))
    """When publishes were acknowledged, and handlers came back, per group."""

    @property
    def acknowledged(self) -> list[str]:
        """The events whose publish was answered with yes."""
        return [event for event, outcome in self.outcomes.items() if outcome == "ok"]


def read(folder: Path) -> Ledger:
    """The ledger of all histories in a folder."""
    ledger = Ledger()
    for path in history.processes(folder):
        _Reading(ledger, path.name).read(path)
    ledger.published = array("q", sorted(ledger.published))
    for group, times in ledger.handled.items():
        ledger.handled[group] = array("q", sorted(times))
    ledger.faults.sort(key=lambda fault: fault[0].time)
    return ledger


class _Reading:
    """Goes through the history of one process."""

    def __init__(self, ledger: Ledger, process: str) -> None:
        self._ledger = ledger
        self._process = process
        self._leases: dict[Place, int] = {}
        self._open: dict[int, tuple[Place, Call]] = {}
        self._running: dict[Place, Call] = {}
        self._struck: dict[int, Struck] = {}

    def read(self, path: Path) -> None:
        for fact in history.read(path):
            self._note(fact)

    def _note(self, fact: history.Facts) -> None:
        ledger = self._ledger
        match fact:
            case Invoked():
                ledger.outcomes.setdefault(fact.event, "unknown")
            case Answered():
                ledger.outcomes[fact.event] = fact.outcome
                if fact.outcome == "ok":
                    ledger.published.append(fact.time)
                else:
                    ledger.refusals[f"{fact.outcome}: {fact.why}"] += 1
            case Leased():
                self._lease(fact)
            case GroupPending():
                self._begin(fact)
            case Ended():
                self._end(fact)
            case Settled():
                self._settle(fact)
            case Told():
                ledger.told[fact.signal, fact.about if fact.signal == "LoopFailed" else ""] += 1
                if fact.signal == "GroupCreated":
                    ledger.joins += 1
                    ledger.groups.add(fact.group)
            case Struck(phase="begin"):
                self._struck[fact.number] = fact
            case Struck():
                ledger.faults.append((self._struck.pop(fact.number), fact.time))
            case Redriven():
                ledger.redriven[fact.group, fact.event] += 1

    def _lease(self, fact: Leased) -> None:
        for event in fact.events:
            place = (fact.group, event)
            self._leases[place] = max(fact.until, self._leases.get(place, 0))
            if fact.move != "extend":
                # A call that still runs under an earlier lease of this consumer has no part in the new one.
                self._running.pop(place, None)
            elif (call := self._running.get(place)) is not None:
                call.until = self._leases[place]
            if fact.move == "claim":
                self._ledger.claims[place] += 1

    def _begin(self, fact: GroupPending) -> None:
        place = (fact.group, fact.event)
        call = Call(self._process, fact.time, self._leases.get(place, 0), fact.intact)
        self._open[fact.call] = (place, call)
        self._running[place] = call
        self._ledger.groups.add(fact.group)
        self._ledger.calls[place].append(call)

    def _end(self, fact: Ended) -> None:
        place, call = self._open.pop(fact.call)
        call.ended, call.how = fact.time, fact.how
        if self._running.get(place) is call:
            del self._running[place]
        if fact.how == "ok":
            self._ledger.handled[place[0]].append(fact.time)

    def _settle(self, fact: Settled) -> None:
        if fact.move == "dead" and fact.count != 0:
            place = (fact.group, fact.events[0])
            self._ledger.buried[place] = min(fact.time, self._ledger.buried.get(place, fact.time))
        if fact.count is None:
            return
        missed = len(fact.events) - fact.count
        if fact.move == "ack":
            self._ledger.late_acks += missed
            for event in fact.events:
                self._leases.pop((fact.group, event), None)
        else:
            self._ledger.refused += missed

"""Says what became of every event of a soak, from the histories and the final dump of the store alone.

lost        acknowledged, and a group has neither handled it, nor holds it, nor keeps it as a dead letter
stuck       acknowledged, and a group has it still before it, although it had time enough
ghost       reported as surely not stored, and stored all the same
unexpected  never published, or its contents changed
inversion   in the ordered group, an event begun before one that was published before it under its key was done
overlap     one event in two handlers of a group while the lease of the first surely held
false dead  a dead letter that has not failed as often as it may
unexplained a duplicate without a crash, a lease that ran out, or a lost group as its cause

Jepsen's names for queues (lost, unexpected, duplicated, recovered) are kept.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator

import msgspec

from chaos.dump import Dump
from chaos.history import Struck
from chaos.ledger import Call, Ledger, Place
from chaos.workers import ATTEMPTS

SLACK = 5_000_000
"""Nanoseconds: Redis counts idle times in milliseconds, by a clock that it reads once a turn."""
EXAMPLES = 5

BREACHES = (
    "lost",
    "stuck",
    "ghost",
    "unexpected",
    "inversion",
    "overlap",
    "false dead",
    "dead and handled",
    "redriven twice",
    "stored twice",
    "unexplained duplicate",
)


class Report(msgspec.Struct):
    """The verdict. `breaches` has some examples of each broken promise, by its name."""

    acknowledged: int
    unknown: int
    recovered: int
    """Unknown outcomes that turned out to be stored."""
    refused_publishes: int
    handled: int
    counts: dict[str, int]
    """Of each kind of breach."""
    breaches: dict[str, list[str]]
    duplicates: dict[str, int]
    """By cause."""
    dead: int
    redriven: int
    late_acks: int
    refused_moves: int
    faults: dict[str, int]
    recovery: dict[str, float]
    """Of each kind of fault: the longest, in seconds, from its end until all went on again.

    Where another fault came in between, from the end of that one.
    """
    reached: dict[str, int]
    """How often rare states were reached."""

    @property
    def holds(self) -> bool:
        """Whether every promise was kept."""
        return not any(self.counts.values())


def check(ledger: Ledger, dump: Dump, *, ordered: str = "ordered") -> Report:
    """Judge a run."""
    found: dict[str, list[str]] = {kind: [] for kind in BREACHES}
    for kind, example in itertools.chain(
        _unfinished(ledger, dump),
        _not_what_was_published(ledger, dump),
        _inversions(ledger, ordered),
        _overlaps(ledger, dump),
        _wrongly_dead(ledger, dump),
        _stored_twice(ledger, dump),
    ):
        found[kind].append(example)
    duplicates: Counter[str] = Counter()
    for cause, example in _duplicates(ledger, dump):
        if cause == "unexplained":
            found["unexplained duplicate"].append(example)
        duplicates[cause] += 1
    unknown = [event for event, outcome in ledger.outcomes.items() if outcome == "unknown"]
    return Report(
        acknowledged=len(ledger.acknowledged),
        unknown=len(unknown),
        recovered=sum(event in dump.stored for event in unknown),
        refused_publishes=sum(outcome == "fail" for outcome in ledger.outcomes.values()),
        handled=sum(len(times) for times in ledger.handled.values()),
        counts={kind: len(examples) for kind, examples in found.items()},
        breaches={kind: examples[:EXAMPLES] for kind, examples in found.items() if examples},
        duplicates=dict(duplicates),
        dead=dump.dead.total(),
        redriven=ledger.redriven.total(),
        late_acks=ledger.late_acks,
        refused_moves=ledger.refused,
        faults=dict(Counter(fault.kind for fault, _ in ledger.faults)),
        recovery=_recovery(ledger),
        reached=_reached(ledger, dump),
    )


Found = Iterator[tuple[str, str]]


def _unfinished(ledger: Ledger, dump: Dump) -> Found:
    groups = sorted(ledger.groups | dump.open.keys())
    for event in ledger.acknowledged:
        if not dump.stored[event]:
            yield "lost", f"{event} is not in the store"
        for group in groups:
            if _is_handled(ledger, (group, event)) or dump.dead[group, event]:
                continue
            kind = "stuck" if event in dump.open.get(group, ()) and dump.stored[event] else "lost"
            yield kind, f"{event} for {group}"
    for group, events in dump.open.items():
        for event in events:
            if ledger.outcomes.get(event) != "ok" or _is_handled(ledger, (group, event)):
                yield "stuck", f"{event} for {group}: the store has it as unfinished"


def _is_handled(ledger: Ledger, place: Place) -> bool:
    return any(call.how == "ok" for call in ledger.calls.get(place, ()))


def _not_what_was_published(ledger: Ledger, dump: Dump) -> Found:
    for event in dump.stored:
        outcome = ledger.outcomes.get(event)
        if outcome is None:
            yield "unexpected", f"{event} is stored"
        elif outcome == "fail":
            yield "ghost", f"{event} is stored"
    for (group, event), calls in ledger.calls.items():
        outcome = ledger.outcomes.get(event)
        if outcome is None or not all(call.intact for call in calls):
            yield "unexpected", f"{event} was handed to {group}"
        elif outcome == "fail":
            yield "ghost", f"{event} was handed to {group}"


def _inversions(ledger: Ledger, ordered: str) -> Found:
    by_key: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for event in ledger.acknowledged:
        key, _, number = event.rpartition("/")
        by_key[key].append((int(number), event))
    for events in by_key.values():
        done, before = 0, ""
        for _, event in sorted(events):
            calls = ledger.calls.get((ordered, event))
            if not calls:
                continue
            first = min(call.begun for call in calls)
            if first < done:
                yield "inversion", f"{event} began {(done - first) / 1e9:.3f} s before {before} was done"
            if (end := _done(ledger, (ordered, event))) > done:
                done, before = end, event


def _done(ledger: Ledger, place: Place) -> int:
    """When the event was done for the first time, handled or dead; 0 where its end was not written down."""
    ends = [call.ended for call in ledger.calls[place] if call.how == "ok" and call.ended]
    if place in ledger.buried:
        ends.append(ledger.buried[place])
    return min(ends, default=0)


def _overlaps(ledger: Ledger, dump: Dump) -> Found:
    for place, calls in ledger.calls.items():
        if len(calls) < 2 or dump.stored[place[1]] > 1 or ledger.redriven[place]:
            continue
        calls.sort(key=lambda call: call.begun)
        for first, second in itertools.pairwise(calls):
            end = min(first.until, first.until if first.ended is None else first.ended)
            if second.begun < end - SLACK and not _group_was_lost(ledger, first, second):
                yield "overlap", f"{place[1]} for {place[0]}: {(end - second.begun) / 1e9:.3f} s, by {first.process}"


def _group_was_lost(ledger: Ledger, first: Call, second: Call) -> bool:
    """Whether the group's leases were destroyed with the group between two calls."""
    return any(
        fault.kind == "group destroyed" and fault.time <= second.begun and end + 10_000_000_000 >= first.begun
        for fault, end in ledger.faults
    )


def _wrongly_dead(ledger: Ledger, dump: Dump) -> Found:
    for place, letters in dump.dead.items():
        calls = sorted(ledger.calls.get(place, ()), key=lambda call: call.begun)
        tries = sum(call.how == "error" for call in calls) + ledger.claims[place]
        if tries < ATTEMPTS:
            yield "false dead", f"{place[1]} for {place[0]} after {tries} tries"
        twice = letters > 1 and not (calls and _group_was_lost(ledger, calls[0], calls[-1]))
        if twice or (_is_handled(ledger, place) and not ledger.redriven[place]):
            yield "dead and handled", f"{place[1]} for {place[0]}, {letters} dead letters"


def _stored_twice(ledger: Ledger, dump: Dump) -> Found:
    for event, count in dump.stored.items():
        if count > 1:
            yield "stored twice", f"{event}, {count} entries"
    for place, count in dump.copies.items():
        if count > ledger.redriven[place]:
            yield "redriven twice", f"{place[1]} for {place[0]}: {count} copies of {ledger.redriven[place]}"


def _duplicates(ledger: Ledger, dump: Dump) -> Found:
    killed, stopped = _victims(ledger, "killed"), _victims(ledger, "stopped")
    for place, calls in ledger.calls.items():
        done = sorted((call for call in calls if call.how == "ok"), key=lambda call: call.begun)
        for first, second in itertools.pairwise(done):
            example = f"{place[1]} for {place[0]}, by {first.process} and {second.process}"
            if dump.stored[place[1]] > 1 or ledger.redriven[place]:
                yield "stored twice", example
            elif _group_was_lost(ledger, first, second):
                yield "group lost", example
            elif second.begun < first.until - SLACK:
                yield "unexplained", example
            elif first.process in killed:
                yield "killed before its ack", example
            elif first.process in stopped:
                yield "stopped longer than its lease", example
            else:
                yield "no ack within the lease", example


def _victims(ledger: Ledger, what: str) -> set[str]:
    return {victim for fault, _ in ledger.faults if what in fault.kind for victim in fault.victims}


def _recovery(ledger: Ledger) -> dict[str, float]:
    worst: dict[str, float] = {}
    for fault, end in ledger.faults:
        for times in (ledger.published, *ledger.handled.values()):
            place = bisect_right(times, end)
            if place < len(times):
                again = times[place]
                seconds = (again - _undisturbed(ledger, end, again)) / 1e9
                worst[fault.kind] = max(worst.get(fault.kind, 0.0), seconds)
    orphans = _orphans(ledger)
    if orphans:
        worst["begun by a killed consumer, begun again"] = max(orphans)
    return {kind: round(seconds, 3) for kind, seconds in worst.items()}


def _undisturbed(ledger: Ledger, after: int, until: int, *, own: Struck | None = None) -> int:
    """The end of the last fault that there was between two times, if it is not `own`; else the first of them."""
    ends = [end for fault, end in ledger.faults if fault is not own and fault.time < until and after < end]
    return min(until, max([after, *ends]))


def _orphans(ledger: Ledger) -> list[float]:
    """For each event in a handler when its consumer was killed: seconds until it was begun again, or a dead letter."""
    killed = {victim: fault for fault, _ in ledger.faults if "killed" in fault.kind for victim in fault.victims}
    found = []
    for place, calls in ledger.calls.items():
        for call in calls:
            if call.how == "open" and call.process in killed:
                fault = killed[call.process]
                later = [again.begun for again in calls if again.begun > call.begun and again is not call]
                # After its last attempt it starts again only when its dead letter is redriven.
                buried = ledger.buried.get(place, 0)
                if later and buried > call.begun:
                    later.append(buried)
                if later:
                    again = min(later)
                    found.append(max(0, again - _undisturbed(ledger, fault.time, again, own=fault)) / 1e9)
    return found


def _reached(ledger: Ledger, dump: Dump) -> dict[str, int]:
    calls = ledger.calls
    unknown = {event for event, outcome in ledger.outcomes.items() if outcome == "unknown"}
    return {
        "expired lease claimed, then handled": sum(_is_handled(ledger, place) for place in ledger.claims),
        "former holder refused, or late": ledger.refused + ledger.late_acks + ledger.told["LeaseLost", ""],
        "retry that succeeded": sum(
            any(call.how == "error" for call in found) and any(call.how == "ok" for call in found)
            for found in calls.values()
            if len(found) > 1
        ),
        "dead letter": dump.dead.total() + ledger.redriven.total(),
        "redriven": ledger.redriven.total(),
        "lost group made again": max(0, ledger.joins - len(ledger.groups)),
        "unknown publish": len(unknown) + ledger.told["PublishUnknown", ""],
        "unknown publish found stored": len(unknown & dump.stored.keys()),
        "publish refused": sum(outcome == "fail" for outcome in ledger.outcomes.values()),
        "loop failed and went on": sum(n for (signal, _), n in ledger.told.items() if signal == "LoopFailed"),
    }

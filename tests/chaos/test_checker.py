"""The checker is tested first: it finds every planted bug, and nothing without one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from chaos.bugs import BUGS, cut_unsynced_tail
from chaos.checker import _recovery
from chaos.history import Struck
from chaos.ledger import Call, Ledger
from chaos.rehearsal import rehearse

from forebay.testing import StoreProxy


def test_a_store_without_a_bug_breaks_no_promise(tmp_path: Path) -> None:
    report = asyncio.run(rehearse(tmp_path))

    assert report.holds, report.breaches
    assert report.acknowledged == 320
    for state in ("expired lease claimed, then handled", "retry that succeeded", "dead letter", "redriven"):
        assert report.reached[state] > 0, state


@pytest.mark.parametrize(("bug", "breach"), BUGS.items(), ids=lambda value: getattr(value, "__name__", value))
def test_the_checker_finds_a_planted_bug(bug: type[StoreProxy], breach: str, tmp_path: Path) -> None:
    report = asyncio.run(rehearse(tmp_path, bug))

    assert report.counts[breach] > 0, (report.counts, report.reached)


def test_the_checker_finds_events_that_a_power_failure_took_from_a_store_without_sync(tmp_path: Path) -> None:
    report = asyncio.run(rehearse(tmp_path, cut=cut_unsynced_tail))

    assert report.counts["lost"] >= 10


def test_a_history_that_a_kill_has_torn_is_read_up_to_there(tmp_path: Path) -> None:
    from chaos import history

    pen = history.Pen(tmp_path, "c1")
    pen.told("GroupCreated", "plain")
    with (tmp_path / "c1").open("ab") as file:
        file.write(b'["told",12,"Jo')

    assert ["GroupCreated"] == [fact.signal for fact in history.read(tmp_path / "c1") if isinstance(fact, history.Told)]


@pytest.mark.parametrize(("buried", "seconds"), [(None, 28.0), (4, 2.0)])
def test_an_event_whose_consumer_was_killed_has_recovered_once_it_is_a_dead_letter(
    buried: int | None, seconds: float
) -> None:
    second, place = 1_000_000_000, ("g", "w0/0/1")
    ledger = Ledger(faults=[(Struck(2 * second, "consumer killed", 1, "begin", ["c1"]), 2 * second)])
    ledger.calls[place] = [
        Call("c1", second, 3 * second, intact=True),
        Call("c2", 30 * second, 32 * second, intact=True, ended=31 * second, how="ok"),
    ]
    if buried is not None:
        ledger.buried[place] = buried * second

    assert {"begun by a killed consumer, begun again": seconds} == _recovery(ledger)

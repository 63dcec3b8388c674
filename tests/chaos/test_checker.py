"""The checker is tested first: it finds every planted bug, and nothing without one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from chaos.bugs import BUGS, cut_unsynced_tail
from chaos.checker import Report, _recovery
from chaos.history import Struck
from chaos.ledger import Call, Ledger
from chaos.rehearsal import rehearse

from forebay.testing import StoreProxy


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    """The verdicts on each bug, on none, and on a power failure; all soaked at once."""
    names = ["none", "power failure", *(bug.__name__ for bug in BUGS)]
    folders = [tmp_path_factory.mktemp("histories") for _ in names]

    async def all_at_once() -> list[Report]:
        return await asyncio.gather(
            rehearse(folders[0]),
            rehearse(folders[1], cut=cut_unsynced_tail),
            *(rehearse(folder, bug) for bug, folder in zip(BUGS, folders[2:], strict=True)),
        )

    return dict(zip(names, asyncio.run(all_at_once()), strict=True))


def test_a_store_without_a_bug_breaks_no_promise(reports: dict[str, Report]) -> None:
    report = reports["none"]

    assert report.holds, report.breaches
    assert report.acknowledged == 320
    for state in ("expired lease claimed, then handled", "retry that succeeded", "dead letter", "redriven"):
        assert report.reached[state] > 0, state


@pytest.mark.parametrize(("bug", "breach"), BUGS.items(), ids=lambda value: getattr(value, "__name__", value))
def test_the_checker_finds_a_planted_bug(bug: type[StoreProxy], breach: str, reports: dict[str, Report]) -> None:
    report = reports[bug.__name__]

    assert report.counts[breach] > 0, (report.counts, report.reached)


def test_the_checker_finds_events_that_a_power_failure_took_from_a_store_without_sync(
    reports: dict[str, Report],
) -> None:
    assert reports["power failure"].counts["lost"] >= 10


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

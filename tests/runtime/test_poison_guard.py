"""Events of dead consumers are tried one at a time, and from their third delivery on alone."""

from __future__ import annotations

from forebay.event import Record
from forebay.runtime.dedup import REMEMBERED_IDS, Deduplicator
from forebay.runtime.poison import PoisonGuard
from forebay.store import Delivery, Reader


def test_one_suspect_is_claimed_after_the_other_has_started() -> None:
    guard = PoisonGuard(crashes_allowed=5)
    assert guard.may_claim

    guard.claimed("a", attempt=2)
    assert not guard.may_claim
    guard.started("another")
    assert not guard.may_claim
    guard.started("a")

    assert guard.may_claim


def test_from_the_third_delivery_on_a_suspect_runs_to_its_end_alone() -> None:
    guard = PoisonGuard(crashes_allowed=5)

    guard.claimed("a", attempt=3)
    guard.started("a")
    assert not guard.may_claim
    guard.finished("another")
    assert not guard.may_claim
    guard.finished("a")

    assert guard.may_claim


def test_where_two_crashes_are_allowed_it_is_alone_from_the_second_delivery_on() -> None:
    guard = PoisonGuard(crashes_allowed=2)

    guard.claimed("a", attempt=2)
    guard.started("a")

    assert not guard.may_claim


def test_a_suspect_that_ends_unstarted_makes_way() -> None:
    guard = PoisonGuard(crashes_allowed=5)

    guard.claimed("a", attempt=2)
    guard.finished("a")

    assert guard.may_claim


def _delivery(id: str, stream: str = "t") -> Delivery:
    return Delivery(Reader(stream, "g", "c"), "1", Record("t", "s", b"1", "2026", id))


def test_the_latest_handled_ids_are_remembered_for_each_stream() -> None:
    handled = Deduplicator()
    for number in range(REMEMBERED_IDS + 1):
        handled.add(_delivery(str(number)))

    assert _delivery("1") in handled
    assert _delivery("0") not in handled
    assert _delivery("1", "u") not in handled
    assert Delivery(Reader("t", "g", "c"), "1", None) not in handled

"""Members are alive while an observer sees their notes change, by the observer's clock."""

from __future__ import annotations

import asyncio

import pytest

from forebay import EventBus, OutcomeUnknown
from forebay.leadership import Leadership
from forebay.presence import Observer, OwnNote, fence
from forebay.stores.memory import MemoryStore
from forebay.testing import FaultyStore, eventually

LIFETIME = 10.0


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_member_first_seen_is_unknown_until_its_lifetime_has_passed() -> None:
    clock = Clock()
    observer = Observer[str](clock=clock)

    states = []
    for clock.now in (0.0, 9.0, 10.0):
        states.append(observer.look({"m": b"1"})["m"].state(LIFETIME))

    assert ["unknown", "unknown", "gone"] == states


def test_a_member_is_alive_for_its_lifetime_after_each_change() -> None:
    clock = Clock()
    observer = Observer[str](clock=clock)

    states = []
    for clock.now, note in ((0.0, b"1"), (9.0, b"2"), (18.0, b"2"), (19.0, b"2"), (20.0, b"3")):
        states.append(observer.look({"m": note})["m"].state(LIFETIME))

    assert ["unknown", "alive", "alive", "gone", "alive"] == states


def test_a_member_that_appears_after_the_first_look_is_alive() -> None:
    observer = Observer[str](clock=Clock())
    observer.look({})

    assert "alive" == observer.look({"m": b"1"})["m"].state(LIFETIME)


def test_a_note_that_vanished_and_is_there_again_is_a_new_member() -> None:
    clock = Clock()
    observer = Observer[str](clock=clock)
    observer.look({"m": b"1"})
    clock.now = 20.0
    observer.look({})

    assert "alive" == observer.look({"m": b"1"})["m"].state(LIFETIME)


def test_an_observer_that_stood_still_counts_no_more_than_its_longest_gap() -> None:
    clock = Clock()
    observer = Observer[str](clock=clock, longest_gap=4.0)
    observer.look({"m": b"1"})
    clock.now = 3600.0

    assert 4.0 == observer.look({"m": b"1"})["m"].unchanged


def test_the_stores_clock_decides_a_first_look_and_later_ones_only_within_the_observed_time() -> None:
    clock = Clock()
    observer = Observer[str](clock=clock)

    assert 500.0 == observer.look({"m": b"1"})["m"].silence(age=500.0)
    clock.now = 3.0
    changed = observer.look({"m": b"2"})["m"]
    assert [3.0, 2.0, 0.0] == [changed.silence(age) for age in (500.0, 2.0, -500.0)]
    clock.now = 8.0
    unchanged = observer.look({"m": b"2"})["m"]
    assert [8.0, 7.0, 5.0] == [unchanged.silence(age) for age in (500.0, 7.0, -500.0)]


async def test_a_fenced_member_learns_it_at_its_next_renewal(bus: EventBus) -> None:
    store = bus.store
    held_up = OwnNote(store, "s", "m")
    assert await held_up.take(b"1")

    assert await fence(store, "s", "m", b"1")

    assert not await held_up.renew(b"2")
    assert {} == await store.notes("s")


async def test_a_member_that_renewed_in_time_is_not_fenced(bus: EventBus) -> None:
    store = bus.store
    member = OwnNote(store, "s", "m")
    await member.take(b"1")
    await member.renew(b"2")

    assert not await fence(store, "s", "m", b"1")
    assert await member.give_back()
    assert {} == await store.notes("s")


@pytest.mark.parametrize("happened", [True, False], ids=["written", "not written"])
async def test_a_renewal_without_an_answer_does_not_fence_the_member(happened: bool) -> None:
    store = FaultyStore(MemoryStore())
    async with store:
        member = OwnNote(store, "s", "m")
        await member.take(b"1")
        order = store.fail_after if happened else store.fail_before
        order("set_note", OutcomeUnknown("the answer is lost"))
        with pytest.raises(OutcomeUnknown):
            await member.renew(b"2")

        assert await member.renew(b"3")
        assert {"m": b"3"} == await store.notes("s")


async def test_a_leader_goes_on_after_renewals_without_an_answer() -> None:
    store = FaultyStore(MemoryStore())
    async with store:
        leadership = Leadership(store, "s", seconds=0.4)
        renewed = set[bytes]()

        async def lead() -> None:
            async with leadership.lead():
                await asyncio.Event().wait()

        leading = asyncio.create_task(lead())
        await eventually(lambda: leadership.held)
        store.fail_after("set_note", OutcomeUnknown("the answer is lost"), times=2)
        while len(renewed) < 8:
            renewed |= set((await store.notes("s")).values())
            await asyncio.sleep(0.01)

        assert leadership.held
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)
        assert {} == await store.notes("s")

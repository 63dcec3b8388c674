"""A dead letter has the history of its event: its tries, its last error and the lines that raised it."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import msgspec
import pytest

from forebay import DeadLetter, Event, EventBus, Reject, Retry
from forebay.policy import TRACEBACK_CHARACTERS, TRACEBACK_LINES, failure_of, history, last_frames
from forebay.store import Delivery, Reader

SECRET = "hunter2"
OFTEN = Retry(attempts=3, base=0, cap=0)


def price(order: dict[str, Any]) -> float:
    rates: dict[str, float] = {"known": 0.19}
    return rates[order["rate"]]


async def _died(bus: EventBus, data: Any = None) -> DeadLetter:
    await bus.publish("t", source="s", data=data)
    await bus.run(until_idle=True)
    [letter] = await bus.dead_letters("t")
    return letter


async def test_a_dead_letter_has_the_traceback_of_its_last_error(bus: EventBus) -> None:
    @bus.on("t", group="g", retry=OFTEN)
    async def charge(event: Event) -> None:
        price(event.data)

    letter = await _died(bus, {"rate": "vat_rate", "password": SECRET})

    assert ("KeyError: 'vat_rate'", 3) == (letter.error, letter.attempts)
    lines = letter.traceback.splitlines()
    assert [__file__] * 2 == [line.split('"')[1] for line in lines if line.startswith("  File")]
    assert "price(event.data)" in lines[1]
    assert 'return rates[order["rate"]]' in lines[3]
    assert "KeyError" == lines[-1]
    assert SECRET not in letter.traceback


@pytest.mark.parametrize("ordered", [False, True])
async def test_the_reason_counts_the_consumers_that_died_apart_from_the_failures(bus: EventBus, ordered: bool) -> None:
    await bus.store.join("t", "g")
    await bus.publish("t", source="s", data=1)
    dying = Reader("t", "g", "dying", ordered)
    [held] = await bus.store.read(dying, limit=1)
    failure = failure_of(_raised(lambda: price({"rate": "vat_rate"})))
    for _ in range(2):
        await bus.store.retry(held, delay=0.0, failure=failure)
        [held] = await bus.store.take_due(dying, limit=1)

    @bus.on("t", group="g", retry=Retry(attempts=3, base=0), lease=0.1, ordered=ordered)
    async def charge(event: Event) -> None: ...

    await bus.run(until_idle=True)

    [letter] = await bus.dead_letters("t")
    expected = "tried 3 times: failed 2 times, last with KeyError: 'vat_rate'; 1 consumer died or fell silent"
    assert (expected, 3) == (letter.error, letter.attempts)
    assert 'rates[order["rate"]]' in letter.traceback


async def test_an_event_that_only_kills_consumers_has_no_error_to_show(bus: EventBus) -> None:
    await bus.store.join("t", "g")
    await bus.publish("t", source="s", data=1)
    await _lapsed(bus, tries=2)

    @bus.on("t", group="g", retry=Retry(attempts=2), lease=0.1)
    async def charge(event: Event) -> None: ...

    await bus.run(until_idle=True)

    [letter] = await bus.dead_letters("t")
    expected = ("tried 2 times: 2 consumers died or fell silent", 2, "")
    assert expected == (letter.error, letter.attempts, letter.traceback)


async def test_a_last_failure_after_a_death_names_both(bus: EventBus) -> None:
    await bus.store.join("t", "g")
    await bus.publish("t", source="s", data=1)
    await _lapsed(bus, tries=1)

    @bus.on("t", group="g", retry=Retry(attempts=1), lease=0.1)
    async def charge(event: Event) -> None:
        raise Reject("not ours")

    await bus.run(until_idle=True)

    [letter] = await bus.dead_letters("t")
    expected = "tried 2 times: failed 1 time, last with Reject: not ours; 1 consumer died or fell silent"
    assert (expected, 2) == (letter.error, letter.attempts)


async def test_an_event_takes_a_handful_of_consumers_with_it_however_often_it_may_fail(bus: EventBus) -> None:
    await bus.store.join("t", "g")
    await bus.publish("t", source="s", data=1)
    await _lapsed(bus, tries=5)

    @bus.on("t", group="g", retry=Retry(attempts=1000), lease=0.1)
    async def charge(event: Event) -> None: ...

    await bus.run(until_idle=True)

    [letter] = await bus.dead_letters("t")
    assert "tried 5 times: 5 consumers died or fell silent" == letter.error


async def test_a_batch_a_thread_and_a_timeout_show_the_handlers_lines(bus: EventBus) -> None:
    once = Retry(attempts=1)

    @bus.on("batch", group="g", retry=once, batch=10)
    async def batch(events: list[Event]) -> None:
        price({"rate": "in a batch"})

    @bus.on("thread", group="g", retry=once)
    def thread(event: Event) -> None:
        price({"rate": "in a thread"})

    @bus.on("slow", group="g", retry=once, timeout=0.3)
    async def slow(event: Event) -> None:
        await asyncio.sleep(60)

    @bus.on("hung", group="g", retry=once, timeout=0.3)
    def hung(event: Event) -> None:
        time.sleep(1.0)

    @bus.on("group", group="g", retry=once)
    async def grouped(event: Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(slowly({"rate": "in a group"}))

    async def slowly(order: dict[str, Any]) -> None:
        price(order)

    names = ("batch", "thread", "slow", "hung", "group")
    for name in names:
        await bus.publish(name, source="s", data=1)
    await bus.run(until_idle=True)

    found = {name: (await bus.dead_letters(name))[0].traceback for name in names}
    assert 'price({"rate": "in a batch"})' in found["batch"]
    assert 'price({"rate": "in a thread"})' in found["thread"]
    assert "await asyncio.sleep(60)" in found["slow"]
    assert "time.sleep(1.0)" in found["hung"]
    assert 'return rates[order["rate"]]' in found["group"]


async def test_a_class_that_fails_over_its_data_shows_its_lines(bus: EventBus) -> None:
    class Price(msgspec.Struct):
        rate: str

        def __post_init__(self) -> None:
            if self.rate != "known":
                raise ValueError("no such rate")

    @bus.on(Price, group="g")
    async def charge(order: Price) -> None: ...

    await bus.publish("price", source="s", data={"rate": "vat_rate"})
    await bus.run(until_idle=True)

    [letter] = await bus.dead_letters("price")
    assert 'raise ValueError("no such rate")' in letter.traceback
    assert 1 == letter.attempts


async def test_the_traceback_of_a_final_failure_is_logged_and_that_of_each_at_debug(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    @bus.on("t", group="g", retry=Retry(attempts=2, base=0, cap=0))
    async def charge(event: Event) -> None:
        price(event.data)

    with caplog.at_level(logging.DEBUG, "forebay"):
        await _died(bus, {"rate": "vat_rate\x1b[31m"})

    assert [logging.DEBUG, logging.ERROR] == [
        record.levelno for record in caplog.records if 'return rates[order["rate"]]' in record.getMessage()
    ]
    assert "\x1b" not in caplog.text


def test_a_traceback_is_short_however_deep_the_error_was_raised_and_whatever_caused_it() -> None:
    def dive(depth: int) -> None:
        if depth:
            dive(depth - 1)
        raise ValueError(SECRET * 100)

    def wrapped() -> None:
        try:
            dive(200)
        except ValueError as error:
            raise RuntimeError("x" * 10_000) from error

    for raise_it in (lambda: dive(500), wrapped, lambda: exec(compile(f"{'x' * 5000}()", "y" * 9000, "exec"))):
        text = last_frames(_raised(raise_it))
        assert len(text.splitlines()) <= TRACEBACK_LINES
        assert len(text) <= TRACEBACK_CHARACTERS
        assert SECRET not in text
    both = last_frames(_raised(wrapped))
    assert "raise RuntimeError" in both
    assert "raise ValueError" in both


def test_the_reason_stays_one_line_of_500_characters_and_keeps_its_counts() -> None:
    reason = history("KeyError: " + "x" * 490, attempts=7, failures=5)

    assert len(reason) == 500
    assert reason.startswith("tried 7 times: failed 5 times, last with KeyError: xxx")
    assert reason.endswith("…; 2 consumers died or fell silent")


def _raised(function: Any) -> BaseException:
    try:
        function()
    except BaseException as error:  # noqa: BLE001  # the subject of the test
        return error
    raise AssertionError("nothing was raised")


async def _lapsed(bus: EventBus, *, tries: int) -> Delivery:
    """Deliver the event so often to consumers that fall silent."""
    [held] = await bus.store.read(Reader("t", "g", "dying-1"), limit=1)
    for number in range(2, tries + 1):
        reader, taken = Reader("t", "g", f"dying-{number}"), list[Delivery]()
        while not taken:  # the cursor of a claim may be at the end
            taken = await bus.store.claim(reader, idle=0.0)
        [held] = taken
    assert tries == held.attempt
    return held

"""What waits for its time costs a consumer one timer, however many events wait."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from forebay import Event, EventBus, Retry, RetryAfter
from forebay.runtime.alarm import FAR_SECONDS, Alarm
from forebay.testing import eventually
from tests.support.stores import dealt

MANY = 400
ORDERED = {"ordered": True, "prefetch": MANY}


def timers() -> int:
    """The timers of this loop that are not cancelled."""
    return sum(not timer.cancelled() for timer in asyncio.get_running_loop()._scheduled)  # type: ignore[attr-defined]  # no other way to see them


@dealt(
    "how",
    *[(86_400.0, {}), (45.0, ORDERED), (86_400.0, ORDERED), (45.0, {})],
    ids=["a day", "seconds-ordered", "a day-ordered", "seconds"],
)
async def test_many_events_that_wait_have_one_timer_and_none_after_the_run(
    bus: EventBus, how: tuple[float, dict[str, Any]]
) -> None:
    wait, options = how
    tried = 0

    @bus.on("t", group="g", retry=Retry(attempts=100), **options)  # type: ignore[untyped-decorator]  # their batch is known at run time
    async def put_off(event: Event) -> None:
        nonlocal tried
        tried += 1
        raise RetryAfter(wait)

    before = timers()
    await bus.publish_many("t", source="s", data=range(MANY), keys=[str(number) for number in range(MANY)])
    run = asyncio.create_task(bus.run())
    await eventually(lambda: tried == MANY, within=60)
    during = timers()
    bus.stop()
    await run

    assert during < 30
    await eventually(lambda: timers() <= before)


async def test_waits_that_end_one_after_the_other_are_each_met(bus: EventBus) -> None:
    begun: dict[int, float] = {}
    late: list[float] = []

    @bus.on("t", group="g", retry=Retry(attempts=2))
    async def put_off(event: Event) -> None:
        if event.attempt == 1:
            begun[event.data] = time.monotonic()
            raise RetryAfter(0.3 + event.data / 20)
        late.append(time.monotonic() - begun[event.data] - 0.3 - event.data / 20)

    await bus.publish_many("t", source="s", data=range(8))
    await bus.run(until_idle=True)

    # Without alarms they are met by looks each half second: a quarter of a second late, on average.
    assert sorted(late)[4] < 0.2


async def test_the_nearest_moment_comes_first_whenever_it_was_asked_for() -> None:
    due: list[str] = []
    resumed: list[int] = []
    alarm = Alarm[int](take_due=due.append, resume=resumed.append)

    for number, delay in ((1, 0.2), (2, 0.05), (3, 0.1), (4, 0.0)):
        alarm.resume_in(delay, number)
        alarm.take_due_in(delay, f"s{number}")
    alarm.take_due_in(FAR_SECONDS + 1, "far")

    await eventually(lambda: len(resumed) == 4)
    assert [4, 2, 3, 1] == resumed
    await eventually(lambda: due == ["s4", "s2", "s3", "s1"])


async def test_waits_of_one_stream_that_end_together_are_met_together() -> None:
    due: list[str] = []
    alarm = Alarm[int](take_due=due.append, resume=lambda _: None)

    for _ in range(100):
        alarm.take_due_in(0.05, "s")
    alarm.take_due_in(0.05, "t")

    await eventually(lambda: "t" in due)
    assert due.count("s") < 10
    assert due.count("t") == 1


async def test_after_it_was_closed_nothing_is_called() -> None:
    called: list[object] = []
    alarm = Alarm[int](take_due=called.append, resume=called.append)
    before = timers()
    alarm.take_due_in(0.01, "s")
    alarm.resume_in(0.01, 1)

    alarm.close()
    alarm.take_due_in(0.0, "s")
    alarm.resume_in(0.0, 1)
    await asyncio.sleep(0.05)

    assert [] == called
    assert before == timers()


def test_waits_are_met_on_uvloop_too() -> None:
    uvloop = pytest.importorskip("uvloop", reason="uvloop does not exist on Windows")
    due: list[str] = []

    async def main() -> None:
        alarm = Alarm[int](take_due=due.append, resume=lambda _: None)
        # uvloop has a handle of another kind for a moment in the past.
        for delay in (-1.0, -0.5, 0.03, 0.01):
            alarm.take_due_in(delay, "s")
        await eventually(lambda: len(due) >= 4)
        alarm.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())

    assert 4 == len(due)

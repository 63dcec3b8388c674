"""Retry: a handler that raises gets the event again, up to a limit."""

from __future__ import annotations

import asyncio

from forebay import Event, EventBus, HandlerTimeout, Reject, Retry, RetryAfter
from forebay.signals import Retried

QUICK = Retry(attempts=3, base=0.001, cap=0.002)


async def test_a_failed_event_is_tried_again_and_then_succeeds(bus: EventBus) -> None:
    attempts: list[int] = []

    @bus.on("t", group="g", retry=QUICK)
    async def handle(event: Event) -> None:
        attempts.append(event.attempt)
        if len(attempts) < 3:
            raise ConnectionError("not yet")

    await bus.publish("t", source="s")
    await bus.run(until_idle=True)

    assert [1, 2, 3] == attempts
    assert [] == await bus.dead_letters("t")


async def test_an_event_that_a_handler_rejects_is_not_tried_again(bus: EventBus) -> None:
    attempts: list[int] = []

    @bus.on("t", group="g", retry=Retry(attempts=5))
    async def handle(event: Event) -> None:
        attempts.append(event.attempt)
        raise Reject("not for us")

    await bus.publish("t", source="s")
    await bus.run(until_idle=True)

    assert [1] == attempts
    assert ["Reject: not for us"] == [letter.error for letter in await bus.dead_letters("t")]


async def test_a_handler_may_set_the_delay_of_its_next_attempt(bus: EventBus) -> None:
    attempts: list[int] = []

    @bus.on("t", group="g", retry=Retry(attempts=2, base=60))
    async def handle(event: Event) -> None:
        attempts.append(event.attempt)
        raise RetryAfter(0.01)

    await bus.publish("t", source="s")
    await bus.run(until_idle=True)

    assert [1, 2] == attempts
    assert ["RetryAfter: retry after 0.01 s"] == [letter.error for letter in await bus.dead_letters("t")]


async def test_a_handler_that_takes_too_long_has_failed(bus: EventBus) -> None:
    errors: list[BaseException] = []
    bus.signals.listen(lambda signal: errors.append(signal.error), Retried)

    @bus.on("t", timeout=0.02, retry=Retry(attempts=2, base=0))
    async def handle(event: Event) -> None:
        await asyncio.Event().wait()

    await bus.publish("t", source="s")
    await bus.run(until_idle=True)

    assert [HandlerTimeout] == [type(error) for error in errors]
    assert "ran longer than 0.02 s" in (await bus.dead_letters("t"))[0].error

"""Dead letters: list them, and redrive them."""

from __future__ import annotations

from forebay import Event, EventBus, Retry

QUICK = Retry(attempts=3, base=0.001, cap=0.002)


async def test_after_its_last_attempt_an_event_is_a_dead_letter_with_the_reason(bus: EventBus) -> None:
    @bus.on("t", group="g", retry=QUICK)
    async def handle(event: Event) -> None:
        raise ValueError("no such order")

    id = await bus.publish("t", source="s", data={"a": 1}, key="k")
    await bus.run(until_idle=True)

    (letter,) = await bus.dead_letters("t")
    assert ("g", 3, "ValueError: no such order") == (letter.group, letter.attempts, letter.error)
    assert (id, b'{"a":1}', "k") == (letter.record.id, letter.record.data, letter.record.key)  # type: ignore[union-attr]  # events, as the test knows
    assert [] == await bus.pending("t", "g")


async def test_a_redriven_event_goes_to_its_own_group_only_with_fresh_attempts(bus: EventBus) -> None:
    seen: list[tuple[str, str, int]] = []
    broken = True

    @bus.on("t", group="good")
    async def good(event: Event) -> None:
        seen.append(("good", event.id, event.attempt))

    @bus.on("t", group="bad", retry=Retry(attempts=1))
    async def bad(event: Event) -> None:
        if broken:
            raise ValueError
        seen.append(("bad", event.id, event.attempt))

    id = await bus.publish("t", source="s")
    await bus.run(until_idle=True)
    broken = False
    assert 1 == await bus.redrive("t")
    await bus.run(until_idle=True)

    assert [("good", id, 1), ("bad", id, 1)] == seen
    assert [] == await bus.dead_letters("t")

"""Observe: the signals of a bus."""

from __future__ import annotations

from forebay import Event, EventBus, Retry
from forebay.signals import DeadLettered, Finished, Published, Retried


async def test_listeners_get_signals_and_an_error_of_theirs_does_not_stop_the_bus(bus: EventBus) -> None:
    heard: list[str] = []

    def listener(signal: object) -> None:
        heard.append(type(signal).__name__)
        raise RuntimeError("a bad listener")

    bus.signals.listen(listener, Published, Finished, Retried, DeadLettered)

    @bus.on("t", retry=Retry(attempts=2, base=0))
    async def handle(event: Event) -> None:
        if event.data:
            raise ValueError

    await bus.publish("t", source="s", data=False)
    await bus.publish("t", source="s", data=True)
    await bus.run(until_idle=True)

    assert ["DeadLettered", "Finished", "Published", "Published", "Retried"] == sorted(heard)

"""A bus whose event loop was closed while it consumed can be used on another event loop."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

from forebay import Event, EventBus
from forebay.announcer import STREAM
from forebay.testing import eventually


async def _consume(bus: EventBus, handled: list[object]) -> asyncio.Task[None]:
    """Consume until an event is handled, and until the announcer waits for a change."""
    before = len(handled)
    await bus.publish("t", "s", before)
    running = asyncio.create_task(bus.run(handle_signals=False))

    async def is_under_way() -> bool:
        return len(handled) > before and bool(await bus.store.notes(STREAM))

    await eventually(is_under_way)
    await asyncio.sleep(0)
    return running


async def _consume_and_close(bus: EventBus, handled: list[object]) -> None:
    async with bus:
        running = await _consume(bus, handled)
        bus.stop()
        await running


def _main() -> None:
    bus, handled = EventBus("memory://"), list[object]()

    @bus.on("t", group="g")
    def note(event: Event) -> None:
        handled.append(event.data)

    loop = asyncio.new_event_loop()
    forgotten = loop.run_until_complete(_consume(bus, handled))
    loop.close()
    asyncio.run(_consume_and_close(bus, handled))
    sys.stdout.write(f"{handled} {forgotten.done()}\n")
    sys.stdout.flush()
    # The tasks of the closed loop have no orderly end.
    os._exit(0)


def test_a_bus_consumes_again_after_its_loop_was_closed_while_it_consumed() -> None:
    child = [sys.executable, "-W", "ignore", "-m", __name__]

    assert "[0, 1] False\n" == subprocess.run(child, check=True, capture_output=True, text=True, timeout=60).stdout


if __name__ == "__main__":
    _main()

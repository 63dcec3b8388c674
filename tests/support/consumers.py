"""Consumers as real processes, which record their work, for tests that stop and kill them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forebay import Event, EventBus
from tests.support.processes import Fact, History


@dataclass(frozen=True, slots=True)
class Span:
    """One call of a handler. `ended` is None if it never returned."""

    process: int
    event: str
    begun: float
    ended: float | None


def spans(history: History, group: str) -> list[Span]:
    """The calls of a group's handlers, in the order in which they began."""
    open_at: dict[tuple[int, str], Fact] = {}
    found: list[Span] = []
    for fact in history.facts(f"begun-{group}", f"ended-{group}"):
        place = (fact.process, fact.id)
        if fact.what.startswith("begun"):
            open_at[place] = fact
        else:
            found.append(Span(fact.process, fact.id, open_at.pop(place).time, fact.time))
    found += [Span(fact.process, fact.id, fact.time, None) for fact in open_at.values()]
    return sorted(found, key=lambda span: span.begun)


async def consume(
    url: str, namespace: str, history: Path, groups: dict[str, dict[str, Any]], *, busy: float, grace: float = 10.0
) -> None:
    """Handle the stream "t" in these groups, each with its options, until SIGTERM."""
    note = History(history).writer()
    bus = EventBus(url, namespace=namespace)

    def subscribe(group: str, options: dict[str, Any]) -> None:
        @bus.on("t", group=group, **options)  # type: ignore[untyped-decorator]  # their batch is known at run time
        async def handle(event: Event) -> None:
            note(f"begun-{group}", event.id)
            await asyncio.sleep(busy)
            note(f"ended-{group}", event.id)

    for group, options in groups.items():
        subscribe(group, options)
    async with bus:
        run = asyncio.create_task(bus.run(grace=grace))
        while bus.last_read is None and not run.done():
            await asyncio.sleep(0.01)
        note("ready", "-")
        await run

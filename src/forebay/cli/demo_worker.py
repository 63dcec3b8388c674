"""One worker process of `forebay demo`: a group that does real work on real files, with staged mishaps.

It notes what happens to each event in a file of its own, one JSON line per fact, so that the demo can
count by ids whatever becomes of this process.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forebay import Event, EventBus, Retry
from forebay.signals import DeadLettered, Recovered, Retried
from forebay.store import Delivery
from forebay.urls import default_url

EVENT = "file_found"
LEASE = 1.5
"""Seconds until the events of a killed worker are taken over."""


def checksum(event: Event) -> str:
    """The SHA-256 of the file."""
    with Path(event.data["path"]).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def count_lines(event: Event) -> int:
    """How many lines the file has; one event in ten finds its disk busy at the first attempt."""
    if event.data["number"] % 10 == 0 and event.attempt == 1:
        raise OSError("the disk is busy")
    with Path(event.data["path"]).open("rb") as file:
        return sum(1 for _ in file)


def catalog(event: Event, *, fixed: Path) -> dict[str, Any]:
    """An entry for the catalog; a bug spoils the first file, until it is fixed."""
    if event.data["number"] == 0 and not fixed.exists():
        raise KeyError("suffixes")
    path = Path(event.data["path"])
    return {"name": path.name, "suffixes": path.suffixes, "size": event.data["size"]}


async def work(options: argparse.Namespace) -> None:
    """Run one group until SIGTERM."""
    notes = os.open(options.notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(fact: str, id: str) -> None:
        os.write(notes, (json.dumps([fact, id]) + "\n").encode())

    def note_signal(fact: str) -> Callable[[Any], None]:
        return lambda signal: note(fact, _id(signal.delivery))

    handle: Callable[[Event], object] = {
        "checksums": checksum,
        "line-counts": count_lines,
        "catalog": lambda event: catalog(event, fixed=Path(options.fixed)),
    }[options.group]

    bus = EventBus(default_url(), namespace=options.namespace)
    for kind, fact in ((Retried, "retried"), (DeadLettered, "dead"), (Recovered, "taken over")):
        bus.signals.listen(note_signal(fact), kind)

    @bus.on(EVENT, group=options.group, concurrency=4, lease=LEASE, retry=Retry(attempts=3, base=0.05, cap=0.2))
    async def worker(event: Event) -> None:
        note("begun", event.id)
        if options.slow:
            await asyncio.sleep(options.slow)
        # It was a file when it was found; that it is gone by now is not this group's failure.
        with contextlib.suppress(FileNotFoundError):
            await asyncio.to_thread(handle, event)
        note("handled", event.id)

    async with bus:
        await bus.run()


def _id(delivery: Delivery) -> str:
    return getattr(delivery.record, "id", delivery.position)


def main() -> None:
    """The entry point of the process."""
    parser = argparse.ArgumentParser()
    for name in ("namespace", "group", "notes", "fixed"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--slow", type=float, default=0.0)
    asyncio.run(work(parser.parse_args()))


if __name__ == "__main__":
    main()

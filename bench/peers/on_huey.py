"""Huey on SQLite, without fsync; a task that is taken is gone from the file."""

from __future__ import annotations

import threading
import time
from typing import Any

from bench.subject import DATA, Options, main
from huey import SqliteHuey


def _huey(options: Options) -> Any:
    return SqliteHuey("bench", fsync=False, filename=options.url.removeprefix("sqlite:///"), results=False)


def publish(options: Options) -> float:
    """Tasks a second, one after the other: threads only get into each other's way."""
    huey = _huey(options)

    @huey.task()
    def handler(data: dict[str, Any]) -> None:
        """Do nothing."""

    started = time.perf_counter()
    for _ in range(options.events):
        handler(DATA)
    return options.events / (time.perf_counter() - started)


def handle(options: Options) -> float:
    """Tasks a second, by its consumer with one worker, the default."""
    huey = _huey(options)
    left = options.events
    first = 0.0
    done = threading.Event()

    @huey.task()
    def handler(data: dict[str, Any]) -> None:
        nonlocal left, first
        first = first or time.perf_counter()
        left -= 1
        if not left:
            done.set()

    for _ in range(options.events):
        handler(DATA)
    consumer = huey.create_consumer(workers=1, periodic=False)
    consumer.start()
    done.wait()
    elapsed = time.perf_counter() - first
    consumer.stop(graceful=True)
    return options.events / elapsed


if __name__ == "__main__":
    main({"publish": publish, "handle": handle})

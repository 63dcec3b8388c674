"""dramatiq on Redis: a message is acknowledged when its actor has returned."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dramatiq
from bench.subject import DATA, Options, main
from dramatiq.brokers.redis import RedisBroker

THREADS = 8
"""Its default for workers; publishing from more threads is slower."""


def _broker(options: Options) -> Any:
    broker = RedisBroker(url=options.url)
    dramatiq.set_broker(broker)
    return broker


def publish(options: Options) -> float:
    """Messages a second, from so many threads as it works with."""
    _broker(options)

    @dramatiq.actor
    def handler(data: dict[str, Any]) -> None:
        """Do nothing."""

    with ThreadPoolExecutor(THREADS) as pool:
        started = time.perf_counter()
        list(pool.map(handler.send, [DATA] * options.events))
        return options.events / (time.perf_counter() - started)


def handle(options: Options) -> float:
    """Messages a second."""
    broker = _broker(options)
    left = options.events
    first = 0.0
    lock = threading.Lock()
    done = threading.Event()

    @dramatiq.actor
    def handler(data: dict[str, Any]) -> None:
        nonlocal left, first
        with lock:
            first = first or time.perf_counter()
            left -= 1
            if not left:
                done.set()

    for _ in range(options.events):
        handler.send(DATA)
    worker = dramatiq.Worker(broker, worker_threads=THREADS)
    worker.start()
    done.wait()
    elapsed = time.perf_counter() - first
    worker.stop()
    return options.events / elapsed


if __name__ == "__main__":
    main({"publish": publish, "handle": handle})

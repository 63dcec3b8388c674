"""A subject is a program under measurement: it takes one measure, and prints the result as JSON.

    python -m bench.subjects.SUBJECT MEASURE [--url URL] [--events N] [--tasks N] [--uvloop]

Yardsticks, forebay and its peers are all subjects. Each measurement is a process of its own, so that
it inherits no memory, loop or connections, and a peer may have another environment.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

TYPE = "order_placed"
SOURCE = "shop"
DATA = {"order_id": 12345, "total": 99.5}
FIELDS = (
    "type",
    TYPE,
    "source",
    SOURCE,
    "data",
    json.dumps(DATA, separators=(",", ":")),
    "timestamp",
    "2026-11-23T10:00:00.123456+00:00",
)
"""The small event: the four fields of a plain event, with some 30 bytes of JSON."""


@dataclass(frozen=True)
class Options:
    """The arguments of a measure. `url` names an empty store; `events` is the number of events to move."""

    url: str
    events: int
    tasks: int


Measure = Callable[[Options], Any]


def main(measures: Mapping[str, Measure]) -> None:
    """Carry out the measure that the command line names, and print its finding."""
    parser = argparse.ArgumentParser()
    parser.add_argument("measure", choices=measures)
    parser.add_argument("--url", default="")
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--uvloop", action="store_true", help="run on uvloop instead of asyncio's own loop")
    asked = parser.parse_args()
    measure = measures[asked.measure]
    options = Options(asked.url, asked.events, asked.tasks)
    if not inspect.iscoroutinefunction(measure):
        found = measure(options)
    elif asked.uvloop:
        import uvloop

        found = uvloop.run(measure(options))
    else:
        found = asyncio.run(measure(options))
    json.dump(found, sys.stdout)
    print()

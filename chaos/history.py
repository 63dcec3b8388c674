"""The histories of the processes of a soak: one file each, one write(2) a fact, so that SIGKILL loses none.

Times are nanoseconds of CLOCK_MONOTONIC, which all processes of the machine share. An event is named by
its `source`: writer/lane/number. Within a process a group has one consumer, so the process names it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

Move = Literal["ack", "retry", "dead", "release"]


class Fact(msgspec.Struct, array_like=True, gc=False):
    """Something that happened at `time`."""

    time: int


class Invoked(Fact, tag="invoke"):
    """A publish begins; the event is the `number`-th of its key."""

    event: str
    key: str
    number: int


class Answered(Fact, tag="answer"):
    """A publish came back: stored, surely not stored, or unknown."""

    event: str
    outcome: Literal["ok", "fail", "unknown"]
    why: str = ""


class Leased(Fact, tag="lease"):
    """Leases were given or renewed; they hold until `until` at least: the time before the call, plus the lease."""

    group: str
    move: str
    until: int
    events: list[str]


class GroupPending(Fact, tag="begin"):
    """A handler is called; `call` is the number of the call within the process."""

    group: str
    event: str
    call: int
    attempt: int
    intact: bool


class Ended(Fact, tag="end"):
    """A handler returned, raised, or was cancelled."""

    call: int
    how: Literal["ok", "error", "cancelled"]


class Settled(Fact, tag="settle"):
    """From `time` on the store was given settlements; `count` is how many it accepted, None: unknown."""

    group: str
    move: Move
    events: list[str]
    count: int | None


class Told(Fact, tag="told"):
    """A signal of the bus, by its name, with its subject."""

    signal: str
    group: str
    about: str = ""


class Struck(Fact, tag="fault"):
    """The nemesis begins or ends a fault; `victims` are the processes it befalls, none: the store or all."""

    kind: str
    number: int
    phase: Literal["begin", "end"]
    victims: list[str] = []


class Redriven(Fact, tag="redrive"):
    """A dead letter was sent round again."""

    group: str
    event: str


Facts = Invoked | Answered | Leased | GroupPending | Ended | Settled | Told | Struck | Redriven

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Facts)


def now() -> int:
    """Nanoseconds on the clock of all histories."""
    return time.monotonic_ns()


class Pen:
    """Writes the history of one process."""

    def __init__(self, folder: Path, process: str) -> None:
        self._file = os.open(folder / process, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, fact: Facts) -> None:
        """Write one fact down, in one write(2)."""
        os.write(self._file, _encoder.encode(fact) + b"\n")

    def told(self, signal: str, group: str = "", about: str = "") -> None:
        """Write down a signal, now."""
        self.write(Told(now(), signal, group, about))


def read(path: Path) -> Iterator[Facts]:
    """The facts of one process, in order; a last line that a kill has torn is left out."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield _decoder.decode(line)


def processes(folder: Path) -> Sequence[Path]:
    """The histories in a folder; a file's name is its process's."""
    return sorted(path for path in folder.iterdir() if path.is_file())

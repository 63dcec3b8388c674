"""The time of one event by its parts, for each rate that misses its target, and the conclusion.

    python -m bench.profiles [--only PATTERN] [--all] [--quick] [--to FILE]

Measures like `python -m bench`, then runs what missed once more, and its yardstick, while samples are taken:
see samples.py. `--all` shows what met its target too.
"""

from __future__ import annotations

import argparse
import linecache
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from bench.harness import Findings, Places, measure, run, say
from bench.rows import Figure, Row, rows
from bench.samples import INTERVAL, THREADS

LOOP, WRITER = THREADS
NAMES = {LOOP: "loop", WRITER: "writer"}
SECONDS = 5.0
"""How long a run takes about, while samples are taken."""
ENOUGH = 1_000
"""Samples of a program; a run that crashed is followed by another one, `MOST` in all."""
MOST = 8


@dataclass(frozen=True)
class Call:
    """One of the calls that a sample found a thread in."""

    file: str
    line: int
    function: str

    @property
    def text(self) -> str:
        """Such as "/lib/asyncio/events.py run: self._context.run(…)"; the patterns of the parts match it."""
        return f"{self.file} {self.function}: {linecache.getline(self.file, self.line).strip()}"


@dataclass(frozen=True)
class Part:
    """A part of the work: calls whose text the pattern finds, and their own calls that are in no other part.

    `is_needed`: every program that keeps the promises and awaits each event needs it.
    """

    name: str
    pattern: str
    is_needed: bool = False

    def holds(self, call: Call) -> bool:
        """Whether the call is of this part."""
        return re.search(self.pattern, call.text) is not None


WAITING = Part(
    "waiting: for the server, the other thread, or work",
    # The writer wakes the loop with a byte, and waits for the interpreter's lock, which the loop has then.
    r"selectors\.py select|\.recv\(1 << 20|_queue\.get\(|_write_to_self: csock\.send",
)
PARTS = (
    WAITING,
    Part("the kernel: read and write the socket", r"selector_events\.py .*\.(send|recv)\(|\.sendall\(", is_needed=True),
    Part("hiredis: pack commands, parse replies", r"hiredis\.pack_command|\.gets\(|\.feed\(", is_needed=True),
    Part("SQLite: commit, write and flush", r'execute\("COMMIT"\)', is_needed=True),
    Part("SQLite: statements", r"bare_sqlite\.py|(connection|database)\.execute", is_needed=True),
    Part("the event: id, time, JSON, checks", r"forebay/(event|payload)\.py", is_needed=True),
    Part("fields or rows, checksum", r"forebay/stores/(redis/codec|sqlite/(rows|log|transaction))\.py"),
    Part("asyncio: loop, futures, tasks", r"/asyncio/|\.create_future\(|\.set_result\(|\.call_soon\(", is_needed=True),
    Part("in flight, workers, settling", r"forebay/(runtime|signals|subscription|policy)\b"),
    Part("calls of the bus and the store", r"/forebay/"),
    Part("the benchmark itself", r"/bench/"),
)
"""A sample counts for the part of its innermost call that is in any; among several, the first one here."""
ELSE = Part("everything else", "")


@dataclass(frozen=True)
class Profile:
    """How the samples of a program are spread: for each of its threads that works, how many each part got."""

    counts: Mapping[str, Mapping[Part, int]]

    def spent(self, thread: str, part: Part, each: float) -> float:
        """Time that the thread spends in the part, where an event takes `each`."""
        return each * self.counts[thread].get(part, 0) / sum(self.counts[thread].values())

    def needed(self, thread: str, each: float) -> float:
        """Time that the thread spends in parts that cannot be left out."""
        return sum(self.spent(thread, part, each) for part in PARTS if part.is_needed)


def stacks(samples: str) -> list[list[Call]]:
    """The calls of each sample, innermost first, from the output of `faulthandler`; incomplete ones are left out."""
    found = []
    for sample in re.split(r"^.*\(most recent call first\):\n", samples, flags=re.MULTILINE)[1:]:
        calls = re.findall(r'^  File "(.*)", line (\d+) in (.*)\n', sample, re.MULTILINE)
        if calls:
            found.append([Call(file, int(line), function) for file, line, function in calls])
    return found


def part_of(calls: Iterable[Call]) -> Part:
    """The part that a sample counts for."""
    return next((part for call in calls for part in PARTS if part.holds(call)), ELSE)


def take(figures: Iterable[Figure], found: Findings) -> dict[Figure, Profile]:
    """Run each once more, while samples are taken."""
    with (
        tempfile.TemporaryDirectory(prefix="forebay-bench-", ignore_cleanup_errors=True) as folder,
        ExitStack() as stack,
    ):
        places = Places(Path(folder), stack)
        return {figure: _take(figure, places, found.median(figure)) for figure in dict.fromkeys(figures)}


def _take(figure: Figure, places: Places, rate: float) -> Profile:
    subject = replace(figure.subject, events=1000 * max(1, round(SECONDS * rate / 1000)))
    # In memory, so that writing samples is cheap, and no other flush of the disk waits for it.
    with tempfile.TemporaryDirectory(prefix="forebay-bench-", dir="/dev/shm") as folder:
        samples: dict[str, list[list[Call]]] = {}
        for number in range(MOST):
            if len(samples.get(LOOP, ())) < ENOUGH:
                say(f"profile {number + 1}: {figure.name}")
                run(subject, places, Path(folder))
                samples = {file.stem: stacks(file.read_text()) for file in sorted(Path(folder).iterdir())}
    assert samples.get(LOOP), f"no samples of {figure.name}"
    return Profile({thread: Counter(map(part_of, calls)) for thread, calls in samples.items() if calls})


def report(chosen: list[Row], found: Findings) -> str:
    """Take the profiles that the rows need, and write them down, as Markdown."""
    figures = [figure for row in chosen for figure in (row.figure, row.yardstick) if figure and figure.is_sampled]
    profiles = take(figures, found)
    return "\n\n".join([_HEAD, *(section(row, found, profiles) for row in chosen)]) + "\n"


_HEAD = f"""\
# Where the time of a missed target goes

Microseconds for each event: the share of samples times what an event takes without them, the median of the rounds.
Samples are taken of each thread every {1000 * INTERVAL:g} ms of real time, {ENOUGH:,} or more of a program, so a share
is right to some three hundredths of the whole. Parts in *italics* are those that nobody can leave out who keeps the
promises and awaits each event; they may become faster, not go away. What a thread waits for the interpreter's lock
counts for the call that wants it back, apart from the byte that wakes the loop. bench/profiles.py says which
calls make up a part."""


def section(row: Row, found: Findings, profiles: Mapping[Figure, Profile]) -> str:
    """A row: the time by parts, and the conclusion."""
    assert row.yardstick is not None
    columns = [
        (
            f"{who}{', the writer thread' if thread == WRITER else ''}",
            profiles[figure],
            thread,
            1e6 / found.median(figure),
        )
        for who, figure in (("forebay", row.figure), (row.yardstick.name, row.yardstick))
        if figure in profiles
        for thread in THREADS
        if thread in profiles[figure].counts
    ]
    lines = [f"| µs | {' | '.join(column[0] for column in columns)} |", f"|---|{'---:|' * len(columns)}"]
    for part in (*PARTS, ELSE):
        spent = [profile.spent(thread, part, each) for _, profile, thread, each in columns]
        if any(spent):
            name = f"*{part.name}*" if part.is_needed else part.name
            lines.append(f"| {name} | {' | '.join(f'{value:.2f}' if value else '' for value in spent)} |")
    lines.append(f"| all | {' | '.join(f'{each:.2f}' for *_, each in columns)} |")
    return "\n\n".join([f"## {row.what}", "\n".join(lines), proof(row, found, profiles)])


def proof(row: Row, found: Findings, profiles: Mapping[Figure, Profile]) -> str:
    """The conclusion from the profile of a row."""
    assert row.yardstick is not None
    assert row.least is not None
    profile, each = profiles[row.figure], 1e6 / found.median(row.figure)
    beside = 1e6 / found.median(row.yardstick)
    left = beside / row.least
    # Who publishes waits for the commit, so the threads take turns; handlers go on while the writer works.
    threads = list(profile.counts)
    busy = {thread: each - profile.spent(thread, WAITING, each) for thread in threads}
    where = ""
    if len(threads) > 1 and row.figure.subject.measure == "handle":
        threads = [max(threads, key=busy.__getitem__)]
        where = f" on the {NAMES[threads[0]]}, which has more to do than the other thread"
    elif len(threads) > 1:
        where = " on both threads, which take turns, because an event is awaited until its commit"
    needed = sum(profile.needed(thread, each) for thread in threads)
    others = sum(busy[thread] for thread in threads) - needed
    waiting = max(0.0, each - needed - others)
    said = (
        f"The target leaves {left:.2f} µs ({beside:.2f} µs of {row.yardstick.name}, divided by {row.least:g})."
        f" The parts that cannot be left out take {needed:.2f} µs{where}"
    )
    if needed > left:
        return f"{said}: more than that, with nothing for all the others."
    return (
        f"{said}. The others take {others:.2f} µs, and {waiting:.2f} µs pass in waiting:"
        f" both together would have to make do with {left - needed:.2f} µs."
    )


def main() -> None:
    """Measure, take profiles, print or write them."""
    parser = argparse.ArgumentParser(prog="python -m bench.profiles", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--only", default="", metavar="PATTERN", help="only the lines that match this expression")
    parser.add_argument("--all", action="store_true", help="those that met their target too")
    parser.add_argument("--quick", action="store_true", help="to try it out: one round of a fifth of the events")
    parser.add_argument("--to", type=Path, metavar="FILE", help="write there")
    asked = parser.parse_args()
    chosen = [row for row in rows() if row.is_profiled and re.search(asked.only, f"{row.what} {row.figure.name}")]
    chosen = [row for row in chosen if row.yardstick is not None and not row.yardstick.subject.is_peer]
    found = measure(chosen, quick=asked.quick)
    text = report([row for row in chosen if asked.all or row.misses(found.measured(row))], found)
    if asked.to is None:
        sys.stdout.write(text)
    else:
        asked.to.write_text(text)


if __name__ == "__main__":
    main()

"""Runs subjects in turn, so that what drifts on the machine drifts for all of them alike."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench import servers
from bench.rows import Figure, Row, Subject
from bench.samples import FOLDER
from bench.subject import FIELDS

ROOT = Path(__file__).parent.parent
PEERS = ROOT / ".venv-peers"
PATIENCE = 180.0
"""Seconds that one measurement may take."""


@dataclass
class Findings:
    """The outcomes of each subject, one a round, in order."""

    outcomes: dict[Subject, list[Any]] = field(default_factory=dict)
    others: float = 0.0
    """The part of the machine's processors, in percent, that other programs took meanwhile."""
    seconds: float = 0.0

    def values(self, figure: Figure) -> list[float]:
        """The figure in each round."""
        return [_pick(outcome, figure.pick) for outcome in self.outcomes[figure.subject]]

    def median(self, figure: Figure) -> float:
        """The figure, the median of all rounds."""
        return statistics.median(self.values(figure))

    def measured(self, row: Row) -> float:
        """The figure that the row's bound is for: the median of the ratios within a round, or the figure itself."""
        if row.yardstick is None:
            return self.median(row.figure)
        pairs = zip(self.values(row.figure), self.values(row.yardstick), strict=False)
        return statistics.median(ours / theirs for ours, theirs in pairs)

    def spread(self, figure: Figure) -> float:
        """How far the rounds lie apart, as a part of the median."""
        values = self.values(figure)
        return (max(values) - min(values)) / statistics.median(values) if any(values) else 0.0


def _pick(outcome: Any, pick: str) -> float:
    if isinstance(outcome, list):
        # Seconds of single events, of which a percentile is asked for, in milliseconds.
        return 1000 * float(statistics.quantiles(outcome, n=100)[int(pick.removeprefix("p")) - 1])
    return float(outcome[pick] if pick else outcome)


def measure(rows: Iterable[Row], *, quick: bool = False) -> Findings:
    """Measure all that the rows need."""
    figures = [figure for row in rows for figure in (row.figure, row.yardstick) if figure is not None]
    subjects = list(dict.fromkeys(figure.subject for figure in figures))
    found = Findings({subject: [] for subject in subjects})
    started, busy_before = time.monotonic(), _busy()
    with (
        tempfile.TemporaryDirectory(prefix="forebay-bench-", ignore_cleanup_errors=True) as folder,
        contextlib.ExitStack() as stack,
    ):
        places = Places(Path(folder), stack)
        most = 1 if quick else max(subject.rounds for subject in subjects)
        for number in range(most):
            # To and fro, so that a drift within a round favours none.
            for subject in subjects if number % 2 == 0 else reversed(subjects):
                if number < subject.rounds:
                    say(f"round {number + 1}: {subject.name}")
                    outcome = run(replace(subject, events=subject.events // 5) if quick else subject, places)
                    found.outcomes[subject].append(outcome)
    found.seconds = time.monotonic() - started
    ours = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    found.others = max(0.0, 100 * (_busy() - busy_before - ours) / (found.seconds * (os.cpu_count() or 1)))
    return found


def _busy() -> float:
    """Seconds that the machine's processors have worked so far, all together."""
    user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


class Places:
    """An empty store for each measurement."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._redis = ""
        self._number = 0

    @contextlib.contextmanager
    def empty(self, subject: Subject) -> Any:
        """The URL of an empty store."""
        self._number += 1
        match subject.place:
            case "redis":
                if not self._redis:
                    self._redis = self._stack.enter_context(servers.redis_server(self._folder))
                servers.empty(self._redis)
                yield self._redis
            case "redis-128mb":
                limits = "--maxmemory", "128mb", "--maxmemory-policy", "noeviction"
                with servers.redis_server(self._folder, *limits) as url:
                    yield url
            case "nats":
                with servers.nats_server(self._folder / f"nats-{self._number}", _peer_python("nats")) as url:
                    yield url
            case "sqlite":
                path = self._folder / f"{self._number}.db"
                yield f"sqlite:///{path}"
                for left in self._folder.glob(f"{path.name}*"):
                    left.unlink()
            case "nowhere":
                yield ""


def run(subject: Subject, places: Places, samples: Path | None = None) -> Any:
    """The result of the subject on an empty store; None if it crashed while it wrote samples into the folder."""
    with places.empty(subject) as url:
        if subject.module == "redis-benchmark":
            return _redis_benchmark(url, subject.events)
        if subject.first is not None:
            _call(subject.first, url)
        return _call(subject, url, samples)


def _call(subject: Subject, url: str, samples: Path | None = None) -> Any:
    python = str(_peer_python(subject.module.partition("on_")[2])) if subject.is_peer else sys.executable
    command = [python, "-m", subject.module, subject.measure, "--url", url, "--events", str(subject.events)]
    environment = os.environ | ({} if samples is None else {FOLDER: str(samples)})
    if subject.source:
        environment |= {"PYTHONPATH": subject.source}
    done = subprocess.run(
        [*command, *subject.arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    if samples is not None and done.returncode == -signal.SIGSEGV:
        return None
    if done.returncode:
        raise SystemExit(f"{subject.name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _peer_python(name: str) -> Path:
    python = PEERS / name / "bin" / "python"
    if not python.exists():
        raise SystemExit(f"there is no {python}: `make bench` sets it up, `--no-peers` leaves the peers out")
    return python


def _redis_benchmark(url: str, events: int) -> float:
    """XADDs a second, as Redis's own tool finds them."""
    tool = Path(servers.redis_binary()).with_name("redis-benchmark")
    options = ["-p", str(urlsplit(url).port), "-n", str(events), "-c", "1", "-P", "100", "--csv"]
    said = subprocess.run(
        [tool, *options, "XADD", "bare", "*", *FIELDS], capture_output=True, text=True, check=True, timeout=PATIENCE
    ).stdout
    # The quotes of the JSON break its quotes, so this looks for the first number after the command.
    figure = re.search(r'","([0-9.]+)"', said.splitlines()[-1])
    assert figure is not None, said
    return float(figure[1])


def say(text: str) -> None:
    """Show the step that is running."""
    print(
        f"\r\033[K{text}" if sys.stderr.isatty() else text,
        end="" if sys.stderr.isatty() else "\n",
        file=sys.stderr,
        flush=True,
    )

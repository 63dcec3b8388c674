"""Measure forebay beside yardsticks and peers, and compare with the targets.

    python -m bench [--quick] [--only TEXT] [--no-peers] [--to FOLDER]
    python -m bench --beside REVISION [--quick] [--only TEXT]

Writes table.md, results.json, throughput.png and latency.png to FOLDER, and profiles.md for what missed
its target. Exits with 1 where one is missed by more than 10 %. With `--beside` it measures forebay beside an earlier
revision of it, and exits with 1 where a figure is more than 3 % worse.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path

from bench import beside, profiles, report
from bench.harness import measure
from bench.rows import Row, rows


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument(
        "--quick",
        action="store_true",
        help="to try it out: one round of a fifth of the events, without peers and the long measures",
    )
    parser.add_argument(
        "--only", default="", metavar="PATTERN", help="only the lines that match this regular expression"
    )
    parser.add_argument("--no-peers", action="store_true", help="leave the other frameworks out")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="write the results there")
    parser.add_argument("--beside", metavar="REVISION", help="compare with an earlier revision of forebay")
    asked = parser.parse_args()
    if asked.beside:
        sys.exit(_compare(asked))

    chosen = [row for row in rows() if _is_wanted(row, asked)]
    found = measure(chosen, quick=asked.quick)
    table = report.table(chosen, found)
    print(f"{report.machine(found)}\n\n{table}")
    if asked.to is not None:
        # It needs matplotlib, which only the pictures need.
        from bench import plots

        asked.to.mkdir(parents=True, exist_ok=True)
        (asked.to / "table.md").write_text(f"{report.machine(found)}.\n\n{table}\n")
        (asked.to / "results.json").write_text(json.dumps(report.as_json(chosen, found), indent=1) + "\n")
        plots.throughput(found, asked.to / "throughput.png")
        plots.latency(found, asked.to / "latency.png")
        slow = [row for row in chosen if row.is_profiled and row.misses(found.measured(row))]
        (asked.to / "profiles.md").write_text(profiles.report(slow, found))
    missed = report.missed(chosen, found)
    for row in missed:
        print(f"missed: {row.what}", file=sys.stderr)
    sys.exit(1 if missed else 0)


def _compare(asked: argparse.Namespace) -> int:
    """Measure beside an earlier revision; 1 if a figure is worse."""
    with tempfile.TemporaryDirectory(prefix="forebay-bench-") as folder:
        wanted = [row for row in rows() if _is_wanted(row, asked)]
        chosen = beside.rows_beside(wanted, asked.beside, beside.unpack(asked.beside, Path(folder)))
        found = measure(chosen, quick=asked.quick)
    print(f"{report.machine(found)}\n\n{report.table(chosen, found)}")
    worse = [row for row in chosen if row.misses(found.measured(row))]
    for row in worse:
        print(f"worse: {row.what}", file=sys.stderr)
    return 1 if worse else 0


def _is_wanted(row: Row, asked: argparse.Namespace) -> bool:
    figures = [figure for figure in (row.figure, row.yardstick) if figure is not None]
    if (asked.no_peers or asked.quick) and any(figure.subject.is_peer for figure in figures):
        return False
    if asked.quick and row.figure.subject.rounds == 1:
        return False  # the long ones
    return re.search(asked.only, f"{row.what} {row.figure.name}") is not None


if __name__ == "__main__":
    main()

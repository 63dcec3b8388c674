"""The table, as Markdown, and all that was measured, as JSON."""

from __future__ import annotations

import os
import platform
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import servers
from bench.harness import Findings
from bench.rows import Figure, Row

MARGIN = 0.1
"""By how much a target may be missed before the run counts as failed."""


def machine(found: Findings) -> str:
    """The machine, and the load of other programs on it."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return (
        f"{os.cpu_count()} cores ({model}), Linux {platform.release()}, Python {platform.python_version()}, "
        f"{servers.version()}; {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {found.seconds / 60:.0f} minutes, "
        f"other programs took {found.others:.0f} % of the processors meanwhile"
    )


def table(rows: list[Row], found: Findings) -> str:
    """The rows, each with its figure, the yardstick, their ratio, and the target."""
    lines = [
        "| what | forebay | yardstick | ratio | target | |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        measured = found.measured(row)
        ratio = f"{measured:.2f}" if row.yardstick is not None else ""
        beside = f"{_number(found, row.yardstick)} ({row.yardstick.name})" if row.yardstick is not None else ""
        cells = row.what, _number(found, row.figure), beside, ratio, _target(row), _verdict(row, measured)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(found: Findings, figure: Figure) -> str:
    median = found.median(figure)
    shown = f"{median:,.0f}" if abs(median) >= 100 else f"{median:.2f}"
    spread = f" ± {50 * found.spread(figure):.0f} %" if len(found.values(figure)) > 1 else ""
    return f"{shown} {figure.unit}{spread}"


def _target(row: Row) -> str:
    bound = row.least if row.least is not None else row.most
    if bound is None:
        return ""
    return f"{'≥' if row.least is not None else '≤'} {bound:,g}"


def _verdict(row: Row, measured: float) -> str:
    if row.least is None and row.most is None:
        return ""
    if not row.misses(measured):
        return "met"
    verdict = "**missed**" if row.misses(measured, margin=MARGIN) else "just missed"
    return f"{verdict}: [profile](profiles.md#{_anchor(row.what)})" if row.is_profiled else verdict


def _anchor(heading: str) -> str:
    """Where Markdown's readers find a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def missed(rows: list[Row], found: Findings) -> list[Row]:
    """The rows that fall short by more than the margin."""
    return [row for row in rows if row.misses(found.measured(row), margin=MARGIN)]


def as_json(rows: list[Row], found: Findings) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "machine": machine(found),
        "python": sys.version,
        "seconds": found.seconds,
        "others_percent": found.others,
        "rows": [
            {
                "what": row.what,
                "figure": _figure(row.figure, found),
                "yardstick": None if row.yardstick is None else _figure(row.yardstick, found),
                "measured": found.measured(row),
                "least": row.least,
                "most": row.most,
                "missed": row.misses(found.measured(row), margin=MARGIN),
            }
            for row in rows
        ],
    }


def _figure(figure: Figure, found: Findings) -> dict[str, Any]:
    return {"name": figure.name, "unit": figure.unit, "median": found.median(figure), "rounds": found.values(figure)}

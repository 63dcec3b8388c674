"""The figures of soaks, as a table in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chaos.soak import Run


def _count(kind: str) -> Callable[[Run], str]:
    return lambda run: f"{run.report.counts[kind]:,}"


def _duplicates(run: Run) -> str:
    total = sum(run.report.duplicates.values())
    return f"{total:,} ({total / max(1, run.report.handled):.2%})"


ROWS: dict[str, Callable[[Run], str]] = {
    "events acknowledged": lambda run: f"{run.report.acknowledged:,}",
    "events a second, under faults": lambda run: f"{run.events_a_second:,.0f}",
    "faults injected (kinds)": lambda run: f"{sum(run.report.faults.values()):,} ({len(run.report.faults)})",
    "**lost**": _count("lost"),
    "**stuck for ever**": _count("stuck"),
    "refused, and stored all the same": _count("ghost"),
    "never published, or changed": _count("unexpected"),
    "order inversions under a key": _count("inversion"),
    "lease overlaps": _count("overlap"),
    "dead letters before their last attempt": _count("false dead"),
    "stored twice": _count("stored twice"),
    "duplicates (of handled)": _duplicates,
    "without a cause": _count("unexplained duplicate"),
    "unknown outcomes (found stored)": lambda run: f"{run.report.unknown:,} ({run.report.recovered:,})",
    "late acks": lambda run: f"{run.report.late_acks:,}",
    "moves of former holders refused": lambda run: f"{run.report.refused_moves:,}",
    "longest recovery": lambda run: f"{max(run.report.recovery.values(), default=0):.1f} s",
    "all handled, after the last publish": lambda run: f"{run.drained:.1f} s",
}


def table(runs: Sequence[Run]) -> str:
    """One column for each run; then its faults, its duplicates by cause, and how often rare states were reached."""
    lines = [_row("", *(run.store for run in runs)), _row("---", *("---:" for _ in runs))]
    lines += [_row(name, *(figure(run) for run in runs)) for name, figure in ROWS.items()]
    for title, counts in (
        ("fault: ", [run.report.faults for run in runs]),
        ("duplicates: ", [run.report.duplicates for run in runs]),
        ("reached: ", [run.report.reached for run in runs]),
        ("longest recovery: ", [{kind: f"{s:.2f} s" for kind, s in run.report.recovery.items()} for run in runs]),
    ):
        for kind in dict.fromkeys(kind for some in counts for kind in some):
            lines.append(_row(title + kind, *(str(some.get(kind, "")) for some in counts)))
    return "\n".join(lines)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"

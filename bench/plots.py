"""The pictures: how many events a second, and how long one takes."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from bench.harness import Findings
from bench.rows import Figure, Subject

mpl.use("agg")

FOREBAY, BARE, PEER = "#1b6ca8", "#9aa5ad", "#d9a441"
PUBLISHING = ("publish", "publish_many", "coalesced", "made", "blocking", "XADD")
HANDLING = ("handle", "handed")


def throughput(found: Findings, path: Path) -> None:
    """Events a second, publishing and handling: forebay, bare loops and peers, each with its span of rounds."""
    import matplotlib.pyplot as plt

    drawn, axes = plt.subplots(1, 2, figsize=(16, 8), constrained_layout=True)
    for axis, title, measures in zip(axes, ("publish", "handle"), (PUBLISHING, HANDLING), strict=True):
        subjects = [s for s in found.outcomes if s.measure in measures and "uvloop" not in s.name]
        subjects.sort(key=lambda subject: found.median(Figure(subject)))
        for place, subject in enumerate(subjects):
            values, median = found.values(Figure(subject)), found.median(Figure(subject))
            error = [[median - min(values)], [max(values) - median]]
            axis.barh(place, median, color=_color(subject), xerr=error, error_kw={"ecolor": "#444444", "capsize": 2})
            axis.text(max(values) * 1.08, place, f"{median:,.0f}", va="center", fontsize=8)
        axis.set_yticks(range(len(subjects)), [subject.name for subject in subjects], fontsize=8)
        axis.set_xscale("log")
        axis.margins(y=0.01)
        axis.set_xlim(300, 5_000_000)
        axis.set_xlabel("events a second, logarithmic (lines: slowest and fastest round)")
        axis.set_title(title)
    _explain(axes[1])
    drawn.savefig(path, dpi=110)
    plt.close(drawn)


def latency(found: Findings, path: Path) -> None:
    """Which part of the events had reached their handler after how long."""
    import matplotlib.pyplot as plt

    drawn, axis = plt.subplots(figsize=(9, 5), constrained_layout=True)
    for subject in found.outcomes:
        if subject.measure == "latency":
            times = sorted(1000 * seconds for outcome in found.outcomes[subject] for seconds in outcome)
            parts = [100 * (place + 1) / len(times) for place in range(len(times))]
            style = "--" if subject.name.startswith("bare") else "-"
            axis.step(times, parts, style, where="post", label=subject.name)
    axis.set_xscale("log")
    axis.set_xlabel("milliseconds from before publish to the handler, logarithmic")
    axis.set_ylabel("% of the events")
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
    drawn.savefig(path, dpi=110)
    plt.close(drawn)


def _color(subject: Subject) -> str:
    if subject.is_peer:
        return PEER
    return FOREBAY if subject.name.startswith("forebay") else BARE


def _explain(axis: object) -> None:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

    assert isinstance(axis, Axes)
    kinds = {"forebay": FOREBAY, "bare loop": BARE, "peer": PEER}
    axis.legend(handles=[Patch(color=color, label=kind) for kind, color in kinds.items()], loc="lower right")

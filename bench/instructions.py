"""Guards the cost of an event, in instructions: the same on a busy machine as on a quiet one.

    python -m bench.instructions [--store]

Counts, under valgrind, the instructions of `publish` and `handle` on the memory store for few events and for more;
the difference is the cost of an event alone. Exits with 1 if one costs 10 % more than instructions.json has for this
Python; `--store` writes the new counts there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

STORED = Path(__file__).with_name("instructions.json")
MARGIN = 0.1
FEW, MORE = 500, 2500
MEASURES = "publish", "handle"


def main() -> None:
    """Count, and compare."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        print("notice: no valgrind here, so the cost of an event is not counted", file=sys.stderr)
        return
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    figures: dict[str, dict[str, int]] = json.loads(STORED.read_text())
    with ThreadPoolExecutor() as pool:
        found = dict(zip(MEASURES, pool.map(partial(cost, valgrind), MEASURES), strict=True))
    if "--store" in sys.argv:
        STORED.write_text(json.dumps(figures | {python: found}, indent=1) + "\n")
    elif python not in figures:
        print(f"notice: no cost of an event is stored for Python {python}; `--store` does it", file=sys.stderr)
        return
    stored = found if "--store" in sys.argv else figures[python]
    for measure in MEASURES:
        change = found[measure] / stored[measure] - 1
        print(f"{measure}: {found[measure]:,} instructions an event, {change:+.1%} against {stored[measure]:,}")
    dearer = [measure for measure in MEASURES if found[measure] > stored[measure] * (1 + MARGIN)]
    if dearer:
        sys.exit(
            f"an event costs over {MARGIN:.0%} more than before to {' and to '.join(dearer)}: find out why,"
            " or, where it is worth it, say so in the commit and store the new figure with"
            " `python -m bench.instructions --store`"
        )


def cost(valgrind: str, measure: str) -> int:
    """Instructions for each further event."""
    return (_count(valgrind, measure, MORE) - _count(valgrind, measure, FEW)) // (MORE - FEW)


def _count(valgrind: str, measure: str, events: int) -> int:
    command = [sys.executable, "-m", "bench.subjects.counted", measure, "--events", str(events)]
    # The hash seed decides which strings collide, and so the cost of a look-up.
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    done = subprocess.run(
        [valgrind, "--tool=callgrind", "--callgrind-out-file=/dev/null", *command],
        cwd=STORED.parent.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    counted = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or counted is None:
        sys.exit(f"{' '.join(command)} failed under valgrind:\n{done.stderr}")
    return int(counted[1])


if __name__ == "__main__":
    main()

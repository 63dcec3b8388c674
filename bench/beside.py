"""Measure this forebay beside an earlier revision of it, in one run: `python -m bench --beside REVISION`."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

from bench.harness import ROOT
from bench.rows import Figure, Row, Subject

TOLERANCE = 0.03
"""By how much a figure may be worse than that of the earlier revision."""


def rows_beside(rows: list[Row], revision: str, source: str) -> list[Row]:
    """Make a row for each figure of forebay, beside that of the revision whose package is in the folder `source`.

    Each has a bound, but for the 99th percentiles. Rates are better if higher, other figures if lower.
    """
    found = dict[Figure, Row]()
    for row in rows:
        if row.figure.subject.is_forebay and row.figure not in found:
            found[row.figure] = _beside(row, revision, source)
    return list(found.values())


def _beside(row: Row, revision: str, source: str) -> Row:
    earlier = replace(row.figure, subject=_from(row.figure.subject, revision, source))
    what = row.figure.name
    if row.figure.pick == "p99":
        return Row(what, row.figure, earlier)
    if row.least is not None or row.figure.unit == "events/s":
        return Row(what, row.figure, earlier, least=1 - TOLERANCE)
    return Row(what, row.figure, earlier, most=1 + TOLERANCE)


def _from(subject: Subject, revision: str, source: str) -> Subject:
    first = subject.first and _from(subject.first, revision, source)
    return replace(subject, name=f"{revision}: {subject.name}", source=source, first=first)


def unpack(revision: str, folder: Path) -> str:
    """Unpack the revision's package below the folder; return the folder for PYTHONPATH."""
    git = shutil.which("git") or "git"
    archive = subprocess.run([git, "archive", revision, "src"], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        raise SystemExit(f"there is no revision {revision!r} here: {archive.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    source = str(folder / "src")
    command = [sys.executable, "-c", "import forebay; print(forebay.__file__)"]
    where = subprocess.run(command, env={"PYTHONPATH": source}, capture_output=True, text=True, check=True).stdout
    if not where.startswith(source):
        raise SystemExit(f"{sys.executable} imports {where.strip()} in place of that in {source}")
    return source

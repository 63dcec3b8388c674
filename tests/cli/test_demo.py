"""The demo shows its story on real files, with real processes, and accounts for every event."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOREBAY = (sys.executable, "-m", "forebay")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "files"
    made.mkdir()
    for number in range(12):
        (made / f"{number:02}.txt").write_text("line\n" * number)
    (made / ".hidden").write_text("not for the story")
    return made


def test_every_event_is_accounted_for(folder: Path) -> None:
    done = subprocess.run(
        [*FOREBAY, "--json", "demo", str(folder)], capture_output=True, text=True, check=True, timeout=60
    )

    story = json.loads(done.stdout)
    assert 12 == story["published"]
    assert {"checksums": 12, "line-counts": 12, "catalog": 12} == story["handled"]
    assert {"checksums": 0, "line-counts": 0, "catalog": 0} == story["lost"]
    assert (1, 1, 12) == (story["dead"], story["redriven"], story["replayed"])
    assert story["retried"] >= 3
    assert story["taken_over"] >= 1


def test_the_same_story_runs_on_a_given_store_and_leaves_no_event(folder: Path, durable_url: str) -> None:
    done = subprocess.run(
        [*FOREBAY, "--url", durable_url, "demo", str(folder)], capture_output=True, text=True, check=True, timeout=60
    )

    assert "killed a worker" in done.stderr
    assert "lost" in done.stdout
    listed = subprocess.run(
        [*FOREBAY, "--url", durable_url, "--namespace", "events", "streams"], capture_output=True, text=True, check=True
    )
    assert "file_found" not in listed.stdout


def test_a_file_that_appears_meanwhile_is_published_too(folder: Path) -> None:
    with subprocess.Popen(
        [*FOREBAY, "demo", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as story:
        assert story.stderr is not None
        assert story.stdout is not None
        for line in story.stderr:
            if "killed a worker" in line:
                (folder / "late.txt").write_text("late")
        figures = story.stdout.read()

    assert 0 == story.returncode
    assert [13] == [int(line.split("│")[2]) for line in figures.splitlines() if "published" in line]


def test_a_folder_without_files_is_reported_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run([*FOREBAY, "demo", str(tmp_path)], capture_output=True, text=True, check=False, timeout=60)

    assert 1 == done.returncode
    assert 1 == len(done.stderr.splitlines())
    assert "no files in" in done.stderr


def test_a_demo_that_keeps_its_store_shows_the_next_commands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FOREBAY_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)

    done = subprocess.run(
        [*FOREBAY, "demo", "--keep"], cwd=folder, capture_output=True, text=True, check=True, timeout=60
    )
    groups = subprocess.run([*FOREBAY, "groups"], cwd=folder, capture_output=True, text=True, check=True)
    again = subprocess.run([*FOREBAY, "demo", "--keep"], cwd=folder, capture_output=True, text=True, check=False)

    assert "now try: forebay groups" == done.stderr.splitlines()[-1]
    assert "published 12 events" in done.stderr, "the store's own files are none of the story's"
    assert {"checksums", "line-counts", "catalog"} == {line.split("\t")[1] for line in groups.stdout.splitlines()[1:]}
    assert (1, True) == (again.returncode, "is there already" in again.stderr)

"""Each fragment in changes/ is well formed, and all of them assemble into the next section of the changelog."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import forebay

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
KINDS = {kind["directory"]: kind["name"] for kind in PYPROJECT["tool"]["towncrier"]["type"]}
FRAGMENTS = sorted(path for path in (ROOT / "changes").glob("*.md") if path.name != "README.md")


@pytest.mark.parametrize("fragment", FRAGMENTS, ids=lambda path: path.name)
def test_a_fragment_is_one_paragraph_of_a_known_kind(fragment: Path) -> None:
    name = re.fullmatch(r"[a-z0-9-]+\.([a-z]+)\.md", fragment.name)
    text = fragment.read_text()

    assert name is not None, "call it <subject>.<kind>.md"
    assert name[1] in KINDS
    assert text.endswith("\n"), "end it with a line break"
    assert not re.search(r"\n\s*\n|^[-*#]", text), "write one paragraph, without a bullet or a heading"
    assert all(len(line) <= 120 for line in text.splitlines())


def test_the_fragments_assemble_into_a_section() -> None:
    pytest.importorskip("towncrier", reason="a tool of developers that the tests do not need otherwise")

    drafted = subprocess.run(
        [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "1.2.3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert 0 == drafted.returncode, drafted.stderr
    assert "## [1.2.3] - " in drafted.stdout
    for fragment in FRAGMENTS:
        title = KINDS[fragment.name.split(".")[1]]
        section = drafted.stdout.split(f"### {title}\n")[1].split("\n### ")[0]
        assert " ".join(fragment.read_text().split()) in " ".join(section.split())


def test_the_version_is_written_in_one_place() -> None:
    assert "version" in PYPROJECT["project"]["dynamic"]
    assert "src/forebay/__init__.py" == PYPROJECT["tool"]["hatch"]["version"]["path"]
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?", forebay.__version__)

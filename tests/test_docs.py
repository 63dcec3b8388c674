"""The pages are true: their code runs, their names can be imported, their links lead somewhere."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from forebay import Options

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "chaos/README.md", ROOT / "bench/README.md"])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in sorted((ROOT / "docs").rglob("*.md"))
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_the_python_of_the_docs_runs_as_written(block: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert 0 == ended.returncode, ended.stderr


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_each_name_of_forebay_on_a_page_can_be_imported(page: Path) -> None:
    names = set(re.findall(r"(?<![\w/.])forebay(?:\.[A-Za-z_]\w*)+", page.read_text()))

    for name in names - {"forebay.db"}:  # the file of a store
        module, attributes = name, list[str]()
        while True:
            try:
                found = importlib.import_module(module)
                break
            except ModuleNotFoundError:
                module, _, last = module.rpartition(".")
                attributes.insert(0, last)
        for attribute in attributes:
            found = getattr(found, attribute)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_each_link_to_a_file_leads_to_one(page: Path) -> None:
    text = page.read_text().replace("https://github.com/forebay/forebay/blob/main/", f"{ROOT}/")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        if path.startswith(("http:", "https:")):
            continue
        target = page if not path else (page.parent / path).resolve()
        assert target.exists(), link
        if anchor:
            assert anchor in {_anchor(title) for title in re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)}


def _anchor(title: str) -> str:
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def test_every_option_of_a_handler_is_documented() -> None:
    rows = re.findall(r"^\| \[`(\w+)`\]", (ROOT / "docs" / "handlers.md").read_text(), re.MULTILINE)

    assert {"group", *msgspec.structs.asdict(Options())} == set(rows)


def test_each_decision_has_its_three_parts_and_is_in_the_index() -> None:
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text()
    pages = sorted(folder.glob("[0-9]*.md"))

    assert [f"{number:04}" for number in range(1, len(pages) + 1)] == [page.name[:4] for page in pages]
    for page in pages:
        titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
        assert ["Context", "Decision", "Consequences"] == titles[1:], page.name
        assert f"]({page.name}) | {titles[0].split('. ', 1)[1]} |" in index

"""The package for an index and for pip: links, extras, lowest versions, a source distribution."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.support.lowest import lowest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PYPROJECT = (ROOT / "pyproject.toml").read_text()
PROJECT = tomllib.loads(PYPROJECT)["project"]
SOURCE = PROJECT["urls"]["Source"]
LINKS = sorted(set(re.findall(r"\]\(([^)]+)\)", README)))
HEADINGS = {re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in re.findall(r"(?m)^## (.+)$", README)}
IMPORTED = {"watchfiles": "watchfiles", "uvloop": "uvloop"}
"""The module of each package of an extra."""


@pytest.mark.parametrize("link", LINKS)
def test_each_link_of_the_readme_leads_somewhere_from_a_package_index_too(link: str) -> None:
    if link.startswith("#"):
        assert link[1:] in HEADINGS
        return
    assert link.startswith("https://")
    if link.startswith(SOURCE):
        assert (ROOT / re.sub(r"^/(blob|tree)/main/", "", link.removeprefix(SOURCE))).exists()


def test_the_readme_begins_with_the_installation() -> None:
    assert README.index("pip install forebay") < README.index("```python") < README.index("make bench")


@pytest.mark.parametrize("extra", ["agents", "fast"])
def test_an_extra_installs_only_packages_that_the_code_imports(extra: str) -> None:
    code = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))

    for requirement in PROJECT["optional-dependencies"][extra]:
        module = IMPORTED[re.split(r"\W", requirement)[0]]
        assert re.search(rf"^\s+(import|from) {module}\b", code, re.MULTILINE)


def test_there_are_no_other_extras_for_users() -> None:
    extras = PROJECT["optional-dependencies"]

    assert {"agents", "fast", "all", "bench", "dev"} == set(extras)
    assert ["forebay[agents,fast]"] == extras["all"]


def test_every_dependency_of_a_user_names_its_lowest_version() -> None:
    assert {"apsw", "click", "hiredis", "msgspec", "redis", "rich", "watchfiles", "uvloop"} == {
        each.partition("==")[0] for each in lowest(PYPROJECT)
    }


def test_a_source_distribution_includes_the_files_that_its_tests_need() -> None:
    included = tomllib.loads(PYPROJECT)["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]

    for name in (
        "src",
        "tests",
        "chaos",
        "changes",
        "docs",
        "bench",
        "examples",
        "Makefile",
        "README.md",
        "pyproject.toml",
    ):
        assert (ROOT / name).exists()
        assert f"/{name}" in included or name.endswith((".md", ".toml"))

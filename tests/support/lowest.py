"""Prints the lowest version that pyproject.toml allows of each package that forebay needs, as constraints for pip."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

NEEDED_BY_USERS = ("agents", "fast")
"""The extras that users install; the tools of the tests may be as new as they like."""


def lowest(pyproject: str) -> Iterator[str]:
    """Each package that a user may get, in the lowest version that is allowed."""
    project = tomllib.loads(pyproject)["project"]
    extras = project["optional-dependencies"]
    for requirement in [*project["dependencies"], *(each for extra in NEEDED_BY_USERS for each in extras[extra])]:
        found = re.match(r"([\w-]+)>=([\w.]+)", requirement)
        if found is None:
            raise SystemExit(f"{requirement!r} in pyproject.toml names no lowest version")
        yield f"{found[1]}=={found[2]}"


if __name__ == "__main__":
    sys.stdout.writelines(f"{each}\n" for each in lowest((Path(__file__).parents[2] / "pyproject.toml").read_text()))

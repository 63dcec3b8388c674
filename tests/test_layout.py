"""A helper that two test files share is in tests/support."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent


def test_no_test_file_imports_from_another() -> None:
    imports = {
        str(path.relative_to(TESTS)): found
        for path in TESTS.rglob("*.py")
        if (found := re.findall(r"^from (tests\.\S*\b(?:test_\w+|conftest)) import", path.read_text(), re.MULTILINE))
    }

    assert {} == imports

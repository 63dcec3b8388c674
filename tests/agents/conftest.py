"""A folder to be watched."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """An empty folder to be watched."""
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder

"""The command, in a folder of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.command import APP, Forebay


@pytest.fixture
def forebay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Forebay:
    """The command, in a folder of its own with an `app.py`, on a SQLite file in it."""
    (tmp_path / "app.py").write_text(APP)
    for name in [name for name in os.environ if name.startswith("FOREBAY_")] + ["REDIS_URL", "NO_COLOR"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    url = f"sqlite:///{tmp_path}/events.db"
    monkeypatch.setenv("FOREBAY_URL", url)
    return Forebay(url, tmp_path)

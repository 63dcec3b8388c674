"""A file that another program has begun, without a table in it yet, is that program's."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from forebay import ConfigurationError, StoreDamaged
from forebay.errors import StoreError
from forebay.stores.sqlite import SQLiteStore
from forebay.stores.sqlite.database import APPLICATION


@pytest.mark.parametrize(
    ("application", "version", "error"),
    [
        (5, 0, ConfigurationError),
        (0, 3, ConfigurationError),
        (-1, -1, ConfigurationError),
        (APPLICATION, -1, StoreDamaged),
    ],
)
@pytest.mark.parametrize("read_only", [False, True])
async def test_it_is_refused_and_stays_as_it_is(
    tmp_path: Path, application: int, version: int, error: type[StoreError], read_only: bool
) -> None:
    path = tmp_path / "begun.db"
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA application_id = {application}")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    before = path.read_bytes()

    with pytest.raises(error, match=r"begun\.db"):
        async with SQLiteStore(path, read_only=read_only):
            pass

    assert before == path.read_bytes()
    assert [path] == list(tmp_path.iterdir())

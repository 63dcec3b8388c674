from __future__ import annotations

import sys
from pathlib import Path

import pytest

from forebay.stores.sqlite.inotify import FileWatch


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of writes")
def test_a_write_to_the_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.touch()
    watch = FileWatch(path)
    assert watch.is_supported
    assert not watch.wait(0.0)

    path.write_text("something")

    assert watch.wait(10.0)
    assert not watch.wait(0.0)
    watch.close()


def test_without_inotify_a_wait_only_waits(tmp_path: Path) -> None:
    watch = FileWatch(tmp_path / "missing")

    assert not watch.is_supported
    assert not watch.wait(0.0)
    watch.close()

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from forebay.stores.sqlite.stirring import Stirring


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of writes")
def test_a_write_to_the_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.touch()
    stirring = Stirring(path)
    assert stirring.is_told
    assert not stirring.wait(0.0)

    path.write_text("something")

    assert stirring.wait(10.0)
    assert not stirring.wait(0.0)
    stirring.close()


def test_where_nothing_is_told_the_wait_is_only_a_wait(tmp_path: Path) -> None:
    stirring = Stirring(tmp_path / "missing")

    assert not stirring.is_told
    assert not stirring.wait(0.0)
    stirring.close()

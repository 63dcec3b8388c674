"""Strays, which the tables leave out, are reported on stderr, and change nothing on stdout."""

from __future__ import annotations

import apsw
import pytest

from tests.support.command import Forebay


@pytest.mark.parametrize("command", ["streams", "groups"])
def test_names_of_other_programs_are_reported_beside_the_table(forebay: Forebay, command: str) -> None:
    forebay.publish(1)
    before = forebay(command)
    connection = apsw.Connection(forebay.url.removeprefix("sqlite:///").partition("?")[0])
    connection.execute("INSERT INTO streams (namespace, name) VALUES ('events', 'has' || char(27) || 'space')")
    connection.close()

    after = forebay(command)

    assert (0, before.out) == (after.code, after.out)
    assert "left out" not in before.err
    assert "left out: another program made the stream 'has\\x1bspace'" in after.err

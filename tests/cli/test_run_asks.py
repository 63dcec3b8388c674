"""`forebay run` asks on a terminal before a group without a chosen name handles old events."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command import Forebay

APP = """
from forebay import connect
bus = connect()

@bus.on("order_placed"{options})
async def bill(event):
    print("BILLED", event.data, flush=True)
"""
QUESTION = "app.bill is a new group of order_placed, named after its function. Handle 2 old events?"


@pytest.fixture
def app(forebay: Forebay) -> Forebay:
    Path(forebay.folder, "app.py").write_text(APP.format(options=""))
    for number in ("1", "2"):
        forebay("publish", "order_placed", number)
    return forebay


def test_a_yes_lets_the_new_group_begin_and_nothing_is_asked_again(app: Forebay) -> None:
    shown = app.on_terminal("run", "app:bus", "--until-idle", typed="y\n")

    assert 0 == shown.code
    assert QUESTION in shown.out
    assert 2 == shown.out.count("BILLED")
    assert QUESTION not in app.on_terminal("run", "app:bus", "--until-idle").out


def test_a_no_makes_no_group(app: Forebay) -> None:
    shown = app.on_terminal("run", "app:bus", "--until-idle", typed="n\n")

    assert 1 == shown.code
    assert "nothing was handled; name the group with group=..." in shown.out
    assert "BILLED" not in shown.out
    assert "app.bill" not in app("groups").out


def test_without_a_terminal_to_ask_the_log_warns(app: Forebay) -> None:
    ended = app.piped("run", "app:bus", "--until-idle")

    assert 2 == ended.out.count("BILLED")
    assert "order_placed has a new group app.bill, named after its function: it begins with the 2 events" in ended.err


def test_a_group_that_was_named_is_not_asked_about(app: Forebay) -> None:
    Path(app.folder, "app.py").write_text(APP.format(options=', group="billing"'))

    shown = app.on_terminal("run", "app:bus", "--until-idle")

    assert 2 == shown.out.count("BILLED")

"""`forebay group seek` moves a group, and asks first."""

from __future__ import annotations

import json

import pytest

from tests.support.command import Forebay


def _unread(forebay: Forebay) -> dict[str, str]:
    return {line[1]: line[2] for line in forebay("groups").rows}


def test_a_group_is_moved_back_and_forward_with_yes(forebay: Forebay) -> None:
    forebay.handle(2, 4, 6)

    moved = forebay("group", "seek", "order_placed", "mail", "earliest", "--yes", "--json")

    assert {"stream": "order_placed", "group": "mail", "from": "3", "to": "0", "moved": True} == json.loads(moved.out)
    assert {"billing": "0", "mail": "3"} == _unread(forebay)
    assert 0 == forebay("group", "seek", "order_placed", "mail", "2", "--yes").code
    assert {"billing": "0", "mail": "1"} == _unread(forebay)


def test_a_dry_run_shows_the_positions_and_moves_nothing(forebay: Forebay) -> None:
    forebay.handle(2, 4)

    ended = forebay("group", "seek", "order_placed", "mail", "earliest", "--dry-run")

    assert (0, "mail would read order_placed on after 0 (earliest); before, it read after 2\n") == (
        ended.code,
        ended.err,
    )
    assert {"billing": "0", "mail": "0"} == _unread(forebay)


def test_a_move_asks_a_person(forebay: Forebay) -> None:
    forebay.handle(2)

    refused = forebay("group", "seek", "order_placed", "mail", "earliest")
    asked = forebay.on_terminal("group", "seek", "order_placed", "mail", "earliest", typed="n\n")

    assert 2 == refused.code
    assert "Pass --yes to confirm" in refused.err
    assert "Let mail read order_placed on after 0 (earliest), and not after 1? [y/N]" in asked.out
    assert "nothing was changed" in asked.out
    assert {"billing": "0", "mail": "0"} == _unread(forebay)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["order_palced", "mail", "earliest"], "did you mean 'order_placed'?"),
        (["order_placed", "mial", "earliest"], "did you mean 'mail'?"),
        (["order_placed", "mail", "yesterday"], "'yesterday' is not a position in a stream"),
    ],
)
def test_a_mistyped_argument_is_refused(forebay: Forebay, arguments: list[str], message: str) -> None:
    forebay.handle(2)

    ended = forebay("group", "seek", *arguments, "--yes")

    assert ended.code
    assert message in ended.err

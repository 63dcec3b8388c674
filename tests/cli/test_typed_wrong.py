"""A mistyped name or option is refused: the command does not look idle, and makes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from forebay import NotFound, StoreDenied
from forebay.migration.routes import introduce
from forebay.stores.sqlite import SQLiteStore
from tests.support.command import Forebay

LOOKS: list[list[str]] = [
    ["streams"],
    ["streams", "order_placed"],
    ["groups"],
    ["groups", "order_placed"],
    ["pending", "order_placed", "billing"],
    ["get", "order_placed", "1"],
    ["tail", "order_placed"],
    ["tail", "order_placed", "--no-follow"],
    ["tail", "order_placed", "--wait"],
    ["dead", "ls"],
    ["dead", "ls", "order_placed"],
    ["dead", "show", "order_placed", "1"],
    ["dead", "export"],
    ["agents", "status"],
    ["migrate", "status"],
]
CHANGES = [
    ["dead", "redrive", "order_placed", "--yes"],
    ["dead", "discard", "order_placed", "--yes"],
    ["dead", "redrive", "order_placed", "--dry-run"],
    ["replay", "order_placed", "--group", "billing", "--yes"],
    ["migrate", "cutover", "billing"],
    ["migrate", "rollback", "billing"],
    ["migrate", "shadow", "billing"],
]


@pytest.mark.parametrize("command", LOOKS + CHANGES, ids=" ".join)
def test_a_file_that_does_not_exist_is_refused_and_not_made(forebay: Forebay, command: list[str]) -> None:
    ended = forebay("--url", "sqlite:///typo.db", *command)

    assert (1, "", 1) == (ended.code, ended.out, len(ended.err.splitlines())), ended
    assert "typo.db does not exist" in ended.err
    assert not list(forebay.folder.glob("typo*"))


@pytest.mark.parametrize("command", [look for look in LOOKS if "--wait" not in look][:5], ids=" ".join)
def test_an_empty_file_is_not_a_store_and_stays_empty(forebay: Forebay, command: list[str]) -> None:
    empty = forebay.folder / "empty.db"
    empty.touch()

    ended = forebay("--url", "sqlite:///empty.db", *command)

    assert (1, 1) == (ended.code, len(ended.err.splitlines()))
    assert "is empty" in ended.err
    assert 0 == empty.stat().st_size


def test_looking_changes_nothing_in_the_file(forebay: Forebay) -> None:
    forebay.handle(1, 2)
    file = forebay.folder / "events.db"
    before = file.read_bytes()

    for look in LOOKS:
        if look[0] != "get" and not {"show"} & set(look) and look[:2] != ["tail", "order_placed"]:
            assert 0 == forebay(*look).code, look
    forebay("tail", "order_placed", "--no-follow")

    assert before == file.read_bytes()


async def test_a_store_that_is_read_only_refuses_every_move(tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "events.db") as store:
        await store.join("order_placed", "billing")

    async with SQLiteStore(tmp_path / "events.db", read_only=True) as looking:
        assert ["order_placed"] == [each.stream for each in await looking.stats()]
        with pytest.raises(StoreDenied):
            await looking.join("order_placed", "mail")
    with pytest.raises(NotFound):
        async with SQLiteStore(tmp_path / "other.db", read_only=True):
            pass
    assert ["events.db"] == [file.name for file in tmp_path.iterdir()]


@pytest.mark.parametrize(
    "command",
    [
        ["streams", "order_palced"],
        ["groups", "order_palced"],
        ["pending", "order_palced", "billing"],
        ["get", "order_palced", "1"],
        ["tail", "order_palced"],
        ["tail", "order_placed", "order_palced", "--no-follow"],
        ["dead", "ls", "order_palced"],
        ["dead", "ls", "order_palced", "--group", "billing"],
        ["dead", "show", "order_palced", "1"],
        ["dead", "redrive", "order_palced", "--yes"],
        ["dead", "discard", "order_palced", "--yes"],
        ["dead", "discard", "order_palced", "1", "--yes"],
        ["dead", "export", "order_palced"],
        ["replay", "order_palced", "--group", "billing", "--yes"],
    ],
    ids=" ".join,
)
def test_an_unknown_stream_is_an_error_with_the_nearest_name(forebay: Forebay, command: list[str]) -> None:
    forebay.handle(1)

    ended = forebay(*command)

    assert (1, "") == (ended.code, ended.out)
    assert "forebay: no stream 'order_palced'; did you mean 'order_placed'?\n" == ended.err


@pytest.mark.parametrize(
    "command",
    [
        ["pending", "order_placed", "biling"],
        ["dead", "ls", "order_placed", "--group", "biling"],
        ["dead", "redrive", "order_placed", "--group", "biling", "--yes"],
        ["dead", "discard", "order_placed", "--group", "biling", "--yes"],
        ["dead", "export", "order_placed", "--group", "biling"],
        ["replay", "order_placed", "--group", "biling", "--yes"],
        ["dead", "ls", "--group", "biling"],
        ["dead", "export", "--group", "biling"],
    ],
    ids=" ".join,
)
def test_an_unknown_group_is_an_error_with_the_nearest_name(forebay: Forebay, command: list[str]) -> None:
    forebay.handle(1)

    ended = forebay(*command)

    assert (1, "") == (ended.code, ended.out)
    assert "no group 'biling' on " in ended.err
    assert "did you mean 'billing'?" in ended.err


def test_a_name_that_is_close_to_none_is_answered_with_the_list_of_names(forebay: Forebay) -> None:
    forebay.make()
    assert "no stream 'xyz'; nothing was ever published here" in forebay("groups", "xyz").err
    forebay.handle(2)

    assert "no stream 'xyz'; nothing was ever published to it" in forebay("groups", "xyz").err
    assert (
        "no group 'xyz' on 'order_placed'; its groups: billing, mail" in forebay("pending", "order_placed", "xyz").err
    )


def test_a_group_without_dead_letters_is_not_an_error(forebay: Forebay) -> None:
    forebay.handle(1)

    assert (0, "") == (forebay("dead", "ls", "order_placed", "--group", "mail").code, "")
    assert 0 == forebay("dead", "discard", "order_placed", "--group", "mail", "--yes").code


def test_run_refuses_a_url_that_the_bus_cannot_honour(forebay: Forebay) -> None:
    (forebay.folder / "fixed.py").write_text('from forebay import connect\nbus = connect("sqlite:///other.db")\n')
    (forebay.folder / "own.py").write_text(
        "from forebay import EventBus\nfrom forebay.stores.memory import MemoryStore\nbus = EventBus(MemoryStore())\n"
    )

    for bus in ("fixed:bus", "own:bus"):
        ended = forebay.piped("--url", "sqlite:///staging.db", "run", bus, "--until-idle")
        assert (1, 1) == (ended.code, len(ended.err.splitlines())), ended.err
        assert f"{bus} was made for" in ended.err
        assert "leave out --url" in ended.err
    assert not list(forebay.folder.glob("*.db"))


def test_run_uses_a_given_url_if_the_environment_has_none(forebay: Forebay) -> None:
    (forebay.folder / "fixed.py").write_text(
        "from forebay import connect\nbus = connect(\"sqlite:///other.db\")\nbus.on('t', group='g')(print)\n"
    )

    assert 0 == forebay.piped("run", "app:bus", "--url", "sqlite:///./staging.db", "--until-idle").code
    assert (forebay.folder / "staging.db").exists()
    assert 0 == forebay.piped("run", "fixed:bus", "--url", "sqlite:///./other.db", "--until-idle").code
    assert 0 == forebay.piped("run", "fixed:bus", "--until-idle").code


@pytest.mark.parametrize(
    "command",
    [
        ["copy", "sqlite:///a.db", "sqlite:///b.db", "--url", "sqlite:///c.db"],
        ["--url", "sqlite:///c.db", "copy", "sqlite:///a.db", "sqlite:///b.db"],
        ["bench", "--namespace", "x"],
        ["demo", "--namespace", "x"],
        ["run", "app:bus", "--namespace", "x"],
        ["run", "app:bus", "--json"],
        ["agents", "app", "--json"],
    ],
    ids=" ".join,
)
def test_an_option_that_means_nothing_is_refused(forebay: Forebay, command: list[str]) -> None:
    ended = forebay(*command)

    assert (2, "") == (ended.code, ended.out)
    assert "means nothing here" in ended.err
    assert not list(forebay.folder.glob("*.db"))


def test_the_url_of_the_environment_is_for_all_commands_without_a_message(
    forebay: Forebay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOREBAY_NAMESPACE", "other")
    monkeypatch.setenv("FOREBAY_JSON", "1")
    forebay.publish(1)
    forebay("publish", "order_placed", "1")

    assert 0 == forebay("copy", forebay.url, "sqlite:///new.db").code


@pytest.mark.parametrize(
    "command",
    [
        ["streams", "--every", "5s"],
        ["agents", "status", "--check", "--watch"],
        ["migrate", "status", "--check", "--watch"],
        ["copy", "sqlite:///a.db", "sqlite:///b.db", "--dry-run", "--verify"],
        ["copy", "sqlite:///a.db", "sqlite:///b.db", "--dry-run", "--follow"],
        ["tail", "order_placed", "--no-follow", "--wait"],
    ],
    ids=" ".join,
)
def test_options_that_exclude_each_other_are_refused(forebay: Forebay, command: list[str]) -> None:
    forebay.publish(1)

    assert (2, "") == (forebay(*command).code, forebay(*command).out)
    assert not (forebay.folder / "b.db").exists()


def test_an_unknown_agent_of_a_migration_is_an_error_with_the_nearest_name(forebay: Forebay) -> None:
    forebay.do(lambda bus: introduce(bus.store, "billing"))

    ended = forebay("migrate", "cutover", "biling")

    assert (1, "forebay: no agent 'biling' in this migration; did you mean 'billing'?\n") == (ended.code, ended.err)


@pytest.mark.parametrize("command", ["tail", "groups", "publish", "run"])
def test_the_help_of_each_command_says_where_the_url_comes_from(forebay: Forebay, command: str) -> None:
    assert "without it FOREBAY_URL, then REDIS_URL" in " ".join(forebay(command, "--help").out.split())


@pytest.mark.parametrize(
    "command",
    [
        ["publish", "order_placed", "{bad"],
        ["publish", "not:a:name", "1"],
        ["publish", "order_placed", "-", "--id", "x"],
        ["publish", "order_placed", "1", "--dry-run"],
        ["tail", "x", "--since", "1h", "--from", "3"],
        ["tail", "x", "--no-follow", "--wait"],
    ],
    ids=" ".join,
)
def test_a_refused_command_creates_no_file(forebay: Forebay, command: list[str]) -> None:
    forebay(*command)

    assert not list(forebay.folder.glob("*.db"))


def test_tail_waits_for_a_stream_only_where_that_is_said(forebay: Forebay) -> None:
    forebay.make()

    with forebay.process("tail", "order_placed", "--wait") as tail:
        assert tail.stdout is not None
        forebay.publish(1)
        assert '{"order_id":1}' in tail.stdout.readline()


def test_only_the_newest_dead_letters_are_listed_where_a_number_is_given(forebay: Forebay) -> None:
    forebay.handle(1, 3, 5)

    errors = [line[-1] for line in forebay("dead", "ls", "-n", "2").rows]
    assert 2 == len(errors)
    assert errors == [line[-1] for line in forebay("dead", "ls").rows][1:]


@pytest.mark.parametrize(
    "command",
    [
        ["tail", "order_placed", "--no-follow", "--from"],
        ["replay", "order_placed", "--group", "billing", "--yes", "--from"],
        ["replay", "order_placed", "--group", "billing", "--yes", "--to"],
        ["group", "seek", "order_placed", "billing"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("position", ["yesterday", "1700000000000-0"])
def test_a_mistyped_position_is_a_wrong_use_with_a_way_out(forebay: Forebay, command: list[str], position: str) -> None:
    forebay.handle(2)

    ended = forebay(*command, position)

    assert (2, "") == (ended.code, ended.out)
    assert f"'{position}' is not a position in a stream of this store; give that of an event, 'earliest'" in ended.err

"""What holds for every command: help, environment, exit codes, lazy imports."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from forebay.cli import TABLE, cli
from tests.support.command import Forebay


def commands(group: click.Group, context: click.Context) -> Iterator[click.Command]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        if isinstance(command, click.Group):
            yield from commands(command, context)
        else:
            yield command


def test_every_command_and_option_has_a_help_text() -> None:
    for command in commands(cli, click.Context(cli)):
        assert command.help, command.name
        for parameter in command.params:
            silent = isinstance(parameter, click.Argument) or getattr(parameter, "hidden", False)
            assert silent or parameter.get_help_record(click.Context(command)), parameter


def test_help_lists_the_commands_in_the_order_of_use(forebay: Forebay) -> None:
    ended = forebay("--help")

    places = [ended.out.index(f"\n  {name} ") for name in TABLE]
    assert 0 == ended.code
    assert sorted(places) == places


@pytest.mark.parametrize(
    "call", ["import forebay", "from forebay.cli import cli; cli(['--help'], standalone_mode=False)"]
)
def test_neither_the_library_nor_its_help_loads_a_driver_or_the_tables(call: str) -> None:
    names = "('redis', 'hiredis', 'apsw', 'rich', 'starlette', 'prometheus_client')"
    check = f"{call}; import sys; print(*[name for name in {names} if name in sys.modules], file=sys.stderr)"

    ended = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)

    assert "" == ended.stderr.strip()


def test_each_option_has_an_environment_variable(forebay: Forebay, monkeypatch: pytest.MonkeyPatch) -> None:
    forebay.publish(1, 2, 3)
    monkeypatch.setenv("FOREBAY_JSON", "1")
    monkeypatch.setenv("FOREBAY_TAIL_NUMBER", "1")
    monkeypatch.setenv("FOREBAY_TAIL_FOLLOW", "0")

    assert '{"order_id":3}' in forebay("tail", "order_placed").out
    assert 1 == len(forebay("tail", "order_placed").out.splitlines())


def test_global_options_are_accepted_before_and_after_the_command(forebay: Forebay) -> None:
    forebay.publish(1)

    before = forebay("--json", "--namespace", "events", "dead", "ls").out
    assert before == forebay("dead", "ls", "--json", "--namespace", "events").out == "[]\n"
    assert "" == forebay("streams", "--namespace", "other").out


def test_an_error_is_one_line_and_exit_code_1(forebay: Forebay) -> None:
    for arguments in (
        ["--url", "nonsense://x", "streams"],
        ["--url", "memory://", "streams"],
        ["get", "order_placed", "nothing"],
        ["tail", "not:a:name", "--no-follow"],
        ["groups", "nothing"],
        ["pending", "nothing", "billing"],
        ["dead", "show", "order_placed", "17"],
        ["replay", "nothing", "--group", "billing", "--yes"],
    ):
        ended = forebay(*arguments)

        assert (1, "", 1) == (ended.code, ended.out, len(ended.err.splitlines())), ended
        assert ended.err.startswith("forebay: ")


@pytest.mark.parametrize(
    ("closed", "places"),
    [("<&-", (1, 2, 3)), (">&-", (2, 3, 4)), ("2>&-", (2, 5, 6)), ("<&- >&- 2>&-", (0, 1, 2, 3, 4, 5, 6))],
)
def test_closed_standard_streams_are_empty_and_go_nowhere(
    forebay: Forebay, closed: str, places: tuple[int, ...]
) -> None:
    commands = (
        ("publish order_placed - </dev/null", 0),
        ("publish order_placed -", 0),
        ("publish order_placed 5", 0),
        ("tail order_placed --no-follow", 0),
        ("streams", 0),
        ("get order_placed nothing", 1),
        ("dead redrive order_placed", 0),
    )
    for arguments, code in (commands[place] for place in places):
        command = f"{sys.executable} -m forebay {arguments} {closed}"
        ended = subprocess.run(command, shell=True, input="", capture_output=True, text=True, check=False)

        assert code == ended.returncode, ended
        assert "Traceback" not in ended.stderr
    assert b"SQLite" == (forebay.folder / "events.db").read_bytes()[:6]


def test_wrong_usage_is_exit_code_2(forebay: Forebay) -> None:
    for arguments in (
        ["publis"],
        ["tail"],
        ["tail", "x", "--since", "never"],
        ["tail", "x", "--since", "1h", "--from", "3"],
    ):
        assert 2 == forebay(*arguments).code, arguments
    assert "Did you mean 'publish'?" in forebay("publis").err


def test_a_password_in_a_url_is_warned_of_and_never_shown(forebay: Forebay) -> None:
    ended = forebay("--url", "redis://user:marker-password@127.0.0.1:1/0", "streams")

    assert 1 == ended.code
    assert "FOREBAY_URL keeps it" in ended.err
    assert "marker-password" not in ended.out + ended.err


def test_a_table_on_a_terminal_is_plain_lines_in_a_pipe_and_an_array_with_json(forebay: Forebay) -> None:
    forebay.publish(*range(1200))

    assert "stream" in forebay.on_terminal("streams").out
    assert "1,200" in forebay.on_terminal("streams").out
    assert [["order_placed", "1200", "0", "0", "0", "0", "", "0"]] == forebay("streams").rows
    assert '[{"stream":"order_placed","length":1200,' in forebay("streams", "--json").out


def test_version_is_that_of_the_package(forebay: Forebay) -> None:
    from forebay import __version__

    assert f"forebay {__version__}\n" == forebay("--version").out

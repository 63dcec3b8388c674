"""The help of each command fits in a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from forebay.cli import cli


def _paths(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), name)
            assert found is not None
            yield from _paths(found, (*path, name))


@pytest.mark.parametrize("path", [*_paths(cli)], ids=lambda path: " ".join(path) or "forebay")
def test_no_line_of_a_commands_help_is_wider_than_80_columns(path: tuple[str, ...]) -> None:
    ended = CliRunner().invoke(cli, [*path, "--help"], terminal_width=80)

    assert 0 == ended.exit_code
    assert [] == [line for line in ended.output.splitlines() if len(line) > 80]

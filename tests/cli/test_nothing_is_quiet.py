"""A wrong place, or an output that takes nothing, does not look as if all were well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import Forebay


@pytest.mark.parametrize("command", [["streams"], ["groups"], ["dead", "ls"], ["agents", "status"]], ids=" ".join)
def test_a_namespace_without_anything_in_it_is_named(forebay: Forebay, command: list[str]) -> None:
    forebay.make()

    ended = forebay("--namespace", "odrers", *command)

    assert 0 == ended.code
    assert "in namespace 'odrers' of " in ended.err


@pytest.mark.parametrize("command", [["streams"], ["publish", "t", "1"], ["bench"]], ids=" ".join)
@pytest.mark.parametrize("url", ["", " "], ids=["empty", "blank"])
def test_an_empty_url_is_refused_and_not_the_default(forebay: Forebay, command: list[str], url: str) -> None:
    ended = forebay("--url", url, *command)

    assert (1, "", 1) == (ended.code, ended.out, len(ended.err.splitlines()))
    assert "URL" in ended.err
    assert not list(forebay.folder.glob("*.db"))


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
@pytest.mark.parametrize("command", [["--help"], ["tail", "--help"], ["--version"], ["streams"]], ids=" ".join)
def test_output_that_cannot_be_written_is_a_failure_in_one_line(forebay: Forebay, command: list[str]) -> None:
    forebay.make()
    forebay("publish", "t", "1")
    with Path("/dev/full").open("w") as full, forebay.process(*command, stdout=full) as process:
        _, err = process.communicate(timeout=60)

    assert 1 == process.returncode
    assert "No space left on device" in err
    assert 1 == len(err.splitlines()), err


def test_a_reader_that_has_enough_of_the_help_ends_it_quietly(forebay: Forebay) -> None:
    with forebay.process("--help", stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.wait(60)
        assert process.stderr is not None
        assert "" == process.stderr.read()

"""The standard streams and arguments, in whatever state and encoding they are."""

from __future__ import annotations

import codecs
import io
import os
import sys

from forebay.cli.text import json_escape


def ensure_standard_streams() -> None:
    """Let closed standard streams be empty, or go nowhere, as if they were `/dev/null`.

    Before anything else is opened: it would get their numbers, and the output for people or pipes.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115  # a number


def escape_what_cannot_be_shown() -> None:
    """Let stdout and stderr write a character that their encoding lacks as JSON's escape for it.

    So JSON stays JSON, and nothing raises `UnicodeEncodeError`, whether stdout is ASCII, cp1252 or UTF-8.
    """

    def escaped(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        return json_escape(error.object[error.start : error.end]), error.end

    codecs.register_error("forebay", escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="forebay")


def arguments() -> list[str]:
    """The arguments of the command. Those that the locale's encoding could not read are read as UTF-8."""
    return [_utf8(argument) for argument in sys.argv[1:]]


def _utf8(argument: str) -> str:
    try:
        return argument.encode(errors="surrogateescape").decode()
    except UnicodeError:
        return argument

"""The standard streams, where whoever started the command has closed them."""

from __future__ import annotations

import os
import sys


def stand_in() -> None:
    """Let closed standard streams be empty, or go nowhere, as if they were `/dev/null`.

    Before anything else is opened: it would get their numbers, and what is meant for people or pipes.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115  # a number

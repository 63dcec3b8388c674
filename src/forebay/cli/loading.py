"""What commands run of the user's own code: modules by their names, and its log on stderr."""

from __future__ import annotations

import functools
import importlib
import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from forebay import ConfigurationError
from forebay.printable import printable


def load_module(name: str) -> ModuleType:
    """The module, which may be in the current folder; `ConfigurationError` if there is none.

    An error of the module itself is raised as it is: its author needs the traceback.
    """
    if not name or name.startswith("."):
        raise ConfigurationError(f"{name!r} is not the name of a module; write it as in `import`: app.agents")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise ConfigurationError(f"no module {error.name!r}, neither in {folder} nor installed") from error


def load_attribute(module: ModuleType, path: str) -> Any:
    """The object at this dotted path in the module; `AttributeError` if there is none."""
    return functools.reduce(getattr, path.split("."), module)


def log_to_stderr() -> None:
    """Show the log of what runs, a line a record, and the lines of a traceback below it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Escaped("%(asctime)s %(levelname)-7s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class _Escaped(logging.Formatter):
    """Escapes what any logger says: the user's code, and libraries, log what came from outside, too."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the name in `logging`
        record.message = "\n".join(map(printable, record.message.split("\n")))
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802  # as above
        return "\n".join(map(printable, super().formatException(ei).split("\n")))

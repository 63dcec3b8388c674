"""From a sqlite:// URL to a store."""

from __future__ import annotations

import re

from forebay.errors import ConfigurationError
from forebay.stores.sqlite.store import SQLiteStore
from forebay.stores.url import check_options, split

OPTIONS = {"synchronous": "full or normal", "busy_timeout": "seconds", "any_file_system": "true or false"}
"""The options of the URL, and their forms."""


def from_url(url: str, *, namespace: str, read_only: bool) -> SQLiteStore:
    """The store in this file."""
    parts = split(url)
    check_options(parts, OPTIONS)
    if parts.username or parts.password or parts.hosts:
        raise ConfigurationError(
            "the sqlite:// URL names a host; a file has three slashes, sqlite:///relative.db, or four, "
            "sqlite:////absolute.db"
        )
    path = parts.path[1:]
    if not path or path == ":memory:":
        raise ConfigurationError(
            "the sqlite:// URL names no file; write sqlite:///events.db, or memory:// for a store in memory"
        )
    options: dict[str, object] = {"read_only": read_only}
    for name, value in parts.options.items():
        match name:
            case "synchronous" if value.lower() in ("full", "normal"):
                options[name] = value.lower()
            case "busy_timeout" if re.fullmatch(r"\d+(\.\d+)?", value, re.ASCII):
                options[name] = float(value)
            case "any_file_system" if value in ("true", "false"):
                options[name] = value == "true"
            case _:
                raise ConfigurationError(f"wrong {name} in the sqlite:// URL: give {OPTIONS[name]}")
    return SQLiteStore(path, namespace=namespace, **options)  # type: ignore[arg-type]  # checked just above

"""From a URL to a store. A store's driver is imported only when its URL asks for it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from forebay.errors import ConfigurationError
from forebay.payload import check_name
from forebay.store import Store

DEFAULT_URL = "sqlite:///forebay.db"
REDIS_SCHEMES = ("redis", "rediss", "unix", "valkey", "valkeys", "redis+sentinel", "redis+cluster")
SCHEMES = ("sqlite", *REDIS_SCHEMES, "memory")
SQLITE_OPTIONS = {"synchronous": "full or normal", "busy_timeout": "seconds", "any_file_system": "true or false"}


def default_url() -> str:
    """`FOREBAY_URL`, else `REDIS_URL`, else `sqlite:///forebay.db`."""
    return os.environ.get("FOREBAY_URL") or os.environ.get("REDIS_URL") or DEFAULT_URL


def open_store(url: str, *, namespace: str = "events") -> Store:
    """The store that a URL names, not opened yet; `ConfigurationError` where it names none."""
    check_name("namespace", namespace)
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise ConfigurationError(
            f"{mask(url)!r} is not a store's URL; for a file write sqlite:///{mask(url).lstrip('/') or 'events.db'}"
        )
    try:
        urlsplit(url)
    except ValueError as error:
        raise ConfigurationError(f"{mask(url)!r} is not a URL: {error}") from error
    if scheme == "memory":
        return _memory(rest, namespace)
    if scheme == "sqlite":
        return _sqlite(url, namespace)
    if scheme in REDIS_SCHEMES:
        from forebay.stores.redis import RedisStore

        return RedisStore(url, namespace=namespace)
    raise ConfigurationError(f"unknown store {scheme + '://'!r}; use one of {', '.join(s + '://' for s in SCHEMES)}")


def _memory(rest: str, namespace: str) -> Store:
    if rest:
        raise ConfigurationError(f"memory:// takes nothing behind it, found {rest!r}")
    from forebay.stores.memory import MemoryStore

    return MemoryStore(namespace=namespace)


def _sqlite(url: str, namespace: str) -> Store:
    parts = urlsplit(url)
    if parts.netloc:
        raise ConfigurationError(
            f"{url!r} names a host; a file has three slashes, sqlite:///relative.db, or four, sqlite:////absolute.db"
        )
    path = unquote(parts.path)[1:]
    if not path or path == ":memory:":
        raise ConfigurationError(
            f"{url!r} names no file; write sqlite:///events.db, or memory:// for a store in memory"
        )
    options: dict[str, object] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        match name:
            case "synchronous" if value.lower() in ("full", "normal"):
                options[name] = value.lower()
            case "busy_timeout" if re.fullmatch(r"\d+(\.\d+)?", value):
                options[name] = float(value)
            case "any_file_system" if value in ("true", "false"):
                options[name] = value == "true"
            case _ if name in SQLITE_OPTIONS:
                raise ConfigurationError(f"{name}={value!r} in {url!r}: give {SQLITE_OPTIONS[name]}")
            case _:
                raise ConfigurationError(f"unknown option {name!r} in {url!r}; there are {', '.join(SQLITE_OPTIONS)}")
    from forebay.stores.sqlite import SQLiteStore

    return SQLiteStore(path, namespace=namespace, **options)  # type: ignore[arg-type]  # checked just above


def file_of(url: str) -> Path | None:
    """The file that a URL names; None where it names none."""
    if not url.startswith("sqlite:"):
        return None
    return Path(unquote(urlsplit(url).path)[1:]).expanduser().resolve()


def identity(url: str) -> str:
    """What stays the same of a store's URL however it is written: for messages, and to tell stores apart.

    >>> identity("valkey://me:secret@localhost?timeout=3")
    'redis://localhost:6379/0'
    """
    scheme, _, _ = url.partition("://")
    parts = urlsplit(url)
    if (file := file_of(url)) is not None:
        return f"sqlite:///{file}"
    if scheme not in REDIS_SCHEMES or "+" in scheme or scheme == "unix":
        return mask(url)
    secure = scheme in ("rediss", "valkeys")
    return f"redis{'s' * secure}://{parts.hostname or 'localhost'}:{parts.port or 6379}/{parts.path.strip('/') or 0}"


def mask(url: str) -> str:
    """The URL with its password hidden, fit for logs and messages."""
    return re.sub(r"(://[^/?#@]*?:)[^/?#]*@", r"\1***@", re.sub(r"([?&]password=)[^&#]*", r"\1***", url))

"""From a URL to a store. A store's driver is imported only when its URL asks for it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from forebay.errors import ConfigurationError
from forebay.payload import check_name
from forebay.store import Store
from forebay.stores.url import StoreURL, check_options, mask, split

__all__ = [
    "DEFAULT_URL",
    "REDIS_SCHEMES",
    "check_redis_url",
    "default_url",
    "file_of",
    "identity",
    "mask",
    "open_store",
]

DEFAULT_URL = "sqlite:///forebay.db"
REDIS_SCHEMES = {
    f"{server}{arrangement}"
    for server in ("redis", "rediss", "valkey", "valkeys")
    for arrangement in ("", "+sentinel", "+cluster")
} | {"unix"}
SCHEMES = ("sqlite", "redis", "rediss", "unix", "redis+sentinel", "redis+cluster", "valkey", "memory")
"""Those that messages name."""
SQLITE_OPTIONS = {"synchronous": "full or normal", "busy_timeout": "seconds", "any_file_system": "true or false"}


def default_url() -> str:
    """`FOREBAY_URL`, else `REDIS_URL`, else `sqlite:///forebay.db`."""
    for name in ("FOREBAY_URL", "REDIS_URL"):
        if url := os.environ.get(name):
            try:
                split(url)
            except ConfigurationError as error:
                raise ConfigurationError(f"in the environment, {name}: {error}") from error
            return url
    return DEFAULT_URL


def open_store(url: str, *, namespace: str = "events", read_only: bool = False) -> Store:
    """The store that a URL names, not opened yet; `ConfigurationError` where it names none.

    With `read_only` opening it makes and changes no file; on a server it means nothing.
    """
    check_name("namespace", namespace)
    parts = split(url)
    if parts.scheme == "memory":
        return _memory(parts, namespace)
    if parts.scheme == "sqlite":
        return _sqlite(parts, namespace, read_only=read_only)
    if parts.scheme in REDIS_SCHEMES:
        from forebay.stores.redis import RedisStore

        return RedisStore(url, namespace=namespace)
    raise ConfigurationError(
        f"unknown store {parts.scheme + '://'!r}; use one of {', '.join(s + '://' for s in SCHEMES)}"
    )


def check_redis_url(url: str) -> str:
    """The URL, if it is one of Redis or Valkey; else a `ConfigurationError` with the right spelling or class."""
    if not isinstance(url, str):
        raise ConfigurationError(
            f"RedisEventBus takes a URL such as redis://localhost:6379, not a {type(url).__name__}"
        )
    if "://" not in url:
        # An address with credentials is not repeated.
        address = "host:6379" if "@" in url else url
        raise ConfigurationError(f"RedisEventBus takes a URL with its scheme: write redis://{address}")
    scheme = url.partition("://")[0]
    if scheme not in REDIS_SCHEMES:
        other = {"sqlite": "PersistentEventBus(path) or ", "memory": "InMemoryEventBus() or "}.get(scheme, "")
        raise ConfigurationError(
            f"RedisEventBus takes a URL such as redis://localhost:6379, not {scheme}://; use {other}connect(url)"
        )
    return url


def _memory(parts: StoreURL, namespace: str) -> Store:
    check_options(parts, {})
    if parts.username or parts.password or parts.hosts or parts.path:
        raise ConfigurationError("memory:// takes nothing behind it: write just that")
    from forebay.stores.memory import MemoryStore

    return MemoryStore(namespace=namespace)


def _sqlite(parts: StoreURL, namespace: str, *, read_only: bool) -> Store:
    check_options(parts, SQLITE_OPTIONS)
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
                raise ConfigurationError(f"wrong {name} in the sqlite:// URL: give {SQLITE_OPTIONS[name]}")
    from forebay.stores.sqlite import SQLiteStore

    return SQLiteStore(path, namespace=namespace, **options)  # type: ignore[arg-type]  # checked just above


def file_of(url: str) -> Path | None:
    """The file that a URL names; None where it names none."""
    parts = split(url)
    if parts.scheme != "sqlite":
        return None
    return Path(parts.path[1:]).expanduser().resolve()


def identity(url: str) -> str:
    """What stays the same of a store's URL however it is written: for messages, and to tell stores apart.

    >>> identity("valkey://me:secret@localhost?timeout=3")
    'redis://localhost:6379/0'
    """
    if (file := file_of(url)) is not None:
        return f"sqlite:///{file}"
    parts = split(url)
    if parts.scheme not in REDIS_SCHEMES:
        return str(parts)
    from forebay.stores.redis.address import parse

    return parse(url).identity

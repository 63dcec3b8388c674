"""From a URL to a store: the scheme names an entry point, which is imported when the URL is opened."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Protocol

from forebay.errors import ConfigurationError
from forebay.payload import check_name
from forebay.store import Store
from forebay.stores.url import mask, split

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
"""The schemes of forebay that messages name."""
GROUP = "forebay.stores"
"""The entry points by which an installed package opens the URLs of a scheme."""
BUILT_IN = {
    "memory": "forebay.stores.memory.url:from_url",
    "sqlite": "forebay.stores.sqlite.url:from_url",
    **dict.fromkeys(sorted(REDIS_SCHEMES), "forebay.stores.redis.url:from_url"),
}
"""Entry points of the same form that need no search through the installed packages."""


class StoreFactory(Protocol):
    """Makes a store, not opened yet, from a URL of its scheme. The object of an entry point."""

    def __call__(self, url: str, *, namespace: str, read_only: bool) -> Store:
        """The store that the URL names. `ConfigurationError` if it names none."""
        ...


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
    """The store that a URL names, not opened yet; `ConfigurationError` if it names none.

    If `read_only`, opening it makes and changes no file; on a server it means nothing.
    """
    check_name("namespace", namespace)
    scheme = split(url).scheme
    store = _factory(scheme)(url, namespace=namespace, read_only=read_only)
    if not is_store(store):
        raise ConfigurationError(f"the package for {scheme}:// returned a {type(store).__name__}, which is not a store")
    return store


def is_store(thing: object) -> bool:
    """Whether this is a store, and not the class of one."""
    return hasattr(thing, "clone") and not isinstance(thing, type)


def _factory(scheme: str) -> StoreFactory:
    if (built_in := BUILT_IN.get(scheme)) is not None:
        module, _, name = built_in.partition(":")
        factory: StoreFactory = getattr(import_module(module), name)
        return factory
    return _installed(scheme)


def _installed(scheme: str) -> StoreFactory:
    """The factory of the installed package that opens this scheme."""
    # It takes long to import, and to search all packages; forebay's own schemes do without.
    from importlib.metadata import entry_points

    found = [point for point in entry_points(group=GROUP) if point.name.lower() == scheme]
    # A package that is found twice on the path is one package.
    values = sorted({point.value for point in found})
    if not found:
        raise ConfigurationError(
            f"unknown store {scheme + '://'!r}: install the package whose store has this scheme (it declares the entry "
            f"point {scheme!r} in the group {GROUP!r}), or use one of {', '.join(s + '://' for s in SCHEMES)}"
        )
    if len(values) > 1:
        raise ConfigurationError(f"several packages open {scheme}://: {', '.join(values)}; uninstall all but one")
    try:
        loaded: StoreFactory = found[0].load()
    except Exception as error:  # whatever its module raises
        raise ConfigurationError(
            f"the package for {scheme}:// cannot be imported: {values[0]}: {type(error).__name__}: {error}"
        ) from error
    if not callable(loaded):
        raise ConfigurationError(
            f"the package for {scheme}:// declares {values[0]}, a {type(loaded).__name__}, which is not a function"
        )
    return loaded


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


def file_of(url: str) -> Path | None:
    """The file that a URL names; None if it is not the URL of a file."""
    parts = split(url)
    if parts.scheme != "sqlite":
        return None
    return Path(parts.path[1:]).expanduser().resolve()


def identity(url: str) -> str:
    """The store's URL in one form, however it is written: for messages, and to see if two stores are the same.

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

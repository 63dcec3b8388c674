"""From a memory:// URL to a store."""

from __future__ import annotations

from forebay.errors import ConfigurationError
from forebay.stores.memory.store import MemoryStore
from forebay.stores.url import check_options, split


def from_url(url: str, *, namespace: str, read_only: bool) -> MemoryStore:  # it has no file to protect
    """The store in this process."""
    parts = split(url)
    check_options(parts, {})
    if parts.username or parts.password or parts.hosts or parts.path:
        raise ConfigurationError("a memory:// URL has no further parts: write just memory://")
    return MemoryStore(namespace=namespace)

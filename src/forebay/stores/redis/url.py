"""From a URL of Redis or Valkey to a store."""

from __future__ import annotations

from forebay.stores.redis.store import RedisStore


def from_url(url: str, *, namespace: str, read_only: bool) -> RedisStore:  # a server has no file to protect
    """The store on this server, Sentinel or cluster."""
    return RedisStore(url, namespace=namespace)

"""Events in Redis or Valkey Streams: one server, Sentinel or a cluster."""

from forebay.stores.redis.store import RedisStore

__all__ = ["RedisStore"]

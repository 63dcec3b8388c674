"""What a URL says: which servers, how they are arranged, and how to be let in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from forebay.errors import ConfigurationError

_FORMS = (
    "redis://[user:password@]host[:6379][/db], rediss:// (TLS), unix:///path, "
    "redis+sentinel://host[:26379],host/service[/db], redis+cluster://host[:6379],host; valkey for redis as you like"
)
_SCHEME = re.compile(r"(?:redis|valkey)(s?)(?:\+(sentinel|cluster))?|unix")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:]*))(?::(\d{1,5}))?")
_TLS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
_SENTINEL = ("sentinel_username", "sentinel_password")


class Address(NamedTuple):
    """Where a server listens: a host and port, or the path of a Unix socket and port 0."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.port else self.host


class Access(msgspec.Struct, frozen=True):
    """How to be let in. `tls` holds options in redis-py's words; None means a plain connection."""

    username: str | None = None
    password: str | None = None
    database: int = 0
    tls: Mapping[str, Any] | None = None

    def __repr__(self) -> str:
        return f"Access(username={self.username!r}, database={self.database})"


class Place(msgspec.Struct, frozen=True):
    """A URL, understood. `service` is the name that Sentinel knows the master by.

    `allow_eviction`: a server that may delete whole streams when it is full will do.
    """

    arrangement: Literal["standalone", "sentinel", "cluster"]
    addresses: tuple[Address, ...]
    access: Access
    service: str = ""
    sentinel_access: Access = Access()
    allow_eviction: bool = False


def parse(url: str) -> Place:
    """Understand a URL, or say what is wrong with it; the message never holds the password."""
    parts = urlsplit(url)
    scheme = _SCHEME.fullmatch(parts.scheme)
    if scheme is None:
        raise ConfigurationError(f"no Redis URL begins with {parts.scheme!r}; use one of: {_FORMS}")
    arrangement: Any = scheme.group(2) or "standalone"
    secure = scheme.group(1) == "s"
    allowed = ("db", "allow_eviction", *(_TLS if secure else ()), *(_SENTINEL if arrangement == "sentinel" else ()))
    options = dict(parse_qsl(parts.query))
    for name in options:
        if name not in allowed:
            raise ConfigurationError(f"unknown option {name!r} in the Redis URL; it can have: {', '.join(allowed)}")
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    path = unquote(parts.path)
    service = ""
    addresses: tuple[Address, ...]
    if parts.scheme == "unix":
        if not path:
            raise ConfigurationError("a unix:// URL needs the path of the socket: unix:///run/redis/redis.sock")
        addresses, path = (Address(path, 0),), ""
    else:
        default = 26379 if arrangement == "sentinel" else 6379
        addresses = tuple(_address(text, default) for text in hosts.split(","))
    if arrangement == "sentinel":
        service, _, path = path.lstrip("/").partition("/")
        if not service:
            raise ConfigurationError("name the service that Sentinel watches: redis+sentinel://host:26379/mymaster")
    elif arrangement == "standalone" and len(addresses) > 1:
        raise ConfigurationError("several hosts: use redis+sentinel://host,host/service or redis+cluster://host,host")
    access = Access(
        username=unquote(username) or None,
        password=unquote(password) or None,
        database=_database(options.get("db") or path.strip("/") or "0", arrangement),
        tls=_tls(options) if secure else None,
    )
    sentinel_access = Access(options.get("sentinel_username"), options.get("sentinel_password"), 0, access.tls)
    if options.get("allow_eviction", "false") not in ("true", "false"):
        raise ConfigurationError("allow_eviction in the Redis URL is true or false")
    return Place(arrangement, addresses, access, service, sentinel_access, options.get("allow_eviction") == "true")


def _address(text: str, default: int) -> Address:
    match = _HOST.fullmatch(text)
    port = int(match.group(3) or default) if match else 0
    if match is None or not 0 < port < 65536:
        raise ConfigurationError(f"{text!r} in the Redis URL is not a host[:port]")
    return Address(match.group(1) or unquote(match.group(2)) or "localhost", port)


def _database(text: str, arrangement: str) -> int:
    if not text.isdecimal():
        raise ConfigurationError(f"the database {text!r} in the Redis URL is not a number")
    if arrangement == "cluster" and int(text):
        raise ConfigurationError("a cluster has no databases but 0: leave the number out of the URL")
    return int(text)


def _tls(options: Mapping[str, str]) -> Mapping[str, Any]:
    tls: dict[str, Any] = {name: options[name] for name in _TLS if name in options}
    if tls.get("ssl_cert_reqs", "required") not in ("required", "optional", "none"):
        raise ConfigurationError("ssl_cert_reqs in the Redis URL is one of: required, optional, none")
    if "ssl_check_hostname" in tls:
        if tls["ssl_check_hostname"] not in ("true", "false"):
            raise ConfigurationError("ssl_check_hostname in the Redis URL is true or false")
        tls["ssl_check_hostname"] = tls["ssl_check_hostname"] == "true"
    return tls

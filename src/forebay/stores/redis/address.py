"""URLs of Redis and Valkey: the servers, their mode, and the credentials."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from forebay.errors import ConfigurationError
from forebay.stores.url import ENCODE, Secret, StoreURL, check_options, split

MOST_PATIENCE = 3600.0
"""The highest `timeout` of a URL, in seconds."""

_FORMS = (
    "redis://[user:password@]host[:6379][/db], rediss:// (TLS), unix:///path, "
    "redis+sentinel://host[:26379],host/service[/db], redis+cluster://host[:6379],host; valkey for redis as you like"
)
_SCHEME = re.compile(r"(?:redis|valkey)(s?)(?:\+(sentinel|cluster))?|unix")
_TRUTH = ("true", "false")
_OPTIONS = {
    "db": "a number",
    "timeout": "seconds that a server may take to connect or to answer",
    "allow_eviction": "true or false",
}
_TLS_OPTIONS = {
    "ssl_ca_certs": "a file",
    "ssl_certfile": "a file",
    "ssl_keyfile": "a file",
    "ssl_cert_reqs": "required, optional or none",
    "ssl_check_hostname": "true or false",
}
_SENTINEL_OPTIONS = {"sentinel_username": "a name", "sentinel_password": "a password"}


class Address(NamedTuple):
    """Where a server listens: a host and port, or the path of a Unix socket and port 0."""

    host: str
    port: int

    def __str__(self) -> str:
        if not self.port:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Credentials(msgspec.Struct, frozen=True):
    """The credentials. `tls` has options with redis-py's names; None means a plain connection."""

    username: str | None = None
    password: Secret | None = None
    database: int = 0
    tls: Mapping[str, Any] | None = None


class Deployment(msgspec.Struct, frozen=True):
    """A URL, understood. `service` is the name that Sentinel knows the master by.

    `allow_eviction`: a server that may delete whole streams when it is full will do. `timeout` is how long,
    in seconds, a server may take to connect or to answer; None where the URL does not say.
    """

    mode: Literal["standalone", "sentinel", "cluster"]
    addresses: tuple[Address, ...]
    access: Credentials
    service: str = ""
    sentinel_access: Credentials = Credentials()
    allow_eviction: bool = False
    timeout: float | None = None

    @property
    def identity(self) -> str:
        """The parts of the URL that do not depend on how it is written."""
        hosts = ",".join(sorted(map(str, self.addresses)))
        secure = "s" * (self.access.tls is not None)
        match self.mode:
            case "cluster":
                return f"redis{secure}+cluster://{hosts}"
            case "sentinel":
                return f"redis{secure}+sentinel://{hosts}/{self.service}/{self.access.database}"
            case "standalone" if self.addresses[0].port:
                return f"redis{secure}://{hosts}/{self.access.database}"
            case "standalone":
                return f"unix://{hosts}?db={self.access.database}"


def parse(url: str) -> Deployment:
    """Parse a URL; `ConfigurationError` if it is wrong. The message quotes no part of the URL but its scheme."""
    parts = split(url)
    scheme = _SCHEME.fullmatch(parts.scheme)
    if scheme is None:
        raise ConfigurationError(f"no Redis URL begins with {parts.scheme!r}; use one of: {_FORMS}")
    mode: Any = scheme.group(2) or "standalone"
    secure = scheme.group(1) == "s"
    _check_options(parts, mode, secure=secure)
    options = parts.options
    service, path = "", parts.path.strip("/")
    if parts.scheme == "unix":
        addresses, path = _socket(parts), ""
    else:
        default = 26379 if mode == "sentinel" else 6379
        hosts = parts.hosts or (("localhost", None),)
        addresses = tuple(Address(host, port or default) for host, port in hosts)
    if mode == "sentinel":
        service, _, path = path.partition("/")
        if not service:
            raise ConfigurationError("name the service that Sentinel watches: redis+sentinel://host:26379/mymaster")
    elif mode == "standalone" and len(addresses) > 1:
        raise ConfigurationError("several hosts: use redis+sentinel://host,host/service or redis+cluster://host,host")
    if path and "db" in options:
        raise ConfigurationError("the Redis URL names the database twice, in its path and as ?db=: keep one")
    tls = _tls(options) if secure else None
    return Deployment(
        mode=mode,
        addresses=addresses,
        access=Credentials(parts.username, parts.password, _database(options.get("db") or path or "0", mode), tls),
        service=service,
        sentinel_access=Credentials(options.get("sentinel_username"), parts.secrets.get("sentinel_password"), 0, tls),
        allow_eviction=_truth("allow_eviction", options.get("allow_eviction", "false")),
        timeout=_timeout(options.get("timeout")),
    )


def _check_options(parts: StoreURL, mode: str, *, secure: bool) -> None:
    if not secure and any(name in _TLS_OPTIONS for name in parts.options):
        raise ConfigurationError("the ssl_ options in the Redis URL are for rediss://, which speaks TLS")
    allowed = {
        **_OPTIONS,
        **(_TLS_OPTIONS if secure else {}),
        **(_SENTINEL_OPTIONS if mode == "sentinel" else {}),
    }
    check_options(parts, allowed)


def _socket(parts: StoreURL) -> tuple[Address, ...]:
    if parts.hosts or not parts.path.strip("/"):
        raise ConfigurationError("a unix:// URL needs the path of the socket: unix:///run/redis/redis.sock")
    return (Address(parts.path, 0),)


def _database(text: str, mode: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ConfigurationError(
            f"the database in the Redis URL is not a number, as in redis://host/2; or else {ENCODE}"
        )
    if mode == "cluster" and int(text):
        raise ConfigurationError("a cluster has no databases but 0: leave the number out of the URL")
    return int(text)


def _timeout(text: str | None) -> float | None:
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) or not 0 < float(text) <= MOST_PATIENCE:
        raise ConfigurationError(f"timeout in the Redis URL is a number of seconds above 0, at most {MOST_PATIENCE:g}")
    return float(text)


def _truth(name: str, text: str) -> bool:
    if text not in _TRUTH:
        raise ConfigurationError(f"{name} in the Redis URL is true or false")
    return text == "true"


def _tls(options: Mapping[str, str]) -> Mapping[str, Any]:
    tls: dict[str, Any] = {name: options[name] for name in _TLS_OPTIONS if name in options}
    if tls.get("ssl_cert_reqs", "required") not in ("required", "optional", "none"):
        raise ConfigurationError("ssl_cert_reqs in the Redis URL is one of: required, optional, none")
    if "ssl_keyfile" in tls and "ssl_certfile" not in tls:
        raise ConfigurationError("ssl_keyfile in the Redis URL needs ssl_certfile beside it")
    if "ssl_check_hostname" in tls:
        tls["ssl_check_hostname"] = _truth("ssl_check_hostname", tls["ssl_check_hostname"])
    return tls

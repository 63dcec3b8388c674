"""A store's URL, taken apart: one parser, for those that read a URL and for those that show it.

    scheme://[[user]:[password]@][host[:port][,host[:port]]...][/path][?name=value[&name=value]...]

It accepts no fragment, and one `@` at most. No message of it quotes a part of the URL: in a URL that was
written wrongly any part may be the password's.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import unquote

import msgspec

from forebay.errors import ConfigurationError

HIDDEN = "***"
"""The text that replaces a password."""
ENCODE = "percent-encode the password: # is %23, % is %25, / is %2F, : is %3A, ? is %3F, @ is %40"

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(?:([^/?#@]*)@)?([^/?#@]*)([^?#@]*)(?:\?([^#@]*))?", re.DOTALL)
_HOST = re.compile(r"(?:\[([0-9A-Za-z:.%_-]+)\]|([\w.-]*))(?::([0-9]{1,5}))?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_WRONG_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SURROGATE = re.compile("[\ud800-\udfff]")
_FILE = re.compile(r"(?:[A-Za-z]:)?[\w\\/. -]+")
_CREDENTIALS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:/{0,2})[^\s/][^\s]*@")
_HIDDEN_OPTION = re.compile(r"([?&]\w*password=)[^&\s'\")]*")


class Secret:
    """A password. Its text is not in its `repr`, so not in that of anything that holds it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return HIDDEN

    def __eq__(self, other: object) -> bool:
        return self._text == other._text if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._text)

    def reveal(self) -> str:
        """The text itself."""
        return self._text


class StoreURL(msgspec.Struct, frozen=True):
    """The parts of a URL, percent-decoded; `str()` is the URL without its password and its options.

    `username` and `password` are None where the URL names none, and so is a host's port. `secrets` are the
    options that hold passwords.
    """

    scheme: str
    username: str | None
    password: Secret | None
    hosts: tuple[tuple[str, int | None], ...]
    path: str
    options: Mapping[str, str]
    secrets: Mapping[str, Secret]
    shown: str

    def __str__(self) -> str:
        return self.shown


def split(url: str) -> StoreURL:
    """The parts of a URL; `ConfigurationError`, with a remedy, if it is not a URL."""
    found = _URL.fullmatch(url)
    if _CONTROL.search(url) or url != url.strip():
        raise ConfigurationError("the store's URL begins or ends with a blank, or holds a line break: remove it")
    if found is None:
        raise ConfigurationError(_fault(url))
    scheme, credentials, hosts, path, query = found.groups()
    username, colon, password = (credentials or "").partition(":")
    if username and not colon:
        raise ConfigurationError(
            "the credentials in the store's URL have no colon: write redis://:PASSWORD@host, redis://USER:PASSWORD@host,"
            f" or redis://USER:@host for a user without a password; and {ENCODE}"
        )
    options, secrets = _options(query or "")
    hidden = f"{username}:{HIDDEN if password else ''}@" if colon else ""
    decoded_path = _decoded(path)
    if _CONTROL.search(decoded_path):
        raise ConfigurationError("the path in the store's URL holds a control character")
    return StoreURL(
        scheme=scheme.lower(),
        username=_decoded(username) or None,
        password=Secret(_decoded(password)) if password else None,
        hosts=tuple(_host(text, place) for place, text in enumerate(hosts.split(","), 1)) if hosts else (),
        path=decoded_path,
        options=options,
        secrets=secrets,
        shown=f"{scheme}://{hidden}{hosts}{path}",
    )


def mask(url: str) -> str:
    """The URL without password and options, fit for logs and messages; of one that is wrong no more than its scheme."""
    try:
        return str(split(url))
    except ConfigurationError:
        scheme, separator, _ = url.partition("://")
        if not separator:
            return url if _FILE.fullmatch(url) else HIDDEN
        return f"{scheme}://{HIDDEN}" if re.fullmatch(r"[a-z+]{1,20}", scheme) else HIDDEN


def has_secret(url: str) -> bool:
    """True if a URL has a password, or may have one because it is wrong."""
    try:
        parts = split(url)
    except ConfigurationError:
        return "@" in url or "password" in url
    return parts.password is not None or bool(parts.secrets)


def conceal(text: str) -> str:
    """A text for people that may contain URLs, with their passwords hidden."""
    return _HIDDEN_OPTION.sub(rf"\1{HIDDEN}", _CREDENTIALS.sub(rf"\1{HIDDEN}@", text))


def check_options(url: StoreURL, allowed: Mapping[str, str]) -> None:
    """Refuse a URL with other options than these; each has a description of its value."""
    for name in (*url.options, *url.secrets):
        if name not in allowed:
            from difflib import get_close_matches

            near = get_close_matches(name, allowed, n=1)
            guess = f", did you mean {near[0]!r}?" if near else ";"
            known = ", ".join(f"{option} ({value})" for option, value in allowed.items())
            raise ConfigurationError(f"unknown option in the {url.scheme}:// URL{guess} there are {known or 'none'}")


def _fault(url: str) -> str:
    if "://" not in url:
        if _FILE.fullmatch(url):
            return f"{url!r} is not a store's URL; for a file write sqlite:///{url.lstrip('/')}"
        return "this is not a store's URL, such as sqlite:///events.db or redis://localhost:6379"
    if "#" in url:
        return f"a store's URL has no fragment, and this one holds a '#': {ENCODE}"
    if "@" in url:
        return f"the store's URL holds an '@' in the wrong place: it stands once, before the host; {ENCODE}"
    return "the store's URL does not begin with a scheme such as sqlite:// or redis://"


def _options(query: str) -> tuple[Mapping[str, str], Mapping[str, Secret]]:
    options: dict[str, str] = {}
    secrets: dict[str, Secret] = {}
    for piece in query.split("&") if query else ():
        raw_name, equals, raw_value = piece.partition("=")
        name, value = _decoded(raw_name), _decoded(raw_value)
        if not name or not equals or not value:
            raise ConfigurationError(f"an option in the store's URL has no value: write ?name=value; and {ENCODE}")
        if name in options or name in secrets:
            raise ConfigurationError("an option stands twice in the store's URL: keep one")
        if name.endswith("password"):
            secrets[name] = Secret(value)
        else:
            options[name] = value
    return options, secrets


def _host(text: str, place: int) -> tuple[str, int | None]:
    match = _HOST.fullmatch(text)
    host = (match.group(1) or match.group(2)) if match else ""
    port = int(match.group(3)) if match and match.group(3) else None
    # An empty host before a port may be a password whose @host is missing.
    is_host = match and (_is_ipv6(host) if match.group(1) else _is_name(host))
    if not is_host or port == 0 or (port or 0) > 65535:
        raise ConfigurationError(
            f"host {place} in the store's URL is not a host[:port], with a port from 1 to 65535 and an IPv6 address "
            f"in brackets, [::1]:6379; or else {ENCODE}"
        )
    return host.lower(), port


def _is_name(text: str) -> bool:
    try:
        return bool(text.encode("idna"))
    except UnicodeError:
        return False


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _decoded(text: str) -> str:
    if _WRONG_ESCAPE.search(text):
        raise ConfigurationError(f"a '%' in the store's URL is not followed by two hexadecimal digits; {ENCODE}")
    decoded = unquote(text, errors="surrogateescape")
    if _SURROGATE.search(decoded):
        raise ConfigurationError("the store's URL holds bytes that are not UTF-8")
    return decoded

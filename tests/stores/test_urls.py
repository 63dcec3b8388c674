"""The URL of a store: each part of it is used or refused, and its passwords are shown by nothing."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys
import traceback
from collections.abc import Iterator

import msgspec
import pytest
from rich.console import Console

from forebay import ConfigurationError, connect
from forebay.stores.redis.address import Address, parse
from forebay.stores.url import Secret, conceal, mask, split
from forebay.urls import identity

SECRET = "hunter2xyz"

WRONG = [
    # Characters of a password that are not percent-encoded, on each scheme.
    *(
        f"{scheme}://{user}:{password}@{rest}"
        for scheme, rest in (
            ("redis", "127.0.0.1:1/0"),
            ("rediss", "127.0.0.1:1"),
            ("valkey", "127.0.0.1:1"),
            ("redis+sentinel", "127.0.0.1:1/main"),
            ("redis+cluster", "127.0.0.1:1,127.0.0.1:2"),
            ("unix", "/run/redis.sock"),
            ("sqlite", "/events.db"),
            ("memory", ""),
            ("postgres", "host/db"),
        )
        for user in ("", "user")
        for password in (f"a#{SECRET}", f"a/{SECRET}", f"57/{SECRET}", f"57?{SECRET}", f"57#{SECRET}", f"a@{SECRET}")
    ),
    # A wrong percent-encoding, in each part.
    f"redis://:{SECRET}%zz@h",
    f"redis://:{SECRET}%@h",
    f"redis://:%ff{SECRET}@h",
    f"redis://%ff:{SECRET}@h",
    f"redis://:{SECRET}@h?db=%f",
    f"sqlite:///{SECRET}%2.db",
    f"sqlite:///{SECRET}%00.db",
    # Credentials in a URL that takes none, or of one part.
    f"redis://{SECRET}@127.0.0.1:1",
    f"redis:///:{SECRET}@h",
    f"redis://h/:{SECRET}@h",
    f"redis://:{SECRET}",
    f"redis://user:{SECRET}",
    f"sqlite://user:{SECRET}@/x.db",
    f"sqlite:///user:{SECRET}@host/x.db",
    f"unix:///user:{SECRET}@/run/redis.sock",
    f"unix://user:{SECRET}/run/redis.sock",
    f"memory://user:{SECRET}",
    f"memory://?password={SECRET}",
    f"redis:/user:{SECRET}@h",
    f"redis:user:{SECRET}@h",
    f"user:{SECRET}@h",
    f"://user:{SECRET}@h",
    f"//user:{SECRET}@h",
    # Hosts and ports.
    f"redis://user:{SECRET}@[::1",
    f"redis://user:{SECRET}@::1",
    f"redis://user:{SECRET}@[::1]x:1",
    f"redis://user:{SECRET}@[1.2.3.4]",
    f"redis://user:{SECRET}@h:port",
    f"redis://user:{SECRET}@h:0",
    f"redis://user:{SECRET}@h:65536",
    f"redis://user:{SECRET}@h:٣",
    f"redis://user:{SECRET}@h:",
    f"redis://user:{SECRET}@h1,h2",
    f"redis+cluster://user:{SECRET}@h1,,h2",
    f"redis+cluster://user:{SECRET}@h1,h2,",
    f"redis+cluster://user:{SECRET}@h1,user:{SECRET}@h2",
    f"redis://user:{SECRET}@\u2100.example",
    f"redis://user:{SECRET}@{'a' * 64}.example",
    f"redis://user:{SECRET}@h..example",
    # Options.
    f"redis://127.0.0.1:1?password={SECRET}",
    f"redis://127.0.0.1:1?auth={SECRET}",
    f"redis://127.0.0.1:1?{SECRET}",
    f"redis://127.0.0.1:1?{SECRET}=1",
    f"redis://127.0.0.1:1?sentinel_password={SECRET}",
    f"redis+sentinel://h/main?sentinel_password={SECRET}&sentinel_password={SECRET}",
    f"redis+sentinel://h/main?sentinel_password=a&{SECRET}",
    f"redis+sentinel://h/main?sentinel_password=a&{SECRET}=b",
    f"redis+sentinel://h/main?sentinel_password=a#{SECRET}",
    f"redis+sentinel://h/main?sentinel_password=a@{SECRET}",
    f"redis+sentinel://:{SECRET}@h",
    f"redis://:{SECRET}@h?db=1&db=2",
    f"redis://:{SECRET}@h/1?db=1",
    f"redis://:{SECRET}@h?db=",
    f"redis://:{SECRET}@h?db",
    f"redis://:{SECRET}@h?timeout=",
    f"redis://:{SECRET}@h?timeout={SECRET}",
    *(f"redis://:{SECRET}@h?timeout={wrong}" for wrong in ("0", "-1", "1e400", "nan", "inf", "5s", "3601", "١")),
    f"redis://:{SECRET}@h?allow_eviction=yes",
    f"redis://:{SECRET}@h?ssl_ca_certs=x",
    f"rediss://:{SECRET}@h?ssl_cert_reqs={SECRET}",
    f"rediss://:{SECRET}@h?ssl_check_hostname={SECRET}",
    f"redis://:{SECRET}@h/orders",
    f"redis://:{SECRET}@h/٣",
    f"redis+cluster://:{SECRET}@h/1",
    f"sqlite:///x.db?busy_timeout={SECRET}",
    f"sqlite:///x.db?busy_timeout=1&busy_timeout=1&{SECRET}=1",
    f"sqlite:///x.db?password={SECRET}",
    f"sqlite:///x.db#{SECRET}",
    # What urlsplit removes without a word.
    f" redis://:{SECRET}@h",
    f"redis://:{SECRET}@h\n",
    f"redis://:{SECRET}\t@h",
    f"sqlite:///{SECRET}\r.db",
]

RIGHT = [
    f"redis://user:{SECRET}@127.0.0.1:1",
    f"redis://:{SECRET}@127.0.0.1:1/0",
    f"redis://:a:{SECRET}@127.0.0.1:1",
    f"redis://:%40{SECRET}%23@127.0.0.1:1",
    f"rediss://user:{SECRET}@127.0.0.1:1",
    f"unix://user:{SECRET}@/nowhere/none.sock",
    f"redis+sentinel://user:{SECRET}@127.0.0.1:1/main",
    f"redis+sentinel://127.0.0.1:1/main?sentinel_password={SECRET}",
    f"valkeys+sentinel://127.0.0.1:1/main?sentinel_username=s&sentinel_password={SECRET}&timeout=1",
    f"redis+cluster://user:{SECRET}@127.0.0.1:1,127.0.0.1:2",
]


def _all_that_is_told(error: BaseException | None) -> Iterator[str]:
    """Whatever an error shows, and those that it came of, though it may hide them."""
    while error is not None:
        yield from map(repr, (error, error.args, vars(error), getattr(error, "__notes__", ())))
        yield str(error)
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("url", WRONG)
def test_a_wrong_url_is_refused_and_no_part_of_it_is_shown(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        connect(url)

    told = [*_all_that_is_told(refused.value), *traceback.format_exception_only(refused.value), mask(url)]
    assert [] == [text for text in told if SECRET in text]
    assert 1 == len(str(refused.value).splitlines())


@pytest.mark.parametrize("url", RIGHT)
async def test_whatever_holds_a_url_shows_it_without_its_password(url: str) -> None:
    bus = connect(url)
    with pytest.raises(ConnectionError) as unreachable:
        await bus.store.__aenter__()

    told = [repr(bus), bus.url, identity(url), repr(vars(bus)), *_holders(bus.store)]
    told += [*_all_that_is_told(unreachable.value), *traceback.format_exception(unreachable.value)]
    told += [*_holders(parse(url)), *_holders(split(url))]
    shown = io.StringIO()
    Console(file=shown, width=400).print(parse(url), split(url), vars(bus.store))
    assert [] == [text for text in (*told, shown.getvalue()) if SECRET in text]
    assert "127.0.0.1" in bus.url or "none.sock" in bus.url


def _holders(holder: object, depth: int = 5) -> Iterator[str]:
    """The repr of an object, and of the values of its attributes."""
    yield repr(holder)
    if depth and type(holder).__module__.startswith("forebay"):
        inner = (
            msgspec.structs.asdict(holder) if isinstance(holder, msgspec.Struct) else getattr(holder, "__dict__", {})
        )
        for value in inner.values():
            if not isinstance(holder, Secret):
                yield from _holders(value, depth - 1)


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("redis://:a#b@h", "percent-encode the password"),
        ("redis://:a/b@h", "percent-encode the password"),
        ("redis://:a?b@h", "percent-encode the password"),
        ("redis://:a@b@h", "percent-encode the password"),
        ("redis://secret@h", r"redis://:PASSWORD@host"),
        ("redis://h?timeut=3", "did you mean 'timeout'"),
        ("redis://h?ssl_ca_certs=x", "rediss://"),
        ("unix://run/redis.sock", "unix:///run/redis/redis.sock"),
        ("sqlite://events.db", "three slashes"),
        ("events.db", "sqlite:///events.db"),
        ("redis://h/1?db=1", "twice"),
        ("sqlite:///x.db?busy_timeout=1&busy_timeout=2", "twice"),
    ],
)
def test_a_refusal_shows_the_right_form(url: str, advice: str) -> None:
    with pytest.raises(ConfigurationError, match=advice):
        connect(url)


@pytest.mark.parametrize("name", ["FOREBAY_URL", "REDIS_URL"])
def test_a_wrong_url_of_the_environment_is_refused_with_its_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FOREBAY_URL", raising=False)
    monkeypatch.setenv(name, f"redis://:a#{SECRET}@h")

    with pytest.raises(ConfigurationError, match=f"{name}.*percent-encode") as refused:
        connect()

    assert [] == [text for text in _all_that_is_told(refused.value) if SECRET in text]


def test_percent_encoded_parts_are_decoded() -> None:
    access = parse("redis://us%3Aer:p%40%23%2F%3F%25+%3A@h").access

    assert ("us:er", Secret("p@#/?%+:")) == (access.username, access.password)
    assert Secret("a+b&c") == parse("redis+sentinel://h/m?sentinel_password=a+b%26c").sentinel_access.password
    assert (None, Secret("a:b")) == (parse("redis://:a:b@h").access.username, parse("redis://:a:b@h").access.password)
    assert ("user", None) == (parse("redis://user:@h").access.username, parse("redis://user:@h").access.password)
    assert "/my files/#1.db" == split("sqlite:////my%20files/%231.db").path[1:]
    assert (Address("fe80::1", 7),) == parse("REDIS://[fe80::1]:7").addresses


def test_the_timeout_of_a_url_holds_for_every_arrangement() -> None:
    for url in ("redis://h", "rediss://h", "unix:///h", "redis+sentinel://h/m", "redis+cluster://h"):
        assert 0.25 == parse(f"{url}?timeout=0.25").timeout


def test_stores_are_distinguished_by_their_location() -> None:
    same = ["redis://h", "valkey://u:p@h:6379/0?timeout=3", "redis://h?db=0"]
    assert {"redis://h:6379/0"} == set(map(identity, same))
    assert identity("redis+cluster://u:p@a,b:7") == identity("valkey+cluster://b:7,a:6379?timeout=1")
    assert identity("redis+sentinel://a/m") != identity("redis+sentinel://a/n")
    assert identity("unix:///a") != identity("unix:///a?db=1")


def test_a_text_with_a_url_in_it_can_be_shown() -> None:
    for text in (f"extra argument (redis://u:{SECRET}@h)", f"'u:{SECRET}@h'", f"x?sentinel_password={SECRET} y"):
        assert SECRET not in conceal(text)
    assert "no event 17: look again" == conceal("no event 17: look again")


TYPED = [f"redis://u:{SECRET}@127.0.0.1:1", f"redis://u:a#{SECRET}@127.0.0.1:1", f"u:{SECRET}@127.0.0.1"]
COMMANDS = [
    ["URL"],
    ["tail", "URL"],
    ["tail", "t", "--since", "URL"],
    ["groups", "t", "URL"],
    ["--namespace", "URL", "streams"],
    ["copy", "URL", "sqlite:///x.db"],
    ["copy", "URL", "URL"],
    ["run", "URL"],
    ["get", "t", "URL"],
]


@pytest.mark.parametrize(("arguments", "url"), list(zip(COMMANDS, itertools.cycle(TYPED), strict=False)), ids=range(9))
def test_the_command_line_shows_no_password_wherever_a_url_was_typed(
    arguments: list[str], url: str, tmp_path: object
) -> None:
    command = [sys.executable, "-m", "forebay", *(url if word == "URL" else word for word in arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=str(tmp_path), timeout=60)

    assert 0 != ended.returncode
    assert SECRET not in ended.stdout + ended.stderr

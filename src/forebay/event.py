"""Events as handlers see them, records as stores keep them, and the way between."""

from __future__ import annotations

import itertools
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from typing import Any

import msgspec

from forebay.errors import MOST_SECONDS, ConfigurationError, InvalidEvent, MalformedEvent
from forebay.payload import LIMITS, Limits, decode, encode, plain
from forebay.reason import one_line

_ANY_SIZE = Limits(max_bytes=sys.maxsize, max_depth=sys.maxsize)
"""For payloads that were read already, under the limits of their bus."""
_UUID7 = re.compile(r"([0-9a-f]{8})-([0-9a-f]{4})-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


class Event(msgspec.Struct, frozen=True, gc=False):
    """Something that happened.

    `id` is unique in its stream (a UUIDv7 unless the publisher chose one). `data` is the decoded
    JSON. `timestamp` is when it was published, aware, in UTC. `key` orders and groups related
    events. `headers` map strings to strings. `attempt` counts the deliveries to this group, from 1.
    `position` is its position in the stream.

    It also answers as the mapping of texts that a Redis client reads from the stream: `type`, `source`, `data`
    (JSON), `timestamp` (RFC 3339) and `id`, and, if the event has them, `key` and `headers` (JSON). A type
    read in this way equals the enum members that have its text as their value; see `TypeName`.

    >>> event = Event("7", "tests_run", "ci", {"failed": 0}, datetime(2026, 1, 1, tzinfo=UTC))
    >>> event["data"], event.get("type"), event.get("key", "none")
    ('{"failed":0}', 'tests_run', 'none')
    """

    id: str
    type: str
    source: str
    data: Any
    timestamp: datetime
    key: str | None = None
    headers: Mapping[str, str] = {}
    attempt: int = 1
    position: str = ""

    def __getitem__(self, field: str) -> str:
        """The text of a field on the wire; `KeyError` if the event has no such field."""
        if field not in self.keys():
            raise KeyError(field)
        if field == "type":
            return TypeName(self.type)
        if field == "timestamp":
            return self.timestamp.isoformat()
        value = getattr(self, field)
        return encode(value, _ANY_SIZE).decode() if field in ("data", "headers") else str(value)

    def get(self, field: str, default: Any = None) -> Any:
        """The text of a field on the wire, or `default` if the event has no such field."""
        return self[field] if field in self.keys() else default

    def keys(self) -> list[str]:
        """The names of the fields that the event has on the wire, in their order there."""
        optional = [name for name in ("key", "headers") if getattr(self, name)]
        return ["type", "source", "data", "timestamp", "id", *optional]

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, field: object) -> bool:
        return field in self.keys()


class TypeName(str):
    """The type of an event, as a text that also equals every enum member with that text as its value.

    So code that was written for enum members goes on to work: `event_type == EventType.TESTS_RUN`, `match`, `in`
    a tuple of members, `event_type.value`. It hashes as the text: a dict or set of members does not find it.
    """

    __slots__ = ()

    @property
    def value(self) -> str:
        """The text, as the `value` of an enum member would be."""
        return str(self)

    def __str__(self) -> str:
        return str.__str__(self)

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other.value if isinstance(other, Enum) else other) is True

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


class Record(msgspec.Struct, frozen=True, gc=False):
    """An event in the form that stores keep: every field is the text that goes on the wire.

    `data` and `headers` are JSON texts. `only_group` names the one group that is to see this entry
    (a redriven or replayed event); None means every group.
    """

    type: str
    source: str
    data: bytes
    timestamp: str
    id: str = ""
    key: str | None = None
    headers: bytes | None = None
    only_group: str | None = None


class Foreign(msgspec.Struct, frozen=True):
    """An entry that forebay did not write and cannot read: its fields, byte for byte, in order.

    `only_group` names the one group that is to see it, once it was redriven for that group.
    """

    fields: tuple[tuple[bytes, bytes], ...]
    only_group: str | None = None


def new_id(now: float | None = None) -> str:
    """A UUIDv7 (RFC 9562): 36 characters, sortable by millisecond, 74 random bits."""
    return _id_at(time.time_ns() // 1_000_000 if now is None else int(now * 1000))


def _id_at(milliseconds: int) -> str:
    while True:
        try:
            return _head_of_id(milliseconds) + _random_suffixes.pop()
        except IndexError:
            _random_suffixes.extend(_make_suffixes(SUFFIX_BATCH))


def _ids_at(milliseconds: int, count: int) -> list[str]:
    head = _head_of_id(milliseconds)
    return [head + suffix for suffix in _make_suffixes(count)]


@lru_cache(maxsize=2)
def _head_of_id(milliseconds: int) -> str:
    return f"{milliseconds >> 16:08x}-{milliseconds & 0xFFFF:04x}-"


_random_suffixes: list[str] = []
"""The random parts of ids to come: the system is asked for many at once, because asking takes long."""
SUFFIX_BATCH = 256
"""Random parts of ids that are made at once."""

if hasattr(os, "register_at_fork"):
    # A fork must not make the ids of its parent.
    os.register_at_fork(after_in_child=_random_suffixes.clear)


def _make_suffixes(count: int) -> list[str]:
    start = bytearray(os.urandom(4))
    start[0] = 0x70 | start[0] & 0x0F
    start[2] = 0x80 | start[2] & 0x3F
    # Such as 7abc-9def- for all of them, and 12 digits that are different in each.
    head = start.hex("-", 2) + "-"
    ends: set[str] = set()
    while len(ends) < count:
        ends.update(os.urandom(6 * (count - len(ends))).hex(" ", 6).split())
    return [head + end for end in ends]


@lru_cache(maxsize=2)
def _head_of_time(milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC).isoformat()[:19]}.{rest:03d}"


_MICROSECOND_SUFFIXES = [f"{microseconds:03d}+00:00" for microseconds in range(1000)]


_FAR = datetime(9999, 1, 1, tzinfo=UTC).timestamp()


def id_timestamp(id: str) -> datetime | None:
    """When an id was made by `new_id`, by the publisher's clock; None for an id of another kind."""
    made = _UUID7.fullmatch(id)
    if made is None:
        return None
    seconds = int(made[1] + made[2], 16) / 1000
    # A stranger's id may name a time beyond the calendar.
    return datetime.fromtimestamp(seconds, UTC) if seconds < _FAR else None


def check_id(id: object) -> str:
    """`id` as a plain string, if it can name an event: 1 to 200 printable characters without spaces around."""
    text = str.__str__(id) if isinstance(id, str) else ""
    if not 0 < len(text) <= 200 or not text.isprintable() or text != text.strip():
        raise InvalidEvent(f"id {id!r} cannot name an event: use 1 to 200 printable characters")
    return text


def to_record(
    type: str,
    *,
    source: str,
    data: Any,
    id: str | None = None,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
    limits: Limits = LIMITS,
) -> Record:
    """The record of a new event, stamped with the time now.

    Raises `InvalidEvent` if no store would keep it faithfully.
    """
    if source.__class__ is not str or len(source) > 256 or not source.isascii():
        source = check_text("source", source, 256)
    if key is not None:
        key = check_text("key", key, 512)
    now = time.time_ns() // 1000
    moment = now // 1000
    return Record(
        type if type.__class__ is str else plain("type", type),
        source,
        encode(data, limits),
        _head_of_time(moment) + _MICROSECOND_SUFFIXES[now % 1000],
        _id_at(moment) if id is None else check_id(id),
        key,
        _encode_headers(headers, limits) if headers else None,
    )


def to_records(
    type: str,
    *,
    source: str,
    data: Sequence[Any],
    ids: Sequence[str] | None = None,
    keys: Sequence[str | None] | None = None,
    headers: Mapping[str, str] | None = None,
    limits: Limits = LIMITS,
) -> list[Record]:
    """The records of new events of one moment: their common fields are checked and made once."""
    type = plain("type", type)
    source = check_text("source", source, 256)
    now = time.time_ns() // 1000
    ids = _ids_at(now // 1000, len(data)) if ids is None else [check_id(id) for id in ids]
    keys = [None if key is None else check_text("key", key, 512) for key in keys or ()]
    timestamp = _head_of_time(now // 1000) + _MICROSECOND_SUFFIXES[now % 1000]
    header = _encode_headers(headers, limits) if headers else None
    return [
        Record(type, source, encode(payload, limits), timestamp, id, key, header)
        for payload, id, key in zip(data, ids, keys or itertools.repeat(None), strict=False)
    ]


def to_event(
    record: Record | Foreign, *, position: str = "", attempt: int = 1, limits: Limits = LIMITS, kind: Any = Any
) -> Event:
    """The event in a record, its data decoded as `kind`; `MalformedEvent` names the fault."""
    if not isinstance(record, Record):
        names = ", ".join(repr(name[:40])[2:-1] for name, _ in record.fields[:8]) or "none"
        raise MalformedEvent(
            one_line(f"not an event: it needs type, source, data and timestamp in UTF-8; its fields: {names}")
        )
    return Event(
        record.id or position,
        record.type,
        record.source,
        decode(record.data, kind, limits),
        parse_time(record.timestamp),
        record.key,
        {} if record.headers is None else _decode_headers(record.headers),
        attempt,
        position,
    )


def parse_time(text: str) -> datetime:
    """An RFC 3339 time as an aware datetime in UTC. A time without a zone is taken as UTC."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is UTC:
            return moment
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        # Some first and last hours of the calendar are outside of it in UTC.
        raise MalformedEvent(f"the timestamp {text[:64]!r} is not an RFC 3339 time") from error


def check_text(what: str, text: object, longest: int) -> str:
    """`text` as a plain string. Raises `InvalidEvent` if it is not a string, is too long, or is not UTF-8."""
    if not isinstance(text, str):
        raise InvalidEvent(f"{what} must be a string, not {type(text).__name__}")
    text = str.__str__(text)
    if text.isascii() and len(text) <= longest:
        return text
    if len(text) > longest:
        raise InvalidEvent(f"{what} is {len(text)} characters long; the limit is {longest}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidEvent(f"{what} holds a lone surrogate, which no UTF-8 text can carry") from error
    return text


def check_seconds(what: str, seconds: object, *, least: float = 0.0) -> float:
    """`seconds` as a float, if it is a finite number from `least`; else a ConfigurationError."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not least <= seconds < MOST_SECONDS:
        raise ConfigurationError(f"{what}={seconds!r}: give a number of seconds from {least:g}")
    return float(seconds)


def check_limit(what: str, limit: object) -> None:
    """Raise `ConfigurationError` unless `limit` is None or a whole number from 0."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
        raise ConfigurationError(f"{what}={limit!r}: give a whole number from 0, or None for all")


def _decode_headers(text: bytes) -> dict[str, str]:
    try:
        return msgspec.json.decode(text, type=dict[str, str])
    except ValueError as error:
        raise MalformedEvent(f"the headers are not a JSON object of strings: {error}") from error


def check_headers(headers: Mapping[str, str], limits: Limits) -> dict[str, str]:
    """The headers as a dict of plain strings; `InvalidEvent` if they are not that."""
    if not isinstance(headers, Mapping):
        raise InvalidEvent(f"headers are a dict of strings to strings, not a {type(headers).__name__}")
    texts = {}
    for name, value in headers.items():
        text = check_text("a header's name", name, 256)
        texts[text] = check_text(f"header {text!r}", value, limits.max_bytes)
    return texts


def _encode_headers(headers: Mapping[str, str], limits: Limits) -> bytes:
    return encode(check_headers(headers, limits), limits)
